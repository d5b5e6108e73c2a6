"""What a sink gets next: frames behind its cursor, gathered until they are many or old enough."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson
import structlog

from forwarder.parcels import Limits, fill, make_parcels
from forwarder.retry import until_spool_answers
from forwarder.sink_state import ENGINE_PREFIX
from forwarder.slices import Streams, make_slice
from forwarder.spool.handed import handed_note
from forwarder.tasks import first_of

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
    """The frames of one batch, and the limits that cut a single one that is too large for it."""

    last_id: int
    limits: Limits


class Gathering:
    """Reads for one sink.

    Attributes:
        limits: What batches are made within now.
    """

    def __init__(self, name: str, spool: Spool, plan: DeliveryPlan, clock: Clock) -> None:
        assert plan.max_bytes is not None, "the engine's own size stands for None"
        self.limits = Limits(plan.max_records or sys.maxsize, plan.max_bytes)
        self._name = name
        self._spool = spool
        self._plan = plan
        self._clock = clock
        self._streams = Streams()
        self._hurried = asyncio.Event()
        self._log = structlog.get_logger().bind(sink=name)

    def hurry(self) -> None:
        """From now on no record waits for others."""
        self._hurried.set()

    def take_less(self, too_large_bytes: int) -> None:
        """Make batches half as large as one that was too large, and larger ones never again."""
        smaller = max(too_large_bytes // 2, _MIN_BYTES)
        if smaller < self.limits.max_bytes:
            self._log.warning(
                "the destination finds batches too large: smaller ones are sent until the next"
                " start; set batch.max_bytes",
                max_bytes=smaller,
            )
            self.limits = Limits(self.limits.max_records, smaller)

    def stream(self, stream_id: int) -> Stream:
        """A stream as sinks see it."""
        return self._streams.get(self._spool.stream_info(stream_id))

    async def parcels(self, cursor: Cursor, state: EngineState) -> AsyncGenerator[Parcel, None]:
        """Batches from behind the cursor on, for ever; first those that were begun before."""
        at = cursor.durable
        groups = _read_groups(state)
        for group in groups:
            if group.last_id > at:
                frames = await self._frames_of(at, group)
                for parcel in self._parcels(frames, group.limits):
                    yield parcel
                at = frames[-1].id if frames else at
        ahead: Sequence[Frame] = ()
        while True:
            frames = await self._gather(at, ahead)
            limits = self.limits
            count = fill(frames, limits).count
            chosen, ahead = frames[:count], frames[count:]
            at = chosen[-1].id
            if self._plan.fixed:
                groups = [group for group in groups if group.last_id > cursor.durable]
                groups.append(Group(at, limits))
                await self._remember(groups, state)
            for parcel in self._parcels(chosen, limits):
                yield parcel

    def _parcels(self, frames: Sequence[Frame], limits: Limits) -> Sequence[Parcel]:
        pairs = [(frame, make_slice(frame, self.stream(frame.stream_id))) for frame in frames]
        return make_parcels(pairs, limits)

    async def _gather(self, after_id: int, ahead: Sequence[Frame]) -> Sequence[Frame]:
        """The next frames: at least as many as a batch has, or as come while they may wait.

        Args:
            after_id: What the batch before ended with.
            ahead: What was read behind it already.
        """
        frames = list(ahead)
        if not frames:
            await self._spool.wait_beyond(after_id)
            frames += await self._read(after_id, self.limits.max_bytes)
        if not self._plan.max_age_s:
            return frames
        until_s = self._clock.monotonic_s() + self._plan.max_age_s
        while not (filled := fill(frames, self.limits)).full:
            last_id = frames[-1].id
            if self._spool.last_frame_id <= last_id:
                left_s = until_s - self._clock.monotonic_s()
                if left_s <= 0 or self._hurried.is_set():
                    break
                await first_of(
                    self._spool.wait_beyond(last_id),
                    self._hurried.wait(),
                    self._clock.sleep(left_s),
                )
            else:
                frames += await self._read(last_id, filled.left_bytes)
        return frames

    async def _read(self, after_id: int, max_bytes: int) -> Sequence[Frame]:
        return await until_spool_answers(
            lambda: self._spool.read(after_id, max_bytes=max_bytes, sink=self._name),
            clock=self._clock,
        )

    async def _frames_of(self, after_id: int, group: Group) -> Sequence[Frame]:
        """The frames of a group; fewer than there were when some are one gap record now."""
        frames: list[Frame] = []
        while after_id < group.last_id:
            some = await self._read(after_id, group.limits.max_bytes)
            if not some:
                break
            frames += (frame for frame in some if frame.id <= group.last_id)
            after_id = some[-1].id
        return frames

    async def _remember(self, groups: Sequence[Group], state: EngineState) -> None:
        """Make durable how frames are cut into batches, before the first of these is sent."""
        rows = [(one.last_id, one.limits.max_records, one.limits.max_bytes) for one in groups]
        changes = {_GROUPS_KEY: orjson.dumps(rows), **handed_note(groups[-1].last_id)}
        await until_spool_answers(lambda: state.store(changes), clock=self._clock)


def _read_groups(state: EngineState) -> list[Group]:
    rows = orjson.loads(state.get(_GROUPS_KEY) or b"[]")
    return [Group(last_id, Limits(records, size)) for last_id, records, size in rows]
