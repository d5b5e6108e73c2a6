"""Frames to batches within a sink's limits. Pure.

A batch is whole frames where they fit, because a cursor stands at a frame's end only. A frame that
is too large by itself becomes several batches; the cursor moves when the last of them is settled.
The same frames and limits always give the same batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forwarder.slices import split
from sinks.interface import Batch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from forwarder.model import DeadLetter, Frame
    from sinks.interface import Slice


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that a batch may hold, save for a single record that is larger."""

    max_records: int
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Parcel:
    """A batch, and where the cursor may stand when it and all before it are settled.

    Attributes:
        stream_ids: The spool's name of each slice's stream.
        through_id: The frame whose end it reaches; 0 in the middle of one.
    """

    batch: Batch
    stream_ids: Sequence[int]
    through_id: int


@dataclass(frozen=True, slots=True)
class Fill:
    """How full a batch is.

    Attributes:
        count: So many from the first on make it: at least one, if there is one.
        full: Whether it need not wait for more.
        left_bytes: What would still fit, at least 1.
    """

    count: int
    full: bool
    left_bytes: int


def fill(sources: Iterable[Frame | DeadLetter], limits: Limits) -> Fill:
    """How many of these, in order, make a batch."""
    count = records = size_bytes = 0
    for source in sources:
        # A gap or end record has no bytes of the server's, and counts as one record.
        more_records = records + max(1, source.lines)
        more_bytes = size_bytes + (len(source.raw) if source.kind.holds_lines else 0)
        if count and (more_records > limits.max_records or more_bytes > limits.max_bytes):
            return Fill(count, full=True, left_bytes=1)
        count, records, size_bytes = count + 1, more_records, more_bytes
    full = records >= limits.max_records or size_bytes >= limits.max_bytes
    return Fill(count, full, max(1, limits.max_bytes - size_bytes))


def make_parcels(pairs: Sequence[tuple[Frame, Slice]], limits: Limits) -> list[Parcel]:
    """The batch of frames that belong together, each given with its slice.

    Only a frame that is alone, and too large by itself, becomes several: what else belongs together
    stays so, also when one of the frames is not what it was and others would fit now.
    """
    if not pairs:
        return []
    (first, source), last = pairs[0], pairs[-1][0]
    if len(pairs) > 1:
        batch = Batch(first.id, last.id, [one for _, one in pairs])
        return [Parcel(batch, [frame.stream_id for frame, _ in pairs], last.id)]
    pieces = list(split(source, max_records=limits.max_records, max_bytes=limits.max_bytes))
    ends = [0] * (len(pieces) - 1) + [first.id]
    return [
        Parcel(Batch(first.id, first.id, [piece]), [first.stream_id], through_id)
        for piece, through_id in zip(pieces, ends, strict=True)
    ]
