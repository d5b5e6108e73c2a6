"""Dead letters that somebody wants to be sent again: the same records, with the same ids."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from forwarder.delivering import dead_letters, deliver
from forwarder.retry import until_spool_answers
from forwarder.slices import make_slice
from forwarder.spool.interface import Replayed
from sinks.interface import Batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from forwarder.clock import Clock
    from forwarder.delivering import Outcome, Outlet
    from forwarder.gathering import Gathering
    from forwarder.model import HeldLetter
    from forwarder.sink_state import EngineState
    from forwarder.spool.interface import Spool
    from sinks.interface import Slice

#: How much is sent again at once.
_REPLAY_BYTES = 1 << 20


class Replaying:
    """Sends dead letters of one sink again, when it is told to look for them."""

    def __init__(
        self, name: str, spool: Spool, outlet: Outlet, gathering: Gathering, clock: Clock
    ) -> None:
        self._name = name
        self._spool = spool
        self._outlet = outlet
        self._gathering = gathering
        self._clock = clock
        self._wanted = asyncio.Event()

    def look(self) -> None:
        """Look whether there are any."""
        self._wanted.set()

    async def run(self, state: EngineState) -> None:
        """Send them whenever told to look, until cancelled.

        A letter leaves only in the transaction that says what became of it: one that was sent when
        a crash came is sent once more.
        """
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            while letters := await until_spool_answers(self._letters, clock=self._clock):
                await self._send(letters, state)

    async def _letters(self) -> Sequence[HeldLetter]:
        return await self._spool.letters_to_replay(self._name, max_bytes=_REPLAY_BYTES)

    async def _send(self, letters: Sequence[HeldLetter], state: EngineState) -> None:
        slices = [
            make_slice(one.letter, self._gathering.stream(one.letter.stream_id)) for one in letters
        ]
        # Frames' ids have no meaning here; a letter's cannot be mistaken for one of the batches'.
        outcome = await deliver(Batch(-letters[-1].id, -letters[0].id, slices), self._outlet)
        if outcome.changes:
            await until_spool_answers(
                lambda: self._spool.remember(self._name, outcome.changes), clock=self._clock
            )
            state.apply(outcome.changes)
        settled = self._settled(letters, slices, outcome)
        await until_spool_answers(
            lambda: self._spool.settle_replay(self._name, settled), clock=self._clock
        )

    def _settled(
        self, letters: Sequence[HeldLetter], slices: Sequence[Slice], outcome: Outcome
    ) -> dict[int, Replayed]:
        """What became of each letter."""
        now_ns = self._clock.time_ns()
        unnamed = outcome.unnamed
        settled: dict[int, Replayed] = {}
        base = 0
        for held, source in zip(letters, slices, strict=True):
            end = base + source.record_count
            refused = {n - base: why for n, why in outcome.refused.items() if base <= n < end}
            part = type(outcome)(refused=refused)
            again = dead_letters([source], [held.letter.stream_id], part, now_ns=now_ns)
            dropped = min(unnamed, held.letter.lines - sum(letter.lines for letter in again))
            unnamed -= dropped
            settled[held.id] = Replayed(again, dropped)
            base = end
        return settled
