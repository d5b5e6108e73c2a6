"""Batches under way, and how far a cursor may move: to the lowest that is not settled. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from forwarder.spool.interface import Delivery

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from forwarder.model import DeadLetter
    from sinks.interface import StateChanges


@dataclass(slots=True)
class Settled:
    """What became of a batch, as it is committed.

    Attributes:
        changes: Of what the sink remembers.
        letters: What the destination refused for good.
    """

    changes: StateChanges = field(default_factory=dict)
    delivery: Delivery = field(default_factory=Delivery)
    letters: list[DeadLetter] = field(default_factory=list)

    def add(self, other: Settled) -> None:
        """Both together; the other is later."""
        self.changes.update(other.changes)
        self.delivery += other.delivery
        self.letters.extend(other.letters)


@dataclass(frozen=True, slots=True)
class Shipment:
    """Something to deliver, and where the cursor may stand when it and all before it are settled.

    Attributes:
        through_id: The frame whose end it reaches; 0 in the middle of one.
        deliver: Delivers it, however long that takes; nothing is awaited behind the destination's
            confirmation, so that what was confirmed is counted.
    """

    through_id: int
    deliver: Callable[[], Awaitable[Settled]]


@dataclass(frozen=True, slots=True)
class Move:
    """The cursor may stand at this frame, and all this belongs to it."""

    through_id: int
    settled: Settled


class Window:
    """Keeps what was settled too early until everything before it is settled as well.

    Attributes:
        lowest: The number of the first batch that is not settled.
    """

    def __init__(self) -> None:
        self.lowest = 0
        self._first = 0
        self._through: list[int] = []
        self._settled: dict[int, Settled] = {}

    @property
    def letter_bytes(self) -> int:
        """Size of the dead letters that wait for a batch before them."""
        return sum(one.size_bytes for kept in self._settled.values() for one in kept.letters)

    def begin(self, through_id: int) -> int:
        """A batch is on its way, behind all others; its number.

        Args:
            through_id: Where the cursor may stand behind it; 0 for nowhere.
        """
        self._through.append(through_id)
        return self._first + len(self._through) - 1

    def settle(self, number: int, settled: Settled) -> Move | None:
        """The batch is settled; how far the cursor may move by that, if at all."""
        self._settled[number] = settled
        reach = self._first
        while self.lowest in self._settled:
            if self._through[self.lowest - self._first]:
                reach = self.lowest + 1
            self.lowest += 1
        return self._move(reach) if reach > self._first else None

    def _move(self, reach: int) -> Move:
        """Take out what is before this number."""
        total = Settled()
        for number in range(self._first, reach):
            total.add(self._settled.pop(number))
        through_id = self._through[reach - self._first - 1]
        del self._through[: reach - self._first]
        self._first = reach
        return Move(through_id, total)
