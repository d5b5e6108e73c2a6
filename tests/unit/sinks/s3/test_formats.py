"""What an object of each format is to others: names, bytes, columns."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import sys
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from sinks.interface import SinkMisconfiguredError, Stream
from sinks.ndjson import encode_gap, encode_lines
from sinks.s3.formats.registry import get_format
from sinks.s3.formats.streams import ByteWriter
from sinks.testing import end_of, gap_of, slice_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sinks.interface import Slice
    from sinks.s3.formats.interface import Compression, Format, FormatName

FORMATS: tuple[FormatName, ...] = ("ndjson", "text", "otlp_json", "parquet")
COMPRESSIONS: tuple[Compression, ...] = ("zstd", "gzip", "none")
STAMP_NS = 1_795_478_400_000_000_007
FULL = Stream("sbx-1", "main", display_name="Näme", tags=("a", "b"), attributes={"k": "v"})


def written(name: FormatName, compression: Compression, *slices: Slice, level: int = 3) -> bytes:
    form = get_format(name, level)
    file = io.BytesIO()
    writer = form.writer(file, compression)
    for source in slices:
        if chunk := form.encode(source, 0, source.line_count):
            writer.add(chunk)
    writer.finish()
    assert not file.closed
    return file.getvalue()


def numbered(count: int, first_line: int = 0, **more: Any) -> Slice:
    lines = [(STAMP_NS + at, f"line {at}") for at in range(first_line, first_line + count)]
    return slice_of(lines, first_line=first_line, **more)


@pytest.mark.parametrize(
    ("name", "endings", "media_type"),
    [
        ("ndjson", [".ndjson.zst", ".ndjson.gz", ".ndjson"], "application/x-ndjson"),
        ("text", [".log.zst", ".log.gz", ".log"], "text/plain; charset=utf-8"),
        (
            "otlp_json",
            [".otlp.jsonl.zst", ".otlp.jsonl.gz", ".otlp.jsonl"],
            "application/x-ndjson",
        ),
        ("parquet", [".parquet"] * 3, "application/vnd.apache.parquet"),
    ],
)
def test_a_format_has_an_extension_and_a_media_type(
    name: FormatName, endings: list[str], media_type: str
) -> None:
    form = get_format(name, 3)
    assert [form.extension(compression) for compression in COMPRESSIONS] == endings
    assert form.media_type == media_type


@pytest.mark.parametrize("name", FORMATS)
def test_an_end_record_and_no_lines_are_nothing(name: FormatName) -> None:
    form = get_format(name, 3)
    assert form.encode(end_of(first_line=3), 0, 0) == b""
    assert form.encode(numbered(3), 2, 2) == b""
    assert form.encode(slice_of([]), 0, 0) == b""


def test_ndjson_is_what_other_sinks_write() -> None:
    source, gap = numbered(3, stream=FULL), gap_of(first_line=3)
    assert written("ndjson", "none", source, gap) == encode_lines(source) + encode_gap(gap)


def test_text_is_what_the_server_sent_and_gaps_in_between() -> None:
    slices = [
        numbered(2),
        gap_of(first_line=2),
        slice_of([(STAMP_NS, "begin, ")], first_line=2, part=1, ended=False),
        slice_of([(STAMP_NS, "middle, ")], first_line=2, part=2, ended=False),
        slice_of([(STAMP_NS, "end")], first_line=2, part=3),
        numbered(1, 3),
    ]
    raw = [source.raw for source in slices]
    raw[1] = b"#gap " + encode_gap(slices[1])
    assert written("text", "none", *slices) == b"".join(raw)


def test_in_text_nothing_goes_on_with_a_line_that_it_is_no_part_of() -> None:
    cut = slice_of([(STAMP_NS, "cut")], first_line=5, part=1, ended=False)
    for behind in (
        slice_of([(STAMP_NS, "x")], first_line=6),
        slice_of([(STAMP_NS, "x")], first_line=5, part=3),
        slice_of([(STAMP_NS, "x")], first_line=7, part=2),
        slice_of([(STAMP_NS, "x")], first_line=5, part=2, generation=1),
        gap_of(first_line=6),
    ):
        assert written("text", "none", cut, behind).startswith(cut.raw + b"\n")
    goes_on = slice_of([(STAMP_NS, "x")], first_line=5, part=2)
    assert written("text", "none", cut, goes_on) == cut.raw + b"x\n"
    assert written("text", "none", numbered(1, ended=False), numbered(1, 1)).count(b"\n") == 2


@pytest.mark.parametrize("name", FORMATS)
def test_some_of_a_slice_are_written_as_if_they_were_all(name: FormatName) -> None:
    form = get_format(name, 3)
    file = io.BytesIO()
    writer = form.writer(file, "none")
    some = replace(numbered(4, 3), received_ns=numbered(10).received_ns)
    writer.add(form.encode(numbered(10), 3, 7))
    writer.finish()
    assert file.getvalue() == written(name, "none", some)


def otlp_lines(data: bytes) -> list[list[dict[str, Any]]]:
    """The records of each line."""
    lines = [json.loads(line)["resourceLogs"] for line in data.splitlines()]
    return [one["scopeLogs"][0]["logRecords"] for (one,) in lines]


def test_otlp_is_a_request_a_line_of_at_most_a_thousand_records() -> None:
    lines = otlp_lines(written("otlp_json", "none", numbered(2500), numbered(3, 2500), gap_of()))
    assert [len(records) for records in lines] == [1000, 1000, 500, 3, 1]
    uids = [
        one["value"]["stringValue"]
        for records in lines[:4]
        for record in records
        for one in record["attributes"]
        if one["key"] == "log.record.uid"
    ]
    assert uids == [f"sbx-1/main/0/{number}" for number in range(2503)]


@pytest.mark.parametrize("name", ["ndjson", "text", "otlp_json"])
def test_an_object_is_one_frame_with_a_checksum_and_no_time(name: FormatName) -> None:
    slices = [numbered(700, first_line) for first_line in range(0, 70_000, 700)]
    plain = written(name, "none", *slices)
    packed = written(name, "zstd", *slices)
    assert zstandard.get_frame_parameters(packed).has_checksum
    one = zstandard.ZstdDecompressor().decompressobj()
    assert one.decompress(packed) == plain
    assert one.eof
    assert one.unused_data == b""
    packed = written(name, "gzip", *slices)
    assert packed[4:8] == bytes(4)
    member = zlib.decompressobj(31)
    assert member.decompress(packed) == plain == gzip.decompress(packed)
    assert member.unused_data == b""


def cut(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    return [*pieces, data[at:]]


@pytest.mark.parametrize("compression", COMPRESSIONS)
@given(sizes=st.lists(st.integers(1, 300_000), max_size=8), level=st.integers(1, 3))
def test_the_same_content_is_the_same_object_however_it_comes(
    compression: Compression, sizes: list[int], level: int
) -> None:
    def packed(pieces: list[bytes]) -> str:
        file = io.BytesIO()
        writer = ByteWriter(file, compression, level)
        for piece in pieces:
            writer.write(piece)
        writer.finish()
        return hashlib.sha256(file.getvalue()).hexdigest()

    assert packed(cut(CONTENT, sizes)) == packed([CONTENT])


_dice = random.Random(1)
CONTENT = b"".join(b"epoch %d loss %d\n" % (n, _dice.randrange(10**6)) for n in range(30_000))


def table_of(data: bytes) -> Any:
    parquet = pytest.importorskip("pyarrow.parquet")
    return parquet.read_table(io.BytesIO(data))


def test_parquet_has_a_typed_column_for_everything() -> None:
    gap = gap_of(stream=FULL, first_line=2, from_stamp_ns=STAMP_NS)
    odd = slice_of([(STAMP_NS, b"\xff")], stream=FULL, first_line=2, part=1, generation=4)
    table = table_of(written("parquet", "zstd", numbered(2, stream=FULL), gap, odd))
    types = {field.name: str(field.type).partition(" ('")[0] for field in table.schema}
    assert types == {
        "time": "timestamp[ns, tz=UTC]",
        "sandbox_id": "string",
        "container": "string",
        "display_name": "string",
        "generation": "int32",
        "line": "int64",
        "part": "int32",
        "text": "string",
        "text_bytes": "binary",
        "tags": "list<element: string>",
        "attributes": "map<string, string",
        "gap": "string",
        "received": "timestamp[ns, tz=UTC]",
    }
    columns = {name: table.column(name).to_pylist() for name in table.column_names[3:-1]}
    assert columns == {
        "display_name": ["Näme"] * 4,
        "generation": [0, 0, 0, 4],
        "line": [0, 1, None, 2],
        "part": [None, None, None, 1],
        "text": ["line 0", "line 1", None, None],
        "text_bytes": [None, None, None, b"\xff"],
        "tags": [["a", "b"]] * 4,
        "attributes": [[("k", "v")]] * 4,
        "gap": [None, None, json.dumps(gap.gap, separators=(",", ":")), None],
    }
    stamps = [table.column(name).cast("int64").to_pylist() for name in ("time", "received")]
    assert stamps[0] == [STAMP_NS, STAMP_NS + 1, STAMP_NS, STAMP_NS]
    assert stamps[1] == [STAMP_NS + 1, STAMP_NS + 1, 1, STAMP_NS]


def metadata_of(data: bytes) -> Any:
    parquet = pytest.importorskip("pyarrow.parquet")
    return parquet.ParquetFile(io.BytesIO(data)).metadata


def test_parquet_has_row_groups_of_bounded_size_with_statistics() -> None:
    many = [numbered(1000, first_line) for first_line in range(0, 150_000, 1000)]
    metadata = metadata_of(written("parquet", "zstd", *many))
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    assert [group.num_rows for group in groups] == [65_000, 65_000, 20_000]
    time = groups[1].column(0)
    assert time.statistics.has_min_max
    assert time.statistics.physical_type == "INT64"
    assert json.loads(metadata.metadata[b"sandbox-forwarder"]) == {"version": 1}

    large = [slice_of([(STAMP_NS, "x" * (6 << 20))], first_line=at) for at in range(8)]
    metadata = metadata_of(written("parquet", "zstd", *large))
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [2] * 4

    metadata = metadata_of(written("parquet", "zstd", numbered(70_000)))
    assert [metadata.row_group(i).num_rows for i in range(2)] == [65_536, 4_464]


@pytest.mark.parametrize(
    ("compression", "codec"), [("zstd", "ZSTD"), ("gzip", "GZIP"), ("none", "UNCOMPRESSED")]
)
def test_parquet_is_compressed_inside(compression: Compression, codec: str) -> None:
    group = metadata_of(written("parquet", compression, numbered(10))).row_group(0)
    assert {group.column(index).compression for index in range(group.num_columns)} == {codec}


def test_without_pyarrow_parquet_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    form = get_format("parquet", 3)
    assert form.encode(numbered(1), 0, 1)
    with pytest.raises(SinkMisconfiguredError, match=r"pip install 'sandbox-forwarder\[parquet\]'"):
        form.writer(io.BytesIO(), "zstd")
    with pytest.raises(SinkMisconfiguredError, match=r"pip install 'sandbox-forwarder\[parquet\]'"):
        next(form.read(io.BytesIO(), "zstd", ()))


class FullDisk(io.BytesIO):
    """Takes nothing any more."""

    def write(self, data: Any, /) -> int:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("name", FORMATS)
def test_a_full_disk_is_told_as_such_and_a_writer_may_be_given_up(name: FormatName) -> None:
    form = get_format(name, 3)
    file = FullDisk()
    with pytest.raises(OSError, match="No space left") as told:
        write_one_line(form, file)
    assert told.value.errno == 28
    file.close()
    del told


def write_one_line(form: Format, file: io.BytesIO) -> None:
    writer = form.writer(file, "zstd")
    writer.add(form.encode(numbered(1), 0, 1))
    writer.finish()


@pytest.mark.parametrize("name", FORMATS)
def test_a_writer_may_be_forgotten_when_its_file_is_closed(name: FormatName) -> None:
    form = get_format(name, 3)
    file = io.BytesIO()
    writer = form.writer(file, "zstd")
    writer.add(form.encode(numbered(70_000), 0, 70_000))
    file.close()
    del writer
