"""How far the spool had come, noted outside the database.

SQLite drops committed work without a word when one bit of its log flips (measured: 200 rows become
99, `integrity_check` says ok). So after every commit that stored frames a few bytes are written to
a file of their own. They are never ahead of the database: when they are at a start, it went back.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_log = structlog.get_logger()

_MAGIC = b"sbfwmark"
_BODY = struct.Struct("<8s36sqq")
_SUM = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a spool has come.

    Attributes:
        last_frame_id: The highest id ever given to a frame.
        total_lines: Lines ever stored.
    """

    spool_id: str
    last_frame_id: int
    total_lines: int


def read_mark(path: Path) -> Mark | None:
    """The mark; None when there is none that can be read, which is told as a warning."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        _log.warning("the spool's high-water mark is missing, it is made again", path=str(path))
        return None
    except OSError as error:
        _log.warning("the spool's high-water mark cannot be read", path=str(path), error=str(error))
        return None
    mark = decode(data)
    if mark is None:
        _log.warning("the spool's high-water mark is damaged, it is made again", path=str(path))
    return mark


def encode(mark: Mark) -> bytes:
    """The mark as it is on disk."""
    spool_id = mark.spool_id.encode("ascii", "replace")[:36]
    body = _BODY.pack(_MAGIC, spool_id, mark.last_frame_id, mark.total_lines)
    return body + _SUM.pack(zlib.crc32(body))


def decode(data: bytes) -> Mark | None:
    """The mark of these bytes; None when they are none."""
    if len(data) != _BODY.size + _SUM.size:
        return None
    body = data[: _BODY.size]
    magic, spool_id, last_frame_id, total_lines = _BODY.unpack(body)
    if magic != _MAGIC or _SUM.unpack(data[_BODY.size :])[0] != zlib.crc32(body):
        return None
    return Mark(spool_id.rstrip(b"\0").decode("ascii", "replace"), last_frame_id, total_lines)


class MarkFile:
    """The file while a daemon runs. The spool does not depend on it: its errors are warnings."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._told = False
        with self._tolerated():
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.ftruncate(self._descriptor, _BODY.size + _SUM.size)

    def write(self, mark: Mark) -> None:
        """Rewrite it in place, without a sync: it may only ever be behind."""
        if self._descriptor is not None:
            with self._tolerated():
                os.pwrite(self._descriptor, encode(mark), 0)

    def sync(self) -> None:
        """Make it durable."""
        if self._descriptor is not None:
            with self._tolerated():
                os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Make it durable and close it; may be called again."""
        self.sync()
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    @contextlib.contextmanager
    def _tolerated(self) -> Iterator[None]:
        """Tell the first error, once."""
        try:
            yield
        except OSError as error:
            if not self._told:
                _log.warning(
                    "the spool's high-water mark cannot be written",
                    path=str(self._path),
                    error=str(error),
                )
            self._told = True
