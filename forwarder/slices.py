"""What sinks see of the spool's frames: slices, and pieces of slices. Pure.

Lines are decoded only when a sink asks for columns, and every slice can go to a worker process.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import orjson

from forwarder.model import FrameKind
from forwarder.stamps import decode_lines, parse_stamp
from sinks.interface import Batch, Columns, Slice, Stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from forwarder.model import DeadLetter, Frame, StreamInfo

#: Descriptions of streams that are kept; one that is needed again is made again.
_STREAMS_KEPT = 8192


class Streams:
    """Turns the engine's description of a stream into the sinks', once per description."""

    def __init__(self) -> None:
        self._streams: dict[int, tuple[StreamInfo, Stream]] = {}

    def get(self, info: StreamInfo) -> Stream:
        """The same object for the same description, so that sinks may compare by identity."""
        known = self._streams.get(id(info))
        if known is not None:
            return known[1]
        if len(self._streams) >= _STREAMS_KEPT:
            self._streams.clear()
        stream = Stream(
            info.key.sandbox_id,
            info.key.container,
            info.display_name,
            info.tags,
            info.image,
            info.runner_id,
            info.annotations,
            info.attributes,
        )
        self._streams[id(info)] = (info, stream)
        return stream


def make_slice(source: Frame | DeadLetter, stream: Stream) -> Slice:
    """A frame, or what is left of one among the dead letters, as a sink sees it."""
    if not source.kind.holds_lines:
        record = orjson.loads(source.raw)
        of_gap = source.kind is FrameKind.GAP
        return Slice(
            stream,
            source.first_line,
            0,
            b"",
            source.received_ns,
            _no_columns,
            gap=record if of_gap else None,
            end=None if of_gap else record,
            generation=source.generation,
        )
    return Slice(
        stream,
        source.first_line,
        source.lines,
        source.raw,
        source.received_ns,
        partial(_columns, source.first_stamp_ns),
        source.part,
        generation=source.generation,
    )


def _no_columns(_: Slice) -> Columns:
    return Columns((), ())


def _columns(first_ns: int, source: Slice) -> Columns:
    """The records of a slice.

    Args:
        first_ns: The stamp of a first line that has none of its own.
        source: The slice.
    """
    if not source.part:
        return Columns(*decode_lines(source.raw, first_ns))
    # One record; only a line's first part begins with the stamp.
    text = source.raw.removesuffix(b"\n")
    found = parse_stamp(text) if source.part == 1 else None
    return Columns((first_ns,), (text[found[1] :] if found else text,))


def split(source: Slice, *, max_records: int, max_bytes: int) -> Iterator[Slice]:
    """The slice in pieces within these limits, in order; one record may be larger by itself."""
    fits = source.record_count <= max_records and len(source.raw) <= max_bytes
    if fits or source.record_count == 1:
        yield source
        return
    start, at = 0, 0
    while at < len(source.raw):
        stop, end = _reach(source.raw, start, at, max_records, max_bytes)
        yield _piece(source, start, stop, source.raw[at:end])
        start, at = stop, end


def _reach(raw: bytes, start: int, at: int, max_records: int, max_bytes: int) -> tuple[int, int]:
    """How far a piece goes that begins at this line and byte: the line and the byte behind it."""
    end = len(raw)
    if end - at > max_bytes:
        end = raw.rfind(b"\n", at, at + max_bytes) + 1
        if end == 0:
            end = raw.find(b"\n", at) + 1 or len(raw)
    lines = _count(raw, at, end)
    if lines > max_records:
        lines, end = max_records, _skip(raw, at, max_records)
    return start + lines, end


def _count(raw: bytes, at: int, end: int) -> int:
    """Lines between two bytes; the last one may lack its newline."""
    return raw.count(b"\n", at, end) + (raw[end - 1 : end] != b"\n")


def _skip(raw: bytes, at: int, lines: int) -> int:
    """The byte behind so many lines."""
    for _ in range(lines):
        at = raw.find(b"\n", at) + 1
        if at == 0:
            return len(raw)
    return at


def cut(source: Slice, start: int, stop: int) -> Slice:
    """The records from `start` to before `stop`, numbered from 0 within the slice."""
    if start == 0 and stop >= source.record_count:
        return source
    begin = _skip(source.raw, 0, start)
    return _piece(source, start, stop, source.raw[begin : _skip(source.raw, begin, stop - start)])


def _piece(source: Slice, start: int, stop: int, raw: bytes) -> Slice:
    found = parse_stamp(raw)
    # A line without a stamp takes the one before it, which may be in another piece.
    first_ns = source.columns.stamps_ns[start] if found is None else found[0]
    return replace(
        source,
        first_line=source.first_line + start,
        line_count=stop - start,
        raw=raw,
        decode=partial(_columns, first_ns),
    )


def pick(batch: Batch, indices: Sequence[int]) -> Batch:
    """A batch of some of another one's records, which are numbered through it, in order."""
    pieces = [cut(source, start, stop) for source, start, stop in runs(batch.slices, indices)]
    return Batch(batch.first_id, batch.last_id, pieces)


def record_sizes(batch: Batch) -> list[int]:
    """How many bytes each record has, numbered through the batch; a record of ours has none."""
    sizes: list[int] = []
    for source in batch.slices:
        if source.record_count:
            lines = source.raw.split(b"\n", source.record_count - 1)
            sizes.extend(len(line) for line in lines)
    return sizes


def runs(slices: Sequence[Slice], indices: Sequence[int]) -> Iterator[tuple[Slice, int, int]]:
    """Records that are numbered through slices, as runs: slice, first record, and behind the last.

    Args:
        slices: Whose records.
        indices: Their numbers, growing.
    """
    wanted = iter(indices)
    index = next(wanted, None)
    base = 0
    for source in slices:
        end = base + source.record_count
        while index is not None and index < end:
            start = last = index
            while (index := next(wanted, None)) is not None and index == last + 1 and index < end:
                last = index
            yield source, start - base, last + 1 - base
        base = end
