"""Which lines of a frame are in a range, and how they are sent."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest

from forwarder.model import Frame, FrameKind
from forwarder.parcels import Limits
from forwarder.ranges import pack, within
from forwarder.slices import make_slice
from sinks.interface import Slice, Stream

STREAM = Stream("sbx-1", "main")


def stamp(second: int, ns: int = 0) -> bytes:
    return b"2026-01-02T03:04:%02d.%09dZ" % (second, ns)


#: 2026-01-02T03:04:00Z
BASE_NS = 1_767_323_040_000_000_000


def at(second: int, ns: int = 0) -> int:
    return BASE_NS + second * 1_000_000_000 + ns


def frame(
    raw: bytes, *, kind: FrameKind = FrameKind.LINES, first_ns: int = 0, last_ns: int = 0
) -> Frame:
    lines = len(raw.splitlines()) if kind.holds_lines else 0
    return Frame(1, 1, kind, raw, 10, lines, 0, first_ns, last_ns, 7, lines)


def chosen(source: Frame, since_ns: int, until_ns: int | None) -> list[Slice]:
    return within(source, make_slice(source, STREAM), since_ns, until_ns)


def numbers(pieces: list[Slice]) -> list[int]:
    return [one.first_line + index for one in pieces for index in range(one.line_count)]


FOUR = b"".join(stamp(second) + b" text\n" for second in (1, 2, 2, 3))


@pytest.mark.parametrize(
    ("since_ns", "until_ns", "expected"),
    [
        (0, None, [10, 11, 12, 13]),
        (at(2), None, [11, 12, 13]),
        (at(2, 1), None, [13]),
        (at(1), at(2), [10]),
        (at(1), at(2, 1), [10, 11, 12]),
        (at(2), at(3), [11, 12]),
        (at(3, 1), None, []),
        (0, at(1), []),
    ],
)
def test_both_ends_are_exact_to_the_nanosecond(
    since_ns: int, until_ns: int | None, expected: list[int]
) -> None:
    pieces = chosen(frame(FOUR), since_ns, until_ns)
    assert numbers(pieces) == expected
    assert b"".join(one.raw for one in pieces).count(b"\n") == len(expected)


def test_a_frame_that_is_in_it_as_a_whole_is_not_touched() -> None:
    source = frame(FOUR)
    original = make_slice(source, STREAM)
    assert within(source, original, 0, None) == [original]


def test_lines_that_are_out_of_order_are_found_one_by_one() -> None:
    raw = b"".join(stamp(second) + b" text\n" for second in (5, 1, 5, 1))
    assert numbers(chosen(frame(raw), at(2), at(9))) == [10, 12]


def test_a_line_without_a_stamp_counts_as_the_one_before_it() -> None:
    raw = stamp(1) + b" one\nmore of it\n" + stamp(3) + b" two\nrest of it\n"
    (piece,) = chosen(frame(raw), at(2), None)
    assert (piece.first_line, [*piece.columns.texts]) == (12, [b"two", b"rest of it"])
    (piece,) = chosen(frame(raw), 0, at(2))
    assert [*piece.columns.stamps_ns] == [at(1), at(1)]
    (piece,) = chosen(frame(b"no stamp\n", first_ns=at(7)), at(7), at(8))
    assert [*piece.columns.stamps_ns] == [at(7)]


def test_every_part_of_a_long_line_has_the_stamp_of_the_line() -> None:
    part = replace(frame(b"rest\n", kind=FrameKind.PART, first_ns=at(4)), part=2)
    assert len(chosen(part, at(4), at(5))) == 1
    assert chosen(part, at(5), None) == []


@pytest.mark.parametrize(
    ("since_ns", "until_ns", "meets"),
    [
        (at(1), at(2), True),
        (at(3), None, True),
        (at(3, 1), None, False),
        (0, at(1), False),
        (at(2), at(2, 5), True),
    ],
)
def test_a_record_of_ours_is_taken_when_the_range_meets_what_it_stands_between(
    since_ns: int, until_ns: int | None, meets: bool
) -> None:
    raw = orjson.dumps({"cause": "x"})
    gap = frame(raw, kind=FrameKind.GAP, first_ns=at(1), last_ns=at(3))
    assert bool(chosen(gap, since_ns, until_ns)) is meets


def test_what_is_sent_is_within_the_limits_of_the_sink() -> None:
    slices = [make_slice(frame(FOUR), STREAM) for _ in range(3)]
    groups = list(pack(slices, Limits(5, 1 << 20)))
    assert [sum(one.record_count for one in group) for group in groups] == [4, 4, 4]
    size = len(FOUR) // 4
    groups = list(pack(slices, Limits(100, size * 3)))
    assert [sum(len(one.raw) for one in group) // size for group in groups] == [3, 1, 3, 1, 3, 1]
    assert list(pack([], Limits(1, 1))) == []


def test_a_single_record_that_is_too_large_goes_alone() -> None:
    groups = list(pack([make_slice(frame(FOUR), STREAM)], Limits(100, 1)))
    assert [sum(one.record_count for one in group) for group in groups] == [1, 1, 1, 1]
