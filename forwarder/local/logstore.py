"""One container's log in memory: what was printed, stamped, bounded, and how it is read back.

Pure: nothing here waits, opens or reads a clock. A record is a line with its newline, or a piece
without one (the unterminated end of the log, or a part of an over-long line). Records count from
0 for ever; the oldest go when the retention is exceeded, whole blocks at a time.
"""

from __future__ import annotations

import time
from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

NS_PER_S = 1_000_000_000
STAMP_BYTES = len(b"2026-01-02T03:04:05.123456789Z ")
_MAX_BLOCK_BYTES = 64 * 1024
_BLOCKS_PER_RETENTION = 16


class LinesLostError(Exception):
    """A reader was so slow that the log it had not read yet is no longer kept."""


def format_stamp(stamp_ns: int) -> bytes:
    """RFC 3339 in UTC with nanoseconds and one space: what precedes a line."""
    second, fraction = divmod(stamp_ns, NS_PER_S)
    return b"%s%09dZ " % (_second_prefix(second), fraction)


@lru_cache(maxsize=64)
def _second_prefix(second: int) -> bytes:
    return time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second)).encode()


@dataclass(frozen=True, slots=True)
class Since:
    """A `since_time` filter.

    Attributes:
        per_line: Test every line; else the filter is off after the first one that passes.
    """

    bound_ns: int
    inclusive: bool = True
    per_line: bool = True

    @classmethod
    def of(
        cls,
        since_ns: int,
        *,
        inclusive: bool,
        granularity: Literal["exact", "second"],
        per_line: bool,
    ) -> Since:
        """The filter for a requested time under the service's settings."""
        bound_ns = since_ns if granularity == "exact" else since_ns - since_ns % NS_PER_S
        return cls(bound_ns, inclusive, per_line)

    def passes(self, stamp_ns: int) -> bool:
        """Whether a line with this stamp is wanted."""
        return stamp_ns >= self.bound_ns if self.inclusive else stamp_ns > self.bound_ns


class _Block:
    """Consecutive records, rendered with their stamps; `ends[i]` is where record i ends."""

    __slots__ = ("data", "ends", "first_index", "lowest_stamp_ns", "stamps")

    def __init__(self, first_index: int) -> None:
        self.first_index = first_index
        self.data = bytearray()
        self.ends = array("I")
        self.stamps = array("q")
        self.lowest_stamp_ns = 2**63 - 1

    def append(self, stamp_ns: int, text: bytes) -> None:
        self.data += format_stamp(stamp_ns)
        self.data += text
        self.ends.append(len(self.data))
        self.stamps.append(stamp_ns)
        self.lowest_stamp_ns = min(self.lowest_stamp_ns, stamp_ns)

    def start(self, position: int) -> int:
        return self.ends[position - 1] if position else 0

    def record(self, position: int) -> bytes:
        return bytes(self.data[self.start(position) : self.ends[position]])

    def rest(self, position: int) -> bytes:
        return bytes(memoryview(self.data)[self.start(position) :])

    def without(self, excess_bytes: int) -> _Block:
        """The block again, without as many of its first records as hold so many bytes."""
        dropped = bisect_left(self.ends, excess_bytes) + 1
        rest = _Block(self.first_index + dropped)
        for position in range(dropped, len(self.ends)):
            rest.append(self.stamps[position], self.record(position)[STAMP_BYTES:])
        return rest

    def texts(self, position: int) -> bytes:
        view = memoryview(self.data)
        starts = (self.start(position), *self.ends[position:])
        return b"".join([view[start + STAMP_BYTES : end] for start, end in pairwise(starts)])


