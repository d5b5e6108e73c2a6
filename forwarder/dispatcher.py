"""One sink: read, make batches, deliver, move the cursor.

Several batches may be under way at once; the cursor stands at the lowest that is not settled, so
after a crash everything behind it comes again. What a destination refuses for good becomes dead
letters in the transaction that moves the cursor past it.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import structlog

from forwarder.cursor import Cursor
from forwarder.errors import SpoolError
from forwarder.feeding import BatchFeed
from forwarder.model import SinkHealth
from forwarder.outlet import SinkOutlet
from forwarder.retry import until_spool_answers
from forwarder.sink_state import EngineState
from forwarder.tasks import first_error, first_of
from forwarder.unrefusing import Unrefusing
from forwarder.window import Window
from forwarder.windowing import WindowFeed
from sinks.plan import FOR_EVER_S, DeliveryPlan

if TYPE_CHECKING:
    from pathlib import Path

    from forwarder.clock import Clock
    from forwarder.spool.interface import Spool
    from forwarder.window import Shipment
    from sinks.interface import Sink
    from sinks.window import WindowSink

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
        sink: Sink | WindowSink,
        *,
        spool: Spool,
        from_oldest: bool,
        batch_bytes: int,
        clock: Clock,
        plan: DeliveryPlan | None = None,
        exactly_once: bool = False,
        state_dir: Path | None = None,
        room_bytes: int | None = None,
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
            exactly_once: The sink holds each line once, so that no range is sent to it again.
            state_dir: Below it a sink of windows has a directory of its own.
            room_bytes: The most that the spool may take; None when there is no limit.
        """
        self.name = name
        self._spool = spool
        self._from_oldest = from_oldest
        self._clock = clock
        self._log = structlog.get_logger().bind(sink=name)
        plan = plan or DeliveryPlan()
        self._plan = plan = replace(plan, max_bytes=plan.max_bytes or batch_bytes)
        self._state_dir = state_dir
        # A batch has its place until it and all before it are settled. With one place nothing comes
        # between a batch and what a sink that keeps order remembers of it.
        self._places = asyncio.Semaphore(1 if plan.in_flight == 1 else _WINDOW * plan.in_flight)
        self._feed: BatchFeed | WindowFeed
        limits = plan.window
        if limits is None:
            self._outlet = SinkOutlet(name, cast("Sink", sink), plan=plan, spool=spool, clock=clock)
            self._feed = BatchFeed(
                name,
                spool,
                self._outlet,
                plan,
                clock,
                places=self._places,
                exactly_once=exactly_once,
            )
        else:
            guarded = Unrefusing(cast("WindowSink", sink))
            whole = replace(plan, give_up_after_s=FOR_EVER_S)
            self._outlet = SinkOutlet(name, guarded, plan=whole, spool=spool, clock=clock)
            self._feed = WindowFeed(name, spool, self._outlet, limits, clock, room_bytes)
        self._window = Window()
        self._cursor: asyncio.Future[Cursor] = asyncio.get_running_loop().create_future()
        # Whether there may be more dead letters than were counted last.
        self._letters_came = True

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
        state = EngineState(
            self.name, self._spool, cursor, dict(record.state), state_dir=self._state_dir
        )
        try:
            await first_of(cursor.run(), self._carry(cursor, state))
        finally:
            try:
                await self._outlet.close()
            finally:
                await cursor.settle()

    async def wait_past(self, frame_id: int) -> None:
        """Return when everything up to this frame is settled and its cursor is durable.

        From now on no batch waits for more records to come.
        """
        self._feed.hurry()
        cursor = await asyncio.shield(self._cursor)
        await cursor.wait_past(frame_id)

    def replay(self) -> None:
        """Look whether there are dead letters, or ranges of lines, to be sent again."""
        self._feed.look()

    async def _carry(self, cursor: Cursor, state: EngineState) -> None:
        """Open the sink; then read and deliver, for ever."""
        shipments = self._feed.shipments(cursor, state)
        upcoming = asyncio.ensure_future(anext(shipments))
        try:
            await self._outlet.open(state)
            await self._outlet.running()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._feed.resend(state))
                while True:
                    shipment = await upcoming
                    upcoming = asyncio.ensure_future(anext(shipments))
                    await self._take_place(cursor)
                    number = self._window.begin(shipment.through_id)
                    tasks.create_task(self._settle(shipment, number, cursor))
        except BaseExceptionGroup as group:
            raise first_error(group.subgroup(SpoolError) or group) from group
        finally:
            upcoming.cancel()
            await asyncio.gather(upcoming, return_exceptions=True)
            await shipments.aclose()

    async def _take_place(self, cursor: Cursor) -> None:
        """Return when a batch may begin.

        Dead letters that take all the room that they may hold the sink. Those of batches that are
        under way by then are let in: delivering these again for want of room would help nobody.
        """
        await self._places.acquire()
        while not await self._has_room(cursor):
            # What an operator wants to be sent again makes room, and needs a place.
            self._places.release()
            await self._outlet.hold_until(
                lambda: self._has_room(cursor),
                "dead letters are full (dead_letters.max_size is"
                f" {self._plan.dead_letter_bytes} bytes): look at them with"
                " `sandbox-forwarder dead-letters list`, then replay or drop them",
            )
            await self._places.acquire()

    async def _has_room(self, cursor: Cursor) -> bool:
        """Whether there is room for more dead letters; when there are none, there is."""
        if not self._letters_came:
            return True
        self._letters_came = False
        await until_spool_answers(cursor.commit, clock=self._clock)
        held = await until_spool_answers(
            lambda: self._spool.dead_letter_bytes(self.name), clock=self._clock
        )
        total = held + self._window.letter_bytes
        has_room = not total or total < self._plan.dead_letter_bytes
        self._letters_came |= not has_room
        return has_room

    async def _settle(self, shipment: Shipment, number: int, cursor: Cursor) -> None:
        """Deliver it, set aside what is refused, and move the cursor as far as it may."""
        settled = await shipment.deliver()
        # No await from here to where it is counted: what was confirmed is not delivered again.
        self._letters_came |= bool(settled.letters)
        lowest = self._window.lowest
        move = self._window.settle(number, settled)
        if move is not None:
            total = move.settled
            cursor.move(move.through_id, total.changes, total.delivery, total.letters)
        for _ in range(self._window.lowest - lowest):
            self._places.release()
        await self._outlet.note()
