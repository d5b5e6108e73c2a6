from __future__ import annotations

import pytest

from forwarder.model import Block, FrameKind
from forwarder.source import lines as module
from forwarder.source.lines import LineCutter

#: 2026-01-02T03:04:05Z
SECOND = 1_767_323_045 * 1_000_000_000
STAMP = b"2026-01-02T03:04:05Z "


def cut(*pieces: bytes, max_line_bytes: int = 1000) -> list[Block]:
    """The blocks when everything is taken after each piece, and at the end."""
    cutter = LineCutter(max_line_bytes)
    blocks: list[Block] = []
    for piece in pieces:
        cutter.feed(piece)
        blocks += cutter.take()
    return blocks + cutter.finish()


def raws(blocks: list[Block]) -> list[tuple[int, bytes]]:
    return [(block.part, block.raw) for block in blocks]


def test_nothing_fed_is_nothing_taken() -> None:
    cutter = LineCutter(10)
    assert cutter.take() == []
    assert cutter.finish() == []


def test_an_unfinished_line_waits_for_its_end() -> None:
    cutter = LineCutter(1000)
    cutter.feed(b"one\ntw")
    assert raws(cutter.take()) == [(0, b"one\n")]
    assert cutter.take() == []
    assert cutter.buffered_bytes == 2
    cutter.feed(b"o\n")
    assert raws(cutter.take()) == [(0, b"two\n")]
    assert cutter.buffered_bytes == 0


def test_bytes_stay_bytes_also_where_a_character_is_cut_in_two() -> None:
    line = "2026-01-02T03:04:05Z naïve ☃\r\n".encode() + b"\xff\x00\n"
    for position in range(len(line)):
        assert b"".join(raw for _, raw in raws(cut(line[:position], line[position:]))) == line


def test_the_end_of_the_stream_ends_a_line_without_its_newline() -> None:
    blocks = cut(b"one\ntwo")
    assert raws(blocks) == [(0, b"one\n"), (0, b"two")]
    assert [block.lines for block in blocks] == [1, 1]


def test_a_block_counts_its_lines_and_knows_its_first_and_last_stamp() -> None:
    raw = STAMP + b"a\n" + b"2026-01-02T03:04:07Z b\n" + b"2026-01-02T03:04:06Z c\n"
    assert cut(raw) == [Block(FrameKind.LINES, raw, 3, 0, SECOND, SECOND + 1_000_000_000)]


def test_a_line_without_a_stamp_takes_the_one_before_it_also_across_blocks() -> None:
    first, second = cut(STAMP + b"a\nbare\n\n", b"bare\n" + b"2026-01-02T03:04:06Z b\nbare\n")
    assert (first.first_stamp_ns, first.last_stamp_ns) == (SECOND, SECOND)
    assert (second.first_stamp_ns, second.last_stamp_ns) == (SECOND, SECOND + 1_000_000_000)


def test_stamps_and_parts_go_on_where_the_position_says() -> None:
    cutter = LineCutter(4, open_part=2, last_stamp_ns=7)
    cutter.feed(b"rest\nbare")
    assert cutter.take() == [Block(FrameKind.PART, b"rest\n", 1, 3, 7, 7)]
    assert cutter.finish() == [Block(FrameKind.LINES, b"bare", 1, 0, 7, 7)]


@pytest.mark.parametrize(
    ("size", "parts"),
    [
        (9, [(0, b"x" * 9 + b"\n")]),
        (10, [(0, b"x" * 10 + b"\n")]),
        (11, [(1, b"x" * 10), (2, b"x\n")]),
        (20, [(1, b"x" * 10), (2, b"x" * 10 + b"\n")]),
        (21, [(1, b"x" * 10), (2, b"x" * 10), (3, b"x\n")]),
    ],
)
def test_a_line_longer_than_the_limit_is_cut_into_numbered_parts(
    size: int, parts: list[tuple[int, bytes]]
) -> None:
    line = b"x" * size + b"\n"
    assert raws(cut(line, max_line_bytes=10)) == parts
    assert raws(cut(*(bytes([byte]) for byte in line), max_line_bytes=10)) == parts
    around = raws(cut(b"a\nb\n" + line + b"c\n", max_line_bytes=10))
    if parts[0][0]:
        assert around == [(0, b"a\nb\n"), *parts, (0, b"c\n")]
    else:
        assert around == [(0, b"a\nb\n" + line + b"c\n")]


def test_a_part_is_cut_only_when_it_is_known_that_the_line_goes_on() -> None:
    cutter = LineCutter(10)
    cutter.feed(b"x" * 10)
    assert cutter.take() == []
    cutter.feed(b"y")
    assert raws(cutter.take()) == [(1, b"x" * 10)]
    assert cutter.open_part == 1
    assert raws(cutter.finish()) == [(2, b"y")]


def test_every_part_has_the_stamp_of_its_line() -> None:
    blocks = cut(b"2026-01-02T03:04:05Z 67890" * 2 + b"\n", max_line_bytes=26)
    assert [(one.part, one.first_stamp_ns, one.last_stamp_ns) for one in blocks] == [
        (1, SECOND, SECOND),
        (2, SECOND, SECOND),
    ]


def test_a_stamp_inside_a_long_line_is_text() -> None:
    line = b"bare".ljust(30, b".") + STAMP.ljust(30, b".") + b"\n"
    assert [one.first_stamp_ns for one in cut(line, max_line_bytes=30)] == [0, 0]


def test_a_long_line_without_a_stamp_takes_the_one_before_it() -> None:
    blocks = cut(STAMP + b"\n" + b"x" * 100 + b"\n", max_line_bytes=60)
    assert [one.first_stamp_ns for one in blocks] == [SECOND] * 3


def test_a_block_ends_at_a_line_near_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", 8)
    assert raws(cut(b"abc\ndef\nghi\nj\n")) == [(0, b"abc\ndef\n"), (0, b"ghi\nj\n")]
    # A line that is longer than a block is a block of its own, as long as it is no longer than
    # a line may be.
    assert raws(cut(b"a\nlonger than that\nb\n")) == [
        (0, b"a\n"),
        (0, b"longer than that\n"),
        (0, b"b\n"),
    ]


def test_much_that_was_fed_at_once_is_taken_a_block_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", 8)
    cutter = LineCutter(1000)
    for piece in (b"abc\nde", b"f\ngh", b"i\n", b"no line's end ", b"here", b"\nj\nk"):
        cutter.feed(piece)
    assert raws(cutter.take()) == [
        (0, b"abc\n"),
        (0, b"def\nghi\n"),
        (0, b"no line's end here\n"),
        (0, b"j\n"),
    ]
    assert cutter.buffered_bytes == 1
    assert raws(cutter.finish()) == [(0, b"k")]


def test_a_long_line_does_not_hold_up_the_lines_before_it() -> None:
    assert raws(cut(b"a\nb\n" + b"x" * 25 + b"\nc\nd\n", max_line_bytes=10)) == [
        (0, b"a\nb\n"),
        (1, b"x" * 10),
        (2, b"x" * 10),
        (3, b"xxxxx\n"),
        (0, b"c\nd\n"),
    ]
    assert raws(cut(b"a\nbb\n" + b"x" * 11 + b"\n", max_line_bytes=10))[0] == (0, b"a\nbb\n")


def test_a_newline_alone_is_a_line() -> None:
    (block,) = cut(b"\n\n\n", max_line_bytes=1)
    assert (block.raw, block.lines) == (b"\n\n\n", 3)
