"""One sink: read, write, obey the verdict, move the cursor. Retry lives here and nowhere else."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import orjson
import structlog

from forwarder.cursor import Cursor
from forwarder.errors import SpoolError, SpoolUnavailableError
from forwarder.model import FrameKind, SinkHealth
from forwarder.retry import Backoff, until_spool_answers
from forwarder.spool.interface import Delivery
from forwarder.stamps import decode_lines, parse_stamp
from forwarder.tasks import first_of
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

__all__ = ["HOLD_INITIAL_S", "HOLD_MAX_S", "Dispatcher", "SinkHealth", "make_slice"]

#: How often a held sink is looked at again: soon at first, since whoever broke it may be mending
#: it right now, and then every few seconds.
HOLD_INITIAL_S = 1.0
HOLD_MAX_S = 15.0


class Dispatcher:
    """Carries what the spool holds to one sink, in order, one batch at a time.

    While one batch is written the next one is read, and the cursors of those before are committed.
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
        self._noted: tuple[SinkHealth, str] = (SinkHealth.STARTING, "")
        self._sink = sink
        self._spool = spool
        self._from_oldest = from_oldest
        self._batch_bytes = batch_bytes
        self._clock = clock
        self._log = structlog.get_logger().bind(sink=name)
        self._backoff = Backoff(initial_s=0.25, max_s=30.0, clock=clock)
        self._hold = Backoff(initial_s=HOLD_INITIAL_S, max_s=HOLD_MAX_S, clock=clock)
        self._cursor: asyncio.Future[Cursor] = asyncio.get_running_loop().create_future()
        self._infos = _Streams()

    async def run(self) -> None:
        """Deliver until cancelled.

        Raises:
            SpoolError: The spool failed.
        """
        record = await until_spool_answers(
            lambda: self._spool.open_sink(self.name, from_oldest=self._from_oldest),
            clock=self._clock,
        )
        if record.missed:
            self._log.error("sink missed lines while it was not configured", lines=record.missed)
        cursor = Cursor(self.name, record.cursor, spool=self._spool, clock=self._clock)
        self._cursor.set_result(cursor)
        state = _State(self.name, self._spool, cursor, dict(record.state))
        try:
            await first_of(cursor.run(), self._carry(record.cursor, cursor, state))
        finally:
            await self._close()
            await cursor.settle()

    async def wait_past(self, frame_id: int) -> None:
        """Return when everything up to this frame is delivered and its cursor is durable."""
        cursor = await asyncio.shield(self._cursor)
        await cursor.wait_past(frame_id)

    async def _carry(self, after_id: int, cursor: Cursor, state: _State) -> None:
        """Read, deliver and move on, for ever."""
        upcoming = asyncio.create_task(self._next_frames(after_id))
        try:
            await self._open(state)
            await self._set_health(SinkHealth.RUNNING, "")
            while True:
                frames = await upcoming
                upcoming = asyncio.create_task(self._next_frames(frames[-1].id))
                changes = await self._deliver(self._batch(frames), state)
                state.apply(changes)
                delivered = Delivery(delivered=sum(frame.lines for frame in frames))
                cursor.move(frames[-1].id, changes, delivered)
        finally:
            upcoming.cancel()
            await asyncio.gather(upcoming, return_exceptions=True)

    async def _next_frames(self, after_id: int) -> Sequence[Frame]:
        await self._spool.wait_beyond(after_id)
        return await until_spool_answers(
            lambda: self._spool.read(after_id, max_bytes=self._batch_bytes, sink=self.name),
            clock=self._clock,
        )

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
                return
            except SpoolError:
                raise
            except Exception as error:  # noqa: BLE001 - the sink guard: any verdict, or a bug
                delay_s = await self._judge(error)
            await self._close()
            await self._clock.sleep(delay_s)

    async def _deliver(self, batch: Batch, state: _State) -> StateChanges:
        """Write the batch, however often that takes."""
        while True:
            try:
                changes = await self._sink.write(batch)
            except SpoolError:
                raise
            except Exception as error:  # noqa: BLE001 - the sink guard: any verdict, or a bug
                await self._wait_out(error, state)
            else:
                self._backoff.reset()
                self._hold.reset()
                await self._set_health(SinkHealth.RUNNING, "")
                return changes

    async def _wait_out(self, error: Exception, state: _State) -> None:
        """Do what a verdict asks for; returns when the sink is ready for the next attempt."""
        delay_s = await self._judge(error)
        held = self.health is SinkHealth.HELD
        if held:
            await self._close()
        await self._clock.sleep(delay_s)
        if held:
            await self._open(state)

    async def _judge(self, error: Exception) -> float:
        """Say what a verdict means; returns how long to wait."""
        match error:
            case SinkUnavailableError():
                await self._set_health(SinkHealth.RETRYING, str(error))
                return self._backoff.next_s(error.retry_after_s)
            case SinkMisconfiguredError() | BatchRejectedError():
                # Without a place to set refused records aside, holding keeps them: never a drop.
                await self._set_health(SinkHealth.HELD, str(error))
                return self._hold.next_s()
            case _:
                self._log.error("sink met a bug", exc_info=error)
                await self._set_health(SinkHealth.RETRYING, f"bug: {error!r}")
                return self._backoff.next_s()

    async def _close(self) -> None:
        """Close the sink; what it leaves behind it has to bear after a crash anyway."""
        try:
            await self._sink.close()
        except Exception as error:  # noqa: BLE001 - the sink guard: any verdict, or a bug
            self._log.error("sink did not close", exc_info=error)

    async def _set_health(self, health: SinkHealth, detail: str) -> None:
        """Tell a change once; what `status` shows waits for no disk that is full."""
        if health is not self.health:
            level = self._log.info if health is SinkHealth.RUNNING else self._log.error
            level(f"sink {health}", **({"detail": detail} if detail else {}))
        self.health = health
        if (health, detail) == self._noted:
            return
        try:
            await self._spool.note_sink(self.name, str(health), detail)
        except SpoolUnavailableError:
            self._log.debug("sink state not noted: the spool has no room")
        else:
            self._noted = (health, detail)


