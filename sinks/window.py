"""What a sink is that takes windows in place of batches: for destinations that want large units.

A window is a run of frames that becomes one unit at the destination, such as the objects of five
minutes. It may be far larger than the memory: the sink reads it piece by piece, as often as it
likes. The engine makes durable what a window consists of before the sink sees it, so that it is the
same window at every resend, also after a crash and with other settings.

Such a sink never refuses records: what the destination will not take holds the sink.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sinks.interface import Batch, SinkState, StateChanges


@dataclass(frozen=True, slots=True)
class Window:
    """Every frame behind `after_id`, up to and with `last_id`.

    Attributes:
        origin: Identity of the spool; with it `after_id` and `last_id` are this window's for ever.
        after_id: The frame that the window before ended with, or 0.
        last_id: The last frame of this one.
        line_count: Lines in it, and parts of lines.
        read: Reads it from its beginning, as batches of whole frames in the order in which they
            were taken; each call begins anew. The slices of one stream are in order. It raises
            what `Sink.write` may: let that pass.
        made: Tells the engine how many bytes were made of the window, so that the next one comes
            closer to `WindowLimits.max_bytes`. Call it once, when it is known.
    """

    origin: str
    after_id: int
    last_id: int
    line_count: int
    read: Callable[[], AsyncIterator[Batch]] = field(repr=False, compare=False)
    made: Callable[[int], None] = field(repr=False, compare=False)


@runtime_checkable
class WindowSink(Protocol):
    """A destination of windows. As `sinks.interface.Sink`, save for what `write` is given."""

    async def open(self, state: SinkState) -> None:
        """See `Sink.open`."""
        ...

    async def write(self, window: Window) -> StateChanges:
        """Make one attempt to deliver the window; returning means that it is durable there.

        The returned changes are committed together with the cursor that moves past the window. The
        same window comes again after an error, a crash, or a cancellation of this call.

        Raises:
            SinkUnavailableError: The same window again later.
            SinkMisconfiguredError: Hold.
        """
        ...

    async def close(self) -> None:
        """See `Sink.close`."""
        ...
