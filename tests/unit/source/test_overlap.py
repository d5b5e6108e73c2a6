from __future__ import annotations

from typing import TYPE_CHECKING

from forwarder.model import Block, FrameKind
from forwarder.source import overlap as module
from forwarder.source.lines import LineCutter
from forwarder.source.overlap import Overlap, Taken
from forwarder.stamps import format_stamp

if TYPE_CHECKING:
    import pytest

FAR_NS = 1 << 62


def line(second: int, text: str = "") -> bytes:
    return f"{format_stamp(second * 1_000_000_000)} {text}\n".encode()


def blocks(raw: bytes, max_line_bytes: int = 1000) -> list[Block]:
    cutter = LineCutter(max_line_bytes)
    cutter.feed(raw)
    return [*cutter.take(), *cutter.finish()]


def taken(*raws: bytes, max_line_bytes: int = 1000) -> list[Taken]:
    return [
        Taken(one.kind, one.part, one.raw) for raw in raws for one in blocks(raw, max_line_bytes)
    ]


def fresh(overlap: Overlap, raw: bytes, max_line_bytes: int = 1000) -> bytes:
    found = [new for block in blocks(raw, max_line_bytes) for new in overlap.remove(block)]
    for block in found:
        # A block knows its own stamps and lines, also when lines were taken out of it.
        assert block.lines == (1 if block.part else len(block.raw.splitlines()))
    return b"".join(block.raw for block in found)


def test_what_was_taken_is_removed_and_the_rest_is_kept_in_order() -> None:
    overlap = Overlap(taken(line(1, "a") + line(2, "b")), until_ns=FAR_NS)
    assert fresh(overlap, line(1, "a") + line(2, "b") + line(3, "c") + line(2, "d")) == (
        line(3, "c") + line(2, "d")
    )
    assert (overlap.removed, overlap.lost, overlap.done) == (2, False, True)


def test_equal_lines_are_counted() -> None:
    overlap = Overlap(taken(line(1, "a") * 3), until_ns=FAR_NS)
    assert fresh(overlap, line(1, "a") * 5) == line(1, "a") * 2


def test_a_line_is_not_removed_for_its_stamp_nor_for_its_text_alone() -> None:
    overlap = Overlap(taken(line(1, "a")), until_ns=FAR_NS)
    assert fresh(overlap, line(1, "a") + line(1, "b") + line(2, "a")) == line(1, "b") + line(2, "a")


def test_equal_lines_are_counted_in_any_order() -> None:
    old = line(5, "a") * 2 + line(6, "b")
    overlap = Overlap(taken(old), until_ns=FAR_NS)
    assert fresh(overlap, line(6, "b") + line(5, "a") * 3) == line(5, "a")
    assert overlap.done


def test_a_re_read_may_begin_in_the_middle_of_what_was_taken_and_in_another_order() -> None:
    old = [line(5, "a"), line(3, "b"), line(4, "c"), line(6, "d")]
    overlap = Overlap(taken(b"".join(old)), until_ns=FAR_NS)
    assert fresh(overlap, old[3] + old[2] + line(7, "new")) == line(7, "new")
    assert not overlap.lost
    assert not overlap.done


def test_a_new_line_before_any_that_was_taken_means_that_something_is_lost() -> None:
    overlap = Overlap(taken(line(1, "a")), until_ns=FAR_NS)
    assert not overlap.lost
    assert fresh(overlap, line(3, "c")) == line(3, "c")
    assert overlap.lost


def test_a_new_line_in_front_of_one_that_was_taken_tells_of_a_loss_and_is_kept() -> None:
    overlap = Overlap(taken(line(1, "a")), until_ns=FAR_NS)
    assert fresh(overlap, line(3, "c") + line(1, "a")) == line(3, "c")
    assert overlap.lost


def test_where_nothing_was_taken_nothing_is_lost() -> None:
    overlap = Overlap([], until_ns=FAR_NS)
    assert fresh(overlap, line(3, "c")) == line(3, "c")
    assert (overlap.lost, overlap.done, overlap.unmet) == (False, True, False)


def test_gap_records_are_never_compared() -> None:
    overlap = Overlap([Taken(FrameKind.GAP, 0, line(1, "a"))], until_ns=FAR_NS)
    assert fresh(overlap, line(1, "a")) == line(1, "a")


