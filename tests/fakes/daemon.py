"""The daemon as a process of its own: started with a written configuration, watched, killed.

Nothing here waits for a fixed time. What is waited for is a condition (a file's content, an event
of the daemon's log), and a deadline only ends a test that would never end.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.fakes.forked import fork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from tests.fakes.forked import ForkedProcess
    from tests.fakes.preload import Preload

COMMAND = Path(sys.executable).with_name("sandbox-forwarder")
DEADLINE_S = 60.0
_LOOK_EVERY_S = 0.005
_LOG_LINE_BYTES = 16 << 20
_SHOWN_EVENTS = 30


def write_config(
    directory: Path,
    *,
    base_url: str,
    sandboxes: Sequence[Mapping[str, Any]],
    sinks: Mapping[str, Mapping[str, Any]],
    api_key: str | None = None,
    source: Mapping[str, Any] | None = None,
    **sections: Any,
) -> Path:
    """Write `directory/config.yaml`, with waits short enough for a test; returns its path.

    `state_dir` is `directory/state`. A YAML reader reads JSON.
    """
    quick = {
        "base_url": base_url,
        "poll_interval": "100ms",
        "backoff_initial": "20ms",
        "backoff_max": "200ms",
        "hold_interval": "1s",
    }
    key = {} if api_key is None else {"api_key": api_key}
    document = {
        "state_dir": str(directory / "state"),
        "source": {**quick, **key, **(source or {})},
        "sandboxes": list(sandboxes),
        "sinks": dict(sinks),
        "admin": {"listen": "off"},
        **sections,
    }
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "config.yaml"
    path.write_text(json.dumps(document), "utf-8")
    return path


def file_sink(path: Path | str, form: str = "text") -> dict[str, str]:
    """The configuration of a file sink."""
    return {"type": "file", "path": str(path), "format": form}


class DaemonProcess:
    """One run of `sandbox-forwarder run`.

    Attributes:
        events: Its log so far, one object per event.
        texts: Whatever else it has written to standard error, line by line.
    """

    def __init__(self, process: asyncio.subprocess.Process | ForkedProcess) -> None:
        self.events: list[dict[str, Any]] = []
        self.texts: list[str] = []
        self._process = process
        self._news = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, config: Path, *options: str, wrapper: Sequence[str] = ()) -> Self:
        """Start `run --config CONFIG`, with these options too.

        Args:
            config: The configuration.
            options: What else stands on the command line.
            wrapper: A command that becomes the daemon, with its arguments: `nice`, `strace -D`.
        """
        process = await asyncio.create_subprocess_exec(
            *(*wrapper, str(COMMAND), "run", "--config", str(config), *options),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            limit=_LOG_LINE_BYTES,
        )
        return cls(process)

    @classmethod
    async def fork(
        cls, config: Path, *options: str, under: Preload | None = None, paused: bool = False
    ) -> Self:
        """The same, much quicker: see `tests.fakes.forked`.

        Args:
            config: The configuration.
            options: What else stands on the command line.
            under: A library that interferes with its calls.
            paused: Whether it waits for a SIGCONT before it does anything; it does so already when
                this returns, since a SIGCONT that came before would be lost.
        """
        process = await fork(
            *("run", "--config", str(config), *options),
            limit=_LOG_LINE_BYTES,
            environment=under.environment if under else None,
            libraries=[under.library] if under else [],
            paused=paused,
        )
        if paused:
            await until(lambda: _is_stopped(process.pid), "its pause")
        return cls(process)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.returncode is None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self.running:
            self._process.send_signal(number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send(signal.SIGTERM)

    async def kill(self) -> None:
        """`kill -9`, and wait until it is gone."""
        self.send(signal.SIGKILL)
        await self.wait()

    async def wait(self) -> int:
        """Its exit code, once it has ended and its whole log was read; -9 when killed.

        Raises:
            AssertionError: It did not end before the deadline.
        """
        try:
            async with asyncio.timeout(DEADLINE_S):
                await self._process.wait()
                await self._reading
        except TimeoutError:
            raise AssertionError(f"it does not end; the log:\n{self.log}") from None
        assert self._process.returncode is not None
        return self._process.returncode

    async def event(self, event: str, **fields: Any) -> dict[str, Any]:
        """The first event of this name whose fields hold these values (or text) in them.

        Raises:
            AssertionError: The daemon ended, or the deadline passed, without it.
        """
        seen = 0
        try:
            async with asyncio.timeout(DEADLINE_S):
                while True:
                    self._news.clear()
                    for one in self.events[seen:]:
                        if one.get("event") == event and _holds(one, fields):
                            return one
                    seen = len(self.events)
                    if self._reading.done():
                        break
                    await self._news.wait()
        except TimeoutError:
            pass
        raise AssertionError(f"no event {event!r} with {fields}; the log:\n{self.log}")

    @property
    def log(self) -> str:
        """The last of what it has said so far, for a failed test."""
        return "\n".join([*map(str, self.events[-_SHOWN_EVENTS:]), *self.texts])

    async def _read(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            try:
                self.events.append(json.loads(line))
            except ValueError:
                self.texts.append(line.decode("utf-8", "replace").rstrip("\n"))
            self._news.set()
        self._news.set()


@asynccontextmanager
async def running(
    config: Path,
    *options: str,
    forked: bool = False,
    under: Preload | None = None,
    wrapper: Sequence[str] = (),
) -> AsyncIterator[DaemonProcess]:
    """A daemon that is killed at the end, if it still runs then.

    Args:
        config: The configuration.
        options: What else stands on the command line.
        forked: Whether it is forked, which is quicker; it always is `under` a library.
        under: See `DaemonProcess.fork`.
        wrapper: See `DaemonProcess.start`.
    """
    if forked or under is not None:
        daemon = await DaemonProcess.fork(config, *options, under=under)
    else:
        daemon = await DaemonProcess.start(config, *options, wrapper=wrapper)
    try:
        yield daemon
    finally:
        await daemon.kill()


async def run_to_end(
    config: Path, *options: str, forked: bool = False, under: Preload | None = None
) -> tuple[int, DaemonProcess]:
    """Run until it ends by itself; returns its exit code and what it said."""
    async with running(config, *options, forked=forked, under=under) as daemon:
        return await daemon.wait(), daemon


async def until(
    condition: Callable[[], bool], what: str = "the condition", *, deadline_s: float = DEADLINE_S
) -> None:
    """Return as soon as the condition holds.

    Raises:
        AssertionError: It did not before the deadline.
    """
    loop = asyncio.get_running_loop()
    end_s = loop.time() + deadline_s
    while not condition():
        if loop.time() > end_s:
            raise AssertionError(f"waited in vain for {what}")
        await asyncio.sleep(_LOOK_EVERY_S)


def size_bytes(path: Path) -> int:
    """The size of a file; 0 when there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


async def grown(path: Path, to_bytes: int, daemon: DaemonProcess) -> None:
    """Return once a file has at least this size; the daemon is what should make it grow."""
    try:
        await until(lambda: size_bytes(path) >= to_bytes or not daemon.running)
    finally:
        what = f"{path} has {size_bytes(path)} of {to_bytes} bytes; the log:\n{daemon.log}"
        assert size_bytes(path) >= to_bytes, what


def _is_stopped(pid: int) -> bool:
    """Whether a process is stopped by a signal: proc(5), the state in `stat`."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def _holds(event: Mapping[str, Any], fields: Mapping[str, Any]) -> bool:
    return all(
        value in event.get(name, "") if isinstance(value, str) else event.get(name) == value
        for name, value in fields.items()
    )
