"""Sending again what was sent before, beside what is new; whatever it is."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import structlog

from forwarder.delivering import deliver
from forwarder.retry import until_spool_answers

if TYPE_CHECKING:
    from forwarder.clock import Clock
    from forwarder.delivering import Outcome, Outlet
    from forwarder.gathering import Gathering
    from forwarder.sink_state import EngineState
    from forwarder.spool.interface import Spool
    from sinks.interface import Batch


class Looking(ABC):
    """Does what somebody wants of one sink, when it is told to look for it."""

    def __init__(self, name: str, spool: Spool, clock: Clock) -> None:
        """Touch nothing until `run`.

        Args:
            name: The sink's.
            spool: Where it is written down.
            clock: What waits.
        """
        self._name = name
        self._spool = spool
        self._clock = clock
        self._wanted = asyncio.Event()
        self._log = structlog.get_logger().bind(sink=name)

    def look(self) -> None:
        """Look whether there is anything."""
        self._wanted.set()

    async def run(self, state: EngineState) -> None:
        """Do it whenever told to look, until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            while await self._do_some(state):
                pass

    @abstractmethod
    async def _do_some(self, state: EngineState) -> bool:
        """Do the next of it to its end; False when there is no more."""


class Resending(Looking):
    """Sends something again."""

    def __init__(
        self,
        name: str,
        spool: Spool,
        outlet: Outlet,
        gathering: Gathering,
        clock: Clock,
        *,
        places: asyncio.Semaphore,
    ) -> None:
        """Touch nothing until `run`.

        Args:
            name: The sink's.
            spool: Where it is.
            outlet: Where it is sent.
            gathering: Knows the limits and the streams.
            clock: What waits.
            places: One is taken as a batch takes one; so with one place nothing comes between.
        """
        super().__init__(name, spool, clock)
        self._outlet = outlet
        self._gathering = gathering
        self._places = places

    async def _deliver(self, batch: Batch, state: EngineState) -> Outcome:
        """Deliver a batch as far as its destination will ever take it.

        What the sink remembers of it is durable then.
        """
        outcome = await deliver(batch, self._outlet)
        if changes := outcome.changes:
            await until_spool_answers(lambda: state.store(changes), clock=self._clock)
        return outcome
