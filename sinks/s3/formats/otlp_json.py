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
        if source.gap is not None:
            return encode_json([source], _SERVICE, detect_severity=True) + b"\n"
        if source.end is not None:
            return b""
        columns = source.columns
        lines = []
        for at in range(start, stop, _RECORDS_A_LINE):
            end = min(at + _RECORDS_A_LINE, stop)
            some = Columns(columns.stamps_ns[at:end], columns.texts[at:end])
            piece = replace(
                source,
                first_line=source.first_line + at,
                line_count=end - at,
                decode=partial(_as_they_are, some),
            )
            lines += [encode_json([piece], _SERVICE, detect_severity=True), b"\n"]
        return b"".join(lines)

    def writer(self, file: BinaryIO, compression: Compression) -> ObjectWriter:
        """See `Format`."""
        return ByteObjectWriter(file, compression, self.level)

    def read(
        self, file: BinaryIO, compression: Compression, runs: Sequence[Run]
    ) -> Iterator[Sequence[ArchivedRecord]]:
        """See `Format`."""
        del runs
        for line in read_lines(file, compression):
            try:
                yield list(_records(orjson.loads(line)))
            except (ValueError, KeyError, TypeError) as error:
                raise ArchiveError(f"it has a line that is none of ours: {error}") from error


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
        values[LINE] if gap is None else int(gap.get("before_line") or 0),
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