def test_beyond_the_last_stamp_everything_is_new() -> None:
    overlap = Overlap(taken(line(1, "a") + line(2, "b")), until_ns=5_000_000_000)
    assert fresh(overlap, line(1, "a")) == b""
    assert fresh(overlap, line(5, "c")) == line(5, "c")
    assert not overlap.done
    assert fresh(overlap, line(6, "d") + line(2, "b")) == line(6, "d") + line(2, "b")
    assert overlap.done
    assert not overlap.lost


def test_a_re_read_that_begins_beyond_all_that_was_taken_tells_of_a_loss() -> None:
    overlap = Overlap(taken(line(1, "a")), until_ns=5_000_000_000)
    assert fresh(overlap, line(6, "d")) == line(6, "d")
    assert overlap.lost


def test_a_last_line_that_still_lacks_its_newline_is_compared_with_the_whole_one() -> None:
    overlap = Overlap(taken(line(1, "a") + line(2, "b").rstrip(b"\n")), until_ns=FAR_NS)
    assert fresh(overlap, line(1, "a") + line(2, "b")) == b""
    overlap = Overlap(taken(line(1, "a") + line(2, "b")), until_ns=FAR_NS)
    unfinished = line(2, "b").rstrip(b"\n")
    mixed = Block(FrameKind.LINES, line(1, "c") + unfinished, 2, 0, 10**9, 2 * 10**9)
    # Its newline belongs to the line that is kept.
    assert [one.raw for one in overlap.remove(mixed)] == [line(1, "c")]


def test_a_block_of_which_lines_were_removed_has_the_stamps_of_those_that_are_left() -> None:
    overlap = Overlap(taken(line(1, "a"), line(9, "z")), until_ns=FAR_NS)
    raw = line(1, "a") + line(4, "b") + b"bare\n" + line(9, "z")
    (new,) = overlap.remove(blocks(raw)[0])
    assert new == Block(
        FrameKind.LINES, line(4, "b") + b"bare\n", 2, 0, 4_000_000_000, 4_000_000_000
    )


# Records without a stamp of their own -------------------------------------------------------------


def test_a_line_without_a_stamp_is_removed_in_its_place() -> None:
    old = line(1, "a") + b"bare\n" + line(2, "b") + b"bare\nbare\n"
    overlap = Overlap(taken(old), until_ns=FAR_NS)
    assert fresh(overlap, old + b"bare\n") == b"bare\n"


def test_a_new_line_without_a_stamp_is_not_mistaken_for_an_old_one_that_was_left_out() -> None:
    overlap = Overlap(taken(line(1, "a") + b"bare\n" + line(5, "b")), until_ns=FAR_NS)
    assert fresh(overlap, line(5, "b") + b"bare\n") == b"bare\n"


def test_after_a_new_line_none_without_a_stamp_is_an_old_one() -> None:
    overlap = Overlap(taken(line(5, "b") + line(1, "late") + b"bare\n"), until_ns=FAR_NS)
    assert fresh(overlap, line(5, "b") + line(6, "c") + b"bare\n") == line(6, "c") + b"bare\n"


def test_the_parts_of_a_new_long_line_are_not_mistaken_for_those_of_one_like_it() -> None:
    old = line(1, "x" * 60)
    new = line(9, "x" * 60)
    overlap = Overlap(taken(old, line(5, "b"), max_line_bytes=40), until_ns=FAR_NS)
    assert fresh(overlap, line(5, "b") + new, 40) == new
    overlap = Overlap(taken(old, max_line_bytes=40), until_ns=FAR_NS)
    assert fresh(overlap, old + new, 40) == new


def test_the_parts_of_an_unfinished_long_line_are_removed_and_its_rest_is_new() -> None:
    long = line(1, "x" * 100)
    overlap = Overlap(taken(long, max_line_bytes=40)[:2], until_ns=FAR_NS)
    assert fresh(overlap, long, 40) == long[80:]


# A tail that was cut short ------------------------------------------------------------------------


def test_lines_older_than_what_is_known_are_taken_for_old_when_a_known_line_follows() -> None:
    known = line(5, "k1") + line(6, "k2")
    overlap = Overlap(taken(known), until_ns=FAR_NS, tail_from_ns=5_000_000_000)
    # Out of order, so that stamps alone would tell nothing.
    assert fresh(overlap, line(4, "old") + line(7, "old too")) == b""
    assert fresh(overlap, line(8, "old as well") + known + line(9, "new")) == line(9, "new")
    assert (overlap.removed, overlap.lost) == (2, False)


