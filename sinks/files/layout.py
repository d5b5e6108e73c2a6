"""Which bytes of a batch go into which file, and what stands between them. Pure."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate
from typing import TYPE_CHECKING, Literal

import orjson

from sinks.hours import hour_runs
from sinks.ndjson import encode_gap, encode_lines, gap_stamp_ns

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sinks.interface import Batch, Slice
    from sinks.template import Template

Format = Literal["text", "ndjson"]

_MARK_NUMBERS = ("newest_ns", "until_ns", "number", "put_away_as")
_NS_PER_S = 1_000_000_000
_UTC_STAMP = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.(\d{1,9}))?Z[ \n]")
_HOUR_LENGTH = len("2026-11-23T04:")
_SECOND_LENGTH = len("2026-11-23T04:05:06")


@dataclass(frozen=True, slots=True)
class OpenLine:
    """Whose bytes a file ends with when it does not end with a newline.

    Attributes:
        next_part: The part that would go on with the line; 0 when nothing can.
        generation: A restarted container begins anew: nothing of its goes on with an older line.
    """

    sandbox_id: str = ""
    container: str = ""
    next_part: int = 0
    generation: int = 0

    def goes_on_with(self, source: Slice) -> bool:
        """Whether this slice is the rest of the line, or at least its next part."""
        return (
            source.part > 1
            and source.part == self.next_part
            and source.generation == self.generation
            and source.stream.identity == (self.sandbox_id, self.container)
        )


@dataclass(frozen=True, slots=True)
class Mark:
    """What is remembered of a file: how much of it is confirmed, and how that much ends.

    Attributes:
        newest_ns: The newest moment of the lines in it, where rotation asks for that.
        until_ns: The same, by the later of both clocks: see `sinks.files.rotation.Moment`.
        number: Of the file that was put away last from this path.
        put_away_as: The number under which it is to be put away now; 0 when it is not.
    """

    length_bytes: int
    open_line: OpenLine | None = None
    newest_ns: int = 0
    until_ns: int = 0
    number: int = 0
    put_away_as: int = 0

    @property
    def goes_on(self) -> bool:
        """Whether the file ends in the middle of a line whose next part may still come."""
        return self.open_line is not None and self.open_line.next_part > 0

    def encode(self) -> bytes:
        """The mark as the sink's state keeps it."""
        record: dict[str, object] = {"length": self.length_bytes}
        if self.open_line is not None:
            line = self.open_line
            record["open"] = [line.sandbox_id, line.container, line.next_part, line.generation]
        for name in _MARK_NUMBERS:
            if value := getattr(self, name):
                record[name] = value
        return orjson.dumps(record)

    @classmethod
    def decode(cls, data: bytes) -> Mark:
        """The inverse of `encode`."""
        record = orjson.loads(data)
        line = record.get("open")
        numbers = (record.get(name, 0) for name in _MARK_NUMBERS)
        return cls(record["length"], OpenLine(*line) if line else None, *numbers)


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive records of one slice that belong into one file."""

    source: Slice
    start: int
    stop: int
    raw: bytes


def split(batch: Batch, template: Template, format_: Format) -> dict[str, list[Piece]]:
    """The batch's pieces by path, in order. Whatever has to be decoded is decoded here."""
    files: dict[str, list[Piece]] = {}
    for source in batch.slices:
        if source.end is not None:  # no line: neither format says it
            continue
        cuts = _by_hour(source) if template.needs_stamp else [(0, _whole(source))]
        for stamp_ns, piece in cuts:
            files.setdefault(template.render(source.stream, stamp_ns), []).append(piece)
        if format_ == "ndjson" and source.gap is None:
            _ = source.columns
    return files


def lay_out(
    pieces: Iterable[Piece], open_line: OpenLine | None, format_: Format
) -> tuple[list[bytes], OpenLine | None]:
    """The bytes to append to a file that ends with `open_line`, and how it ends then.

    A newline is put in where something begins behind bytes that lack theirs.
    """
    buffers: list[bytes] = []
    for piece in pieces:
        data = _encode(piece, format_)
        if not data:
            continue
        as_it_came = format_ == "text" and piece.source.gap is None
        if open_line is not None and not (as_it_came and open_line.goes_on_with(piece.source)):
            buffers.append(b"\n")
        buffers.append(data)
        open_line = None if data.endswith(b"\n") else _left_open(piece.source)
    return buffers, open_line


def _encode(piece: Piece, format_: Format) -> bytes:
    if piece.source.gap is not None:
        return encode_gap(piece.source) if format_ == "ndjson" else _gap_line(piece.source)
    if format_ == "ndjson":
        return encode_lines(piece.source, piece.start, piece.stop)
    return piece.raw


def _gap_line(source: Slice) -> bytes:
    return b"#gap " + encode_gap(source)


def _left_open(source: Slice) -> OpenLine:
    next_part = source.part + 1 if source.part else 0
    return OpenLine(*source.stream.identity, next_part, source.generation)


def _whole(source: Slice) -> Piece:
    return Piece(source, 0, source.line_count, source.raw)


def _by_hour(source: Slice) -> Iterator[tuple[int, Piece]]:
    """The slice cut where the hour changes, each piece with a stamp of its hour."""
    if source.gap is not None:
        yield gap_stamp_ns(source), _whole(source)
        return
    common_ns = _common_hour_ns(source)
    if common_ns is not None:
        yield common_ns, _whole(source)
        return
    runs = list(hour_runs(source.columns.stamps_ns))
    if len(runs) <= 1:
        yield runs[0][0] if runs else 0, _whole(source)
        return
    ends = [0, *accumulate(len(line) + 1 for line in source.raw.split(b"\n"))]
    for hour_ns, start, stop in runs:
        yield hour_ns, Piece(source, start, stop, source.raw[ends[start] : ends[stop]])


def last_stamp_ns(piece: Piece) -> int:
    """The stamp of a piece's last line, mostly without reading any other line of it."""
    raw = piece.raw
    start = raw.rfind(b"\n", 0, len(raw) - 1) + 1
    match = _UTC_STAMP.match(raw, start) if piece.source.part <= 1 else None
    if match is not None:
        with suppress(ValueError):
            fraction = match[1] or b""
            return _second_ns(raw[start:]) + int(fraction.ljust(9, b"0"))
    return piece.source.columns.stamps_ns[piece.stop - 1]


def _second_ns(line: bytes) -> int:
    """The whole second at which a line begins that matches `_UTC_STAMP`."""
    moment = datetime.fromisoformat(line[:_SECOND_LENGTH].decode()).replace(tzinfo=UTC)
    return int(moment.timestamp()) * _NS_PER_S


def _common_hour_ns(source: Slice) -> int | None:
    """The UTC hour that all lines share, if their first bytes show it; no line is looked at.

    Lines come in runs of one hour, so this spares nearly every slice the reading of its stamps.
    """
    raw = source.raw
    if source.part > 1 or not _UTC_STAMP.match(raw):  # later parts begin with the line's text
        return None
    hour = raw[:_HOUR_LENGTH]
    if raw.count(b"\n" + hour) != source.line_count - 1:
        return None
    try:
        return _second_ns(raw)
    except ValueError:
        return None
