"""What a format is: how lines become an object, and lines again."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sinks.archive import ArchivedRecord, Run
    from sinks.interface import Slice

FormatName = Literal["ndjson", "text", "otlp_json", "parquet"]
Compression = Literal["zstd", "gzip", "none"]


class ObjectWriter(Protocol):
    """Writes one object into a file. Used by one thread at a time."""

    def add(self, chunk: bytes) -> None:
        """Append what `Format.encode` made; most of it is written at once."""
        ...

    def finish(self) -> None:
        """Complete the object. The file is not closed."""
        ...


class Format(Protocol):
    """One format. Everything is pure but for the files it is given, and the same at every run."""

    @property
    def media_type(self) -> str:
        """The object's `Content-Type`."""
        ...

    def extension(self, compression: Compression) -> str:
        """What its key ends in, such as `.ndjson.zst`."""
        ...

    def encode(self, source: Slice, start: int, stop: int) -> bytes:
        """Some records of a slice, or its gap record, as a chunk that its own writer understands.

        Empty for what the format has nothing for, such as an end record. It runs in a thread or in
        a process of its own.

        Args:
            source: The slice.
            start: Its first record.
            stop: Behind its last one.
        """
        ...

    def writer(self, file: BinaryIO, compression: Compression) -> ObjectWriter:
        """Begin an object: one compressed frame, whatever its size."""
        ...

    def read(
        self, file: BinaryIO, compression: Compression, runs: Sequence[Run]
    ) -> Iterator[Sequence[ArchivedRecord]]:
        """The records of an object, in its order, some thousand at a time; memory stays bounded.

        Args:
            file: The object.
            compression: As it was written.
            runs: What the manifest says is in it: where the format itself does not say whose lines
                they are.

        Raises:
            ArchiveError: It is not what the runs say, or damaged.
        """
        ...
