"""Columns, for queries: Apache Parquet through pyarrow, which is imported when it is needed."""

from __future__ import annotations

import io
from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

from sinks.archive import ArchivedRecord, ArchiveError
from sinks.interface import SinkMisconfiguredError
from sinks.ndjson import gap_stamp_ns

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sinks.archive import Run
    from sinks.interface import Slice
    from sinks.s3.formats.interface import Compression, ObjectWriter

#: A row group is what a query reads or skips as a whole, and what is in memory while it is written.
_GROUP_ROWS = 65_536
_GROUP_BYTES = 16 << 20
_READ_ROWS = 4096

#: Of these each slice has one value for all of its rows, in this order.
_SHARED = (
    *("sandbox_id", "container", "display_name", "generation", "part"),
    *("tags", "attributes", "gap", "received"),
)


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
        """A slice as columns: what all rows share, first line, stamps, texts, texts in base64."""
        if source.end is not None:
            return b""
        stream = source.stream
        shared = (
            *(stream.sandbox_id, stream.container, stream.display_name),
            *(source.generation, source.part or None),
            *(stream.tags, dict(stream.attributes)),
            None if source.gap is None else orjson.dumps(dict(source.gap)).decode(),
            source.received_ns,
        )
        if source.gap is not None:
            return orjson.dumps((shared, None, (gap_stamp_ns(source),), (None,), {}))
        columns = source.columns
        texts, others = _texts(columns.texts[start:stop])
        stamps_ns = list(columns.stamps_ns[start:stop])
        return orjson.dumps((shared, source.first_line + start, stamps_ns, texts, others))

    def writer(self, file: BinaryIO, compression: Compression) -> ObjectWriter:
        """See `Format`."""
        return _ParquetWriter(file, compression, self.level)

    def read(
        self, file: BinaryIO, compression: Compression, runs: Sequence[Run]
    ) -> Iterator[Sequence[ArchivedRecord]]:
        """See `Format`."""
        del compression, runs
        pyarrow, parquet = _libraries()
        names = ["time", "sandbox_id", "container", "generation", "line", "part"]
        names += ["text", "text_bytes", "gap"]
        try:
            source = parquet.ParquetFile(file)
            for batch in source.iter_batches(batch_size=_READ_ROWS, columns=names):
                columns = batch.set_column(
                    batch.schema.get_field_index("time"),
                    "time",
                    batch.column("time").cast(pyarrow.int64()),
                )
                yield [_record(row) for row in columns.to_pylist()]
        except (pyarrow.ArrowException, KeyError, ValueError) as error:
            raise ArchiveError(f"it cannot be read as Parquet: {error}") from error


