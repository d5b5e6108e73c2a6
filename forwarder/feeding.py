"""What a sink of batches is fed with: what comes, and what is sent again."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import structlog

from forwarder.delivering import dead_letters, deliver
from forwarder.gathering import Gathering
from forwarder.range_replay import RangeRefusing, RangeReplaying
from forwarder.replaying import Replaying
from forwarder.spool.interface import Delivery
from forwarder.window import Settled, Shipment

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from forwarder.clock import Clock
    from forwarder.cursor import Cursor
    from forwarder.delivering import Outcome, Outlet
    from forwarder.parcels import Parcel
    from forwarder.resending import Looking
    from forwarder.sink_state import EngineState
    from forwarder.spool.interface import Spool
    from sinks.plan import DeliveryPlan


class BatchFeed:
    """Batches for one sink."""

    def __init__(
        self,
        name: str,
        spool: Spool,
        outlet: Outlet,
        plan: DeliveryPlan,
        clock: Clock,
        *,
        places: asyncio.Semaphore,
        exactly_once: bool,
    ) -> None:
        """Touch nothing yet.

        Args:
            name: The sink's.
            spool: Where lines come from.
            outlet: Where they go.
            plan: How.
            clock: What waits.
            places: What is sent again takes one of them, as a batch does.
            exactly_once: The sink holds each line once, so that no range is sent to it again.
        """
        self._outlet = outlet
        self._clock = clock
        self._log = structlog.get_logger().bind(sink=name)
        gathering = self._gathering = Gathering(name, spool, plan, clock)
        self._replaying = Replaying(name, spool, outlet, gathering, clock, places=places)
        self._ranges: Looking = RangeRefusing(name, spool, clock)
        if not exactly_once:
            self._ranges = RangeReplaying(name, spool, outlet, gathering, clock, places=places)

    def hurry(self) -> None:
        """From now on no record waits for others."""
        self._gathering.hurry()

    def look(self) -> None:
        """Look whether there is anything to be sent again."""
        self._replaying.look()
        self._ranges.look()

    async def resend(self, state: EngineState) -> None:
        """Send again what somebody wants to be sent again, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._replaying.run(state))
            tasks.create_task(self._ranges.run(state))

    async def shipments(self, cursor: Cursor, state: EngineState) -> AsyncGenerator[Shipment, None]:
        """Batches from behind the cursor on, for ever."""
        parcels = self._gathering.parcels(cursor, state)
        try:
            async for parcel in parcels:
                yield Shipment(parcel.through_id, partial(self._deliver, parcel))
        finally:
            await parcels.aclose()

    async def _deliver(self, parcel: Parcel) -> Settled:
        outcome = await deliver(parcel.batch, self._outlet)
        if outcome.too_large_bytes:
            self._gathering.take_less(outcome.too_large_bytes)
        return self._settled(parcel, outcome)

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
        if letters:
            self._log.error(
                "records refused for good, kept as dead letters",
                records=len(outcome.refused) + outcome.unnamed,
                status=letters[0].status,
                reason=letters[0].reason,
            )
        return Settled(outcome.changes, delivery, letters)
