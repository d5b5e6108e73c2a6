"""What a sink gets next: frames behind its cursor, gathered until they are many or old enough."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson
import structlog

from forwarder.parcels import Limits, make_parcels
from forwarder.retry import until_spool_answers
from forwarder.sink_state import ENGINE_PREFIX
from forwarder.slices import Streams, make_slice
from forwarder.tasks import first_of
from sinks.interface import SinkUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from forwarder.clock import Clock
    from forwarder.cursor import Cursor
    from forwarder.model import Frame
    from forwarder.parcels import Parcel
    from forwarder.sink_state import EngineState
    from forwarder.spool.interface import Spool
    from sinks.interface import Stream
    from sinks.plan import DeliveryPlan

#: Under which key it is remembered how frames under way are cut into batches.
_GROUPS_KEY = f"{ENGINE_PREFIX}groups"

#: Batches are never made smaller than this because of a destination that finds them too large.
_MIN_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Group:
    """Frames that were read together, and the limits within which they are cut into batches."""

    last_id: int
    limits: Limits


class Gathering:
    """Reads for one sink."""

    def __init__(self, name: str, spool: Spool, plan: DeliveryPlan, clock: Clock) -> None:
        assert plan.max_bytes is not None, "the engine's own size stands for None"
        self._name = name
        self._spool = spool
        self._plan = plan
        self._clock = clock
        self._limits = Limits(plan.max_records or sys.maxsize, plan.max_bytes)
        self._streams = Streams()
        self._hurried = asyncio.Event()
        self._log = structlog.get_logger().bind(sink=name)

    def hurry(self) -> None:
        """From now on no record waits for others."""
        self._hurried.set()

    def take_less(self, too_large_bytes: int) -> None:
        """Make batches half as large as one that was too large, and smaller ones never again."""
        smaller = max(too_large_bytes // 2, _MIN_BYTES)
        if smaller < self._limits.max_bytes:
            self._log.warning(
                "the destination finds batches too large: smaller ones are sent until the next"
                " start; set batch.max_bytes",
                max_bytes=smaller,
            )
            self._limits = Limits(self._limits.max_records, smaller)

    def stream(self, stream_id: int) -> Stream:
        """A stream as sinks see it."""
        return self._streams.get(self._spool.stream_info(stream_id))

    async def parcels(self, cursor: Cursor, state: EngineState) -> AsyncGenerator[Parcel, None]:
        """Batches from behind the cursor on, for ever."""
        at = cursor.durable
        groups = _read_groups(state)
        for group in groups:
            if group.last_id > at:
                frames = await self._frames_through(at, group)
                for parcel in self._parcels(frames, group.limits):
                    yield parcel
                at = group.last_id
        while True:
            limits = self._limits
            frames = await self._gather(at, limits)
            at = frames[-1].id
            if self._plan.fixed:
                groups = [group for group in groups if group.last_id > cursor.durable]
                groups.append(Group(at, limits))
                await self._remember(groups, state)
            for parcel in self._parcels(frames, limits):
                yield parcel

    def _parcels(self, frames: Sequence[Frame], limits: Limits) -> Sequence[Parcel]:
        pairs = ((frame, make_slice(frame, self.stream(frame.stream_id))) for frame in frames)
        return list(make_parcels(pairs, limits))

    async def _gather(self, after_id: int, limits: Limits) -> Sequence[Frame]:
        """The next frames: as many as a batch has, or as come while the oldest may wait."""
        await self._spool.wait_beyond(after_id)
        frames = list(await self._read(after_id, limits.max_bytes))
        if not self._plan.max_age_s:
            return frames
        until_s = self._clock.monotonic_s() + self._plan.max_age_s
        while not self._hurried.is_set():
            size_bytes = sum(len(frame.raw) for frame in frames)
            left_s = until_s - self._clock.monotonic_s()
            if left_s <= 0 or limits.reached(sum(one.lines for one in frames), size_bytes):
                break
            last_id = frames[-1].id
            await first_of(
                self._spool.wait_beyond(last_id), self._hurried.wait(), self._clock.sleep(left_s)
            )
            if self._spool.last_frame_id > last_id:
                frames += await self._read(last_id, limits.max_bytes - size_bytes)
        return frames

    async def _read(self, after_id: int, max_bytes: int) -> Sequence[Frame]:
        return await until_spool_answers(
            lambda: self._spool.read(after_id, max_bytes=max_bytes, sink=self._name),
            clock=self._clock,
        )

    async def _frames_through(self, after_id: int, group: Group) -> Sequence[Frame]:
        """Exactly the frames of a group that are behind the cursor."""
        frames: list[Frame] = []
        while after_id < group.last_id:
            some = await self._read(after_id, group.limits.max_bytes)
            frames += (frame for frame in some if frame.id <= group.last_id)
            after_id = some[-1].id
        return frames

    async def _remember(self, groups: Sequence[Group], state: EngineState) -> None:
        """Make durable how frames are cut into batches, before the first of these is sent."""
        rows = [(one.last_id, one.limits.max_records, one.limits.max_bytes) for one in groups]
        while True:
            with contextlib.suppress(SinkUnavailableError):
                await state.remember({_GROUPS_KEY: orjson.dumps(rows)})
                return
            await self._clock.sleep(1.0)


def _read_groups(state: EngineState) -> list[Group]:
    rows = orjson.loads(state.get(_GROUPS_KEY) or b"[]")
    return [Group(last_id, Limits(records, size)) for last_id, records, size in rows]
