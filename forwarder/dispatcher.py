"""One sink: read, make batches, deliver, move the cursor.

Several batches may be under way at once; the cursor stands at the lowest that is not settled, so
after a crash everything behind it comes again. What a destination refuses for good becomes dead
letters in the transaction that moves the cursor past it.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from forwarder.cursor import Cursor
from forwarder.delivering import dead_letters, deliver
from forwarder.gathering import Gathering
from forwarder.model import SinkHealth
from forwarder.outlet import SinkOutlet
from forwarder.replaying import Replaying
from forwarder.retry import until_spool_answers
from forwarder.sink_state import EngineState
from forwarder.spool.interface import Delivery
from forwarder.tasks import first_error, first_of
from forwarder.window import Settled, Window
from sinks.plan import DeliveryPlan

if TYPE_CHECKING:
    from forwarder.clock import Clock
    from forwarder.delivering import Outcome
    from forwarder.parcels import Parcel
    from forwarder.spool.interface import Spool
    from sinks.interface import Sink

__all__ = ["Dispatcher", "SinkHealth"]

#: Batches that may be begun for each that may be under way: one that is late stops the others only
#: when so many have overtaken it.
_WINDOW = 2


class Dispatcher:
    """Carries what the spool holds to one sink, in order.

    While batches are written the next one is read, and the cursors of those before are committed.
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
        plan: DeliveryPlan | None = None,
    ) -> None:
        """Touches nothing until `run`.

        Args:
            name: The sink's.
            sink: Where lines go.
            spool: Where they come from.
            from_oldest: Where a sink begins that the spool does not know.
            batch_bytes: The size of a batch, where the plan has none.
            clock: What waits.
            plan: How to deliver.
        """
        self.name = name
        self._spool = spool
        self._from_oldest = from_oldest
        self._clock = clock
        self._log = structlog.get_logger().bind(sink=name)
        plan = plan or DeliveryPlan()
        self._plan = replace(plan, max_bytes=plan.max_bytes or batch_bytes)
        self._outlet = SinkOutlet(name, sink, plan=self._plan, spool=spool, clock=clock)
        self._gathering = Gathering(name, spool, self._plan, clock)
        self._replaying = Replaying(name, spool, self._outlet, self._gathering, clock)
        self._window = Window()
        self._cursor: asyncio.Future[Cursor] = asyncio.get_running_loop().create_future()
        # The dead letters of a batch are counted before those of another one are.
        self._room = asyncio.Lock()

    @property
    def health(self) -> SinkHealth:
        """How the sink is."""
        return self._outlet.health

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
        state = EngineState(self.name, self._spool, cursor, dict(record.state))
        try:
            await first_of(cursor.run(), self._carry(cursor, state))
        finally:
            await self._outlet.close()
            await cursor.settle()

    async def wait_past(self, frame_id: int) -> None:
        """Return when everything up to this frame is settled and its cursor is durable.

        From now on no batch waits for more records to come.
        """
        self._gathering.hurry()
        cursor = await asyncio.shield(self._cursor)
        await cursor.wait_past(frame_id)

    def replay(self) -> None:
        """Look whether there are dead letters to be sent again."""
        self._replaying.look()

    async def _carry(self, cursor: Cursor, state: EngineState) -> None:
        """Open the sink; then read and deliver, for ever."""
        begun = asyncio.Semaphore(
            1 if self._plan.in_flight == 1 else _WINDOW * self._plan.in_flight
        )
        parcels = self._gathering.parcels(cursor, state)
        upcoming = asyncio.ensure_future(anext(parcels))
        try:
            await self._outlet.open(state)
            await self._outlet.running()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._replaying.run(state))
                while True:
                    parcel = await upcoming
                    upcoming = asyncio.ensure_future(anext(parcels))
                    await begun.acquire()
                    number = self._window.begin(parcel.through_id)
                    settling = tasks.create_task(self._settle(parcel, number, cursor, state))
                    settling.add_done_callback(lambda _: begun.release())
        except BaseExceptionGroup as group:
            raise first_error(group) from group
        finally:
            upcoming.cancel()
            await asyncio.gather(upcoming, return_exceptions=True)
            await parcels.aclose()

    async def _settle(
        self, parcel: Parcel, number: int, cursor: Cursor, state: EngineState
    ) -> None:
        """Deliver a batch, set aside what is refused, and move the cursor as far as it may."""
        outcome = await deliver(parcel.batch, self._outlet)
        settled = self._settled(parcel, outcome)
        if outcome.too_large_bytes:
            self._gathering.take_less(outcome.too_large_bytes)
        if settled.letters:
            async with self._room:
                await self._make_room(sum(letter.size_bytes for letter in settled.letters))
                self._finish(number, settled, cursor, state)
                await until_spool_answers(cursor.commit, clock=self._clock)
        else:
            self._finish(number, settled, cursor, state)

    def _finish(self, number: int, settled: Settled, cursor: Cursor, state: EngineState) -> None:
        state.apply(settled.changes)
        move = self._window.settle(number, settled)
        if move is not None:
            total = move.settled
            cursor.move(move.through_id, total.changes, total.delivery, total.letters)

    def _settled(self, parcel: Parcel, outcome: Outcome) -> Settled:
        """What is committed of an outcome."""
        batch = parcel.batch
        letters = dead_letters(
            batch.slices, parcel.stream_ids, outcome, now_ns=self._clock.time_ns()
        )
        refused = sum(letter.lines for letter in letters)
        dropped = min(outcome.unnamed, batch.line_count - refused)
        delivery = Delivery(
            delivered=batch.line_count - refused - dropped, dead_lettered=refused, dropped=dropped
        )
        for letter in letters:
            self._log.error(
                "records refused for good, kept as dead letters",
                records=letter.unnamed or letter.lines or 1,
                status=letter.status,
                reason=letter.reason,
            )
        return Settled(outcome.changes, delivery, letters)

    async def _make_room(self, need_bytes: int) -> None:
        """Hold the sink as long as its dead letters take all the room that they may.

        Those that come now are let in when there are no others: refusing them would hold the sink
        for ever.
        """
        largest = self._plan.dead_letter_bytes

        async def fits() -> bool:
            held = await self._spool.dead_letter_bytes(self.name)
            pending = self._window.letter_bytes
            return held + pending + need_bytes <= largest or not held + pending

        await self._outlet.hold_until(
            fits,
            f"dead letters are full (dead_letters.max_size is {largest} bytes): look at them with"
            " `sandbox-forwarder dead-letters list`, then replay or drop them",
        )
