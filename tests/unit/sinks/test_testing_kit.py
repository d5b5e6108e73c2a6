"""The testing kit does what its words say."""

from __future__ import annotations

import asyncio

import pytest

from forwarder.model import Gap, GapCause
from forwarder.stamps import decode_lines
from sinks.interface import SinkUnavailableError
from sinks.testing import (
    FailingSink,
    MemorySink,
    MemoryState,
    SlowSink,
    batch_of,
    deliver,
    end_of,
    gap_of,
    slice_of,
)

ONE = batch_of(slice_of([(1, "a"), (2, b"b")]), first_id=7)


async def test_state_keeps_what_was_remembered_and_forgets_what_was_told() -> None:
    state = MemoryState()
    await state.remember({"a": b"1", "b": b"2"})
    await state.remember({"a": None, "never": None})
    assert (state.get("a"), state.get("b")) == (None, b"2")


async def test_changes_that_were_not_committed_are_lost() -> None:
    class Changing(MemorySink):
        async def write(self, batch: object) -> dict[str, bytes | None]:
            return {"k": b"new"}

    state = MemoryState({"k": b"old"})
    await Changing().write(ONE)
    assert state.get("k") == b"old"
    await deliver(Changing(), state, ONE)
    assert state.get("k") == b"new"


async def test_a_failing_sink_fails_as_told_and_then_works() -> None:
    refusal = SinkUnavailableError("down")
    sink = FailingSink([refusal, None, refusal], open_verdicts=[refusal])
    with pytest.raises(SinkUnavailableError):
        await sink.open(MemoryState())
    await sink.open(MemoryState())
    with pytest.raises(SinkUnavailableError):
        await sink.write(ONE)
    await sink.write(ONE)
    with pytest.raises(SinkUnavailableError):
        await sink.write(ONE)
    await sink.write(ONE)
    await sink.close()
    assert len(sink.attempts) == 4
    assert isinstance(sink.inner, MemorySink)
    assert len(sink.inner.batches) == 2


async def test_a_slow_sink_waits_until_it_is_released() -> None:
    sink = SlowSink()
    await sink.open(MemoryState())
    attempt = asyncio.create_task(sink.write(ONE))
    await sink.entered.wait()
    assert isinstance(sink.inner, MemorySink)
    assert sink.inner.records == []
    sink.release.set()
    await attempt
    await sink.close()
    assert [record.text for record in sink.inner.records] == [b"a", b"b"]


def test_a_slice_has_the_bytes_that_a_server_would_send() -> None:
    source = slice_of([(1, "a"), (1_000_000_000, b"\xff")], first_line=3)
    assert source.raw == (
        b"1970-01-01T00:00:00.000000001Z a\n1970-01-01T00:00:01.000000000Z \xff\n"
    )
    assert (source.first_line, source.line_count) == (3, 2)
    assert list(source.columns.stamps_ns) == [1, 1_000_000_000]
    assert list(source.columns.texts) == [b"a", b"\xff"]


def test_the_engine_reads_a_built_slice_as_it_was_given() -> None:
    source = slice_of([(1_763_870_706_123_456_789, "a"), (5, "")])
    columns = source.columns
    assert decode_lines(source.raw, 0) == (list(columns.stamps_ns), list(columns.texts))


def test_a_built_gap_record_has_the_keys_of_the_engines_in_their_order() -> None:
    engines = Gap(GapCause.ANCHOR_LOST, 7, 0, 0, 1, before_line=8, generation=2).record()
    built = gap_of(first_line=8, generation=2, bounds="approximate", before_line=8).gap
    assert built == engines
    assert built is not None
    assert list(built) == list(engines)


def test_later_parts_have_no_stamp() -> None:
    assert slice_of([(1, "rest")], part=2, ended=False).raw == b"rest"


async def test_a_memory_sink_keeps_every_generation_and_every_record_of_ours() -> None:
    sink = MemorySink()
    lines = [slice_of([(1, "same")], generation=n) for n in (0, 1)]
    ours = [gap_of(), gap_of(filled_ns=9), gap_of(generation=1), end_of(), end_of(generation=1)]
    for _ in range(2):
        await sink.write(batch_of(*lines, *ours))
    assert [record.generation for record in sink.records] == [0, 1, 0, 0, 1, 0, 1]
    assert [record.gap for record in sink.records] == [
        *(None, None),
        *(source.gap for source in ours),
    ]
    assert [record.end for record in sink.records][-2:] == [source.end for source in ours[-2:]]


async def test_state_tells_its_keys() -> None:
    state = MemoryState({"a": b"1"})
    await state.remember({"b": b"2", "a": None})
    assert list(state.keys()) == ["b"]


def test_a_batch_counts_its_frames() -> None:
    batch = batch_of(slice_of([(1, "a")]), gap_of(first_line=1), first_id=5)
    assert (batch.first_id, batch.last_id, batch.line_count) == (5, 6, 1)
    assert batch_of().last_id == 1
