"""A sink of windows, as the outlet knows sinks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sinks.interface import BatchRejectedError, Described, PartlyDeliveredError

if TYPE_CHECKING:
    from sinks.interface import SinkState, StateChanges
    from sinks.window import Window, WindowSink


class Unrefusing:
    """One that refuses records breaks its word: that is a bug, is said, and is tried again."""

    def __init__(self, sink: WindowSink) -> None:
        """Nothing of a window is ever set aside."""
        self._sink = sink

    @property
    def description(self) -> str:
        """What the sink says of itself, if it does."""
        return self._sink.description if isinstance(self._sink, Described) else ""

    async def open(self, state: SinkState) -> None:
        """See `WindowSink`."""
        await self._sink.open(state)

    async def write(self, window: Window) -> StateChanges:
        """See `WindowSink`."""
        try:
            return await self._sink.write(window)
        except (BatchRejectedError, PartlyDeliveredError) as error:
            raise RuntimeError(f"a sink of windows refused records: {error}") from error

    async def close(self) -> None:
        """See `WindowSink`."""
        await self._sink.close()
