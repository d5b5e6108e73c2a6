"""Daemons forked from a process that has imported everything already.

A start of the real command is mostly importing (measured: 0.5 of 0.6 s), and nothing on disk
happens then. For a hundred lives that are about what happens afterwards it is done once, by a
nursery: this file run as a program. Each life is a process of its own all the same, to be
signalled and killed like any other. A nursery may have libraries preloaded (`tests.fakes.preload`);
they do nothing before a life's own environment tells them to.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: What a daemon imports until it runs, as far as it is not imported by these.
_IMPORTED = ("uvloop", "encodings.idna", "forwarder.app", "forwarder.cli", "forwarder.config")

_ROOT = Path(__file__).parents[2]
_MOST_REQUEST_BYTES = 1 << 16


class ForkedProcess:
    """One run of the command; what the tests use of `asyncio.subprocess.Process`.

    Attributes:
        pid: Its process id.
        stderr: What it says.
        returncode: Its exit code, or less the signal that ended it; None while it runs.
    """

    def __init__(self, pid: int, stderr: asyncio.StreamReader, end: asyncio.StreamReader) -> None:
        self.pid = pid
        self.stderr = stderr
        self.returncode: int | None = None
        self._watching = asyncio.create_task(self._watch(end))

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    async def wait(self) -> int:
        """Return its exit code once it has ended."""
        return await asyncio.shield(self._watching)

    async def _watch(self, end: asyncio.StreamReader) -> int:
        self.returncode = int(await end.read())
        return self.returncode


async def fork(
    *arguments: str,
    limit: int,
    environment: Mapping[str, str] | None = None,
    libraries: Sequence[Path] = (),
    paused: bool = False,
) -> ForkedProcess:
    """Run `sandbox-forwarder` with these arguments.

    Args:
        arguments: What stands behind the command's name.
        limit: The longest line it may say, in bytes.
        environment: Variables that this life has besides our own.
        libraries: Shared libraries that it runs with (LD_PRELOAD).
        paused: Whether it waits for a SIGCONT before it does anything.
    """
    request = json.dumps(
        {"arguments": arguments, "environment": dict(environment or {}), "paused": paused}
    )
    stderr, its_stderr = await _pipe(limit)
    end, its_end = await _pipe(limit)
    try:
        _nursery(tuple(libraries)).order(request.encode(), its_stderr, its_end)
    finally:
        os.close(its_stderr)
        os.close(its_end)
    return ForkedProcess(int(await end.readline()), stderr, end)


async def _pipe(limit: int) -> tuple[asyncio.StreamReader, int]:
    """What comes out of a new pipe, and its other end."""
    ours, its = os.pipe()
    reader = asyncio.StreamReader(limit)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ours, "rb", buffering=0)
    )
    return reader, its


class _Nursery:
    """The process that forks, as seen from here; it lives until ours ends."""

    def __init__(self, libraries: Sequence[Path]) -> None:
        self._control, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        preloaded = {"LD_PRELOAD": ":".join(map(str, libraries))} if libraries else {}
        with its:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(its.fileno())],
                pass_fds=[its.fileno()],
                cwd=_ROOT,
                env={**os.environ, **preloaded},
                stdin=subprocess.DEVNULL,
            )
        atexit.register(self._close)

    def order(self, request: bytes, *descriptors: int) -> None:
        """Have one life begun, with these descriptors."""
        socket.send_fds(self._control, [request], descriptors)

    def _close(self) -> None:
        self._control.close()
        self._process.wait()


_nurseries: dict[tuple[Path, ...], _Nursery] = {}


def _nursery(libraries: tuple[Path, ...]) -> _Nursery:
    if libraries not in _nurseries:
        _nurseries[libraries] = _Nursery(libraries)
    return _nurseries[libraries]


class _Children:
    """In the nursery: who lives, and where the end of each life is told."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._ends: dict[int, int] = {}

    def begin(self) -> bool:
        """Take one request and fork; False when there will be no more."""
        request, descriptors, *_ = socket.recv_fds(self._control, _MOST_REQUEST_BYTES, 2)
        if not request:
            return False
        stderr, end = descriptors
        if not (pid := os.fork()):
            self._leave()
            os.close(end)
            _live(stderr, **json.loads(request))
        os.close(stderr)
        self._ends[pid] = end
        _tell(end, pid)
        return True

    def bury(self) -> None:
        """Tell the ends of those who have ended."""
        while self._ends:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            end = self._ends.pop(pid)
            _tell(end, os.waitstatus_to_exitcode(status))
            os.close(end)

    def kill(self) -> None:
        """End those who still live."""
        for pid in self._ends:
            os.kill(pid, signal.SIGKILL)

    def _leave(self) -> None:
        """In a child: what is the nursery's own is closed."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._control.close()
        for end in self._ends.values():
            os.close(end)


def _tell(end: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(end, f"{number}\n".encode())


def _live(
    stderr: int, *, arguments: list[str], environment: dict[str, str], paused: bool
) -> NoReturn:
    """Be the command, and end without what the nursery would do at its own end."""
    if paused:
        os.kill(os.getpid(), signal.SIGSTOP)
    os.dup2(stderr, 2)
    os.close(stderr)
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    os.environ.update(environment)
    sys.argv = ["sandbox-forwarder", *arguments]
    code: object = 1
    try:
        from forwarder import cli

        cli.main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:  # noqa: BLE001 - the top of a process: told as Python itself tells it
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def main() -> None:
    """Import, then fork whenever told to, until nobody is left who could."""
    for name in _IMPORTED:
        importlib.import_module(name)

    control = socket.socket(fileno=int(sys.argv[1]))
    children = _Children(control)
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is woken:
                    woken.recv(1 << 12)
                    children.bury()
                elif not children.begin():
                    children.kill()
                    return


if __name__ == "__main__":
    main()
