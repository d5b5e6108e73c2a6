"""When files are put away, under which names, and which of those are deleted. Pure.

A line has two times: its stamp, by the server's clock, and its arrival, by this machine's. Time has
gone on as far as both agree on, and a file is as new as either says. So neither clock can, by a
jump, make files old that are not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from sinks.files.layout import last_stamp_ns

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sinks.files.layout import Mark, Piece
    from sinks.files.settings import Compression, FileSettings
    from sinks.shapes import Shape

#: What a file may end in, behind its number, by how it is compressed.
ENDINGS: dict[Compression, str] = {"none": "", "gzip": ".gz", "zstd": ".zst"}
#: Behind the number of a file that is being compressed.
PARTIAL = ".partial"
_NUMBERED = re.compile(r"(.+)\.(\d{6,12})(?:\.gz|\.zst|\.partial)?", re.DOTALL)
_NS_PER_S = 1_000_000_000
_KEY_PREFIX = "rotated:"


@dataclass(frozen=True, slots=True)
class Rotation:
    """The operator's wishes. None, and an age of 0, is no wish.

    Attributes:
        compression: What files that were put away are compressed with.
    """

    size_bytes: int | None
    every_ns: int
    at_end: bool
    compression: Compression
    keep_count: int | None
    keep_age_ns: int

    @classmethod
    def wanted(cls, settings: FileSettings) -> Rotation | None:
        """What the settings ask for; None when files are never put away."""
        if not settings.rotate.is_on:
            return None
        return cls(
            settings.rotate.size,
            int((settings.rotate.every or 0) * _NS_PER_S),
            settings.rotate.at_end,
            settings.compress,
            settings.keep.count,
            int((settings.keep.age or 0) * _NS_PER_S),
        )

    @property
    def needs_moments(self) -> bool:
        """Whether it matters from when lines are."""
        return bool(self.every_ns or self.keep_age_ns)

    @property
    def keeps_track(self) -> bool:
        """Whether files that were put away have to be remembered, once they are compressed."""
        return bool(self.keep_count or self.keep_age_ns)

    def is_full(self, mark: Mark) -> bool:
        """Whether a file of this size is put away; never in the middle of a line."""
        return (
            self.size_bytes is not None
            and mark.length_bytes >= self.size_bytes
            and not mark.goes_on
        )

    def is_over(self, mark: Mark, moment: Moment) -> bool:
        """Whether lines of this moment begin a new period, and so a new file."""
        return bool(
            self.every_ns
            and mark.length_bytes
            and mark.newest_ns
            and moment.agreed_ns // self.every_ns > mark.newest_ns // self.every_ns
            and not mark.goes_on
        )

    def is_old(self, until_ns: int, newest_ns: int) -> bool:
        """Whether a file is not kept whose newest line is of `until_ns`, 0 when nobody knows.

        `newest_ns` is how far time has gone on.
        """
        return bool(self.keep_age_ns and until_ns and newest_ns - until_ns > self.keep_age_ns)


@dataclass(frozen=True, slots=True)
class PutAway:
    """A file that was put away and that there is still something to do about.

    Attributes:
        path: Of the file that it was.
        until_ns: The newest time of the lines in it, as either clock says; 0 when nobody asked.
        pack: What it has yet to be compressed with.
    """

    path: str
    number: int
    until_ns: int = 0
    pack: Compression = "none"

    @property
    def name(self) -> str:
        """Its path as long as it is not compressed."""
        return numbered(self.path, self.number)

    @property
    def key(self) -> str:
        """Under which it is remembered."""
        return f"{_KEY_PREFIX}{self.name}"

    def encode(self) -> bytes:
        """The file as the sink's state keeps it."""
        return orjson.dumps([self.path, self.number, self.until_ns, self.pack])

    @classmethod
    def decode(cls, data: bytes) -> PutAway:
        """The inverse of `encode`."""
        return cls(*orjson.loads(data))

    @staticmethod
    def is_key(key: str) -> bool:
        """Whether a file that was put away is remembered under this key."""
        return key.startswith(_KEY_PREFIX)


@dataclass(frozen=True, slots=True)
class Moment:
    """When lines are from; 0 where nothing is known.

    Attributes:
        agreed_ns: Not later than the stamp, nor than the arrival.
        either_ns: As late as the later of both.
    """

    agreed_ns: int = 0
    either_ns: int = 0


def numbered(path: str, number: int) -> str:
    """The path of a file that was put away; names in one directory sort by age."""
    return f"{path}.{number:06d}"


def shapes_put_away(shape: Shape) -> list[Shape]:
    """What the files are called that are put away from paths of this shape, in whatever form."""
    plain = shape.text(".").digits(6, or_more=True)
    return [plain.text(ending) for ending in (*ENDINGS.values(), PARTIAL)]


def highest_numbers(names: Iterable[str]) -> dict[str, int]:
    """The highest number behind each file name that has any, in whatever form."""
    highest: dict[str, int] = {}
    for name in names:
        match = _NUMBERED.fullmatch(name)
        if match is not None:
            highest[match[1]] = max(int(match[2]), highest.get(match[1], 0))
    return highest


#: Of lines that nobody asks about.
NO_MOMENT = Moment()


def newest_moment(pieces: Iterable[Piece]) -> Moment:
    """The newest moment of some lines."""
    newest = NO_MOMENT
    for piece in pieces:
        if piece.start < piece.stop:
            times = (last_stamp_ns(piece), piece.source.received_ns)
            newest = Moment(max(newest.agreed_ns, min(times)), max(newest.either_ns, *times))
    return newest
