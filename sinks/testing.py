"""What a sink's tests need: state that survives a crash, sinks that behave as told, builders.

Part of the public interface: a sink author's tests use it as this project's own do.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from sinks.interface import (
    Batch,
    BatchRejectedError,
    Columns,
    PartlyDeliveredError,
    Refusal,
    SinkUnavailableError,
    Slice,
    Stream,
)
from sinks.ndjson import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sinks.interface import Sink, SinkState, StateChanges

#: The stream of slices that name none.
STREAM = Stream("sbx-1", "main")

#: Sandbox id, container, generation, line, part, and what a record of ours says.
RecordKey: TypeAlias = tuple[str, str, int, int, int, str]


class MemoryState:
    """A `SinkState` that plays the spool: it keeps what was remembered and what was committed.

    A crash loses the changes that `write` returned and that nobody committed, and nothing else:
    simply open a new sink on the same state. A power cut may lose what was committed since the last
    `remember`, with the cursor: give a new state earlier `values`, and deliver again from there.
    """

    def __init__(self, values: Mapping[str, bytes] | None = None) -> None:
        self.values = dict(values or {})

    def get(self, key: str) -> bytes | None:
        """The value last remembered or committed under this key."""
        return self.values.get(key)

    def keys(self) -> Sequence[str]:
        """Every key under which something is remembered."""
        return tuple(self.values)

    async def remember(self, changes: Mapping[str, bytes | None]) -> None:
        """Durable at once, as the interface promises."""
        self.commit(changes)

    def commit(self, changes: Mapping[str, bytes | None]) -> None:
        """What the engine does after a delivery, together with moving its cursor."""
        for key, value in changes.items():
            if value is None:
                self.values.pop(key, None)
            else:
                self.values[key] = value


async def deliver(sink: Sink, state: MemoryState, *batches: Batch) -> None:
    """Write batches as the engine does: each one's state changes are committed when it is done."""
    for batch in batches:
        state.commit(await sink.write(batch))


@dataclass(frozen=True, slots=True)
class Record:
    """A line, a part of one, a gap record or an end record, as `MemorySink` keeps it."""

    sandbox_id: str
    container: str
    line: int
    part: int
    stamp_ns: int
    text: bytes
    gap: Mapping[str, str | int | None] | None = None
    end: Mapping[str, str | int] | None = None
    generation: int = 0

    @property
    def key(self) -> RecordKey:
        """What makes it this record and no other: the record id, and the kind of record."""
        ours = self.end if self.gap is None else self.gap
        kind = "" if ours is None else str(sorted(ours.items(), key=str))
        return (
            *(self.sandbox_id, self.container, self.generation),
            *(self.line, self.part, kind),
        )


class MemorySink:
    """Keeps every record once, in order of first arrival.

    Args:
        records: Where they are kept; handed to a second sink it is what survived a crash.
    """

    def __init__(self, records: dict[RecordKey, Record] | None = None) -> None:
        self.kept = {} if records is None else records
        self.batches: list[Batch] = []

    @property
    def records(self) -> list[Record]:
        """Everything kept so far."""
        return list(self.kept.values())

    async def open(self, state: SinkState) -> None:
        """Nothing to do."""

    async def write(self, batch: Batch) -> StateChanges:
        """Keep the batch's records; one with the same record id is kept already."""
        self.batches.append(batch)
        for source in batch.slices:
            for record in _records(source):
                self.kept.setdefault(record.key, record)
        return {}

    async def close(self) -> None:
        """Nothing to do."""


class FailingSink:
    """Fails as told, then hands over to another sink.

    Args:
        verdicts: What each `write` does, in order: raise this, or for None succeed. Afterwards
            every write succeeds.
        inner: Where successful writes go.
        open_verdicts: The same for `open`.
    """

    def __init__(
        self,
        verdicts: Iterable[Exception | None],
        inner: Sink | None = None,
        *,
        open_verdicts: Iterable[Exception | None] = (),
    ) -> None:
        self.inner: Sink = MemorySink() if inner is None else inner
        self.attempts: list[Batch] = []
        self._verdicts = iter(verdicts)
        self._open_verdicts = iter(open_verdicts)

    async def open(self, state: SinkState) -> None:
        """Raise the next verdict for `open`, if there is one."""
        verdict = next(self._open_verdicts, None)
        if verdict is not None:
            raise verdict
        await self.inner.open(state)

    async def write(self, batch: Batch) -> StateChanges:
        """Raise the next verdict, if there is one."""
        self.attempts.append(batch)
        verdict = next(self._verdicts, None)
        if verdict is not None:
            raise verdict
        return await self.inner.write(batch)

    async def close(self) -> None:
        """Close the inner sink."""
        await self.inner.close()


