"""What is not as it was written is told in words, and takes no more memory than what was."""

from __future__ import annotations

import io
import random
import tracemalloc
from typing import TYPE_CHECKING

import pytest
import zstandard
from isal import isal_zlib

from sinks.archive import ArchivedRecord, ArchiveError, Run
from sinks.s3.formats import streams
from sinks.s3.formats.registry import get_format
from sinks.testing import gap_of, slice_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sinks.s3.formats.interface import Compression, FormatName

FORMATS: tuple[FormatName, ...] = ("ndjson", "text", "otlp_json", "parquet")
COMPRESSIONS: tuple[Compression, ...] = ("zstd", "gzip", "none")
LINES = slice_of([(10**18 + number, f"line {number}") for number in range(500)])
RUN = Run("sbx-1", "main", 0, 0, 500, 0, 10**18, 10**18 + 499)
STREAM = b'{"time":"2026-11-23T04:05:06.000000007Z","sandbox_id":"s","container":"m"'
GAP = Run("sbx-1", "main", 0, 500, 0, 0, 1, 1, gap=True)


def an_object(name: FormatName, compression: Compression) -> bytes:
    form = get_format(name, 1)
    file = io.BytesIO()
    writer = form.writer(file, compression)
    writer.add(form.encode(LINES, 0, 500))
    writer.finish()
    return file.getvalue()


def read(
    name: FormatName, compression: Compression, data: bytes, runs: Sequence[Run] = (RUN,)
) -> list[ArchivedRecord]:
    batches = get_format(name, 1).read(io.BytesIO(data), compression, runs)
    return [record for batch in batches for record in batch]


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("name", FORMATS)
def test_no_damage_has_another_error_than_the_archives(
    name: FormatName, compression: Compression
) -> None:
    whole = an_object(name, compression)
    assert len(read(name, compression, whole)) == 500
    dice = random.Random(7)
    noticed = 0
    for _ in range(80):
        damaged = bytearray(whole)
        damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
        try:
            read(name, compression, bytes(damaged))
        except ArchiveError:
            noticed += 1
    if compression == "zstd" and name != "parquet":
        assert noticed == 80  # its checksum


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("compression", ["zstd", "gzip"])
def test_an_object_that_ends_too_early_is_damaged(
    name: FormatName, compression: Compression
) -> None:
    whole = an_object(name, compression)
    for size in (0, 1, len(whole) // 2, len(whole) - 1):
        with pytest.raises(ArchiveError):
            read(name, compression, whole[:size])


@pytest.mark.parametrize("name", ["ndjson", "text", "otlp_json"])
@pytest.mark.parametrize("compression", ["zstd", "gzip"])
def test_what_stands_behind_the_end_is_noticed(name: FormatName, compression: Compression) -> None:
    whole = an_object(name, compression)
    with pytest.raises(ArchiveError, match="behind its end"):
        read(name, compression, whole + b"x")
    with pytest.raises(ArchiveError, match="behind its end"):
        read(name, compression, whole + bytes(1 << 20))


@pytest.mark.parametrize("name", ["ndjson", "otlp_json"])
@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"no JSON",
        b"[]",
        b"7",
        b"{}",
        b'{"time":"now","sandbox_id":"s","container":"m","line":0,"text":"t"}',
        STREAM + b',"line":0,"text":7}',
        STREAM + b',"line":0,"text_base64":"?"}',
        STREAM + b',"line":0}',
        STREAM + b',"gap":7}',
        b'{"resourceLogs":[{"resource":{"attributes":[]},"scopeLogs":[{"logRecords":[{}]}]}]}',
        b'{"resourceLogs":7}',
        b'{"resourceLogs":["x"]}',
    ],
)
def test_a_line_that_is_none_of_ours_is_told(name: FormatName, line: bytes) -> None:
    with pytest.raises(ArchiveError, match="none of ours"):
        read(name, "none", line + b"\n")


def test_text_has_the_lines_that_its_manifest_says() -> None:
    whole = an_object("text", "none")
    with pytest.raises(ArchiveError, match="fewer lines"):
        read("text", "none", whole, (RUN, RUN))
    with pytest.raises(ArchiveError, match="more lines"):
        read("text", "none", whole + b"more\n")
    with pytest.raises(ArchiveError, match="says that lines are missing"):
        read("text", "none", whole + b"no gap\n", (RUN, GAP))
    for damaged in (b"#gap {\n", b"#gap {}\n", b"#gap 7\n"):
        with pytest.raises(ArchiveError, match="damaged gap record"):
            read("text", "none", whole + damaged, (RUN, GAP))
    gap = b"#gap " + get_format("ndjson", 1).encode(gap_of(first_line=500), 0, 0)
    assert read("text", "none", whole + gap, (RUN, GAP))[-1].line == 500


def test_text_of_several_streams_is_nobodys() -> None:
    other = Run("sbx-2", "main", 0, 0, 1, 0, 1, 1)
    with pytest.raises(ArchiveError, match="several streams"):
        read("text", "none", b"", (RUN, other))


def test_a_parquet_file_of_somebody_else_is_not_read() -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    for names in ("a", "time"):
        file = io.BytesIO()
        parquet.write_table(pyarrow.table({names: [1]}), file)
        with pytest.raises(ArchiveError):
            read("parquet", "zstd", file.getvalue())


def bomb(compression: Compression, byte: bytes) -> bytes:
    """Of 1 GiB of one byte, what fits in a few KiB or in one MiB."""
    block = byte * (1 << 20)
    packer = (
        zstandard.ZstdCompressor(level=1).compressobj()
        if compression == "zstd"
        else isal_zlib.compressobj(1, isal_zlib.DEFLATED, 31)
    )
    return b"".join([*(packer.compress(block) for _ in range(1024)), packer.flush()])


@pytest.mark.parametrize("compression", ["zstd", "gzip"])
@pytest.mark.parametrize("name", ["ndjson", "otlp_json", "text"])
def test_what_unpacks_without_end_takes_no_more_than_a_line_may(
    name: FormatName, compression: Compression, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "_MAX_LINE_BYTES", 8 << 20)
    monkeypatch.setattr("sinks.s3.formats.text.MAX_TEXT_BYTES", 8 << 20)
    data = bomb(compression, b"[")
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveError, match=r"a line (of more than 8 MiB|that is longer)"):
            read(name, compression, data)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