def test_without_any_known_line_everything_that_was_held_back_is_new() -> None:
    overlap = Overlap(taken(line(5, "k")), until_ns=9_000_000_000, tail_from_ns=5_000_000_000)
    assert fresh(overlap, line(7, "a") + line(8, "b")) == b""
    assert fresh(overlap, line(10, "c")) == line(7, "a") + line(8, "b") + line(10, "c")
    assert overlap.lost
    assert overlap.done


def test_at_the_end_everything_that_was_held_back_is_new() -> None:
    overlap = Overlap(taken(line(5, "k")), until_ns=FAR_NS, tail_from_ns=5_000_000_000)
    assert fresh(overlap, line(4, "old") + line(7, "a")) == b""
    assert b"".join(one.raw for one in overlap.end()) == line(7, "a")
    assert overlap.lost


def test_no_more_is_held_back_than_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HOLD_BYTES", 50)
    overlap = Overlap(taken(line(5, "k")), until_ns=FAR_NS, tail_from_ns=5_000_000_000)
    assert fresh(overlap, line(7, "a")) == b""
    assert fresh(overlap, line(8, "b")) == line(7, "a") + line(8, "b")
    assert overlap.lost
    assert fresh(overlap, line(8, "c")) == line(8, "c")


def test_only_a_line_with_its_own_stamp_is_certain_to_be_the_known_one() -> None:
    tail = taken(b"bare\n" + line(6, "k"))
    overlap = Overlap(tail, until_ns=FAR_NS, tail_from_ns=5_000_000_000)
    assert fresh(overlap, line(4, "old") + b"bare\n" + line(6, "k") + b"bare\n") == b"bare\n"
    only_bare = Overlap(taken(b"bare\n"), until_ns=FAR_NS, tail_from_ns=5_000_000_000)
    assert fresh(only_bare, line(4, "old") + b"bare\n" + b"bare\n") == b"bare\n"


def test_lines_without_any_stamp_are_old_when_a_known_line_follows_and_else_new() -> None:
    known = b"k1\nk2\n"
    overlap = Overlap(taken(known), until_ns=FAR_NS, cut_short=True)
    assert fresh(overlap, b"old\nold too\n" + known + b"new\n") == b"new\n"
    assert (overlap.removed, overlap.lost) == (2, False)
    overlap = Overlap(taken(known), until_ns=FAR_NS, cut_short=True)
    assert fresh(overlap, b"a\nb\n") == b""
    assert b"".join(one.raw for one in overlap.end()) == b"a\nb\n"
    assert overlap.lost


def test_the_parts_of_a_long_line_are_searched_as_well() -> None:
    old, known = line(4, "o" * 60), line(5, "k" * 60)
    tail = taken(known, max_line_bytes=40)
    overlap = Overlap(tail, until_ns=FAR_NS, tail_from_ns=5_000_000_000)
    assert fresh(overlap, old + known + line(6, "new"), 40) == line(6, "new")


# The beginning of a line --------------------------------------------------------------------------


def beginning(raw: bytes, part: int = 0) -> Block:
    return Block(FrameKind.PART if part else FrameKind.LINES, raw, 1, part, 0, 0)


def test_the_beginning_of_a_line_may_be_that_of_one_that_was_taken_and_not_met_yet() -> None:
    old = line(1, "first") + line(2, "second")
    overlap = Overlap(taken(old), until_ns=FAR_NS)
    assert overlap.may_be_taken(beginning(line(2, "sec").rstrip(b"\n")))
    assert fresh(overlap, old) == b""
    assert not overlap.may_be_taken(beginning(line(2, "sec").rstrip(b"\n")))
    assert not overlap.may_be_taken(beginning(line(1, "x").rstrip(b"\n")))


def test_the_beginning_of_a_long_line_is_that_of_its_first_part() -> None:
    overlap = Overlap(taken(line(1, "x" * 60), max_line_bytes=40), until_ns=FAR_NS)
    assert overlap.may_be_taken(beginning(line(1, "xx").rstrip(b"\n")))
    assert overlap.may_be_taken(beginning(b"xx", part=2))
    assert not overlap.may_be_taken(beginning(b"xx", part=4))
