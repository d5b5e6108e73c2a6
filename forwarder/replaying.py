"""Dead letters that somebody wants to be sent again: the same records, with the same ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forwarder.delivering import Outcome, dead_letters
from forwarder.parcels import fill
from forwarder.resending import Resending
from forwarder.retry import until_spool_answers
from forwarder.slices import make_slice, split
from forwarder.spool.interface import Replayed
from sinks.interface import Batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from forwarder.model import DeadLetter, HeldLetter
    from forwarder.sink_state import EngineState
    from sinks.interface import Slice


class Replaying(Resending):
    """Sends dead letters of one sink again.

    A letter leaves only in the transaction that says what became of it: one that was sent when a
    crash came is sent once more.
    """

    async def _do_some(self, state: EngineState) -> bool:
        """Send a batch of them."""
        letters = await until_spool_answers(self._letters, clock=self._clock)
        if letters:
            count = fill((one.letter for one in letters), self._gathering.limits).count
            async with self._places:
                await self._send(letters[:count], state)
        return bool(letters)

    async def _letters(self) -> Sequence[HeldLetter]:
        return await self._spool.letters_to_replay(
            self._name, max_bytes=self._gathering.limits.max_bytes
        )

    async def _send(self, letters: Sequence[HeldLetter], state: EngineState) -> None:
        """Send letters that are one batch, or a single one that may be too large for one."""
        settled = dict.fromkeys((one.id for one in letters), Replayed())
        for slices in self._batches(letters):
            # Frames' ids have no meaning here; a letter's cannot be mistaken for one of those.
            batch = Batch(-letters[-1].id, -letters[0].id, slices)
            outcome = await self._deliver(batch, state)
            self._settle(settled, letters, slices, outcome)
        await until_spool_answers(
            lambda: self._spool.settle_replay(self._name, settled), clock=self._clock
        )

    def _batches(self, letters: Sequence[HeldLetter]) -> Sequence[Sequence[Slice]]:
        slices = [
            make_slice(one.letter, self._gathering.stream(one.letter.stream_id)) for one in letters
        ]
        if len(slices) > 1:
            return [slices]
        limits = self._gathering.limits
        pieces = split(slices[0], max_records=limits.max_records, max_bytes=limits.max_bytes)
        return [[piece] for piece in pieces]

    def _settle(
        self,
        settled: dict[int, Replayed],
        letters: Sequence[HeldLetter],
        slices: Sequence[Slice],
        outcome: Outcome,
    ) -> None:
        """Add to each letter what became of the records that were sent of it."""
        base = 0
        for held, source in zip(letters, slices, strict=True):
            end = base + source.record_count
            refused = {n - base: why for n, why in outcome.refused.items() if base <= n < end}
            unnamed = min(outcome.unnamed, max(0, source.line_count - len(refused)))
            part = Outcome(
                refused=refused, unnamed=unnamed, unnamed_refusal=outcome.unnamed_refusal
            )
            outcome.unnamed -= unnamed
            again = self._refused_again(source, held.letter.stream_id, part)
            before = settled[held.id]
            settled[held.id] = Replayed([*before.again, *again], before.dropped + unnamed)
            base = end

    def _refused_again(self, source: Slice, stream_id: int, part: Outcome) -> list[DeadLetter]:
        again = dead_letters([source], [stream_id], part, now_ns=self._clock.time_ns())
        if again:
            self._log.error(
                "a dead letter that was sent again is refused again",
                status=again[0].status,
                reason=again[0].reason,
            )
        return again
