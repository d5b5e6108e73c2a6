"""OTLP as JSON lines: each one an `ExportLogsServiceRequest`.

So the Collector's file exporter writes them, and its `otlpjsonfile` receiver reads them.
"""

from __future__ import annotations

from base64 import b64decode
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

from sinks.archive import ArchivedRecord, ArchiveError
from sinks.interface import Columns
from sinks.otlp.attributes import GAP_EVENT, GENERATION, LINE, PART
from sinks.otlp.json_text import encode_json
from sinks.s3.formats.gaps import gap_line
from sinks.s3.formats.ndjson import ENDINGS
from sinks.s3.formats.streams import ByteObjectWriter, read_lines
from sinks.service import ServiceSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sinks.archive import Run
    from sinks.interface import Slice
    from sinks.s3.formats.interface import Compression, ObjectWriter

_SERVICE = ServiceSettings()
#: So many records are in one line: a reader has a whole line in its memory.
_RECORDS_A_LINE = 1000
_GAP_PREFIX = f"{GAP_EVENT}."


@dataclass(frozen=True, slots=True)
class OtlpJsonFormat:
    """The format `otlp_json`."""

    level: int

    @property
    def media_type(self) -> str:
        """A JSON object a line."""
        return "application/x-ndjson"

    def extension(self, compression: Compression) -> str:
        """See `Format`."""
        return f".otlp.jsonl{ENDINGS[compression]}"

    def encode(self, source: Slice, start: int, stop: int) -> bytes:
        """See `Format`."""
        if source.end is not None:
            return b""
        pieces = [source] if source.gap is not None else _pieces(source, start, stop)
        lines = [encode_json([piece], _SERVICE, detect_severity=True) for piece in pieces]
        return b"".join(line + b"\n" for line in lines if line)

    def writer(self, file: BinaryIO, compression: Compression) -> ObjectWriter:
        """See `Format`."""
        return ByteObjectWriter(file, compression, self.level)

    def read(
        self, file: BinaryIO, compression: Compression, runs: Sequence[Run]
    ) -> Iterator[Sequence[ArchivedRecord]]:
        """See `Format`."""
        del runs
        for lines in read_lines(file, compression):
            for line in lines:
                try:
                    records = list(_records(orjson.loads(line)))
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise ArchiveError(f"it has a line that is none of ours: {error}") from error
                yield records


def _pieces(source: Slice, start: int, stop: int) -> Iterator[Slice]:
    """Some of a slice's lines, as slices that are small enough for a line."""
    if (start, stop) == (0, source.line_count) and stop <= _RECORDS_A_LINE:
        yield source
        return
    columns = source.columns
    for at in range(start, stop, _RECORDS_A_LINE):
        end = min(at + _RECORDS_A_LINE, stop)
        some = Columns(columns.stamps_ns[at:end], columns.texts[at:end])
        yield replace(
            source,
            first_line=source.first_line + at,
            line_count=end - at,
            decode=partial(_as_they_are, some),
        )


def _as_they_are(columns: Columns, _: Slice) -> Columns:
    return columns


def _records(request: dict[str, Any]) -> Iterator[ArchivedRecord]:
    for resource_logs in request["resourceLogs"]:
        stream = _values(resource_logs["resource"]["attributes"])
        for scope_logs in resource_logs["scopeLogs"]:
            for record in scope_logs["logRecords"]:
                yield _record(stream, record)


def _record(stream: dict[str, Any], record: dict[str, Any]) -> ArchivedRecord:
    values = _values(record["attributes"])
    gap = None
    if record.get("eventName") == GAP_EVENT:
        gap = {
            name.removeprefix(_GAP_PREFIX): value
            for name, value in values.items()
            if name.startswith(_GAP_PREFIX)
        }
    text = _value(record["body"])
    return ArchivedRecord(
        stream["cwsandbox.id"],
        stream["container.name"],
        values.get(GENERATION, 0),
        values[LINE] if gap is None else gap_line(gap),
        values.get(PART, 0),
        int(record["timeUnixNano"]),
        b"" if gap is not None else text.encode() if isinstance(text, str) else text,
        gap,
    )


def _values(attributes: list[dict[str, Any]]) -> dict[str, Any]:
    return {one["key"]: _value(one["value"]) for one in attributes}


def _value(value: dict[str, Any]) -> Any:
    match value:
        case {"stringValue": text}:
            return text
        case {"intValue": number}:
            return int(number)
        case {"bytesValue": encoded}:
            return b64decode(encoded)
        case {"arrayValue": {"values": values}}:
            return tuple(_value(one) for one in values)
        case _:
            return None
