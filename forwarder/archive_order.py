"""Archived records in order: those of a stream by their numbers, several streams by their stamps.

A stream's lines lie in many objects, mostly one behind the other. Where objects overlap (stamps
that went back over an hour's end, two daemons that archived the same sandbox) they are merged; an
object is opened when its first record is due, so that only those that overlap are open at once.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from sinks.closing import closing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

    from sinks.archive import Archive, ArchivedObject, ArchivedRecord, Run, Selection

    Chunks = AsyncIterator[Sequence[ArchivedRecord]]

#: Where a record stands among others; a shorter key stands before all that begin with it.
Key = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """Records in order, not read yet.

    Attributes:
        start: Not above the key of its first record.
        open: Begins to read it.
    """

    start: Key
    open: Callable[[], Chunks] = field(repr=False, compare=False)


def place(record: ArchivedRecord) -> Key:
    """Where a record stands in its stream; a gap record stands behind the line that it names."""
    if record.gap is None:
        return record.generation, record.line, 1
    after = record.gap.get("after_line")
    return record.generation, after + 1 if isinstance(after, int) else record.line, 0


def stamp(record: ArchivedRecord) -> Key:
    """When a record was written."""
    return (record.stamp_ns,)


def sources_of(
    archive: Archive, objects: Iterable[ArchivedObject], selection: Selection
) -> dict[tuple[str, str], list[Source]]:
    """What has to be read, for each stream by its identity.

    Args:
        archive: It is open.
        objects: Of the windows that have anything of the selection.
        selection: Which records are meant.
    """
    streams: dict[tuple[str, str], list[Source]] = {}
    for archived in objects:
        for stream, start in _starts(archived.runs).items():
            opening = partial(_records, archive, archived, stream, selection)
            streams.setdefault(stream, []).append(Source(start, opening))
    return dict(sorted(streams.items()))


def _starts(runs: Iterable[Run]) -> dict[tuple[str, str], Key]:
    """The place of each stream's first record."""
    found: dict[tuple[str, str], Key] = {}
    for run in runs:
        stream = (run.sandbox_id, run.container)
        start = (run.generation, run.first_line, int(not run.gap))
        found[stream] = min(found.get(stream, start), start)
    return found


async def _records(
    archive: Archive, archived: ArchivedObject, stream: tuple[str, str], selection: Selection
) -> AsyncIterator[Sequence[ArchivedRecord]]:
    """Those of one stream that are meant."""
    since_ns = 0 if selection.since_ns is None else selection.since_ns
    until_ns = float("inf") if selection.until_ns is None else selection.until_ns
    async with closing(archive.records(archived)) as batches:
        async for batch in batches:
            meant = [
                one
                for one in batch
                if (one.sandbox_id, one.container) == stream and since_ns <= one.stamp_ns < until_ns
            ]
            if meant:
                yield meant


@dataclass(slots=True)
class _Head:
    """A source that is being read."""

    number: int
    chunks: Chunks
    chunk: Sequence[ArchivedRecord]
    at: int = 0


async def merged(
    sources: Iterable[Source], key: Callable[[ArchivedRecord], Key]
) -> AsyncIterator[Sequence[ArchivedRecord]]:
    """The records of all sources, some at a time, each time the one with the lowest key first.

    Each source's records keep their order, whatever their keys; of equal keys the source that
    starts first comes first.
    """
    waiting = deque(enumerate(sorted(sources, key=lambda one: one.start)))
    heads: list[_Head] = []
    try:
        while waiting or heads:
            lowest = min((_rank(head, key) for head in heads), default=None)
            if waiting and (lowest is None or waiting[0][1].start <= lowest[0]):
                number, source = waiting.popleft()
                await _advance(_Head(number, source.open(), ()), heads)
                continue
            head = min(heads, key=lambda one: _rank(one, key))
            limits = [_rank(one, key) for one in heads if one is not head]
            if waiting:
                limits.append((waiting[0][1].start, waiting[0][0]))
            stop = _stop(head, key, min(limits, default=None))
            yield head.chunk[head.at : stop]
            head.at = stop
            if stop == len(head.chunk):
                heads.remove(head)
                await _advance(head, heads)
    finally:
        for head in heads:
            async with closing(head.chunks):
                pass


async def _advance(head: _Head, heads: list[_Head]) -> None:
    """Put a source among the others again if it has more."""
    # Not `()` as the default: Python 3.11 takes a tuple for the arguments of StopIteration.
    head.chunk = await anext(head.chunks, [])
    head.at = 0
    if head.chunk:
        heads.append(head)


def _rank(head: _Head, key: Callable[[ArchivedRecord], Key]) -> tuple[Key, int]:
    return key(head.chunk[head.at]), head.number


def _stop(head: _Head, key: Callable[[ArchivedRecord], Key], limit: tuple[Key, int] | None) -> int:
    """Behind the records that stand before every other source's next one; at least one does."""
    if limit is None:
        return len(head.chunk)
    for index in range(head.at + 1, len(head.chunk)):
        if (key(head.chunk[index]), head.number) >= limit:
            return index
    return len(head.chunk)


@dataclass(slots=True)
class Repeats:
    """Takes out records that are in the archive twice, and counts them.

    Attributes:
        lines: So many lines came again, and were taken out.
        conflicts: So many had the number of another one, but not its stamp: those stay.
    """

    lines: int = 0
    conflicts: int = 0
    _last: ArchivedRecord | None = None
    _last_gap: Mapping[str, object] | None = None

    def without(self, records: Iterable[ArchivedRecord]) -> list[ArchivedRecord]:
        """Those of one stream that did not come before; call it chunk by chunk."""
        return [one for one in records if not self._came_before(one)]

    def _came_before(self, record: ArchivedRecord) -> bool:
        if record.gap is not None:
            again = record.gap == self._last_gap
            self._last_gap = record.gap
            return again
        last, self._last = self._last, record
        if last is None or place(last) != place(record):
            return False
        if (last.part, last.stamp_ns) != (record.part, record.stamp_ns):
            self.conflicts += 1
            return False
        self.lines += 1
        return True


async def without_repeats(chunks: Chunks, repeats: Repeats) -> Chunks:
    """A stream's chunks, each record once."""
    async with closing(chunks) as opened:
        async for chunk in opened:
            if kept := repeats.without(chunk):
                yield kept
