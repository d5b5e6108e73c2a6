"""The spool's numbers for many readers: read at most once a second, however many ask."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from forwarder.errors import SpoolUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from forwarder.clock import Clock
    from forwarder.spool.interface import SpoolOverview

#: An overview reads every stream's row, so it is not made anew for every request.
MAX_AGE_S = 1.0

#: A disk that hangs must not make every scrape hang with it.
PATIENCE_S = 5.0


class Snapshots:
    """A cache in front of `Spool.overview`. Concurrent readers share one read."""

    def __init__(
        self,
        read: Callable[[], Awaitable[SpoolOverview]],
        *,
        clock: Clock,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._read = read
        self._clock = clock
        self._patience_s = patience_s
        self._reading: asyncio.Task[SpoolOverview] | None = None
        self._begun_s = 0.0

    async def get(self) -> SpoolOverview:
        """The numbers, at most a second old. Cancelling a reader leaves the others their read.

        Raises:
            SpoolError: The spool cannot be read, or not soon enough.
        """
        reading = self._fresh()
        try:
            async with asyncio.timeout(self._patience_s):
                return await asyncio.shield(reading)
        except asyncio.CancelledError:
            if reading.cancelled():
                raise SpoolUnavailableError("the spool is not read any more") from None
            raise
        except TimeoutError as error:
            raise SpoolUnavailableError(
                f"the spool did not answer within {self._patience_s:g} s"
            ) from error

    async def close(self) -> None:
        """Let go of a read that is under way; who waits for it gets an error."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    def _fresh(self) -> asyncio.Task[SpoolOverview]:
        """The read under way, or one that is done and new enough, or else a new one."""
        now_s = self._clock.monotonic_s()
        known = self._reading
        if known is not None and (not known.done() or now_s - self._begun_s < MAX_AGE_S):
            return known
        self._begun_s = now_s
        self._reading = asyncio.create_task(_awaited(self._read))
        self._reading.add_done_callback(_looked_at)
        return self._reading


async def _awaited(read: Callable[[], Awaitable[SpoolOverview]]) -> SpoolOverview:
    return await read()


def _looked_at(reading: asyncio.Task[SpoolOverview]) -> None:
    """Nobody may be waiting any more: an error that nobody asks for is not news."""
    if not reading.cancelled():
        reading.exception()
