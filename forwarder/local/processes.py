"""A real process per container: started, read line by line, stamped, ended as a group."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from forwarder.local.guard import Guard
from forwarder.local.logstore import LogStore

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from forwarder.local.archive import Archive

STDOUT, STDERR = 1, 2
SIGNAL_EXIT_BASE = 128
CANNOT_START_EXIT_CODE = 127
_DRAIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Command:
    """What a container runs. An empty program means: stay alive and print nothing."""

    program: str
    args: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    working_dir: str = ""

    @property
    def argv(self) -> tuple[str, ...]:
        """The words to execute."""
        return (self.program, *self.args) if self.program else ("sleep", "infinity")


class LineCutter:
    """Cuts one stream's bytes into stamped records; the stamp is taken when the line is complete.

    A line over `max_line_bytes` comes as pieces without a newline, each with its own stamp.
    """

    def __init__(self, max_line_bytes: int, time_ns: Callable[[], int]) -> None:
        self._max_line_bytes = max_line_bytes
        self._time_ns = time_ns
        self._open: list[bytes] = []
        self._open_bytes = 0

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The records that these bytes complete."""
        time_ns = self._time_ns
        lines = data.splitlines(keepends=True) if _only_newlines_split(data) else _split(data)
        if self._open and lines and data.find(b"\n") >= 0:
            lines[0] = b"".join((*self._open, lines[0]))
            self._open, self._open_bytes = [], 0
        rest = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
        records = [(time_ns(), piece) for line in lines for piece in self._pieces(line)]
        if rest:
            self._open.append(rest)
            self._open_bytes += len(rest)
        if self._open_bytes > self._max_line_bytes:
            records += self._overflow()
        return records

    def finish(self) -> list[tuple[int, bytes]]:
        """The unterminated end, as it is."""
        rest = b"".join(self._open)
        self._open, self._open_bytes = [], 0
        return [(self._time_ns(), piece) for piece in self._pieces(rest)] if rest else []

    def _pieces(self, line: bytes) -> list[bytes]:
        limit = self._max_line_bytes
        if len(line) <= limit:
            return [line]
        return [line[start : start + limit] for start in range(0, len(line), limit)]

    def _overflow(self) -> list[tuple[int, bytes]]:
        pieces = self._pieces(b"".join(self._open))
        self._open = [pieces.pop()]
        self._open_bytes = len(self._open[0])
        return [(self._time_ns(), piece) for piece in pieces]


def _only_newlines_split(data: bytes) -> bool:
    # bytes.splitlines also splits at a carriage return, which is an ordinary byte of a line here.
    return b"\r" not in data


def _split(data: bytes) -> list[bytes]:
    *lines, rest = data.split(b"\n")
    whole = [line + b"\n" for line in lines]
    return [*whole, rest] if rest else whole


