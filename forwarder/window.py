"""Batches under way, and how far a cursor may move: to the lowest that is not settled. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from forwarder.spool.interface import Delivery

if TYPE_CHECKING:
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
class Move:
    """The cursor may stand at this frame, and all this belongs to it."""

    through_id: int
    settled: Settled


class Window:
    """Keeps what was settled too early until everything before it is settled as well."""

    def __init__(self) -> None:
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
        reach = 0
        for offset, through_id in enumerate(self._through):
            if self._first + offset not in self._settled:
                break
            if through_id:
                reach = offset + 1
        if not reach:
            return None
        total = Settled()
        for done in range(self._first, self._first + reach):
            total.add(self._settled.pop(done))
        through_id = self._through[reach - 1]
        del self._through[:reach]
        self._first += reach
        return Move(through_id, total)
