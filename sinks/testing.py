"""What a sink's tests need: state that survives a crash, sinks that behave as told, builders.

Part of the public interface: a sink author's tests use it as this project's own do. What sinks of
windows need is in `sinks.testing_windows`.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from sinks.interface import (
    Batch,
    BatchRejectedError,
    Columns,
    PartlyDeliveredError,
    Refusal,
    SinkUnavailableError,
)
from sinks.testing_builders import STREAM, batch_of, end_of, gap_of, slice_of
from sinks.testing_records import Record, RecordKey, records_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from sinks.interface import Sink, SinkState, Slice, StateChanges

__all__ = [
    "STREAM",
    "FailingSink",
    "GatedSink",
    "MemorySink",
    "MemoryState",
    "PickySink",
    "Record",
    "RecordKey",
    "SlowSink",
    "batch_of",
    "deliver",
    "end_of",
    "gap_of",
    "slice_of",
]


class MemoryState:
    """A `SinkState` that plays the spool: it keeps what was remembered and what was committed.

    A crash loses the changes that `write` returned and that nobody committed, and nothing else:
    simply open a new sink on the same state. A power cut may lose what was committed since the last
    `remember`, with the cursor: give a new state earlier `values`, and deliver again from there.

    Args:
        values: What is remembered from the beginning.
        directory: Where a sink finds its `SinkState.directory`; one that asks for it needs it.
    """

    def __init__(
        self, values: Mapping[str, bytes] | None = None, *, directory: Path | None = None
    ) -> None:
        self.values = dict(values or {})
        self._directory = directory

    @property
    def directory(self) -> Path:
        """What the test gave; made when it is asked for."""
        assert self._directory is not None, "give MemoryState a directory"
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._directory

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
            for record in records_of(source):
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
        texts = [record.text for source in batch.slices for record in records_of(source)]
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