class SlowSink:
    """Waits in every `write` until it is released.

    Attributes:
        entered: Set as soon as a first write has come; nobody clears it.
        release: Set it to let writes through, from then on all of them.
    """

    def __init__(self, inner: Sink | None = None) -> None:
        self.inner: Sink = MemorySink() if inner is None else inner
        self.entered = asyncio.Event()
        self.release = asyncio.Event()

    async def open(self, state: SinkState) -> None:
        """Open the inner sink."""
        await self.inner.open(state)

    async def write(self, batch: Batch) -> StateChanges:
        """Wait, then write."""
        self.entered.set()
        await self.release.wait()
        return await self.inner.write(batch)

    async def close(self) -> None:
        """Close the inner sink."""
        await self.inner.close()


class PickySink:
    """Refuses what it is told to, record by record, and hands over the rest.

    Args:
        poison: Texts that it never takes.
        later: Texts that it does not take at first; every one is taken when it comes again.
        max_bytes: What is larger, as the server sent it, is refused for its size.
        named: Whether it says which records it means, and takes the others, as one that answers for
            each record does; otherwise it refuses a batch as a whole.
        inner: Where the rest goes.

    Attributes:
        attempts: Everything that was sent, refused or not.
    """

    def __init__(
        self,
        poison: Iterable[bytes] = (),
        *,
        later: Iterable[bytes] = (),
        max_bytes: int | None = None,
        named: bool = False,
        inner: Sink | None = None,
    ) -> None:
        self.inner: Sink = MemorySink() if inner is None else inner
        self.poison = set(poison)
        self.attempts: list[Batch] = []
        self._later = set(later)
        self._max_bytes = max_bytes
        self._named = named

    async def open(self, state: SinkState) -> None:
        """Open the inner sink."""
        await self.inner.open(state)

    async def write(self, batch: Batch) -> StateChanges:
        """Write what is not refused."""
        self.attempts.append(batch)
        if self._max_bytes is not None and batch.raw_bytes > self._max_bytes:
            raise BatchRejectedError("too large", status="413", too_large=True)
        texts = [record.text for source in batch.slices for record in _records(source)]
        poison = [index for index, text in enumerate(texts) if text in self.poison]
        later = [index for index, text in enumerate(texts) if text in self._later]
        self._later.difference_update(texts)
        if not poison and not later:
            return await self.inner.write(batch)
        if not self._named:
            if poison:
                raise BatchRejectedError("poison", status="400")
            raise SinkUnavailableError("later")
        taken = [index for index in range(len(texts)) if index not in {*poison, *later}]
        if taken:
            await self.inner.write(_some(batch, taken))
        refusal = Refusal("poison", "400")
        raise PartlyDeliveredError(
            "not all of it", refused=dict.fromkeys(poison, refusal), again=later
        )

    async def close(self) -> None:
        """Close the inner sink."""
        await self.inner.close()


class GatedSink:
    """Lets each `write` through when it is told to, in any order.

    Attributes:
        waiting: Batches whose `write` has not been let through, in the order in which they came.
        most: The most that ever were under way at once.
    """

    def __init__(self, inner: Sink | None = None) -> None:
        self.inner: Sink = MemorySink() if inner is None else inner
        self.waiting: list[Batch] = []
        self.most = 0
        self._gates: dict[int, asyncio.Event] = {}
        self._came = asyncio.Condition()

    async def came(self, count: int) -> None:
        """Return when so many are waiting."""
        async with self._came:
            await self._came.wait_for(lambda: len(self.waiting) >= count)

    def release(self, *first_ids: int) -> None:
        """Let the batches through that begin with these frames, also when they come later."""
        for first_id in first_ids:
            self._gate(first_id).set()

    async def open(self, state: SinkState) -> None:
        """Open the inner sink."""
        await self.inner.open(state)

    async def write(self, batch: Batch) -> StateChanges:
        """Wait, then write."""
        self.waiting.append(batch)
        self.most = max(self.most, len(self.waiting))
        try:
            async with self._came:
                self._came.notify_all()
            await self._gate(batch.first_id).wait()
        finally:
            self.waiting.remove(batch)
        return await self.inner.write(batch)

    async def close(self) -> None:
        """Close the inner sink."""
        await self.inner.close()

    def _gate(self, first_id: int) -> asyncio.Event:
        return self._gates.setdefault(first_id, asyncio.Event())