class LogStore:
    """The log of one container, in order of arrival, bounded by `retention_bytes`."""

    def __init__(self, retention_bytes: int) -> None:
        self._retention_bytes = retention_bytes
        self._block_bytes = max(1, min(_MAX_BLOCK_BYTES, retention_bytes // _BLOCKS_PER_RETENTION))
        self._blocks: deque[_Block] = deque([_Block(0)])
        self._stored_bytes = 0
        self.closed = False

    @property
    def first_index(self) -> int:
        """The oldest record still kept."""
        return self._blocks[0].first_index

    @property
    def next_index(self) -> int:
        """The index that the next record will get."""
        last = self._blocks[-1]
        return last.first_index + len(last.ends)

    @property
    def stored_bytes(self) -> int:
        """Bytes kept, stamps included."""
        return self._stored_bytes

    def extend(self, records: Iterable[tuple[int, bytes]]) -> None:
        """Keep (stamp in ns, text) records, in this order."""
        block = self._blocks[-1]
        for stamp_ns, text in records:
            if len(block.data) >= self._block_bytes:
                block = _Block(self.next_index)
                self._blocks.append(block)
            before = len(block.data)
            block.append(stamp_ns, text)
            self._stored_bytes += len(block.data) - before
        while self._stored_bytes > self._retention_bytes and len(self._blocks) > 1:
            self._stored_bytes -= len(self._blocks.popleft().data)

    def close(self) -> None:
        """Nothing more will come."""
        self.closed = True

    def continued(self) -> LogStore:
        """A store that begins with everything kept here; the two share nothing that grows."""
        store = LogStore(self._retention_bytes)
        store._blocks = deque([*self._blocks, _Block(self.next_index)])
        store._stored_bytes = self._stored_bytes
        return store

    def rotate(self, keep_bytes: int) -> int:
        """Drop the oldest records until no more than so many bytes are kept; returns how many."""
        before = self.first_index
        while (excess := self._stored_bytes - keep_bytes) > 0:
            oldest = self._blocks[0]
            if len(oldest.data) <= excess and len(self._blocks) > 1:
                self._blocks.popleft()
                self._stored_bytes -= len(oldest.data)
            else:
                self._blocks[0] = oldest.without(excess)
                self._stored_bytes -= len(oldest.data) - len(self._blocks[0].data)
        return self.first_index - before

    def stamped(self) -> bytes:
        """Everything kept, each record behind its stamp: what a reader with timestamps gets."""
        return b"".join(bytes(block.data) for block in self._blocks)

    def tail_index(self, lines: int) -> int:
        """The first of the newest so many records."""
        return max(self.first_index, self.next_index - lines)

    def block_at(self, index: int) -> tuple[_Block, int]:
        """The block that holds a record, and the record's position in it.

        Raises:
            LinesLostError: The record is no longer kept.
        """
        if index < self.first_index:
            raise LinesLostError
        last = self._blocks[-1]
        if index >= last.first_index:
            return last, index - last.first_index
        place = bisect_right(self._blocks, index, key=lambda block: block.first_index) - 1
        block = self._blocks[place]
        return block, index - block.first_index


class LogReader:
    """Reads a store from a record on, for ever: what comes later is read later."""

    def __init__(
        self, store: LogStore, start_index: int, *, timestamps: bool, since: Since | None = None
    ) -> None:
        self._store = store
        self._index = start_index
        self._timestamps = timestamps
        self._since = since

    @property
    def exhausted(self) -> bool:
        """Whether the log is closed and read to its end."""
        return self._store.closed and self._index >= self._store.next_index

    def read(self) -> bytes:
        """The next wanted records, about a block of them; empty when there is nothing now.

        Raises:
            LinesLostError: What comes next is no longer kept.
        """
        while self._index < self._store.next_index:
            block, position = self._store.block_at(self._index)
            self._index = block.first_index + len(block.ends)
            data = self._render(block, position)
            if data:
                return data
        return b""

    def _render(self, block: _Block, position: int) -> bytes:
        since = self._since
        if since is not None and not since.passes(block.lowest_stamp_ns):
            return self._filtered(block, position, since)
        if since is not None and not since.per_line:
            self._since = None
        return block.rest(position) if self._timestamps else block.texts(position)

    def _filtered(self, block: _Block, position: int, since: Since) -> bytes:
        skip = 0 if self._timestamps else STAMP_BYTES
        wanted: list[bytes] = []
        for place in range(position, len(block.ends)):
            if self._since is not None and not since.passes(block.stamps[place]):
                continue
            if not since.per_line:
                self._since = None
            wanted.append(block.record(place)[skip:])
        return b"".join(wanted)
