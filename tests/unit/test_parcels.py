from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.model import Frame, FrameKind
from forwarder.parcels import Limits, Parcel, fill, make_parcels
from forwarder.slices import make_slice
from sinks.interface import Stream

STREAM = Stream("sbx-1", "main")


def frames_of(texts: list[list[bytes]]) -> list[Frame]:
    """A frame for each list of lines; a gap record for an empty one."""
    frames, at = [], 0
    for index, lines in enumerate(texts):
        kind = FrameKind.LINES if lines else FrameKind.GAP
        raw = b"".join(line + b"\n" for line in lines) or b'{"cause":"anchor_lost"}'
        stream_id = 1 + index % 2
        frames.append(Frame(index + 1, stream_id, kind, raw, at, len(lines), 0, 5, 5, 7, at))
        at += len(lines)
    return frames


def parcels_of(frames: list[Frame], limits: Limits) -> list[Parcel]:
    """Everything, as the engine makes batches of it."""
    parcels: list[Parcel] = []
    while frames:
        count = fill(frames, limits).count
        pairs = [(frame, make_slice(frame, STREAM)) for frame in frames[:count]]
        parcels += make_parcels(pairs, limits)
        frames = frames[count:]
    return parcels


line_lists = st.lists(
    st.lists(st.binary(max_size=6).map(lambda text: text.replace(b"\n", b"-")), max_size=5),
    min_size=1,
    max_size=12,
)
limits = st.builds(Limits, st.integers(1, 8), st.integers(1, 30))


@given(texts=line_lists, limits=limits)
@settings(max_examples=150, deadline=None)
def test_batches_are_all_records_in_order_within_the_limits_and_as_full_as_they_may_be(
    texts: list[list[bytes]], limits: Limits
) -> None:
    frames = frames_of(texts)
    parcels = parcels_of(frames, limits)
    slices = [(parcel, one) for parcel in parcels for one in parcel.batch.slices]
    assert [one.raw for _, one in slices if one.gap is None] != [b""]
    assert b"".join(one.raw for _, one in slices) == b"".join(
        frame.raw for frame in frames if frame.kind.holds_lines
    )
    assert sum(one.record_count for _, one in slices) == sum(max(1, one.lines) for one in frames)
    for parcel in parcels:
        batch = parcel.batch
        assert batch.record_count <= limits.max_records
        assert batch.raw_bytes <= limits.max_bytes or batch.record_count == 1
        assert len(parcel.stream_ids) == len(batch.slices)
        assert parcel.through_id in {0, batch.last_id}
    assert [parcel.through_id for parcel in parcels if parcel.through_id] == sorted(
        {parcel.batch.last_id for parcel in parcels}
    )
    for one, after in pairwise(parcels):
        if one.through_id and one.batch.first_id != after.batch.first_id:
            following = frames[after.batch.first_id - 1]
            with_it = [*frames[one.batch.first_id - 1 : one.batch.last_id], following]
            assert fill(with_it, limits).count < len(with_it) or not after.through_id


@given(texts=line_lists, limits=limits)
@settings(max_examples=50, deadline=None)
def test_from_any_place_of_the_cursor_the_same_batches_follow(
    texts: list[list[bytes]], limits: Limits
) -> None:
    frames = frames_of(texts)
    parcels = parcels_of(frames, limits)
    for index, parcel in enumerate(parcels):
        if parcel.through_id:
            again = parcels_of(frames[parcel.through_id :], limits)
            assert [one.batch for one in again] == [one.batch for one in parcels[index + 1 :]]


def test_a_frame_that_is_too_large_moves_the_cursor_with_its_last_piece() -> None:
    parcels = parcels_of(frames_of([[b"a"], [b"b"] * 5, [b"c"]]), Limits(2, 1000))
    assert [(one.batch.record_count, one.through_id) for one in parcels] == [
        *((1, 1), (2, 0), (2, 0), (1, 2)),
        (1, 3),
    ]


def test_frames_that_belong_together_stay_so_whatever_the_limits_are() -> None:
    pairs = [(frame, make_slice(frame, STREAM)) for frame in frames_of([[b"a"] * 3, [], [b"b"]])]
    (parcel,) = make_parcels(pairs, Limits(1, 1))
    assert (parcel.batch.first_id, parcel.batch.last_id, parcel.through_id) == (1, 3, 3)
    assert parcel.stream_ids == [1, 2, 1]
    assert make_parcels([], Limits(1, 1)) == []


def test_a_batch_that_has_room_says_how_much() -> None:
    frames = frames_of([[b"1234"], [], [b"12"]])
    assert fill(frames, Limits(9, 100)) == fill(frames, Limits(4, 100))
    assert (fill(frames, Limits(9, 100)).left_bytes, fill([], Limits(1, 7)).left_bytes) == (92, 7)
    assert [fill(frames, Limits(records, 100)).full for records in (2, 3, 4)] == [True, True, False]
    assert fill(frames, Limits(9, 8)).full
    assert fill(frames, Limits(9, 7)).count == 2
