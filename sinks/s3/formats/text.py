"""Lines exactly as the server sent them: the objects of a stream, put together, are its log.

A gap record is a line that begins with `#gap `, as in the text files of the file sink. Whose lines
they are, only the key says and the manifest: an object has the lines of one stream. Where one part
of a long line ends and the next one begins, nobody says.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from typing import TYPE_CHECKING, BinaryIO

import orjson

from sinks.archive import ArchivedRecord, ArchiveError
from sinks.ndjson import encode_gap
from sinks.s3.formats.ndjson import ENDINGS
from sinks.s3.formats.streams import MAX_TEXT_BYTES, ByteWriter, Unfinished, read_long_lines
from sinks.s3.formats.times import split_stamp

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sinks.archive import Run
    from sinks.interface import Slice
    from sinks.s3.formats.interface import Compression, ObjectWriter

_GAP = b"#gap "
#: What a chunk begins with: part, generation and line number, all 0 for a gap record.
_HEAD = struct.Struct("<IIq")
_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class TextFormat:
    """The format `text`."""

    level: int

    @property
    def media_type(self) -> str:
        """Lines are any bytes; mostly they are text."""
        return "text/plain; charset=utf-8"

    def extension(self, compression: Compression) -> str:
        """See `Format`."""
        return f".log{ENDINGS[compression]}"

    def encode(self, source: Slice, start: int, stop: int) -> bytes:
        """See `Format`."""
        if source.gap is not None:
            return _HEAD.pack(0, 0, 0) + _GAP + encode_gap(source)
        if source.end is not None or start == stop:
            return b""
        raw = source.raw
        if (start, stop) != (0, source.line_count):
            ends = [0, *accumulate(len(line) + 1 for line in raw.split(b"\n"))]
            raw = raw[ends[start] : ends[stop]]
        return _HEAD.pack(source.part, source.generation, source.first_line + start) + raw

    def writer(self, file: BinaryIO, compression: Compression) -> ObjectWriter:
        """See `Format`."""
        return _TextWriter(file, compression, self.level)

    def read(
        self, file: BinaryIO, compression: Compression, runs: Sequence[Run]
    ) -> Iterator[Sequence[ArchivedRecord]]:
        """See `Format`.

        Parts that follow each other are records of their own, but the first of them has the text of
        all, as far as it is not larger than any part.
        """
        if len({(run.sandbox_id, run.container) for run in runs}) > 1:
            raise ArchiveError("it has lines of several streams, and nothing says which is whose")
        lines = chain.from_iterable(read_long_lines(file, compression, MAX_TEXT_BYTES))
        records: list[ArchivedRecord] = []
        stamp_ns = 0
        for run, number, parts in _expected(runs):
            pieces = _take_line(lines, parts)
            # A line without a stamp has that of the line before it, which may not be here.
            known_ns = min(max(stamp_ns, run.first_ns), run.last_ns)
            record = _record(run, number, pieces[0], known_ns)
            if not run.gap:
                stamp_ns = record.stamp_ns
            records.append(record)
            records += [
                replace(record, part=run.part + later, text=pieces[later])
                for later in range(1, parts)
            ]
            if len(records) >= _AT_ONCE:
                yield records
                records = []
        if next(lines, None) is not None:
            raise ArchiveError("it has more lines than its manifest says")
        if records:
            yield records


class _TextWriter:
    """Puts a newline in where something begins behind bytes that lack theirs."""

    def __init__(self, file: BinaryIO, compression: Compression, level: int) -> None:
        self._bytes = ByteWriter(file, compression, level)
        #: The part that would go on with the line that has no end yet.
        self._next: tuple[int, int, int] | None = None
        self._in_line = False

    def add(self, chunk: bytes) -> None:
        """Append a chunk."""
        part, generation, line = _HEAD.unpack_from(chunk)
        if self._in_line and self._next != (part, generation, line):
            self._bytes.write(b"\n")
        self._bytes.write(chunk[_HEAD.size :])
        self._in_line = not chunk.endswith(b"\n", _HEAD.size)
        self._next = (part + 1, generation, line) if part else None

    def finish(self) -> None:
        """Complete the object."""
        self._bytes.finish()


def _expected(runs: Sequence[Run]) -> Iterator[tuple[Run, int, int]]:
    """For each line of the object: its run, its number, and how many parts of it are there."""
    first: Run | None = None
    parts = 0
    for run in runs:
        if first is not None:
            if _goes_on(first, parts, run):
                parts += 1
                continue
            yield first, first.first_line, parts
            first = None
        if run.gap:
            yield run, run.first_line, 1
        elif run.part:
            first, parts = run, 1
        else:
            for number in range(run.first_line, run.first_line + run.lines):
                yield run, number, 1
    if first is not None:
        yield first, first.first_line, parts


def _goes_on(first: Run, parts: int, run: Run) -> bool:
    """Whether a run is the part behind these, so that it stands in the same line."""
    return (run.part, run.generation, run.first_line, run.gap) == (
        first.part + parts,
        first.generation,
        first.first_line,
        False,
    )


def _take_line(lines: Iterator[bytes], parts: int) -> list[bytes]:
    """The next line in as many pieces as it has parts; mostly the first one is all of it."""
    line = next(lines, None)
    if line is None:
        raise ArchiveError("it has fewer lines than its manifest says")
    pieces = [line]
    while isinstance(line, Unfinished):
        line = next(lines, b"")
        pieces.append(line)
        if len(pieces) > parts:
            raise ArchiveError("it has a line that is longer than any")
    return [bytes(piece) for piece in pieces] + [b""] * (parts - len(pieces))


def _record(run: Run, number: int, line: bytes, stamp_ns: int) -> ArchivedRecord:
    gap, text = None, line
    if run.gap:
        gap, text, stamp_ns = _gap(line), b"", run.first_ns
    elif run.part <= 1:
        stamp_ns, text = split_stamp(line) or (stamp_ns, line)
    return ArchivedRecord(
        run.sandbox_id, run.container, run.generation, number, run.part, stamp_ns, text, gap
    )


def _gap(line: bytes) -> dict[str, str | int | None]:
    try:
        if line.startswith(_GAP):
            gap: dict[str, str | int | None] = orjson.loads(line[len(_GAP) :])["gap"]
            return gap
    except (ValueError, KeyError, TypeError) as error:
        raise ArchiveError(f"it has a damaged gap record: {error}") from error
    raise ArchiveError("it has another line where its manifest says that lines are missing")
