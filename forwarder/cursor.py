"""A sink's cursor: how far its destination has confirmed, made durable behind the deliveries.

Delivering must not wait for a commit: the spool's writer may be busy with a large one. So moves are
gathered, and what has gathered is committed as one. After a crash the batches of a move that was
not committed come again, which every sink has to bear anyway.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from forwarder.errors import SpoolUnavailableError
from forwarder.retry import until_spool_answers
from forwarder.spool.interface import Delivery

if TYPE_CHECKING:
    from collections.abc import Sequence

    from forwarder.clock import Clock
    from forwarder.model import DeadLetter
    from forwarder.spool.interface import Spool
    from sinks.interface import StateChanges


class Cursor:
    """Where a sink stands. Moves are committed in order, each with what belongs to it."""

    def __init__(self, sink: str, frame_id: int, *, spool: Spool, clock: Clock) -> None:
        self._sink = sink
        self._spool = spool
        self._clock = clock
        self._durable = frame_id
        self._delivered = frame_id
        self._changes: StateChanges = {}
        self._delivery = Delivery()
        self._letters: list[DeadLetter] = []
        self._moved = asyncio.Event()
        self._committed = asyncio.Event()
        self._turn = asyncio.Lock()
        self._under_way: asyncio.Future[None] | None = None

    @property
    def durable(self) -> int:
        """Where it stands in the spool."""
        return self._durable

    def move(
        self,
        frame_id: int,
        changes: StateChanges,
        delivery: Delivery,
        letters: Sequence[DeadLetter] = (),
    ) -> None:
        """Everything up to this frame is settled: confirmed by the destination, or set aside."""
        self._delivered = frame_id
        self._changes.update(changes)
        self._delivery += delivery
        self._letters.extend(letters)
        self._moved.set()

    async def wait_past(self, frame_id: int) -> None:
        """Return when the cursor is durable at this frame or beyond it."""
        while self._durable < frame_id:
            self._committed.clear()
            await self._committed.wait()

    async def run(self) -> None:
        """Commit moves until cancelled; a full disk makes them wait, and gather.

        Raises:
            SpoolUntrustedError: The spool failed.
        """
        while True:
            await self._moved.wait()
            await until_spool_answers(self.commit, clock=self._clock)

    async def settle(self) -> None:
        """Finish the commit under way, and make one attempt with what has gathered since.

        Raises:
            SpoolUntrustedError: The spool failed.
        """
        with contextlib.suppress(SpoolUnavailableError):
            await self.commit()

    async def commit(self) -> None:
        """Return when everything that was delivered before is durable.

        Cancelling ends the wait, not the commit: one that may have happened must not be counted
        again.

        Raises:
            SpoolUnavailableError: It stays gathered.
            SpoolUntrustedError: The spool failed.
        """
        async with self._turn:
            if self._under_way is not None:  # a cancelled call may have left it behind
                await asyncio.wait({self._under_way})
            if self._moved.is_set():
                self._under_way = asyncio.ensure_future(self._advance())
                self._under_way.add_done_callback(_look)
                await asyncio.shield(self._under_way)

    async def _advance(self) -> None:
        frame_id, changes, delivery = self._delivered, self._changes, self._delivery
        letters = self._letters
        self._moved.clear()
        self._changes, self._delivery, self._letters = {}, Delivery(), []
        try:
            await self._spool.advance(self._sink, frame_id, changes, delivery, letters)
        except SpoolUnavailableError:
            self._changes = {**changes, **self._changes}
            self._delivery += delivery
            self._letters = letters + self._letters
            self._moved.set()
            raise
        self._durable = frame_id
        self._committed.set()


def _look(commit: asyncio.Future[None]) -> None:
    """Nobody may be left to see how it ended, and then the next commit will."""
    if not commit.cancelled():
        commit.exception()
