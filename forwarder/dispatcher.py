"""One sink: read, write, obey the verdict, move the cursor. Retry lives here and nowhere else."""

from __future__ import annotations

import asyncio
import enum
from typing import TYPE_CHECKING

import orjson
import structlog

from forwarder.errors import SpoolUnavailableError
from forwarder.model import FrameKind
from forwarder.retry import Backoff, retry_forever
from forwarder.spool.interface import Delivery
from forwarder.stamps import decode_lines, parse_stamp
from sinks.interface import (
    Batch,
    BatchRejectedError,
    Columns,
    SinkMisconfiguredError,
    SinkUnavailableError,
    Slice,
    Stream,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from forwarder.clock import Clock
    from forwarder.model import Frame, StreamInfo
    from forwarder.spool.interface import Spool
    from sinks.interface import Sink, StateChanges

#: How often a held sink is looked at again: somebody may have mended what holds it.
HOLD_S = 15.0


class SinkHealth(enum.StrEnum):
    """How a sink is, as `status` shows it."""

    STARTING = "starting"
    RUNNING = "running"
    RETRYING = "retrying"  # the destination is down; the same batch again and again
    HELD = "held"  # not before somebody mends something; looked at every few seconds


class Dispatcher:
    """Carries what the spool holds to one sink, in order, one batch at a time.

    While one batch is written the next one is read, and the cursor of the one before is committed.
    A sink that is down stops only itself.
    """

    def __init__(
        self,
        name: str,
        sink: Sink,
        *,
        spool: Spool,
        from_oldest: bool,
        batch_bytes: int,
        clock: Clock,
    ) -> None:
        self.name = name
        self.health = SinkHealth.STARTING
        self._sink = sink
        self._spool = spool
        self._from_oldest = from_oldest
        self._batch_bytes = batch_bytes
        self._clock = clock
        self._log = structlog.get_logger().bind(sink=name)
        self._backoff = Backoff(initial_s=0.25, max_s=30.0, clock=clock)
        self._cursor = 0
        self._advanced = asyncio.Event()
        self._infos = _Streams()

    async def run(self) -> None:
        """Deliver until cancelled.

        Raises:
            SpoolError: The spool failed.
        """
        record = await self._spool.open_sink(self.name, from_oldest=self._from_oldest)
        self._cursor = record.cursor
        state = _State(self.name, self._spool, dict(record.state))
        moving: asyncio.Task[None] | None = None
        upcoming = asyncio.create_task(self._next_frames(self._cursor))
        try:
            await self._open(state)
            while True:
                frames = await upcoming
                upcoming = asyncio.create_task(self._next_frames(frames[-1].id))
                changes = await self._deliver(self._batch(frames), state)
                if moving is not None:
                    await moving
                state.apply(changes)
                moving = asyncio.create_task(self._move(frames, changes))
        finally:
            upcoming.cancel()
            if moving is not None:
                await asyncio.gather(moving, return_exceptions=True)
            await self._sink.close()

    async def wait_past(self, frame_id: int) -> None:
        """Return when everything up to this frame is delivered and its cursor is durable."""
        while self._cursor < frame_id:
            self._advanced.clear()
            await self._advanced.wait()

    async def _next_frames(self, after_id: int) -> Sequence[Frame]:
        await self._spool.wait_beyond(after_id)
        return await self._spool.read(after_id, max_bytes=self._batch_bytes)

    def _batch(self, frames: Sequence[Frame]) -> Batch:
        slices = [
            make_slice(frame, self._infos.get(self._spool.stream_info(frame.stream_id)))
            for frame in frames
        ]
        return Batch(frames[0].id, frames[-1].id, slices)

    async def _open(self, state: _State) -> None:
        """Open the sink, however often that takes."""
        while True:
            try:
                await self._sink.open(state)
            except Exception as error:  # noqa: BLE001 - the sink guard: any verdict, or a bug
                await self._obey(error)
            else:
                await self._set_health(SinkHealth.RUNNING, "")
                return

    async def _deliver(self, batch: Batch, state: _State) -> StateChanges:
        """Write the batch, however often that takes."""
        while True:
            try:
                changes = await self._sink.write(batch)
            except Exception as error:  # noqa: BLE001 - the sink guard: any verdict, or a bug
                await self._obey(error)
                if self.health is SinkHealth.HELD:
                    await self._sink.close()
                    await self._open(state)
            else:
                self._backoff.reset()
                if self.health is not SinkHealth.RUNNING:
                    await self._set_health(SinkHealth.RUNNING, "")
                return changes

    async def _obey(self, error: Exception) -> None:
        """Do what a verdict asks for, and wait before the next attempt."""
        match error:
            case SinkUnavailableError():
                await self._set_health(SinkHealth.RETRYING, str(error))
                delay_s = self._backoff.next_s(error.retry_after_s)
            case SinkMisconfiguredError() | BatchRejectedError():
                # Without a place to set refused records aside, holding keeps them: never a drop.
                await self._set_health(SinkHealth.HELD, str(error))
                delay_s = HOLD_S * (0.5 + self._clock.random() / 2)
            case _:
                self._log.error("sink met a bug", exc_info=error)
                await self._set_health(SinkHealth.RETRYING, f"bug: {error!r}")
                delay_s = self._backoff.next_s()
        await self._clock.sleep(delay_s)

    async def _set_health(self, health: SinkHealth, detail: str) -> None:
        """Tell a change once; what `status` shows waits for no disk that is full."""
        changed = health is not self.health
        self.health = health
        if not changed:
            return
        level = self._log.info if health is SinkHealth.RUNNING else self._log.error
        level("sink", state=str(health), **({"detail": detail} if detail else {}))
        try:
            await self._spool.note_sink(self.name, str(health), detail)
        except SpoolUnavailableError:
            self._log.debug("sink state not noted: the spool has no room")

    async def _move(self, frames: Sequence[Frame], changes: StateChanges) -> None:
        """Commit the cursor with what the sink remembers and counts, however long that takes."""
        cursor = frames[-1].id
        delivery = Delivery(delivered=sum(frame.lines for frame in frames))
        await retry_forever(
            lambda: self._spool.advance(self.name, cursor, changes, delivery),
            on=SpoolUnavailableError,
            backoff=Backoff(initial_s=0.25, max_s=5.0, clock=self._clock),
            clock=self._clock,
            failed=lambda error: self._log.debug("cursor not committed", error=str(error)),
        )
        self._cursor = cursor
        self._advanced.set()


class _State:
    """What the sink remembers: see `sinks.interface.SinkState`."""

    def __init__(self, name: str, spool: Spool, values: dict[str, bytes]) -> None:
        self._name = name
        self._spool = spool
        self._values = values

    def get(self, key: str) -> bytes | None:
        """The value last remembered under this key."""
        return self._values.get(key)

    async def remember(self, changes: Mapping[str, bytes | None]) -> None:
        """Make changes durable now.

        Raises:
            SinkUnavailableError: The spool has no room; the same batch again later.
        """
        try:
            await self._spool.remember(self._name, changes)
        except SpoolUnavailableError as error:
            raise SinkUnavailableError(str(error)) from error
        self.apply(changes)

    def apply(self, changes: Mapping[str, bytes | None]) -> None:
        """Follow changes that are committed elsewhere, with the cursor."""
        for key, value in changes.items():
            if value is None:
                self._values.pop(key, None)
            else:
                self._values[key] = value


class _Streams:
    """Turns the engine's description of a stream into the sinks', once per description."""

    def __init__(self) -> None:
        self._streams: dict[int, tuple[StreamInfo, Stream]] = {}

    def get(self, info: StreamInfo) -> Stream:
        """The same object for the same description, so that sinks may compare by identity."""
        known = self._streams.get(id(info))
        if known is not None:
            return known[1]
        if len(self._streams) >= 8192:  # noqa: PLR2004 - bounds memory; made again when needed
            self._streams.clear()
        stream = Stream(
            info.key.sandbox_id,
            info.key.container,
            info.display_name,
            info.tags,
            info.image,
            info.runner_id,
            info.annotations,
            info.attributes,
        )
        self._streams[id(info)] = (info, stream)
        return stream


def make_slice(frame: Frame, stream: Stream) -> Slice:
    """A frame as a sink sees it; lines are decoded only when the sink asks for columns."""
    if frame.kind is FrameKind.GAP:
        gap = orjson.loads(frame.raw)
        return Slice(stream, frame.first_line, 0, b"", frame.received_ns, _no_columns, gap=gap)
    first_ns = frame.first_stamp_ns

    def decode(part: Slice) -> Columns:
        if part.part:
            return _part_columns(part, first_ns)
        return Columns(*decode_lines(part.raw, first_ns))

    return Slice(
        stream, frame.first_line, frame.lines, frame.raw, frame.received_ns, decode, frame.part
    )


def _no_columns(_: Slice) -> Columns:
    return Columns((), ())


def _part_columns(part: Slice, stamp_ns: int) -> Columns:
    """One record; only a line's first part begins with the stamp."""
    text = part.raw.removesuffix(b"\n")
    found = parse_stamp(text) if part.part == 1 else None
    return Columns((stamp_ns,), (text[found[1] :] if found else text,))
