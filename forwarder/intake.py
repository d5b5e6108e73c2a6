"""Group commit: gathers what the followers have read, and stores it in one transaction.

A commit costs an fsync, whatever its size (measured: 514 commits a second of one line, 315,668
lines a second at 1,000 lines a commit). So followers only say that they have something, and are
asked for it when the next commit begins; while one commit is under way the next one grows.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from forwarder.errors import SpoolUntrustedError
from forwarder.retry import until_spool_answers

if TYPE_CHECKING:
    from forwarder.clock import Clock
    from forwarder.metrics import Metrics
    from forwarder.spool.interface import StreamCommit, StreamStore

#: A commit that has grown to this size does not wait for its time.
COMMIT_BYTES = 8 << 20


class Feeder(Protocol):
    """What brings something to a commit: a follower."""

    def take(self) -> StreamCommit | None:
        """Everything that can be stored by now, or None; it is handed over once."""
        ...


class Intake:
    """The one way into the spool for what was read.

    Memory is bounded: when `buffer_bytes` are read and not yet committed, `room` makes the
    followers wait, and their connections push back on the server.
    """

    def __init__(
        self,
        spool: StreamStore,
        *,
        interval_s: float,
        buffer_bytes: int,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._spool = spool
        self._interval_s = interval_s
        self._buffer_bytes = buffer_bytes
        self._clock = clock
        self._metrics = metrics
        self._offered: dict[Feeder, None] = {}  # in the order of offering
        self._offered_bytes = 0
        self._buffered_bytes = 0
        self._waiting: list[asyncio.Future[None]] = []
        self._something = asyncio.Event()
        self._hurry = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._ended: BaseException | None = None

    @property
    def full(self) -> bool:
        """Whether followers should wait for `room` before they read on."""
        return self._buffered_bytes >= self._buffer_bytes

    def offer(self, feeder: Feeder, size_bytes: int) -> None:
        """Say that a feeder has something new, of about this size; it may be asked any time now."""
        self._offered[feeder] = None
        self._offered_bytes += size_bytes
        self._buffered_bytes += size_bytes
        self._something.set()
        if self.full:
            self._room.clear()
        if self.full or self._offered_bytes >= COMMIT_BYTES:
            self._hurry.set()

    async def room(self) -> None:
        """Wait until what is read and not yet committed is below its limit."""
        await self._room.wait()

    async def flush(self) -> None:
        """Return when everything offered so far is durable.

        Raises:
            SpoolUntrustedError: It never will be: the spool failed, or the intake has ended.
        """
        if self._ended is not None:
            raise SpoolUntrustedError("nothing is committed any more") from self._ended
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        self._something.set()
        self._hurry.set()
        await done

    async def run(self) -> None:
        """Commit for ever. Flush before cancelling: a cancelled commit may not have happened.

        Raises:
            SpoolUntrustedError: Nothing more can be acknowledged.
        """
        try:
            while True:
                await self._something.wait()
                await self._linger()
                await self._commit()
        except BaseException as error:
            self._ended = error
            _fail(self._waiting, error)
            raise

    async def _linger(self) -> None:
        """Let a commit grow for a while, unless it is large or somebody waits for it."""
        try:
            async with asyncio.timeout(self._interval_s):
                await self._hurry.wait()
        except TimeoutError:
            pass

    async def _commit(self) -> None:
        offered, self._offered = self._offered, {}
        waiting, self._waiting = self._waiting, []
        size_bytes, self._offered_bytes = self._offered_bytes, 0
        self._something.clear()
        self._hurry.clear()
        try:
            commits = [commit for feeder in offered if (commit := feeder.take()) is not None]
            if commits:
                await self._store(commits)
        except BaseException as error:
            _fail(waiting, error)
            raise
        self._buffered_bytes -= size_bytes
        if not self.full:
            self._room.set()
        for done in waiting:
            if not done.done():
                done.set_result(None)

    async def _store(self, commits: list[StreamCommit]) -> None:
        """Store, however long that takes: nothing that was read is let go of."""

        async def attempt() -> float:
            begun_s = self._clock.monotonic_s()
            await self._spool.commit(commits)
            return self._clock.monotonic_s() - begun_s

        seconds = await until_spool_answers(
            attempt, clock=self._clock, failed=self._metrics.spool_refused
        )
        self._metrics.spool_accepted()
        self._metrics.committed(commits, seconds)


def _fail(waiting: list[asyncio.Future[None]], error: BaseException) -> None:
    """Nobody waits for ever: those who wait for this commit learn that it failed."""
    for done in waiting:
        if not done.done():
            if isinstance(error, asyncio.CancelledError):
                done.cancel()
            else:
                done.set_exception(error)