def slice_of(
    lines: Sequence[tuple[int, bytes | str]],
    *,
    stream: Stream = STREAM,
    first_line: int = 0,
    part: int = 0,
    ended: bool = True,
    generation: int = 0,
) -> Slice:
    """A slice of lines given as (stamp in nanoseconds, text), received at the latest of the stamps.

    Args:
        lines: For a part, exactly one.
        stream: Where they come from.
        first_line: The line number of the first one.
        part: 0 for whole lines, else the part's number; later parts carry no stamp.
        ended: Whether the last line has its newline.
        generation: Which life of the container.
    """
    stamps_ns = [stamp_ns for stamp_ns, _ in lines]
    texts = [text.encode() if isinstance(text, str) else text for _, text in lines]
    heads = [b"" if part > 1 else rfc3339(stamp_ns).encode() + b" " for stamp_ns in stamps_ns]
    raw = b"\n".join(head + text for head, text in zip(heads, texts, strict=True))
    return Slice(
        stream=stream,
        first_line=first_line,
        line_count=len(lines),
        raw=raw + b"\n" if ended and lines else raw,
        received_ns=max(stamps_ns, default=0),
        decode=lambda _: Columns(stamps_ns, texts),
        part=part,
        generation=generation,
    )


def gap_of(
    *,
    stream: Stream = STREAM,
    first_line: int = 0,
    cause: str = "anchor_lost",
    kind: str = "range",
    bounds: str = "exact",
    before_line: int | None = None,
    from_stamp_ns: int = 0,
    to_stamp_ns: int = 0,
    from_offset: int | None = None,
    to_offset: int | None = None,
    noticed_ns: int = 1,
    filled_ns: int = 0,
    missing_bytes: int | None = None,
    generation: int = 0,
) -> Slice:
    """A gap record before the line of this number, with every key that the engine's have."""
    return Slice(
        stream=stream,
        first_line=first_line,
        line_count=0,
        raw=b"",
        received_ns=noticed_ns,
        decode=lambda _: Columns((), ()),
        gap={
            "kind": kind,
            "cause": cause,
            "bounds": bounds,
            "generation": generation,
            "after_line": first_line - 1,
            "before_line": before_line,
            "from_stamp_ns": from_stamp_ns,
            "to_stamp_ns": to_stamp_ns,
            "from_offset": from_offset,
            "to_offset": to_offset,
            "missing_bytes": missing_bytes,
            "noticed_ns": noticed_ns,
            "filled_ns": filled_ns,
        },
        generation=generation,
    )


def end_of(
    *,
    stream: Stream = STREAM,
    first_line: int = 0,
    state: str = "complete",
    ended_ns: int = 1,
    generation: int = 0,
) -> Slice:
    """An end record: the stream had `first_line` lines, and none follows."""
    return Slice(
        stream=stream,
        first_line=first_line,
        line_count=0,
        raw=b"",
        received_ns=ended_ns,
        decode=lambda _: Columns((), ()),
        end={"state": state, "detail": "", "lines": first_line, "ended_ns": ended_ns},
        generation=generation,
    )


def batch_of(*slices: Slice, first_id: int = 1) -> Batch:
    """A batch of these slices, one frame each."""
    return Batch(first_id, first_id + max(0, len(slices) - 1), slices)


def _some(batch: Batch, indices: Sequence[int]) -> Batch:
    """A batch of some of another one's records, each in a slice of its own."""
    single: list[Slice] = []
    for source in batch.slices:
        if source.record_count == 1:
            single.append(source)
            continue
        columns = source.columns
        for index, line in enumerate(re.findall(rb"[^\n]*\n|[^\n]+$", source.raw)):
            column = Columns(columns.stamps_ns[index : index + 1], columns.texts[index : index + 1])
            single.append(
                replace(
                    source,
                    first_line=source.first_line + index,
                    line_count=1,
                    raw=line,
                    decode=partial(_decoded, column),
                )
            )
    return Batch(batch.first_id, batch.last_id, [single[index] for index in indices])


def _decoded(columns: Columns, _: Slice) -> Columns:
    return columns


def _records(source: Slice) -> list[Record]:
    identity, generation = source.stream.identity, source.generation
    if source.gap is not None or source.end is not None:
        stamp_ns = (source.gap or {}).get("from_stamp_ns")
        at_ns = stamp_ns if isinstance(stamp_ns, int) else 0
        record = (*identity, source.first_line, 0, at_ns, b"")
        return [Record(*record, gap=source.gap, end=source.end, generation=generation)]
    columns = source.columns
    return [
        Record(
            *(*identity, source.first_line + index, source.part, stamp_ns, text),
            generation=generation,
        )
        for index, (stamp_ns, text) in enumerate(zip(columns.stamps_ns, columns.texts, strict=True))
    ]
