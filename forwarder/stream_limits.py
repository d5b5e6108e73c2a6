"""What bounds log streams: how many are opened at once, how long one is silent, how long it lives.

A connection can look alive for ever: half open, or held by a proxy, or with a server that has lines
and does not send them (kubernetes#115836; Alloy ends every tail after an hour for that reason). So
no silence is believed for long: the stream is opened again, where it was. And a thousand streams
that are cut at once come back a few at a time.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from forwarder.errors import SourceUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from forwarder.clock import Clock

#: How often it is looked whether a stream is due.
LOOK_EVERY_S = 1.0

#: A stream has its turn for so long at most: a server may not answer before there is a line.
TURN_S = 1.0
_TURN_LOOK_S = 0.25

#: The jitter, so that streams that were opened together are not due together.
_JITTER = 0.25


class StreamDueError(SourceUnavailableError):
    """The stream is to be opened again, though nothing is known to be wrong with it.

    Its `code` is `silent` or `old`.
    """


class WatchedStream:
    """A stream that is being opened, or open.

    Attributes:
        heard_s: When something came on it last, or it was opened, by the monotonic clock.
        silent_since_s: When something of the log came last, maybe on an earlier stream.
        due: `silent` or `old` once it is; else empty.
    """

    def __init__(
        self,
        deadline: asyncio.Timeout,
        *,
        clock: Clock,
        silent_s: float,
        life_s: float,
        silent_since_s: float | None,
    ) -> None:
        self.heard_s = self._begun_s = clock.monotonic_s()
        self.silent_since_s = self.heard_s if silent_since_s is None else silent_since_s
        self._clock = clock
        self._resting = False
        self.due = ""
        self._deadline = deadline
        self._silent_s = silent_s
        self._life_s = life_s

    def heard(self) -> None:
        """Something came."""
        self.heard_s = self.silent_since_s = self._clock.monotonic_s()

    @contextmanager
    def resting(self) -> Iterator[None]:
        """While we do not read: then the silence is not the server's."""
        self._resting = True
        try:
            yield
        finally:
            self._resting = False
            self.heard()

    def look(self, now_s: float) -> None:
        """End the stream if its time is up."""
        if self.due or self._resting:
            return
        if now_s - self.heard_s >= self._silent_s:
            self.due = "silent"
        elif now_s - self._begun_s >= self._life_s:
            self.due = "old"
        if self.due:
            self._deadline.reschedule(asyncio.get_running_loop().time())


class StreamLimits:
    """Shared by all followers of a process.

    Args:
        idle_s: A stream that is silent for so long, or up to a quarter longer, is opened again.
        life_s: No stream is open for longer; up to a quarter of it earlier it is opened again.
        max_opening: So many are being opened at the same time.
        clock: Time.
    """

    def __init__(self, *, idle_s: float, life_s: float, max_opening: int, clock: Clock) -> None:
        self._idle_s = idle_s
        self._life_s = life_s
        self._clock = clock
        self._turns = asyncio.Semaphore(max_opening)
        self._opening: dict[WatchedStream, float] = {}
        self._watched: set[WatchedStream] = set()

    @property
    def opening(self) -> int:
        """How many streams are being opened now."""
        return len(self._opening)

    def longest_silence_s(self) -> float:
        """For how long the most silent of the open streams has brought nothing."""
        since_s = min((one.silent_since_s for one in self._watched), default=None)
        return 0.0 if since_s is None else self._clock.monotonic_s() - since_s

    async def run(self) -> None:
        """End streams that are due, until cancelled."""
        looked_s = self._clock.monotonic_s()
        while True:
            await self._clock.sleep(_TURN_LOOK_S)
            now_s = self._clock.monotonic_s()
            for stream, begun_s in tuple(self._opening.items()):
                if now_s - begun_s >= TURN_S:
                    self.opened(stream)
            if now_s - looked_s >= LOOK_EVERY_S:
                looked_s = now_s
                for stream in tuple(self._watched):
                    stream.look(now_s)

    @asynccontextmanager
    async def watch(self, silent_since_s: float | None = None) -> AsyncIterator[WatchedStream]:
        """Wait for a turn to open a stream; within the block it is watched.

        Args:
            silent_since_s: When something of the log came last, if anything did.

        Raises:
            StreamDueError: It was silent or open for too long; what is in the block was cancelled.
        """
        await self._turns.acquire()
        deadline = asyncio.timeout(None)
        stream = WatchedStream(
            deadline,
            clock=self._clock,
            silent_s=self._idle_s * (1 + _JITTER * self._clock.random()),
            life_s=self._life_s * (1 - _JITTER * self._clock.random()),
            silent_since_s=silent_since_s,
        )
        self._opening[stream] = stream.heard_s
        self._watched.add(stream)
        try:
            async with deadline:
                yield stream
        except TimeoutError:
            if not stream.due:
                raise
            message = "nothing came for long" if stream.due == "silent" else "open for long"
            raise StreamDueError(message, code=stream.due) from None
        finally:
            self._watched.discard(stream)
            self.opened(stream)

    def opened(self, stream: WatchedStream) -> None:
        """The server has answered: it is the next stream's turn."""
        if self._opening.pop(stream, None) is not None:
            self._turns.release()
