"""Slices as chunks of objects: cut where the hour changes, and encoded. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sinks.hours import HOUR_NS, hour_runs
from sinks.ndjson import gap_stamp_ns

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sinks.interface import Slice
    from sinks.s3.formats.interface import Format

#: So many lines are encoded at once, by their bytes and by their slices: decoded and encoded they
#: take several times as much.
_GROUP_BYTES = 1 << 20
_GROUP_SLICES = 4096


class Piece(NamedTuple):
    """Records of one slice that belong into one object.

    Attributes:
        place: Of the slice, among those that were encoded together.
        hour_ns: When their hour begins, or any of their stamps where hours do not matter.
    """

    place: int
    hour_ns: int
    start: int
    stop: int
    first_ns: int
    last_ns: int
    chunk: bytes


def grouped(slices: Sequence[Slice]) -> Iterator[list[Slice]]:
    """The slices, so many at a time as are encoded together."""
    group: list[Slice] = []
    size_bytes = 0
    for source in slices:
        group.append(source)
        size_bytes += len(source.raw)
        if size_bytes >= _GROUP_BYTES or len(group) == _GROUP_SLICES:
            yield group
            group, size_bytes = [], 0
    if group:
        yield group


def encode_pieces(format_: Format, slices: Sequence[Slice], by_hour: bool) -> list[Piece]:  # noqa: FBT001 - it goes to other processes by position
    """The slices' records as chunks, cut where the hour changes if that matters.

    What the format has nothing for is left out. Pure; it runs in a thread or a worker process.
    """
    return [
        piece
        for place, source in enumerate(slices)
        for piece in _pieces(format_, place, source, by_hour=by_hour)
        if piece.chunk
    ]


def _pieces(format_: Format, place: int, source: Slice, *, by_hour: bool) -> Iterator[Piece]:
    stop = source.line_count
    if source.gap is not None or not stop:
        ns = gap_stamp_ns(source)
        yield Piece(place, ns, 0, stop, ns, ns, format_.encode(source, 0, stop))
        return
    stamps_ns = source.columns.stamps_ns
    first_ns, last_ns = min(stamps_ns), max(stamps_ns)
    if not by_hour or first_ns // HOUR_NS == last_ns // HOUR_NS:
        yield Piece(place, first_ns, 0, stop, first_ns, last_ns, format_.encode(source, 0, stop))
        return
    for hour_ns, start, end in hour_runs(stamps_ns):
        some = stamps_ns[start:end]
        chunk = format_.encode(source, start, end)
        yield Piece(place, hour_ns, start, end, min(some), max(some), chunk)
