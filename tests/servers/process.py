"""A server program that belongs to a test: started, asked until it answers, stopped by its pid."""

from __future__ import annotations

import asyncio
import random
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self, TypeVar

import httpx

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")

SERVERS = Path(__file__).parents[2] / ".servers"

# Below the ports that Linux gives to clients, so that no connection takes one before its server.
_PORTS = range(20_000, 32_000)
_ASK_EVERY_S = 0.02
_STOP_LIMIT_S = 10.0
_SHOWN_LOG_LINES = 20


class ServerStartError(Exception):
    """A server ended or did not answer in time; the message holds its last log lines."""


class Server(ABC):
    """A server on loopback with its data in `directory`, for as long as a `with` block lasts.

    Ports are chosen once: after `stop` or `kill`, `start` brings it back where it was, with what it
    had made durable. It dies with the test process, whatever that dies of.

    Attributes:
        directory: Where it keeps data, configuration and `log`.
        http: A client for questions to it; closed at the end of the `with` block.
    """

    binary: ClassVar[Path]
    start_limit_s: ClassVar[float] = 60.0

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.http = httpx.Client(timeout=30, trust_env=False)
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def installed(cls) -> bool:
        """Whether `make servers` could build it here."""
        return cls.binary.exists()

    @abstractmethod
    def command(self) -> list[str]:
        """What to run; may write configuration into `directory` first."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Ask it whether it takes data; may raise `httpx.TransportError`, which is a no."""

    def start(self) -> None:
        """Return when it is ready; raises `ServerStartError` and leaves nothing running."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            # Started by another program so that it asks for the signal itself: code between fork
            # and exec is not safe in a process with threads.
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self.command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self.kill()
            raise

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline_s = time.monotonic() + self.start_limit_s
        while not self._answers():
            if process.poll() is not None:
                raise self._start_error(f"ended with {process.returncode}")
            if time.monotonic() > deadline_s:
                raise self._start_error(f"was not ready after {self.start_limit_s:g} s")
            time.sleep(_ASK_EVERY_S)

    def _answers(self) -> bool:
        try:
            return self.is_ready()
        except httpx.TransportError:
            return False

    def _start_error(self, what: str) -> ServerStartError:
        lines = self._log.read_text("utf-8", "replace").splitlines()[-_SHOWN_LOG_LINES:]
        return ServerStartError("\n".join([f"{type(self).__name__} {what}; its log ends:", *lines]))

    @property
    def _log(self) -> Path:
        return self.directory / "log"

    def stop(self) -> None:
        """End it in order, or by force when that takes too long; without effect when it is down."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """End it on the spot; without effect when it is down."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.http.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.http.close()


def free_port() -> int:
    """A loopback port that nothing listens on."""
    while True:
        port = random.choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


async def eventually(
    read: Callable[[], _T], enough: Callable[[_T], bool], within_s: float = 20.0
) -> _T:
    """Read again until it is enough, and return that; an `AssertionError` shows what was read."""
    deadline_s = time.monotonic() + within_s
    while not enough(found := read()):
        assert time.monotonic() < deadline_s, f"not enough after {within_s:g} s: {found!r}"
        await asyncio.sleep(_ASK_EVERY_S)
    return found
