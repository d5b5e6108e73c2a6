"""What is made of a window, decided before the first upload and kept until the last one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from sinks.s3.formats.interface import Compression, FormatName


@dataclass(frozen=True, slots=True)
class Recipe:
    """What makes an object's bytes and key, besides the lines.

    Attributes:
        key: The template of the key, without its extension.
        manifests: What the keys of manifests begin with, with its final slash.
        level: Of the compression.
    """

    key: str
    manifests: str
    format: FormatName
    compression: Compression
    level: int


@dataclass(frozen=True, slots=True)
class StagedObject:
    """An object that is finished on disk.

    Attributes:
        key: Its key in the bucket.
        file: Its name in the window's staging directory.
        sha256: Of its bytes, hexadecimal.
        records_sha256: Of the runs of records in it: the same for the same records, whatever the
            bytes. Empty for a manifest.
    """

    key: str
    file: str
    size_bytes: int
    sha256: str
    media_type: str
    records_sha256: str


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """A window as it is uploaded: the objects, and at last the manifest that says they are all.

    Attributes:
        window: Its name: part of every key, and unique over all daemons.
        first_ns: The lowest stamp in it.
        last_ns: The highest stamp in it.
        objects: In the order in which they are uploaded; the manifest is the last one. None at all
            when the window has nothing to archive.
    """

    window: str
    recipe: Recipe
    first_ns: int
    last_ns: int
    objects: tuple[StagedObject, ...]

    def encode(self) -> bytes:
        """The plan as the sink's state keeps it."""
        return orjson.dumps(asdict(self))

    @classmethod
    def decode(cls, data: bytes) -> WindowPlan:
        """The inverse of `encode`."""
        record = orjson.loads(data)
        record["recipe"] = Recipe(**record["recipe"])
        record["objects"] = tuple(StagedObject(**one) for one in record["objects"])
        return cls(**record)
