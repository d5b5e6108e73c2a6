"""When a line can first be seen: in the spool (so it is fsynced), and in the output file."""

from __future__ import annotations

import calendar
import contextlib
import os
import sqlite3
import time
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile.

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("nothing was seen")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


@lru_cache(maxsize=64)
def _epoch_s(to_the_second: bytes) -> int:
    return calendar.timegm(time.strptime(to_the_second.decode(), "%Y-%m-%dT%H:%M:%S"))


def stamp_ns(line: bytes) -> int:
    """The stamp of a line that begins with one of nine decimals."""
    return _epoch_s(line[:19]) * 1_000_000_000 + int(line[20:29])


class FileWatch:
    """Looks at growing files; each line's latency is now less its stamp, its time of sending."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._waiting = list(paths)
        self._open: list[tuple[int, bytearray]] = []
        self._read_bytes: dict[int, int] = {}
        self.latencies_s: list[float] = []

    def look(self) -> None:
        """Take in what has become readable."""
        if self._waiting:
            self._open_new()
        for descriptor, rest in self._open:
            position = self._read_bytes[descriptor]
            if os.fstat(descriptor).st_size > position:
                now_ns = time.time_ns()
                new = os.pread(descriptor, 1 << 20, position)
                self._read_bytes[descriptor] = position + len(new)
                self._note(rest, new, now_ns)

    def close(self) -> None:
        """Close the files."""
        for descriptor, _ in self._open:
            os.close(descriptor)
        self._open.clear()

    def _open_new(self) -> None:
        missing = []
        for path in self._waiting:
            try:
                descriptor = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                missing.append(path)
            else:
                self._open.append((descriptor, bytearray()))
                self._read_bytes[descriptor] = 0
        self._waiting = missing

    def _note(self, rest: bytearray, new: bytes, now_ns: int) -> None:
        *whole, last = (bytes(rest) + new).split(b"\n")
        rest[:] = last
        self.latencies_s += [(now_ns - stamp_ns(line)) / 1e9 for line in whole]


class SpoolWatch:
    """Looks at the spool's newest frames.

    Another connection sees a commit only after the write-ahead log was synced, so what it sees is
    on disk. All lines of a frame count as sent when its first one was, and as taken when they were
    sent: the figure is an upper bound of "taken to fsynced".
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        self._connection: sqlite3.Connection | None = None
        self._last_id = 0
        self.latencies_s: list[float] = []

    def look(self) -> None:
        """Take in what was committed since the last look."""
        if self._connection is None:
            if not self._database.exists():
                return
            uri = f"{self._database.as_uri()}?mode=ro"
            self._connection = sqlite3.connect(uri, uri=True, isolation_level=None)
        # The tables are not there in the first moments of the database.
        with contextlib.suppress(sqlite3.OperationalError):
            frames = self._connection.execute(
                "SELECT id, lines, first_stamp_ns FROM frame WHERE id > ? AND kind = 0 ORDER BY id",
                (self._last_id,),
            ).fetchall()
            now_ns = time.time_ns()
            for frame_id, lines, first_stamp_ns in frames:
                self._last_id = frame_id
                self.latencies_s += [(now_ns - first_stamp_ns) / 1e9] * lines

    def close(self) -> None:
        """Close the database."""
        if self._connection is not None:
            self._connection.close()
