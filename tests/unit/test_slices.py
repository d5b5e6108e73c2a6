from __future__ import annotations

import pickle
from itertools import pairwise

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.model import DeadLetter, Frame, FrameKind, StreamInfo, StreamKey
from forwarder.slices import Streams, cut, make_slice, pick, record_sizes, split
from sinks.interface import Batch, Slice, Stream
from sinks.ndjson import rfc3339

STREAM = Stream("sbx-1", "main")
STAMPED = b"2026-01-02T03:04:05.000000006Z "
STAMP_NS = 1_767_323_045_000_000_006
FIRST_NS = 77


def frame(kind: FrameKind, raw: bytes, *, lines: int = 1, part: int = 0) -> Frame:
    return Frame(9, 1, kind, raw, 40, lines, part, FIRST_NS, 88, 7, 1)


def lines_slice(*lines: bytes, ended: bool = True) -> Slice:
    raw = b"\n".join(lines) + (b"\n" if ended or not lines[-1] else b"")
    return make_slice(frame(FrameKind.LINES, raw, lines=len(lines)), STREAM)


def part_slice(raw: bytes, part: int) -> Slice:
    return make_slice(frame(FrameKind.PART, raw, part=part), STREAM)


def gap_slice() -> Slice:
    return make_slice(frame(FrameKind.GAP, b'{"cause":"anchor_lost"}', lines=0), STREAM)


Seen = tuple[int, int, int, bytes, object]


def records(*slices: Slice) -> list[Seen]:
    """Every record with all that tells it from others: line, part, stamp, text, kind."""
    seen: list[Seen] = []
    for one in slices:
        if one.gap is not None or one.end is not None:
            seen.append((one.first_line, one.part, 0, b"", (one.gap, one.end)))
            continue
        columns = one.columns
        assert len(columns.texts) == len(columns.stamps_ns) == one.line_count
        pairs = enumerate(zip(columns.stamps_ns, columns.texts, strict=True))
        seen += [(one.first_line + at, one.part, ns, text, None) for at, (ns, text) in pairs]
    return seen


stamps = st.integers(0, 2**62).map(lambda ns: rfc3339(ns).encode() + b" ")
texts = st.binary(max_size=12).map(lambda text: text.replace(b"\n", b"\r"))
lines = st.builds(bytes.__add__, stamps | st.just(b""), texts)
slices = (
    st.builds(
        lambda lines, ended: lines_slice(*lines, ended=ended),
        st.lists(lines, min_size=1, max_size=12),
        st.booleans(),
    )
    | st.builds(part_slice, st.builds(bytes.__add__, stamps, texts), st.integers(1, 3))
    | st.builds(gap_slice)
)


# From frames --------------------------------------------------------------------------------------


def test_lines_are_handed_over_as_they_came_and_decoded_on_demand() -> None:
    raw = b"no stamp\n" + STAMPED + b"text\n" + b"cont\n"
    one = make_slice(frame(FrameKind.LINES, raw, lines=3), STREAM)
    assert (one.raw, one.first_line, one.line_count, one.part) == (raw, 40, 3, 0)
    assert list(one.columns.stamps_ns) == [FIRST_NS, STAMP_NS, STAMP_NS]
    assert list(one.columns.texts) == [b"no stamp", b"text", b"cont"]


@pytest.mark.parametrize(
    ("part", "raw", "text"),
    [
        (1, STAMPED + b"begin", b"begin"),
        (2, STAMPED + b"middle", STAMPED + b"middle"),
        (3, b"end\n", b"end"),
    ],
)
def test_only_the_first_part_of_a_line_has_a_stamp(part: int, raw: bytes, text: bytes) -> None:
    one = part_slice(raw, part)
    assert (one.part, one.line_count) == (part, 1)
    assert list(one.columns.stamps_ns) == [FIRST_NS]
    assert list(one.columns.texts) == [text]


def test_a_gap_record_is_no_line() -> None:
    gap = {"cause": "anchor_lost", "after_line": 39}
    one = make_slice(frame(FrameKind.GAP, orjson.dumps(gap), lines=0), STREAM)
    assert one.gap == gap
    assert (one.raw, one.line_count, one.record_count, one.first_line) == (b"", 0, 1, 40)
    assert list(one.columns.texts) == []