class _ParquetWriter:
    """Gathers rows to groups."""

    def __init__(self, file: BinaryIO, compression: Compression, level: int) -> None:
        self._pyarrow, parquet = _libraries()
        self._schema = _schema(self._pyarrow)
        self._file = file
        self._writer = parquet.ParquetWriter(
            _Unclosed(file),
            self._schema,
            compression=compression,
            compression_level=None if compression == "none" else level,
            # Of texts nearly none is twice; trying takes memory and time.
            use_dictionary=["sandbox_id", "container", "display_name"],
            version="2.6",
        )
        self._rows = 0
        self._size_bytes = 0
        self._stamps_ns: list[int] = []
        self._lines: list[int | None] = []
        self._texts: list[str | None] = []
        self._bytes: list[bytes | None] = []
        self._shared: dict[str, list[Any]] = {name: [] for name in _SHARED}

    def add(self, chunk: bytes) -> None:
        """Append the rows of a chunk."""
        shared, first_line, stamps_ns, texts, others = orjson.loads(chunk)
        for start in range(0, len(texts), _GROUP_ROWS):
            stop = min(start + _GROUP_ROWS, len(texts))
            self._take(shared, first_line, stamps_ns, texts, others, start, stop)
        self._size_bytes += len(chunk)
        if self._size_bytes >= _GROUP_BYTES:
            self._write()

    def _take(
        self,
        shared: list[Any],
        first_line: int | None,
        stamps_ns: list[int],
        texts: list[str | None],
        others: dict[str, str],
        start: int,
        stop: int,
    ) -> None:
        count = stop - start
        if self._rows + count > _GROUP_ROWS:
            self._write()
        self._rows += count
        self._stamps_ns += stamps_ns[start:stop]
        self._texts += texts[start:stop]
        self._bytes += [None] * count
        for place, encoded in others.items():
            if start <= int(place) < stop:
                self._bytes[self._rows - count + int(place) - start] = b64decode(encoded)
        if first_line is None:
            self._lines += [None] * count
        else:
            self._lines += range(first_line + start, first_line + stop)
        for name, value in zip(_SHARED, shared, strict=True):
            self._shared[name] += [value] * count

    def finish(self) -> None:
        """Complete the object."""
        self._write()
        self._writer.close()

    def _write(self) -> None:
        if not self._rows:
            return
        own = {
            "time": self._stamps_ns,
            "line": self._lines,
            "text": self._texts,
            "text_bytes": self._bytes,
        }
        columns = {**own, **self._shared}
        columns["attributes"] = [list(one.items()) for one in self._shared["attributes"]]
        arrays = [self._pyarrow.array(columns[one.name], one.type) for one in self._schema]
        table = self._pyarrow.Table.from_arrays(arrays, schema=self._schema)
        self._writer.write_table(table, row_group_size=_GROUP_ROWS)
        self._rows = self._size_bytes = 0
        for column in (*own.values(), *self._shared.values()):
            column.clear()  # type: ignore[attr-defined]  # all of them are lists


class _Unclosed(io.RawIOBase):
    """A file that the library may close as it likes: it stays open."""

    def __init__(self, file: BinaryIO) -> None:
        self._inner = file

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        return self._inner.write(data)

    def tell(self) -> int:
        return self._inner.tell()


def _libraries() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        text = "format parquet needs its extra: pip install 'sandbox-forwarder[parquet]'"
        raise SinkMisconfiguredError(text) from error
    return pa, parquet


def _schema(pyarrow: Any) -> Any:
    stamp = pyarrow.timestamp("ns", tz="UTC")
    fields = [
        ("time", stamp, False),
        ("sandbox_id", pyarrow.string(), False),
        ("container", pyarrow.string(), False),
        ("display_name", pyarrow.string(), False),
        ("generation", pyarrow.int32(), False),
        ("line", pyarrow.int64(), True),
        ("part", pyarrow.int32(), True),
        ("text", pyarrow.string(), True),
        ("text_bytes", pyarrow.binary(), True),
        ("tags", pyarrow.list_(pyarrow.string()), False),
        ("attributes", pyarrow.map_(pyarrow.string(), pyarrow.string()), False),
        ("gap", pyarrow.string(), True),
        ("received", stamp, False),
    ]
    metadata = {b"sandbox-forwarder": b'{"version":1}'}
    return pyarrow.schema([pyarrow.field(n, t, nullable=o) for n, t, o in fields], metadata)


def _texts(texts: Sequence[bytes]) -> tuple[list[str | None], dict[str, str]]:
    """Texts, and by place those that are no UTF-8, in base64."""
    try:
        return [text.decode() for text in texts], {}
    except UnicodeDecodeError:
        found: list[str | None] = []
        others: dict[str, str] = {}
        for place, text in enumerate(texts):
            try:
                found.append(text.decode())
            except UnicodeDecodeError:
                found.append(None)
                others[str(place)] = b64encode(text).decode()
        return found, others


def _record(row: dict[str, Any]) -> ArchivedRecord:
    gap = None if row["gap"] is None else orjson.loads(row["gap"])
    text = b"" if row["text"] is None else row["text"].encode()
    return ArchivedRecord(
        row["sandbox_id"],
        row["container"],
        row["generation"],
        row["line"] if gap is None else int(gap.get("before_line") or 0),
        row["part"] or 0,
        row["time"],
        text if row["text_bytes"] is None else row["text_bytes"],
        gap,
    )
