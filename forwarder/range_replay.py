"""A range of lines that somebody wants to be sent again: the same records, with the same ids.

Only what the sink was past when it was asked for is sent; what is behind comes anyway. All of it
was counted then, as delivered or as something else, and nothing of it is counted again. So what is
refused now does not become a dead letter: its lines would have to be taken from those delivered,
and those that are dead letters already would be there twice. It is logged, and the replay says how
many records it was; mend what is wrong, and ask for the range once more.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from forwarder.ranges import pack, within
from forwarder.resending import Looking, Resending
from forwarder.retry import until_spool_answers
from forwarder.slices import make_slice, runs
from forwarder.stamps import format_stamp
from sinks.interface import Batch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from forwarder.clock import Clock
    from forwarder.delivering import Outcome
    from forwarder.model import Frame
    from forwarder.sink_state import EngineState
    from forwarder.spool.interface import RangeReplay
    from sinks.interface import Slice


class RangeReplaying(Resending):
    """Sends ranges of lines to one sink again, one after the other.

    About a batch is in memory. How far it has come is durable behind every piece of that size: what
    was sent when a crash came is sent once more.
    """

    async def _do_some(self, state: EngineState) -> bool:
        """Send the next piece of the range that is asked for first."""
        replay = await until_spool_answers(
            lambda: self._spool.next_range(self._name), clock=self._clock
        )
        if replay is None:
            return False
        if not replay.after_id:
            self._log.info("replay begins", **_range_text(replay), lines=replay.asked_lines)
        await self._send_piece(replay, state)
        return True

    async def _send_piece(self, replay: RangeReplay, state: EngineState) -> None:
        max_bytes = self._gathering.limits.max_bytes
        frames = await until_spool_answers(
            lambda: self._spool.read_range(self._name, replay, max_bytes=max_bytes),
            clock=self._clock,
        )
        # No await before all are slices: what is known of their streams is there now.
        slices = list(self._slices(frames, replay))
        for group in pack(slices, self._gathering.limits):
            async with self._places:
                # Frames' ids have no meaning here: a piece of a frame is not that frame's batch.
                batch = Batch(-frames[-1].id, -frames[0].id, group)
                outcome = await self._deliver(batch, state)
            replay = self._counted(replay, batch, outcome)
        if frames:
            replay = replace(replay, after_id=frames[-1].id)
        if not frames or replay.after_id >= replay.upto_id:
            replay = _ended(replay, self._clock)
            self._tell_end(replay)
        await self._settle(replay)

    def _slices(self, frames: Sequence[Frame], replay: RangeReplay) -> Iterator[Slice]:
        for frame in frames:
            stream = self._gathering.stream(frame.stream_id)
            if replay.sandbox_id in {"", stream.sandbox_id}:
                source = make_slice(frame, stream)
                yield from within(frame, source, replay.since_ns, replay.until_ns)

    def _counted(self, replay: RangeReplay, batch: Batch, outcome: Outcome) -> RangeReplay:
        if outcome.too_large_bytes:
            self._gathering.take_less(outcome.too_large_bytes)
        refused = len(outcome.refused) + outcome.unnamed
        if refused:
            refusal = next(iter(outcome.refused.values()), outcome.unnamed_refusal)
            assert refusal is not None, "what is refused has a reason"
            self._log.error(
                "records of a replay are refused; they do not become dead letters",
                records=refused,
                status=refusal.status,
                reason=refusal.reason,
            )
        refused_lines = sum(
            stop - start
            for source, start, stop in runs(batch.slices, sorted(outcome.refused))
            if source.line_count
        )
        delivered = max(0, batch.line_count - refused_lines - outcome.unnamed)
        return replace(replay, lines=replay.lines + delivered, refused=replay.refused + refused)

    def _tell_end(self, replay: RangeReplay) -> None:
        told = {"lines": replay.lines, "refused": replay.refused, **_range_text(replay)}
        missing = replay.asked_lines - replay.lines - replay.refused
        if missing > 0:
            self._log.warning("replay done; some lines were not kept long enough", **told)
        else:
            self._log.info("replay done", **told)

    async def _settle(self, replay: RangeReplay) -> None:
        await until_spool_answers(
            lambda: self._spool.settle_range(self._name, replay), clock=self._clock
        )


class RangeRefusing(Looking):
    """Sends no range again: the sink holds each line once.

    The command asks for none; the sink may have become one of that kind since.
    """

    async def _do_some(self, state: EngineState) -> bool:
        """End the range that is asked for first."""
        del state
        replay = await until_spool_answers(
            lambda: self._spool.next_range(self._name), clock=self._clock
        )
        if replay is None:
            return False
        self._log.error("nothing is replayed: the sink holds each line once")
        ended = _ended(replay, self._clock)
        await until_spool_answers(
            lambda: self._spool.settle_range(self._name, ended), clock=self._clock
        )
        return True


def _ended(replay: RangeReplay, clock: Clock) -> RangeReplay:
    return replace(replay, ended_ns=max(1, clock.time_ns()))


def _range_text(replay: RangeReplay) -> dict[str, str]:
    told = {"since": format_stamp(replay.since_ns)}
    if replay.until_ns is not None:
        told["until"] = format_stamp(replay.until_ns)
    return {**told, "sandbox_id": replay.sandbox_id} if replay.sandbox_id else told
