from __future__ import annotations

import asyncio

import pytest

from sinks.interface import (
    Batch,
    BatchRejectedError,
    PartlyDeliveredError,
    Refusal,
    SinkUnavailableError,
)
from sinks.testing import GatedSink, MemorySink, PickySink, batch_of, gap_of, slice_of


def lines(*texts: bytes, first_id: int = 1) -> Batch:
    stamped = [(at + 1, text) for at, text in enumerate(texts)]
    return batch_of(slice_of(stamped, first_line=40), first_id=first_id)


def kept(sink: PickySink | GatedSink) -> list[tuple[int, int, bytes]]:
    assert isinstance(sink.inner, MemorySink)
    return [(record.line, record.stamp_ns, record.text) for record in sink.inner.records]


async def test_a_picky_sink_refuses_a_whole_batch_for_its_poison() -> None:
    sink = PickySink([b"bad"])
    with pytest.raises(BatchRejectedError) as refused:
        await sink.write(lines(b"a", b"bad"))
    assert (refused.value.status, refused.value.too_large) == ("400", False)
    assert kept(sink) == []
    await sink.write(lines(b"a"))
    assert [text for _, _, text in kept(sink)] == [b"a"]
    assert len(sink.attempts) == 2


async def test_a_picky_sink_that_names_records_takes_all_others() -> None:
    sink = PickySink([b"bad"], later=[b"slow"], named=True)
    batch = Batch(1, 2, [*lines(b"a", b"bad", b"s\rt", b"slow").slices, gap_of(first_line=44)])
    with pytest.raises(PartlyDeliveredError) as some:
        await sink.write(batch)
    assert (some.value.refused, some.value.again) == ({1: Refusal("poison", "400")}, (3,))
    assert kept(sink) == [(40, 1, b"a"), (42, 3, b"s\rt"), (44, 0, b"")]
    await sink.write(batch_of(slice_of([(4, b"slow")], first_line=43)))
    assert kept(sink)[-1] == (43, 4, b"slow")


async def test_a_picky_sink_that_names_nothing_is_unavailable_for_what_comes_later() -> None:
    sink = PickySink(later=[b"slow"])
    with pytest.raises(SinkUnavailableError):
        await sink.write(lines(b"slow"))
    await sink.write(lines(b"slow"))
    assert len(kept(sink)) == 1


async def test_a_picky_sink_has_a_largest_batch() -> None:
    batch = lines(b"a")
    await PickySink(max_bytes=batch.raw_bytes).write(batch)
    with pytest.raises(BatchRejectedError) as refused:
        await PickySink(max_bytes=batch.raw_bytes - 1).write(batch)
    assert refused.value.too_large


async def test_a_gated_sink_answers_in_the_order_that_it_is_told() -> None:
    sink = GatedSink()
    writes = [asyncio.create_task(sink.write(lines(b"%d" % at, first_id=at))) for at in (1, 2, 3)]
    await sink.came(3)
    sink.release(3)
    await writes[2]
    assert [batch.first_id for batch in sink.waiting] == [1, 2]
    writes[0].cancel()
    await asyncio.gather(writes[0], return_exceptions=True)
    sink.release(2)
    await writes[1]
    assert (sink.waiting, sink.most) == ([], 3)
    assert isinstance(sink.inner, MemorySink)
    assert [batch.first_id for batch in sink.inner.batches] == [3, 2]