class ContainerProcess(asyncio.SubprocessProtocol):
    """One container: its process, its log and how it ended.

    The log is closed, and `ended` set, only when the process is over and everything it printed is
    in the log: whoever sees the end can read everything.

    Attributes:
        listeners: Called after the log grew or was closed.
        exit_code: As a container runtime reports it (137 for SIGKILL); None while it runs.
        failure: Why it could not be started; empty when it was.

    Args:
        log: Goes on with this log instead of a new one.
        archive: Keeps everything that the log is given, for good.
    """

    def __init__(
        self,
        command: Command,
        *,
        retention_bytes: int,
        max_line_bytes: int,
        stderr_skew_ns: int = 0,
        guard: Guard | None = None,
        time_ns: Callable[[], int] = time.time_ns,
        log: LogStore | None = None,
        archive: Archive | None = None,
    ) -> None:
        self.log = log or LogStore(retention_bytes)
        self.ended = asyncio.Event()
        self.listeners: set[Callable[[], None]] = set()
        self.exit_code: int | None = None
        self.failure = ""
        self._command = command
        self._cutters = {
            STDOUT: LineCutter(max_line_bytes, time_ns),
            STDERR: LineCutter(max_line_bytes, lambda: time_ns() + stderr_skew_ns),
        }
        self._guard = guard or Guard()
        self._archive = archive
        self._transport: asyncio.SubprocessTransport | None = None
        self._open_pipes = {STDOUT, STDERR}
        self._exited = False
        self._directory: Path | None = None

    @property
    def pid(self) -> int | None:
        """The process id, which is the group's id too; None when there is no process."""
        return self._transport.get_pid() if self._transport is not None else None

    async def start(self) -> None:
        """Start it. A command that cannot be started is an ended container with a `failure`."""
        self._directory = Path(tempfile.mkdtemp(prefix="sandbox-"))
        try:
            await asyncio.get_running_loop().subprocess_exec(
                lambda: self,
                *self._command.argv,
                stdin=asyncio.subprocess.DEVNULL,
                cwd=self._directory / self._command.working_dir,
                env=self._environment(self._directory),
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            self.failure = f"cannot start {self._command.argv[0]!r}: {error}"
            self.exit_code = CANNOT_START_EXIT_CODE
            self._finish()

    async def stop(self, grace_s: float) -> None:
        """SIGTERM to the main process, as a container runtime does; SIGKILL to all of its group.

        The second comes when the main process is over, or after `grace_s`. Returns when it has
        ended. Cancellation leaves the process as far as it got; calling again is safe.
        """
        if grace_s > 0 and not self._exited and self._transport is not None:
            with suppress(ProcessLookupError):
                self._transport.terminate()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.ended.wait(), grace_s)
        self.kill()
        await self.ended.wait()

    def kill(self) -> None:
        """SIGKILL to the whole group, now."""
        if not self.ended.is_set():
            self._kill_group()

    def record(self, records: Sequence[tuple[int, bytes]]) -> None:
        """Put (stamp in ns, text) records into the log, as if they had been printed."""
        self._keep(records)
        self._notify()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The process runs."""
        assert isinstance(transport, asyncio.SubprocessTransport)
        self._transport = transport
        self._guard.watch(transport.get_pid())

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """It printed something."""
        records = self._cutters[fd].feed(data)
        if records:
            self.record(records)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002 - protocol
        """One of its streams is at its end."""
        self._open_pipes.discard(fd)
        self._finish_when_over()

    def process_exited(self) -> None:
        """The main process is over: as in a container, nothing of its group outlives it."""
        assert self._transport is not None
        code = self._transport.get_returncode() or 0
        self.exit_code = code if code >= 0 else SIGNAL_EXIT_BASE - code
        self._exited = True
        self._kill_group()
        self._guard.forget(self._transport.get_pid())
        # A process that left the group may hold the pipes open for ever.
        asyncio.get_running_loop().call_later(_DRAIN_S, self._abandon_pipes)
        self._finish_when_over()

    def _abandon_pipes(self) -> None:
        self._open_pipes.clear()
        self._finish_when_over()

    def _finish_when_over(self) -> None:
        if self._exited and not self._open_pipes and not self.ended.is_set():
            # Held back until both streams have ended, so that only the log's very last record
            # lacks its newline.
            for cutter in self._cutters.values():
                self._keep(cutter.finish())
            self._finish()

    def _finish(self) -> None:
        if self._transport is not None:
            self._transport.close()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
        self.log.close()
        self.ended.set()
        self._notify()

    def _keep(self, records: Sequence[tuple[int, bytes]]) -> None:
        self.log.extend(records)
        if self._archive is not None:
            self._archive.extend(records)

    def _notify(self) -> None:
        for listener in tuple(self.listeners):
            listener()

    def _kill_group(self) -> None:
        if self.pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def _environment(self, home: Path) -> dict[str, str]:
        # Only what a command needs to be found: the service's own variables hold its key.
        base = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(home), "LANG": "C.UTF-8"}
        return {**base, **self._command.environment}