class _State:
    """What the sink remembers: see `sinks.interface.SinkState`."""

    def __init__(self, name: str, spool: Spool, cursor: Cursor, values: dict[str, bytes]) -> None:
        self._name = name
        self._spool = spool
        self._cursor = cursor
        self._values = values

    def get(self, key: str) -> bytes | None:
        """The value last remembered under this key."""
        return self._values.get(key)

    def keys(self) -> Sequence[str]:
        """Every key under which something is remembered."""
        return tuple(self._values)

    async def remember(self, changes: Mapping[str, bytes | None]) -> None:
        """Make changes durable now.

        Raises:
            SinkUnavailableError: The spool has no room; the same batch again later.
        """
        try:
            # What earlier batches changed is committed first: it must not undo this afterwards,
            # and this must not be known beside a cursor that has those batches still to come.
            await self._cursor.commit()
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
    if not frame.kind.holds_lines:
        record = orjson.loads(frame.raw)
        of_gap = frame.kind is FrameKind.GAP
        return Slice(
            stream,
            frame.first_line,
            0,
            b"",
            frame.received_ns,
            _no_columns,
            gap=record if of_gap else None,
            end=None if of_gap else record,
            generation=frame.generation,
        )
    first_ns = frame.first_stamp_ns

    def decode(part: Slice) -> Columns:
        if part.part:
            return _part_columns(part, first_ns)
        return Columns(*decode_lines(part.raw, first_ns))

    return Slice(
        stream,
        frame.first_line,
        frame.lines,
        frame.raw,
        frame.received_ns,
        decode,
        frame.part,
        generation=frame.generation,
    )


def _no_columns(_: Slice) -> Columns:
    return Columns((), ())


def _part_columns(part: Slice, stamp_ns: int) -> Columns:
    """One record; only a line's first part begins with the stamp."""
    text = part.raw.removesuffix(b"\n")
    found = parse_stamp(text) if part.part == 1 else None
    return Columns((stamp_ns,), (text[found[1] :] if found else text,))
