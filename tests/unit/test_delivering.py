from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.delivering import Outcome, dead_letters, deliver
from forwarder.model import FrameKind
from forwarder.slices import make_slice
from sinks.interface import BatchRejectedError, PartlyDeliveredError, Refusal
from sinks.testing import FailingSink, MemorySink, PickySink, batch_of, end_of, gap_of, slice_of

if TYPE_CHECKING:
    from sinks.interface import Batch, Sink, StateChanges

NOW_NS = 99


def lines(*texts: bytes, first_line: int = 0, part: int = 0) -> Batch:
    """A batch of lines, each with a stamp of its own."""
    stamped = [(first_line + at + 1, text) for at, text in enumerate(texts)]
    return batch_of(slice_of(stamped, first_line=first_line, part=part))


def numbered(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


async def settle(sink: Sink, batch: Batch) -> Outcome:
    return await deliver(batch, sink)


def kept(sink: PickySink | FailingSink) -> list[bytes]:
    assert isinstance(sink.inner, MemorySink)
    return [record.text for record in sink.inner.records]


class ChangingSink:
    """Remembers something of every write, and refuses poison."""

    def __init__(self) -> None:
        self.writes = 0

    async def open(self, state: object) -> None:
        """Nothing to do."""

    async def write(self, batch: Batch) -> StateChanges:
        self.writes += 1
        if any(b"poison" in source.raw for source in batch.slices):
            raise BatchRejectedError("poison", status="400")
        return {"last": b"%d" % self.writes, f"write {self.writes}": b""}

    async def close(self) -> None:
        """Nothing to do."""


# What becomes of a batch --------------------------------------------------------------------------


async def test_what_is_taken_is_sent_once_as_it_is() -> None:
    sink, batch = PickySink(), lines(b"a", b"b")
    assert await settle(sink, batch) == Outcome()
    assert sink.attempts == [batch]


async def test_one_poison_record_is_found_in_few_requests_and_order_is_kept() -> None:
    sink = PickySink([b"500"])
    outcome = await settle(sink, lines(*numbered(1024)))
    assert outcome.refused == {500: Refusal("poison", "400")}
    assert kept(sink) == [text for text in numbered(1024) if text != b"500"]
    assert len(sink.attempts) - 1 <= 10 + 1


async def test_a_single_record_that_is_refused_is_not_sent_twice() -> None:
    sink = PickySink([b"a"])
    assert (await settle(sink, lines(b"a"))).refused == {0: Refusal("poison", "400")}
    assert len(sink.attempts) == 1


async def test_a_single_record_that_is_too_large_is_set_aside_and_is_no_reason_for_less() -> None:
    outcome = await settle(PickySink(max_bytes=10), lines(b"a"))
    assert outcome.refused == {0: Refusal("too large", "413")}
    assert outcome.too_large_bytes == 0


async def test_the_smallest_batch_that_was_too_large_is_known() -> None:
    batch = lines(*[b"x" * 69] * 16)
    outcome = await settle(PickySink(max_bytes=450), batch)
    assert not outcome.refused
    assert outcome.too_large_bytes == batch.raw_bytes // 2
    assert outcome.too_large_bytes // 2 <= 450


async def test_too_large_and_then_poison_is_both_obeyed() -> None:
    sink = PickySink([b"11", b"60"], max_bytes=1000)
    outcome = await settle(sink, lines(*numbered(100)))
    assert sorted(outcome.refused) == [11, 60]
    assert kept(sink) == [text for text in numbered(100) if text not in {b"11", b"60"}]


async def test_named_records_are_set_aside_and_only_what_is_missing_comes_again() -> None:
    sink = PickySink([b"1", b"4"], later=[b"2", b"3"], named=True)
    outcome = await settle(sink, lines(*numbered(6)))
    assert sorted(outcome.refused) == [1, 4]
    assert sorted(kept(sink)) == [b"0", b"2", b"3", b"5"]
    assert [batch.record_count for batch in sink.attempts] == [6, 2]


async def test_what_comes_again_and_is_refused_then_is_known_by_its_number_in_the_batch() -> None:
    verdicts = [
        PartlyDeliveredError("busy", again=[1, 3, 4]),
        PartlyDeliveredError("busy", again=[2, 0], refused={1: Refusal("bad")}),
        BatchRejectedError("all of it"),
        BatchRejectedError("the first"),
    ]
    outcome = await settle(FailingSink(verdicts), lines(*numbered(6)))
    assert outcome.refused == {3: Refusal("bad"), 1: Refusal("the first")}


async def test_a_record_that_is_refused_is_not_sent_again_whatever_else_is_said() -> None:
    error = PartlyDeliveredError("both", again=[0, 0, 1, 1], refused={1: Refusal("bad")})
    sink = FailingSink([error])
    outcome = await settle(sink, lines(b"a", b"b"))
    assert outcome.refused == {1: Refusal("bad")}
    assert kept(sink) == [b"a"]


@pytest.mark.parametrize(("said", "counted"), [(2, 2), (10**9, 3), (-5, 0)])
async def test_a_destination_cannot_refuse_more_than_it_was_sent(said: int, counted: int) -> None:
    error = PartlyDeliveredError("some", refused={0: Refusal("bad")}, unnamed=said)
    outcome = await settle(FailingSink([error]), lines(*numbered(4)))
    assert outcome.unnamed == counted
    assert (outcome.unnamed_refusal == Refusal("some")) is bool(counted)


async def test_a_part_that_explains_its_refusal_leaves_the_rest_without_blame() -> None:
    verdicts: list[Exception | None] = [
        BatchRejectedError("all"),
        BatchRejectedError("half"),
        PartlyDeliveredError("one", refused={0: Refusal("named")}),
    ]
    sink = FailingSink(verdicts)
    outcome = await settle(sink, lines(*numbered(4)))
    assert outcome.refused == {0: Refusal("named")}
    assert kept(sink) == [b"1", b"2", b"3"]


async def test_what_the_sink_remembers_of_parts_is_kept_in_their_order() -> None:
    outcome = await settle(ChangingSink(), lines(b"a", b"poison", b"b", b"c"))
    # All, the first half, of it the first record; the second is known; the rest.
    assert outcome.changes == {"write 3": b"", "write 4": b"", "last": b"4"}
    assert list(outcome.refused) == [1]


@given(
    poison=st.sets(st.integers(0, 19)),
    later=st.sets(st.integers(0, 19)),
    max_bytes=st.integers(33, 800) | st.none(),
    named=st.booleans(),
)
@settings(max_examples=100, deadline=None)
async def test_every_record_is_taken_once_or_refused_once_whatever_is_said(
    poison: set[int], later: set[int], max_bytes: int | None, named: bool
) -> None:
    batch = batch_of(
        *lines(*numbered(7)).slices,
        gap_of(first_line=7),
        *lines(*numbered(12)[7:], first_line=7).slices,
        end_of(first_line=12),
    )
    texts = [*numbered(7), b"", *numbered(12)[7:], b""]
    bad = {texts[at] for at in poison if at < 14}
    slow = {texts[at] for at in later if at < 14} if named else set()
    sink = PickySink(bad, later=slow, max_bytes=max_bytes, named=named)
    outcome = await settle(sink, batch)
    refused = {at for at, text in enumerate(texts) if text in bad}
    if max_bytes is not None:
        refused |= {at for at in range(14) if texts[at] and 32 + len(texts[at]) > max_bytes}
    assert set(outcome.refused) == refused
    assert sorted(kept(sink)) == sorted(texts[at] for at in range(14) if at not in refused)


# Dead letters -------------------------------------------------------------------------------------


def refuse(batch: Batch, *groups: tuple[str, list[int]]) -> Outcome:
    refused = {at: Refusal(reason, "400") for reason, indices in groups for at in indices}
    assert all(0 <= at < batch.record_count for at in refused)
    return Outcome(refused=refused)


def test_neighbours_that_are_refused_for_one_reason_are_one_dead_letter() -> None:
    batch = lines(*numbered(8), first_line=40)
    outcome = refuse(batch, ("a", [1, 2, 3, 6]), ("b", [4]))
    letters = dead_letters(batch.slices, [7], outcome, now_ns=NOW_NS)
    assert [(one.first_line, one.lines, one.reason) for one in letters] == [
        *((41, 3, "a"), (44, 1, "b")),
        (46, 1, "a"),
    ]
    assert {(one.stream_id, one.status, one.noticed_ns) for one in letters} == {(7, "400", NOW_NS)}
    again = make_slice(letters[0], batch.slices[0].stream)
    assert list(again.columns.texts) == [b"1", b"2", b"3"]
    assert list(again.columns.stamps_ns) == [42, 43, 44]


def test_every_kind_of_record_can_become_a_dead_letter_and_comes_back_as_it_was() -> None:
    part = slice_of([(5, b"piece")], first_line=3, part=2, generation=4)
    slices = [gap_of(first_line=3, generation=4), part, end_of(first_line=4, generation=4)]
    batch = batch_of(*slices)
    letters = dead_letters(slices, [1, 2, 3], refuse(batch, ("x", [0, 1, 2])), now_ns=NOW_NS)
    assert [one.kind for one in letters] == [FrameKind.GAP, FrameKind.PART, FrameKind.END]
    assert [one.stream_id for one in letters] == [1, 2, 3]
    assert [one.lines for one in letters] == [0, 1, 0]
    for letter, source in zip(letters, slices, strict=True):
        again = make_slice(letter, source.stream)
        assert (again.gap, again.end, again.raw) == (source.gap, source.end, source.raw)
        assert (again.part, again.generation, again.first_line) == (
            *(source.part, source.generation),
            source.first_line,
        )
        assert list(again.columns.stamps_ns) == list(source.columns.stamps_ns)


def test_records_that_were_not_named_are_one_letter_without_bytes() -> None:
    batch = lines(*numbered(8), first_line=40)
    outcome = Outcome(unnamed=3, unnamed_refusal=Refusal("too old", "400"))
    (letter,) = dead_letters(batch.slices, [7], outcome, now_ns=NOW_NS)
    assert (letter.unnamed, letter.lines, letter.raw, letter.first_line) == (3, 0, b"", 40)
    assert (letter.reason, letter.status) == ("too old", "400")


def test_the_words_of_a_destination_are_bounded() -> None:
    batch = lines(b"a")
    (letter,) = dead_letters(batch.slices, [7], refuse(batch, ("x" * 10**6, [0])), now_ns=NOW_NS)
    assert letter.reason == "x" * 1000


def test_nothing_refused_is_no_dead_letter() -> None:
    assert dead_letters(lines(b"a").slices, [7], Outcome(), now_ns=NOW_NS) == []
