"""The lines of a range of time, taken out of frames that have others, too. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forwarder.slices import cut, runs, split

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from forwarder.model import Frame
    from forwarder.parcels import Limits
    from sinks.interface import Slice


def within(frame: Frame, source: Slice, since_ns: int, until_ns: int | None) -> list[Slice]:
    """What a range has of a frame: lines with a stamp from `since_ns` on and before `until_ns`.

    A line without a stamp counts as the one before it. A record of ours stands between the stamps
    of the lines around it, as far as it knows these, and is taken when the range meets that.

    Args:
        frame: The frame.
        source: Its slice.
        since_ns: The first stamp.
        until_ns: The first one behind the range; None when it has no end.
    """
    if not frame.kind.holds_lines:
        before, behind = frame.first_stamp_ns, max(frame.first_stamp_ns, frame.last_stamp_ns)
        meets = since_ns <= behind and (until_ns is None or before < until_ns)
        return [source] if meets else []
    chosen = [
        index
        for index, stamp_ns in enumerate(source.columns.stamps_ns)
        if since_ns <= stamp_ns and (until_ns is None or stamp_ns < until_ns)
    ]
    return [cut(piece, start, stop) for piece, start, stop in runs([source], chosen)]


def pack(sources: Iterable[Slice], limits: Limits) -> Iterator[Sequence[Slice]]:
    """Slices, in order, in groups within these limits; a single record may be larger by itself."""
    group: list[Slice] = []
    records = size_bytes = 0
    for source in sources:
        for piece in split(source, max_records=limits.max_records, max_bytes=limits.max_bytes):
            more_records, more_bytes = records + piece.record_count, size_bytes + len(piece.raw)
            if group and (more_records > limits.max_records or more_bytes > limits.max_bytes):
                yield group
                group = []
                more_records, more_bytes = piece.record_count, len(piece.raw)
            group.append(piece)
            records, size_bytes = more_records, more_bytes
    if group:
        yield group
