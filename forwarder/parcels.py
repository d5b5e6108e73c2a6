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
    from collections.abc import Iterable, Iterator, Sequence

    from forwarder.model import Frame
    from sinks.interface import Slice


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that a batch may hold, save for a single record that is larger."""

    max_records: int
    max_bytes: int

    def reached(self, records: int, size_bytes: int) -> bool:
        """Whether a batch need not wait for more."""
        return records >= self.max_records or size_bytes >= self.max_bytes


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


def make_parcels(pairs: Iterable[tuple[Frame, Slice]], limits: Limits) -> Iterator[Parcel]:
    """Batches of these frames, each given with its slice, in order."""
    gathered: list[tuple[Frame, Slice]] = []
    records = size_bytes = 0
    for frame, source in pairs:
        more_records = records + source.record_count
        more_bytes = size_bytes + len(source.raw)
        if gathered and (more_records > limits.max_records or more_bytes > limits.max_bytes):
            yield _parcel(gathered)
            gathered, more_records, more_bytes = [], source.record_count, len(source.raw)
        gathered.append((frame, source))
        records, size_bytes = more_records, more_bytes
        if records > limits.max_records or size_bytes > limits.max_bytes:
            yield from _pieces(frame, source, limits)
            gathered, records, size_bytes = [], 0, 0
    if gathered:
        yield _parcel(gathered)


def _parcel(gathered: Sequence[tuple[Frame, Slice]]) -> Parcel:
    first, last = gathered[0][0], gathered[-1][0]
    batch = Batch(first.id, last.id, [source for _, source in gathered])
    return Parcel(batch, [frame.stream_id for frame, _ in gathered], last.id)


def _pieces(frame: Frame, source: Slice, limits: Limits) -> Iterator[Parcel]:
    """One frame that is too large, in several batches."""
    pieces = list(split(source, max_records=limits.max_records, max_bytes=limits.max_bytes))
    for piece in pieces:
        through_id = frame.id if piece is pieces[-1] else 0
        yield Parcel(Batch(frame.id, frame.id, [piece]), [frame.stream_id], through_id)
