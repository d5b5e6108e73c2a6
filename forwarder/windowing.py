"""What a sink gets next that takes windows: see `sinks.window`.

While a window grows nothing of it is in memory: frames are counted, and read when the sink reads
the window. Where a window ends is durable before the sink hears of it.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING

import orjson

from forwarder.range_replay import RangeRefusing
from forwarder.retry import until_spool_answers
from forwarder.sink_state import ENGINE_PREFIX
from forwarder.slices import Streams, make_slice
from forwarder.spool.handed import handed_note
from forwarder.spool.interface import Delivery
from forwarder.tasks import first_of
from forwarder.window import Settled, Shipment
from sinks.interface import Batch
from sinks.window import Window

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    from forwarder.clock import Clock
    from forwarder.cursor import Cursor
    from forwarder.model import Frame
    from forwarder.outlet import SinkOutlet
    from forwarder.sink_state import EngineState
    from forwarder.spool.interface import HandedOut, Spool, Survey
    from sinks.interface import Slice
    from sinks.plan import WindowLimits

#: Under which key it is remembered which windows are under way, and how large they become.
_WINDOWS_KEY = f"{ENGINE_PREFIX}windows"

#: What a window is read in: a few frames at a time.
_READ_BYTES = 1 << 20

#: While a window is small, what is new is counted so often at most.
_LOOK_EVERY_S = 0.25

#: How much a full window says about the next one; the rest is what those before it said.
_NEWEST_COUNTS = 0.5

#: A window takes at most so many times its size in the spool, whatever the ones before became.
_MAX_STORED = 4

#: And at most this share of the most that the spool may take: two that are under way and one that
#: grows have to have room, beside what the spool keeps for others.
_ROOM_SHARE = 5


class WindowFeed:
    """Windows for one sink."""

    def __init__(
        self,
        name: str,
        spool: Spool,
        outlet: SinkOutlet,
        limits: WindowLimits,
        clock: Clock,
        room_bytes: int | None = None,
    ) -> None:
        """Read nothing yet.

        Args:
            name: The sink's.
            spool: Where frames come from.
            outlet: Where windows go.
            limits: When a window is closed.
            clock: What waits.
            room_bytes: The most that the spool may take; None when there is no limit.
        """
        self._name = name
        self._spool = spool
        self._outlet = outlet
        self._limits = limits
        self._clock = clock
        self._streams = Streams()
        self._hurried = asyncio.Event()
        self._refusing = RangeRefusing(name, spool, clock)
        self._size = SizeEstimate(limits.max_bytes, room_bytes)
        # Where the cursor can stand behind the newest window; 0 when its last frames are gone. What
        # took their place is the record of that, and is in a window to come.
        self._through_id = 0

    def hurry(self) -> None:
        """From now on no record waits for others."""
        self._hurried.set()

    def look(self) -> None:
        """Look whether there is anything to be sent again, and end it."""
        self._refusing.look()

    async def resend(self, state: EngineState) -> None:
        """Send nothing, until cancelled: an archive has no dead letters, and each line once."""
        await self._refusing.run(state)

    async def shipments(self, cursor: Cursor, state: EngineState) -> AsyncGenerator[Shipment, None]:
        """Windows from behind the cursor on, for ever."""
        async with aclosing(self.windows(cursor, state)) as windows:
            async for window in windows:
                yield Shipment(self._through_id, partial(self._deliver, window))

    async def _deliver(self, window: Window) -> Settled:
        changes = await self._outlet.write(window)
        # Of what was damaged before it was read nothing was delivered: so many there are now. A
        # cancellation here costs nothing: the same window comes again, and is there.
        handed = await self._hand_out(window.after_id, window.last_id)
        return Settled(changes, Delivery(delivered=handed.lines))

    async def windows(self, cursor: Cursor, state: EngineState) -> AsyncGenerator[Window, None]:
        """Windows from behind the cursor on, for ever; first those that were begun before."""
        at = cursor.durable
        bounds = self._recall(state)
        for after_id, last_id in bounds:
            if last_id > at:
                yield await self._window(after_id, last_id)
                at = last_id
        while True:
            last_id, stored_bytes = await self._gather(at)
            bounds = [one for one in bounds if one[1] > cursor.durable]
            bounds.append((at, last_id))
            await self._remember(bounds, state)
            yield await self._window(at, last_id, stored_bytes)
            at = last_id

    async def _gather(self, after_id: int) -> tuple[int, int]:
        """The last frame of the next window, and what it takes in the spool.

        It is as large as it may be, or as old, or ends a stream.
        """
        await self._spool.wait_beyond(after_id)
        until_s = self._clock.monotonic_s() + self._limits.max_age_s
        last_id, stored_bytes, raw_bytes = after_id, 0, 0
        while True:
            found = await self._survey(last_id, stored_bytes, raw_bytes)
            last_id = found.last_id
            stored_bytes += found.stored_bytes
            raw_bytes += found.raw_bytes
            if found.full:
                return last_id, stored_bytes
            if self._spool.last_frame_id > last_id:
                continue
            left_s = until_s - self._clock.monotonic_s()
            if left_s <= 0 or self._hurried.is_set():
                return last_id, stored_bytes
            await first_of(self._news(last_id), self._hurried.wait(), self._clock.sleep(left_s))

    async def _survey(self, after_id: int, stored_bytes: int, raw_bytes: int) -> Survey:
        size = self._size
        return await until_spool_answers(
            lambda: self._spool.survey(
                after_id,
                max_stored_bytes=size.max_stored_bytes - stored_bytes,
                max_raw_bytes=size.max_raw_bytes - raw_bytes,
                to_end=self._limits.at_end,
            ),
            clock=self._clock,
        )

    async def _news(self, after_id: int) -> None:
        """Return when there is more to count, and some time has gone by."""
        await self._clock.sleep(_LOOK_EVERY_S)
        await self._spool.wait_beyond(after_id)

    async def _window(self, after_id: int, last_id: int, stored_bytes: int = 0) -> Window:
        """The window of these frames; what it takes in the spool is 0 when nobody knows."""
        handed = await self._hand_out(after_id, last_id)
        self._through_id = handed.last_id
        return Window(
            self._spool.spool_id,
            after_id,
            last_id,
            handed.lines,
            partial(self._read, after_id, last_id),
            partial(self._size.learn, stored_bytes),
        )

    async def _hand_out(self, after_id: int, last_id: int) -> HandedOut:
        return await until_spool_answers(
            lambda: self._spool.hand_out(self._name, after_id, last_id), clock=self._clock
        )

    async def _read(self, after_id: int, last_id: int) -> AsyncIterator[Batch]:
        while after_id < last_id:
            frames = await until_spool_answers(
                partial(
                    self._spool.read,
                    after_id,
                    max_bytes=_READ_BYTES,
                    sink=self._name,
                    upto_id=last_id,
                ),
                clock=self._clock,
            )
            if not frames:  # the last of them were given up
                return
            after_id = frames[-1].id
            yield Batch(frames[0].id, after_id, [self._slice(frame) for frame in frames])

    def _slice(self, frame: Frame) -> Slice:
        return make_slice(frame, self._streams.get(self._spool.stream_info(frame.stream_id)))

    def _recall(self, state: EngineState) -> list[tuple[int, int]]:
        record = orjson.loads(state.get(_WINDOWS_KEY) or b"{}")
        self._size.ratio = record.get("ratio")
        return [(after_id, last_id) for after_id, last_id in record.get("windows", ())]

    async def _remember(self, bounds: Sequence[tuple[int, int]], state: EngineState) -> None:
        record = {"windows": list(bounds), "ratio": self._size.ratio}
        changes = {_WINDOWS_KEY: orjson.dumps(record), **handed_note(bounds[-1][1])}
        await until_spool_answers(lambda: state.store(changes), clock=self._clock)


class SizeEstimate:
    """How much of the spool becomes so much at the destination.

    Attributes:
        ratio: What became of a window for each of its bytes in the spool; None while nothing did.
            Then a window is taken for as large as its lines are: it will be smaller.
    """

    def __init__(self, max_bytes: int, room_bytes: int | None = None) -> None:
        self._max_bytes = max_bytes
        self._most_bytes = max_bytes * _MAX_STORED
        if room_bytes is not None:
            self._most_bytes = min(self._most_bytes, room_bytes // _ROOM_SHARE)
        self.ratio: float | None = None

    @property
    def max_stored_bytes(self) -> int:
        """A window is full with so much of the spool."""
        wanted = self._max_bytes / (self.ratio or 1.0)
        return max(1, round(min(wanted, self._most_bytes)))

    @property
    def max_raw_bytes(self) -> int:
        """A window is full with so much of what the server sent."""
        return self._max_bytes if self.ratio is None else sys.maxsize

    def learn(self, stored_bytes: int, made_bytes: int) -> None:
        """Take note of what a window became. Small ones say little: they are mostly beginnings."""
        if not stored_bytes or not made_bytes:
            return
        ratio = made_bytes / stored_bytes
        if self.ratio is None:
            self.ratio = ratio
            return
        weight = min(1.0, made_bytes / self._max_bytes) * _NEWEST_COUNTS
        self.ratio += (ratio - self.ratio) * weight
