"""Writes Parquet, a row group at a time. Imported only where pyarrow is."""

from __future__ import annotations

import io
from array import array
from itertools import accumulate
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson
import pyarrow as pa
from pyarrow import parquet

from sinks.s3.formats.parquet_rows import SHARED, decode_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sinks.s3.formats.interface import Compression
    from sinks.s3.formats.parquet_rows import Rows

#: A row group is what a query reads or skips as a whole, and what is in memory while it is written.
_GROUP_ROWS = 65_536
_GROUP_BYTES = 16 << 20

#: Columns of few values, or of values here and there. Of texts nearly none is twice; trying takes
#: memory and time. DuckDB 2.0 takes a text column whose values are all the same for one that is
#: never null, unless it has a dictionary or no statistics; `gap` is often like that.
_FEW_VALUES = (
    *("sandbox_id", "container", "display_name", "generation", "part", "received"),
    *("tags.list.element", "attributes.key_value.key", "attributes.key_value.value"),
    *("text_bytes", "gap"),
)
#: Nobody asks for the least text.
_WITH_STATISTICS = (
    *("time", "sandbox_id", "container", "display_name", "generation", "line", "part"),
    *("gap", "received"),
)

_STAMP = pa.timestamp("ns", tz="UTC")
_LIST = pa.list_(pa.string())
_MAP = pa.map_(pa.string(), pa.string())

#: Every column with its type, and whether it may be null.
SCHEMA = pa.schema(
    [
        pa.field("time", _STAMP, nullable=False),
        pa.field("sandbox_id", pa.string(), nullable=False),
        pa.field("container", pa.string(), nullable=False),
        pa.field("display_name", pa.string(), nullable=False),
        pa.field("generation", pa.int32(), nullable=False),
        pa.field("line", pa.int64()),
        pa.field("part", pa.int32()),
        pa.field("text", pa.string()),
        pa.field("text_bytes", pa.binary()),
        pa.field("tags", _LIST, nullable=False),
        pa.field("attributes", _MAP, nullable=False),
        pa.field("gap", pa.string()),
        pa.field("received", _STAMP, nullable=False),
    ],
    {b"sandbox-forwarder": b'{"version":1}'},
)


class ParquetObjectWriter:
    """Gathers rows to groups; see `sinks.s3.formats.interface.ObjectWriter`."""

    def __init__(self, file: BinaryIO, compression: Compression, level: int) -> None:
        self._group = _Group()
        self._writer = parquet.ParquetWriter(
            _Kept(file),
            SCHEMA,
            compression=compression,
            compression_level=None if compression == "none" else level,
            use_dictionary=list(_FEW_VALUES),
            write_statistics=list(_WITH_STATISTICS),
            version="2.6",
            write_page_checksum=True,
        )

    def add(self, chunk: bytes) -> None:
        """Append what `encode_rows` made."""
        rows = decode_rows(chunk)
        if not self._group.has_room(rows):
            self._write()
        self._group.add(rows)

    def finish(self) -> None:
        """Complete the object."""
        self._write()
        self._writer.close()

    def _write(self) -> None:
        group, self._group = self._group, _Group()
        if group.count:
            self._writer.write_table(group.table(), row_group_size=_GROUP_ROWS)


class _Group:
    """The rows of a group, column by column."""

    def __init__(self) -> None:
        self.count = 0
        self._size_bytes = 0
        self._stamps = bytearray()
        self._lines = array("q")
        self._received = array("q")
        self._lengths = bytearray()
        self._texts = bytearray()
        self._others: dict[int, bytes] = {}
        self._gaps: dict[int, str] = {}
        self._shared: dict[bytes, int] = {}
        self._which = array("i")

    def has_room(self, rows: Rows) -> bool:
        """Whether these rows fit in; an empty group has room for all."""
        return not self.count or (
            self.count + rows.row_count <= _GROUP_ROWS
            and self._size_bytes + len(rows.texts) <= _GROUP_BYTES
        )

    def add(self, rows: Rows) -> None:
        """Append rows."""
        self._stamps += rows.stamps
        self._lines.extend(range(rows.first_line, rows.first_line + rows.row_count))
        self._received.extend([rows.received_ns] * rows.row_count)
        self._lengths += rows.lengths
        self._texts += rows.texts
        which = self._shared.setdefault(rows.shared, len(self._shared))
        self._which.extend([which] * rows.row_count)
        self._size_bytes += len(rows.texts)
        for place, text in rows.others.items():
            self._others[self.count + place] = text
            self._size_bytes += len(text)
        if rows.gap is not None:
            self._gaps[self.count] = rows.gap
            self._size_bytes += len(rows.gap)
        self.count += rows.row_count

    def table(self) -> Any:
        """The group as a table."""
        types = {field.name: field.type for field in SCHEMA}
        text_ends = array("i", accumulate(array("i", bytes(self._lengths)), initial=0))
        no_text = _validity(self.count, {*self._others, *self._gaps})
        columns = {
            "time": self._array(_STAMP, None, self._stamps),
            "line": self._array(types["line"], _validity(self.count, self._gaps), self._lines),
            "text": self._array(types["text"], no_text, text_ends, self._texts),
            "text_bytes": self._rare(self._others, types["text_bytes"]),
            "gap": self._rare(self._gaps, types["gap"]),
            "received": self._array(_STAMP, None, self._received),
        }
        which = self._array(pa.int32(), None, self._which)
        distinct = zip(*map(_values, self._shared), strict=True)
        for name, values in zip(SHARED, distinct, strict=True):
            columns[name] = pa.array(values, types[name]).take(which)
        return pa.Table.from_arrays([columns[name] for name in SCHEMA.names], schema=SCHEMA)

    def _array(self, type_: Any, validity: Any, *buffers: Any) -> Any:
        """A column of what is there already; nothing is copied."""
        views = [pa.py_buffer(buffer) for buffer in buffers]
        return pa.Array.from_buffers(type_, self.count, [validity, *views])

    def _rare(self, values: Mapping[int, Any], type_: Any) -> Any:
        """A column with a value here and there."""
        if not values:
            return pa.nulls(self.count, type_)
        return pa.array([values.get(place) for place in range(self.count)], type_)


def _values(shared: bytes) -> list[Any]:
    *others, attributes = orjson.loads(shared)
    return [*others, [tuple(attribute) for attribute in attributes]]


def _validity(count: int, without: Iterable[int]) -> Any:
    """Which rows have a value, as Arrow has it: a bit a row; None when all have one."""
    bits = bytearray(b"\xff" * -(-count // 8))
    has_all = True
    for place in without:
        bits[place // 8] &= ~(1 << place % 8)
        has_all = False
    return None if has_all else pa.py_buffer(bits)


class _Kept(io.RawIOBase):
    """A file that the library may close as it likes: it stays open."""

    def __init__(self, file: BinaryIO) -> None:
        self._inner = file

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        if self._inner.closed:
            # A writer that was given up wants to complete its file when it is forgotten.
            return len(data)
        return self._inner.write(data)

    def tell(self) -> int:
        return 0 if self._inner.closed else self._inner.tell()