def test_an_end_record_is_no_line_and_no_gap() -> None:
    one = make_slice(frame(FrameKind.END, b'{"state":"complete"}', lines=0), STREAM)
    assert (one.end, one.gap, one.line_count) == ({"state": "complete"}, None, 0)


def test_a_dead_letter_is_seen_as_its_frame_was() -> None:
    raw = b"no stamp\n" + STAMPED + b"text\n"
    letter = DeadLetter(1, FrameKind.LINES, 40, 2, FIRST_NS, 7, raw, "400", "poison", 9)
    of_frame = make_slice(frame(FrameKind.LINES, raw, lines=2), STREAM)
    assert records(make_slice(letter, STREAM)) == records(of_frame)


def test_a_stream_is_described_by_one_object_until_its_description_changes() -> None:
    streams = Streams()
    one = StreamInfo(StreamKey("sbx-1", "main"), tags=("prod",))
    other = StreamInfo(StreamKey("sbx-1", "main"), display_name="new", tags=("prod",))
    assert streams.get(one) == Stream("sbx-1", "main", tags=("prod",))
    assert streams.get(one) is streams.get(one)
    assert streams.get(other) == Stream("sbx-1", "main", "new", tags=("prod",))


# Pieces -------------------------------------------------------------------------------------------


@given(source=slices, max_records=st.integers(1, 6), max_bytes=st.integers(1, 90))
@settings(max_examples=200, deadline=None)
def test_the_pieces_of_a_slice_are_the_same_records_within_the_limits(
    source: Slice, max_records: int, max_bytes: int
) -> None:
    pieces = list(split(source, max_records=max_records, max_bytes=max_bytes))
    assert b"".join(piece.raw for piece in pieces) == source.raw
    assert records(*pieces) == records(source)
    for piece in pieces:
        assert piece.record_count <= max_records
        assert len(piece.raw) <= max_bytes or piece.record_count == 1
    for piece, after in pairwise(pieces):
        next_line = after.raw.split(b"\n")[0] + b"\n"
        too_many = piece.record_count == max_records
        assert too_many or len(piece.raw) + len(next_line) > max_bytes, "pieces are full"


@given(source=slices, data=st.data())
@settings(max_examples=100, deadline=None)
def test_a_cut_has_exactly_its_records_with_their_stamps(
    source: Slice, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, source.record_count - 1))
    stop = data.draw(st.integers(start + 1, source.record_count))
    assert records(cut(source, start, stop)) == records(source)[start:stop]


@given(sources=st.lists(slices, min_size=1, max_size=5), data=st.data())
@settings(max_examples=150, deadline=None)
def test_picked_records_are_the_same_records_and_so_are_those_picked_from_them(
    sources: list[Slice], data: st.DataObject
) -> None:
    whole = Batch(3, 8, sources)
    count = whole.record_count
    indices = sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=1)))
    part = pick(whole, indices)
    expected = [records(*sources)[index] for index in indices]
    assert records(*part.slices) == expected
    assert (part.first_id, part.last_id, part.record_count) == (3, 8, len(indices))
    assert records(*pickle.loads(pickle.dumps(part)).slices) == expected
    again = sorted(data.draw(st.sets(st.integers(0, len(indices) - 1), min_size=1)))
    assert records(*pick(part, again).slices) == [expected[index] for index in again]


@given(sources=st.lists(slices, min_size=1, max_size=5))
@settings(max_examples=50, deadline=None)
def test_the_sizes_of_all_records_are_known(sources: list[Slice]) -> None:
    batch = Batch(1, 9, sources)
    sizes = record_sizes(batch)
    assert len(sizes) == batch.record_count
    newlines = sum(source.raw.count(b"\n") for source in sources)
    assert batch.raw_bytes - newlines <= sum(sizes) <= batch.raw_bytes


def test_a_line_without_a_stamp_keeps_the_stamp_of_a_line_in_another_piece() -> None:
    source = lines_slice(STAMPED + b"a", b"b", b"c")
    pieces = list(split(source, max_records=1, max_bytes=1000))
    assert [list(piece.columns.stamps_ns) for piece in pieces] == [[STAMP_NS]] * 3


def test_a_part_that_is_too_large_stays_what_it_is() -> None:
    source = part_slice(STAMPED + b"looks like a stamp, and is text", 2)
    (piece,) = split(source, max_records=1, max_bytes=3)
    assert piece is source
