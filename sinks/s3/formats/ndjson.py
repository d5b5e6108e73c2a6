"""One JSON object a line; see `sinks.ndjson` for what is in it."""

from __future__ import annotations

from base64 import b64decode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

from sinks.archive import ArchivedRecord, ArchiveError
from sinks.ndjson import encode_gap, encode_lines
from sinks.s3.formats.gaps import gap_line
from sinks.s3.formats.streams import ByteObjectWriter, read_lines
from sinks.s3.formats.times import known_time

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sinks.archive import Run
    from sinks.interface import Slice
    from sinks.s3.formats.interface import Compression, ObjectWriter

#: What object names end in behind the format's own ending.
ENDINGS: dict[Compression, str] = {"zstd": ".zst", "gzip": ".gz", "none": ""}


@dataclass(frozen=True, slots=True)
class NdjsonFormat:
    """The format `ndjson`."""

    level: int

    @property
    def media_type(self) -> str:
        """Of the object's content.

        No `Content-Encoding` says that it is compressed: the key does, and readers that see both
        undo it twice.
        """
        return "application/x-ndjson"

    def extension(self, compression: Compression) -> str:
        """See `Format`."""
        return f".ndjson{ENDINGS[compression]}"

    def encode(self, source: Slice, start: int, stop: int) -> bytes:
        """See `Format`."""
        if source.gap is not None:
            return encode_gap(source)
        return encode_lines(source, start, stop) if source.end is None else b""

    def writer(self, file: BinaryIO, compression: Compression) -> ObjectWriter:
        """See `Format`."""
        return ByteObjectWriter(file, compression, self.level)

    def read(
        self, file: BinaryIO, compression: Compression, runs: Sequence[Run]
    ) -> Iterator[Sequence[ArchivedRecord]]:
        """See `Format`."""
        del runs
        for lines in read_lines(file, compression):
            yield [_record(line) for line in lines]


def _record(line: bytes) -> ArchivedRecord:
    try:
        fields = orjson.loads(line)
        gap: dict[str, Any] | None = fields.get("gap")
        return ArchivedRecord(
            fields["sandbox_id"],
            fields["container"],
            fields.get("generation", 0),
            fields["line"] if gap is None else gap_line(gap),
            fields.get("part", 0),
            known_time(fields["time"]),
            b"" if gap is not None else _text(fields),
            gap,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArchiveError(f"it has a line that is none of ours: {error}") from error


def _text(fields: dict[str, Any]) -> bytes:
    encoded = fields.get("text_base64")
    text: str = fields["text"] if encoded is None else ""
    return text.encode() if encoded is None else b64decode(encoded, validate=True)
