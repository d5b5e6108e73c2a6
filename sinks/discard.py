"""The discard sink: takes everything and keeps nothing.

For measuring what reading and the spool cost, and for running with gaps, counters and health alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from sinks.settings import SinkSettings

if TYPE_CHECKING:
    from sinks.interface import Batch, SinkState, StateChanges


class DiscardSettings(SinkSettings):
    """Nowhere: lines are counted and forgotten."""

    type: Literal["discard"] = "discard"
    """The kind of sink."""


class DiscardSink:
    """Confirms every batch at once. Durable means nothing here, and that is the point."""

    def __init__(self, name: str, settings: DiscardSettings) -> None:
        self._name = name
        self._settings = settings

    async def open(self, state: SinkState) -> None:
        """Nothing to get ready."""

    async def write(self, batch: Batch) -> StateChanges:
        """Forget the batch without looking at it."""
        del batch
        return {}

    async def check(self) -> str:
        """It is always there."""
        return "takes everything, and keeps nothing"

    async def close(self) -> None:
        """Nothing to let go of."""
