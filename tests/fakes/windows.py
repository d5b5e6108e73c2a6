"""Windows that are made of slices, and a format that says exactly what it was given."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

import zstandard

from sinks.interface import Batch
from sinks.ndjson import encode_gap, encode_lines
from sinks.window import Window

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from sinks.archive import ArchivedRecord, Run
    from sinks.interface import Slice
    from sinks.s3.formats.interface import Compression


def window_of(
    slices: Sequence[Slice],
    *,
    per_batch: int = 3,
    origin: str = "origin",
    after_id: int = 10,
    error: Exception | None = None,
) -> Window:
    """A window of these slices, one frame each.

    Args:
        slices: In the order in which they were taken.
        per_batch: So many of them are read at once.
        origin: Identity of the spool.
        after_id: The frame before the window.
        error: What reading raises at its end.
    """

    async def read() -> AsyncIterator[Batch]:
        for start in range(0, len(slices), per_batch):
            some = slices[start : start + per_batch]
            first_id = after_id + 1 + start
            yield Batch(first_id, first_id + len(some) - 1, some)
        if error is not None:
            raise error

    lines = sum(source.line_count for source in slices)
    return Window(origin, after_id, after_id + len(slices), lines, read, lambda _: None)


@dataclass(frozen=True)
class ChunkFormat:
    """Lines as NDJSON, every chunk in a block of its own: other chunks would be other bytes.

    Attributes:
        open_now: How many writers are open, and the most there ever were.
    """

    open_now: Counter[str] = field(default_factory=Counter)

    @property
    def media_type(self) -> str:
        return "application/x-chunks"

    def extension(self, compression: Compression) -> str:
        return ".chunks.zst" if compression == "zstd" else ".chunks"

    def encode(self, source: Slice, start: int, stop: int) -> bytes:
        if source.end is not None:
            return b""
        return encode_gap(source) if source.gap is not None else encode_lines(source, start, stop)

    def writer(self, file: BinaryIO, compression: Compression) -> ChunkWriter:
        self.open_now["now"] += 1
        self.open_now["most"] = max(self.open_now["most"], self.open_now["now"])
        return ChunkWriter(file, self.open_now)

    def read(
        self, file: BinaryIO, compression: Compression, runs: Sequence[Run]
    ) -> Iterator[Sequence[ArchivedRecord]]:
        raise NotImplementedError


class ChunkWriter:
    """Writes one zstd frame a chunk."""

    def __init__(self, file: BinaryIO, open_now: Counter[str]) -> None:
        self._file = file
        self._open_now = open_now

    def add(self, chunk: bytes) -> None:
        self._file.write(zstandard.ZstdCompressor(level=1).compress(chunk))

    def finish(self) -> None:
        self._open_now["now"] -= 1


def unpacked(data: bytes) -> bytes:
    """What was written to an object of `ChunkFormat`, or of any other format with zstd."""
    with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as reader:
        return reader.read()
