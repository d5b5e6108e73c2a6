"""Columns, for queries: Apache Parquet through pyarrow, which is imported when it is needed.

A column for each member that a line has as NDJSON, see `sinks.s3.formats.parquet_writer.SCHEMA`.
Text that is not UTF-8 comes as `text_bytes` in place of `text`; a gap record has neither, nor a
number, but JSON under `gap`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

from sinks.archive import ArchivedRecord, ArchiveError
from sinks.interface import SinkMisconfiguredError
from sinks.s3.formats.gaps import gap_line
from sinks.s3.formats.parquet_rows import encode_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sinks.archive import Run
    from sinks.interface import Slice
    from sinks.s3.formats.interface import Compression, ObjectWriter

#: From what records are read back, in this order; see `_record`.
_COLUMNS = (
    *("time", "sandbox_id", "container", "generation", "line", "part"),
    *("text", "text_bytes", "gap"),
)
_AT_ONCE = 4096
#: A row group is in memory as a whole; even one with a line in JSON's worst case is smaller.
_MAX_GROUP_BYTES = 512 << 20


@dataclass(frozen=True, slots=True)
class ParquetFormat:
    """The format `parquet`."""

    level: int

    @property
    def media_type(self) -> str:
        """As registered with IANA."""
        return "application/vnd.apache.parquet"

    def extension(self, compression: Compression) -> str:
        """The codec is inside: the name does not say it."""
        del compression
        return ".parquet"

    def encode(self, source: Slice, start: int, stop: int) -> bytes:
        """See `Format`."""
        if source.end is not None or (source.gap is None and start == stop):
            return b""
        return encode_rows(source, start, stop)

    def writer(self, file: BinaryIO, compression: Compression) -> ObjectWriter:
        """See `Format`.

        Raises:
            SinkMisconfiguredError: pyarrow is not installed.
        """
        _require()
        from sinks.s3.formats.parquet_writer import ParquetObjectWriter

        return ParquetObjectWriter(file, compression, self.level)

    def read(
        self, file: BinaryIO, compression: Compression, runs: Sequence[Run]
    ) -> Iterator[Sequence[ArchivedRecord]]:
        """See `Format`.

        Raises:
            ArchiveError: It is damaged.
            SinkMisconfiguredError: pyarrow is not installed.
        """
        del compression, runs
        pyarrow, parquet = _require()
        try:
            source = parquet.ParquetFile(file, page_checksum_verification=True)
            _check(source)
            for batch in source.iter_batches(batch_size=_AT_ONCE, columns=list(_COLUMNS)):
                stamps = batch.column("time").cast("int64")
                columns = [stamps, *(batch.column(name) for name in _COLUMNS[1:])]
                rows = zip(*(column.to_pylist() for column in columns), strict=True)
                yield [_record(*row) for row in rows]
        except (pyarrow.ArrowException, ValueError, KeyError, TypeError, OSError) as error:
            raise ArchiveError(f"it cannot be read as Parquet: {error}") from error


def _require() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        text = "format parquet needs its extra: pip install 'sandbox-forwarder[parquet]'"
        raise SinkMisconfiguredError(text) from error
    return pa, parquet


def _check(source: Any) -> None:
    """Whether it is one of ours, as far as its footer says."""
    from sinks.s3.formats.parquet_writer import SCHEMA

    for name in _COLUMNS:
        if source.schema_arrow.field(name).type != SCHEMA.field(name).type:
            raise ArchiveError(f"its column {name} is none of ours")
    for index in range(source.metadata.num_row_groups):
        if source.metadata.row_group(index).total_byte_size > _MAX_GROUP_BYTES:
            raise ArchiveError(f"it has a row group of more than {_MAX_GROUP_BYTES >> 20} MiB")


def _record(
    stamp_ns: int,
    sandbox_id: str,
    container: str,
    generation: int,
    line: int,
    part: int | None,
    text: str | None,
    text_bytes: bytes | None,
    gap_json: str | None,
) -> ArchivedRecord:
    gap = None if gap_json is None else orjson.loads(gap_json)
    content = text_bytes or b"" if text is None else text.encode()
    number = line if gap is None else gap_line(gap)
    return ArchivedRecord(
        sandbox_id, container, generation, number, part or 0, stamp_ns, content, gap
    )
