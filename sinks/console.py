"""The console sink: lines to standard output, for a person's eyes or for a pipe.

Delivered means that the terminal, pipe or file behind standard output took the bytes, and no more
than that. A batch that was written in part is written again from its beginning.
"""

# Not `from __future__ import annotations`: pydantic reads the annotations at run time.

import asyncio
import errno
import os
import select
import stat
import sys
import threading
from contextlib import suppress
from typing import Literal

from sinks.console_lines import ConsoleOptions, render
from sinks.interface import (
    Batch,
    SinkMisconfiguredError,
    SinkState,
    SinkUnavailableError,
    StateChanges,
)
from sinks.plan import DeliveryPlan
from sinks.settings import SinkSettings

#: A pipe that is ready takes so much without blocking (POSIX: PIPE_BUF).
_PIPE_BYTES = select.PIPE_BUF
_FILE_BYTES = 1 << 20
#: Small, because a batch that was shown in part is shown again.
_BATCH_BYTES = 1 << 20

_NOBODY_READS = frozenset({errno.EPIPE, errno.EBADF, errno.EIO, errno.ENXIO})


class ConsoleSettings(SinkSettings):
    """Standard output."""

    type: Literal["console"] = "console"
    """The kind of sink."""
    format: Literal["text", "ndjson"] = "text"
    """`text`, for eyes, or `ndjson`, as files have it."""
    stamp: bool = True
    """Begin each line of text with its stamp."""
    sandbox: Literal["id", "name"] = "id"
    """Call sandboxes by their ids, or by their display names where they have some."""
    color: bool = True
    """Use colour where standard output is a terminal."""

    @property
    def destination(self) -> str:
        """There is one standard output; two sinks would mix their lines."""
        return "stdout"

    @property
    def plan(self) -> DeliveryPlan:
        """One batch after the other, without a time limit: a reader may take its time."""
        return DeliveryPlan(max_bytes=_BATCH_BYTES, dead_letter_bytes=self.dead_letters.max_size)


class ConsoleSink:
    """Writes each batch from a thread of its own, which nobody waits for at a stop.

    Args:
        name: What the configuration calls it.
        settings: Its section of the configuration.
        descriptor: Where to write instead of standard output; it stays open.
    """

    def __init__(
        self, name: str, settings: ConsoleSettings, *, descriptor: int | None = None
    ) -> None:
        self._name = name
        self._settings = settings
        self._descriptor = descriptor
        self._writer: _Writer | None = None

    async def open(self, state: SinkState) -> None:
        """See that there is a standard output."""
        del state
        descriptor = _standard_output() if self._descriptor is None else self._descriptor
        self._writer = self._writer or _Writer(descriptor)

    async def write(self, batch: Batch) -> StateChanges:
        """Write the batch; when this is cancelled, part of it may have been shown."""
        assert self._writer is not None, "open comes first"
        settings = self._settings
        color = settings.color and self._writer.is_terminal
        options = ConsoleOptions(settings.format, settings.stamp, settings.sandbox, color)
        lines = await asyncio.to_thread(render, tuple(batch.slices), options)
        if lines:
            await self._writer.write(lines)
        return {}

    async def close(self) -> None:
        """Nothing to let go of: standard output stays open."""


class _Writer:
    """Writes to a descriptor that may block for ever, and can be left alone doing so."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        mode = os.fstat(descriptor).st_mode
        self._chunk_bytes = _FILE_BYTES if stat.S_ISREG(mode) else _PIPE_BYTES
        # A cancelled write may still be at its last bytes when the next one begins.
        self._turn = threading.Lock()
        self._is_in_a_line = False

    @property
    def is_terminal(self) -> bool:
        """Whether a person looks at it."""
        return os.isatty(self._descriptor)

    async def write(self, lines: bytes) -> None:
        """Write whole lines.

        Raises:
            SinkMisconfiguredError: Nobody reads them.
            SinkUnavailableError: No room, or another trouble of the place behind.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[OSError | None] = loop.create_future()
        stop, stop_writing = os.pipe()

        def report(error: OSError | None) -> None:
            if not done.done():
                done.set_result(error)

        def run() -> None:
            error = self._run(lines, stop)
            with suppress(RuntimeError):  # the event loop is gone, and nobody wants to know
                loop.call_soon_threadsafe(report, error)

        try:
            # Not of an executor: those are waited for when the program ends.
            threading.Thread(target=run, name="console", daemon=True).start()
            error = await done
        finally:
            os.close(stop_writing)
        if error is not None:
            raise _verdict(error) from error

    def _run(self, lines: bytes, stop: int) -> OSError | None:
        try:
            with self._turn:
                self._write(b"\n" + lines if self._is_in_a_line else lines, stop)
        except OSError as error:
            return error
        finally:
            os.close(stop)
        return None

    def _write(self, lines: bytes, stop: int) -> None:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        poll.register(stop, 0)  # told of its other end's close in any case
        at = 0
        while at < len(lines):
            if any(descriptor == stop for descriptor, _ in poll.poll()):
                return
            with suppress(BlockingIOError):  # somebody made it so for all who share it
                at += os.write(self._descriptor, lines[at : at + self._chunk_bytes])
                self._is_in_a_line = lines[at - 1 : at] != b"\n"


def _standard_output() -> int:
    # When the program was started without one, its number may be any other file by now.
    if sys.__stdout__ is None:
        raise SinkMisconfiguredError("there is no standard output: it was closed at the start")
    return sys.__stdout__.fileno()


def _verdict(error: OSError) -> Exception:
    why = error.strerror or "no reason given"
    if error.errno in _NOBODY_READS:
        text = f"nobody reads standard output any more ({why}); start again with one that is read"
        return SinkMisconfiguredError(text)
    return SinkUnavailableError(f"standard output takes nothing: {why}")
