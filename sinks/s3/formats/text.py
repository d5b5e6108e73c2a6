"""Lines exactly as the server sent them: the objects of a stream, put together, are its log.

A gap record is a line that begins with `#gap `, as in the text files of the file sink. Whose lines
they are, only the key says and the manifest.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, BinaryIO

import orjson

from sinks.archive import ArchivedRecord, ArchiveError
from sinks.ndjson import encode_gap
from sinks.s3.formats.ndjson import ENDINGS
from sinks.s3.formats.streams import ByteWriter, read_lines
from sinks.s3.formats.times import parse_time

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sinks.archive import Run
    from sinks.interface import Slice
    from sinks.s3.formats.interface import Compression, ObjectWriter

_GAP = b"#gap "
#: How a chunk begins: at the beginning of a line, or in the middle of the one before.
_BEGINS, _GOES_ON = b"b", b"g"
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
            return _BEGINS + _GAP + encode_gap(source)
        if source.end is not None or start == stop:
            return b""
        raw = source.raw
        if (start, stop) != (0, source.line_count):
            ends = [0, *accumulate(len(line) + 1 for line in raw.split(b"\n"))]
            raw = raw[ends[start] : ends[stop]]
        return (_GOES_ON if source.part > 1 else _BEGINS) + raw

    def writer(self, file: BinaryIO, compression: Compression) -> ObjectWriter:
        """See `Format`."""
        return _TextWriter(file, compression, self.level)

    def read(
        self, file: BinaryIO, compression: Compression, runs: Sequence[Run]
    ) -> Iterator[Sequence[ArchivedRecord]]:
        """The records of an object; the parts of a line that follow each other are one record."""
        lines = read_lines(file, compression)
        records: list[ArchivedRecord] = []
        stamp_ns = 0
        for run, number in _expected(runs):
            line = next(lines, None)
            if line is None:
                raise ArchiveError("it has fewer lines than its manifest says")
            record = _record(run, number, line.removesuffix(b"\n"), stamp_ns or run.first_ns)
            stamp_ns = record.stamp_ns
            records.append(record)
            if len(records) == _AT_ONCE:
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
        self._in_line = False

    def add(self, chunk: bytes) -> None:
        """Append a chunk."""
        if self._in_line and chunk.startswith(_BEGINS):
            self._bytes.write(b"\n")
        self._bytes.write(chunk[1:])
        self._in_line = not chunk.endswith(b"\n")

    def finish(self) -> None:
        """Complete the object."""
        self._bytes.finish()


def _expected(runs: Sequence[Run]) -> Iterator[tuple[Run, int]]:
    """For each line of the object, the run that it is of, and its number."""
    before: Run | None = None
    for run in runs:
        if run.gap:
            yield run, run.first_line
        elif not run.part or not _goes_on(before, run):
            for number in range(run.first_line, run.first_line + run.lines):
                yield run, number
        before = run


def _goes_on(before: Run | None, run: Run) -> bool:
    """Whether a part stands behind the part before it, in one line of the object."""
    return before is not None and run.part > 1 and before.part > 0 and not before.gap


def _record(run: Run, number: int, line: bytes, stamp_ns: int) -> ArchivedRecord:
    gap, text = None, line
    if run.gap:
        if not line.startswith(_GAP):
            raise ArchiveError("it has another line where its manifest says that lines are missing")
        gap, text, stamp_ns = orjson.loads(line[len(_GAP) :])["gap"], b"", run.first_ns
    elif run.part <= 1:
        stamp, space, rest = line.partition(b" ")
        found = parse_time(stamp.decode("ascii", "replace"))
        if found is not None and space:
            stamp_ns, text = found, rest
    return ArchivedRecord(
        run.sandbox_id, run.container, run.generation, number, run.part, stamp_ns, text, gap
    )
