from __future__ import annotations

import orjson
import pytest

from forwarder.model import Checkpoint, FrameKind, GapCause
from forwarder.source.overlap import Taken
from forwarder.source.resume import SECOND_NS, SessionLostError
from forwarder.spool.interface import Tail
from forwarder.stamps import format_stamp
from forwarder.taker import MISTRUST_AFTER, Reopening, Take, Taker
from tests.fakes.log_server import Entry

OVERLAP_NS = 10 * SECOND_NS
NOW_NS = 777


def line(second: float, text: str = "") -> bytes:
    return f"{format_stamp(int(second * SECOND_NS))} {text}\n".encode()


class Stream:
    """A taker with everything that was taken, as the spool would hold it."""

    def __init__(self, checkpoint: Checkpoint | None = None, *, max_line_bytes: int = 1000) -> None:
        self.taker = Taker(
            checkpoint or Checkpoint(), max_line_bytes=max_line_bytes, overlap_ns=OVERLAP_NS
        )
        self.records: list[tuple[FrameKind, bytes]] = []
        self.numbers: list[int] = []
        self.taken: list[Taken] = []
        self.causes: list[GapCause] = []
        self.filled: list[GapCause] = []

    def store(self, take: Take | None) -> None:
        for frame in take.frames if take else ():
            assert frame.received_ns == NOW_NS
            self.records.append((frame.kind, frame.raw))
            self.numbers.append(frame.first_line)
            if frame.kind.holds_lines:
                self.taken.append(Taken(frame.kind, frame.part, frame.raw))
        for gap in take.gaps if take else ():
            (self.filled if gap.filled_ns else self.causes).append(gap.cause)

    def read(self, *pieces: bytes, session_id: str = "", begin: int = 0) -> None:
        for piece in pieces:
            begin += len(piece)
            self.taker.receive([Entry(piece, session_id, begin if session_id else 0)])
        self.take()

    def take(self) -> None:
        self.store(self.taker.take(NOW_NS))

    def reopen(
        self, from_ns: int = 0, reopening: Reopening | None = None, *, cut_short: bool = False
    ) -> None:
        self.take()
        tail = Tail(self.taken, from_ns, cut_short=cut_short)
        self.taker.reopen(tail, reopening or Reopening())

    def finish(self, *, read_to_end: bool = True) -> None:
        self.store(self.taker.finish(NOW_NS, read_to_end=read_to_end))

    @property
    def text(self) -> bytes:
        return b"".join(raw for kind, raw in self.records if kind.holds_lines)

    @property
    def shown(self) -> list[bytes | str]:
        """The records; a gap by its cause, one that was filled with a `+` before it."""
        return [
            raw if kind.holds_lines else "+" * bool(gap["filled_ns"]) + gap["cause"]
            for kind, raw in self.records
            for gap in [orjson.loads(raw) if not kind.holds_lines else {}]
        ]


# Taking -------------------------------------------------------------------------------------------


def test_whole_lines_become_a_frame_with_its_place_in_the_stream() -> None:
    taker = Taker(Checkpoint(5, 0, 1, 2), max_line_bytes=1000, overlap_ns=OVERLAP_NS)
    raw = line(8, "a") + line(9, "b") + line(7, "c")
    assert taker.receive([Entry(raw[:50], "s", 50), Entry(raw[50:] + b"2026-", "s", 104)]) == 104
    take = taker.take(NOW_NS)
    assert take is not None
    (frame,) = take.frames
    assert (frame.kind, frame.raw, frame.first_line, frame.lines) == (FrameKind.LINES, raw, 5, 3)
    assert (frame.first_stamp_ns, frame.last_stamp_ns) == (8 * SECOND_NS, 7 * SECOND_NS)
    assert (frame.high_stamp_ns, frame.received_ns, frame.part) == (8 * SECOND_NS, NOW_NS, 0)
    assert take.gaps == []
    assert take.checkpoint == Checkpoint(8, 0, 7 * SECOND_NS, 8 * SECOND_NS, "s", 99)
    assert taker.checkpoint == take.checkpoint


def test_where_nothing_is_new_there_is_nothing_to_store() -> None:
    taker = Taker(Checkpoint(), max_line_bytes=1000, overlap_ns=OVERLAP_NS)
    assert taker.take(NOW_NS) is None
    assert taker.receive([]) == 0
    assert taker.receive([Entry(b"", "", 0)]) == 0
    assert taker.take(NOW_NS) is None
    assert taker.finish(NOW_NS) is None


def test_a_new_position_alone_is_stored_too() -> None:
    taker = Taker(Checkpoint(), max_line_bytes=1000, overlap_ns=OVERLAP_NS)
    taker.receive([Entry(b"unfinished", "s", 10)])
    take = taker.take(NOW_NS)
    assert take == Take([], [], Checkpoint(session_id="s", session_offset=0))
    assert taker.take(NOW_NS) is None


def test_the_highest_stamp_never_goes_back() -> None:
    stream = Stream(Checkpoint(1, 0, 9, 99 * SECOND_NS))
    stream.read(line(5))
    assert stream.taker.checkpoint == Checkpoint(2, 0, 5 * SECOND_NS, 99 * SECOND_NS)


def test_a_long_line_is_taken_in_parts_and_the_position_says_that_it_is_open() -> None:
    stream = Stream(max_line_bytes=40)
    stream.read(line(1, "x" * 60)[:85])
    assert [frame.part for frame in stream.taken] == [1, 2]
    assert (stream.taker.checkpoint.next_line, stream.taker.checkpoint.open_part) == (2, 2)
    later = Stream(stream.taker.checkpoint, max_line_bytes=40)
    later.read(line(1, "x" * 60)[80:])
    assert [frame.part for frame in later.taken] == [3]
    assert later.taker.checkpoint.open_part == 0
    assert stream.text + later.text == line(1, "x" * 60)


# Resuming the session -----------------------------------------------------------------------------


def test_a_resumed_session_goes_on_in_the_middle_of_a_line() -> None:
    raw = line(1, "one") + line(2, "two")
    stream = Stream()
    stream.read(raw[:50], session_id="s")
    assert stream.taker.session == ("s", 50)
    stream.taker.resume()
    stream.read(raw[50:], session_id="s", begin=50)
    assert stream.text == raw
    assert stream.taker.checkpoint.session_offset == len(raw)


def test_a_restart_resumes_at_the_last_line_that_was_stored() -> None:
    raw = line(1, "one") + line(2, "two")
    first = Stream()
    first.read(raw[:50], session_id="s")
    second = Stream(first.taker.checkpoint)
    assert second.taker.session == ("s", 35)
    second.taker.resume()
    second.read(raw[35:], session_id="s", begin=35)
    assert first.text + second.text == raw


def test_bytes_that_a_session_replays_are_recognised_over_several_connections() -> None:
    raw = line(1, "one") + line(2, "two") + line(3, "three")
    stream = Stream()
    stream.read(*(raw[at : at + 1] for at in range(80)), session_id="s")
    stream.taker.resume()
    stream.read(raw[10:90], session_id="s", begin=10)
    stream.taker.resume()
    stream.read(raw[20:], session_id="s", begin=20)
    assert stream.text == raw


def test_a_session_that_cannot_be_believed_loses_nothing_that_came_before() -> None:
    stream = Stream()
    with pytest.raises(SessionLostError):
        stream.taker.receive([Entry(line(1), "s", 32), Entry(line(2), "s", 99)])
    stream.take()
    assert stream.text == line(1)


def test_bytes_from_before_the_session_had_a_name_are_not_left_to_it() -> None:
    stream = Stream()
    stream.read(b"unfinished")
    stream.read(b" line", session_id="s")
    stream.read(b" is long", session_id="s", begin=5)
    assert stream.taker.session == ("s", 13)
    assert stream.taker.checkpoint.session_id == ""
    stream.read(b"\n", session_id="s", begin=13)
    assert stream.taker.checkpoint == Checkpoint(next_line=1, session_id="s", session_offset=14)


def disagree(stream: Stream) -> None:
    """A new stream, of which the second entry cannot follow the first."""
    stream.reopen()
    stream.taker.receive([Entry(line(1), "s", 32)])
    with pytest.raises(SessionLostError):
        stream.taker.receive([Entry(b"x", "s", 99)])


def test_offsets_that_disagree_on_every_stream_are_no_longer_looked_at() -> None:
    stream = Stream()
    stream.read(line(1))
    for _ in range(MISTRUST_AFTER):
        disagree(stream)
    stream.reopen()
    stream.read(line(1) + line(2), session_id="s", begin=50)
    stream.read(line(3), session_id="t", begin=1)
    assert stream.text == line(1) + line(2) + line(3)
    assert stream.taker.session[0] == ""


def test_offsets_are_believed_again_once_new_lines_were_taken() -> None:
    stream = Stream()
    stream.read(line(1))
    for _ in range(MISTRUST_AFTER):
        disagree(stream)
    stream.reopen()
    stream.read(line(1) + line(2))
    stream.reopen()
    stream.read(line(1), line(2), line(3), session_id="s")
    assert stream.taker.session == ("s", 96)


# Opening a new stream -----------------------------------------------------------------------------


def test_what_a_re_read_brings_again_is_taken_out() -> None:
    stream = Stream()
    stream.read(line(1) + line(2, "b"))
    stream.reopen()
    stream.read(line(1) + line(2, "b") + line(3, "c"))
    assert stream.text == line(1) + line(2, "b") + line(3, "c")
    assert stream.numbers == [0, 2]
    assert stream.taker.removed == 2
    assert stream.causes == []


def test_ten_thousand_lines_on_one_stamp_survive_a_lost_session_in_their_middle() -> None:
    raw = line(1, "equal") * 10_000
    stream = Stream()
    stream.read(raw[: 31 * 11_111])
    stream.reopen()
    stream.read(raw[:200_000])
    stream.read(raw[200_000:])
    assert stream.text == raw
    assert stream.taker.checkpoint.next_line == 10_000
    assert stream.causes == []


def test_no_session_is_stored_while_a_re_read_is_being_compared() -> None:
    stream = Stream()
    stream.read(line(1) + line(2, "b"), session_id="s")
    stream.reopen()
    stream.read(line(1), session_id="t")
    assert stream.taker.session == ("t", 32)
    assert stream.taker.checkpoint.session_id == ""
    stream.read(line(2, "b") + line(3), session_id="t", begin=32)
    assert stream.taker.checkpoint.session_id == "t"


def test_a_session_of_the_second_stream_is_resumed_while_it_is_still_being_compared() -> None:
    stream = Stream()
    stream.read(line(1) + line(2, "b"))
    stream.reopen()
    stream.read(line(1) + line(2)[:10], session_id="t")
    stream.taker.resume()
    stream.read(line(2, "b")[10:] + line(3), session_id="t", begin=42)
    assert stream.text == line(1) + line(2, "b") + line(3)


def test_lines_that_are_gone_are_a_gap_in_their_place() -> None:
    stream = Stream()
    stream.read(line(1, "a"))
    stream.reopen()
    stream.read(line(5, "e") + line(6, "f"))
    assert stream.shown == [line(1, "a"), "anchor_lost", line(5, "e") + line(6, "f")]
    assert stream.numbers == [0, 1, 1]
    gap = orjson.loads(stream.records[1][1])
    place = {key: gap[key] for key in ("after_line", "before_line", "from_stamp_ns", "to_stamp_ns")}
    assert place == {
        "after_line": 0,
        "before_line": 1,
        "from_stamp_ns": SECOND_NS,
        "to_stamp_ns": 5 * SECOND_NS,
    }


def test_a_gap_is_declared_once() -> None:
    stream = Stream()
    stream.read(line(1, "a"))
    stream.reopen()
    stream.read(line(5, "e"))
    stream.read(line(6, "f"))
    stream.reopen()
    stream.read(line(5, "e") + line(6, "f") + line(7, "g"))
    assert stream.causes == [GapCause.ANCHOR_LOST]
    assert stream.text == line(1, "a") + line(5, "e") + line(6, "f") + line(7, "g")


def test_a_tail_cut_short_of_a_log_without_stamps_repeats_nothing_and_loses_nothing() -> None:
    stream = Stream()
    stream.read(b"one\ntwo\n")
    stream.take()
    stream.taken.clear()
    stream.read(b"three\n")
    stream.reopen(cut_short=True)
    stream.read(b"one\ntwo\nthree\nfour\n")
    assert stream.shown == [b"one\ntwo\n", b"three\n", b"four\n"]
    assert stream.causes == []


def test_a_tail_cut_short_tells_old_lines_from_new_ones_by_their_order() -> None:
    stream = Stream()
    stream.read(line(1) + line(3))
    stream.taken.clear()
    stream.read(line(2, "known"))
    stream.reopen(from_ns=2 * SECOND_NS)
    stream.read(line(1) + line(3))
    stream.read(line(2, "known") + line(3, "new"))
    assert stream.text == line(1) + line(3) + line(2, "known") + line(3, "new")
    assert stream.causes == []


def test_after_a_clock_was_set_back_old_lines_are_told_by_their_order() -> None:
    before = line(100, "a") + line(130, "b")
    stream = Stream()
    stream.read(before)
    stream.taken.clear()
    stream.read(line(160, "c"))
    stream.read(line(50, "back"))
    stream.reopen()
    stream.read(before + line(160, "c") + line(50, "back") + line(51, "new"))
    assert stream.text == before + line(160, "c") + line(50, "back") + line(51, "new")
    assert stream.causes == []


# An unfinished line -------------------------------------------------------------------------------


def test_an_unfinished_line_is_superseded_by_the_whole_one() -> None:
    stream = Stream()
    stream.read(line(1) + line(2, "hello world")[:-5])
    stream.reopen()
    stream.read(line(1) + line(2, "hello world"))
    assert stream.text == line(1) + line(2, "hello world")


def test_the_first_line_of_all_is_read_again_when_it_was_unfinished() -> None:
    stream = Stream()
    stream.read(line(1, "hello world")[:-5])
    stream.reopen()
    stream.read(line(1, "hello world"))
    stream.store(stream.taker.keep_unfinished(NOW_NS))
    assert stream.text == line(1, "hello world")
    assert stream.causes == []


def test_an_unfinished_line_whose_rest_is_gone_is_ended_in_front_of_the_gap() -> None:
    stream = Stream()
    stream.read(line(1) + line(2, "hello world")[:-5])
    stream.reopen()
    stream.read(line(5))
    assert stream.shown == [line(1), line(2, "hello w"), "anchor_lost", line(5)]
    assert stream.numbers == [0, 1, 2, 2]


def test_the_very_first_line_is_ended_too_when_its_rest_is_gone() -> None:
    stream = Stream()
    stream.read(line(2, "hello world")[:-5])
    stream.reopen()
    stream.read(line(5))
    assert stream.shown == [line(2, "hello w"), "anchor_lost", line(5)]


def test_an_open_long_line_is_ended_by_a_part_of_its_own() -> None:
    stream = Stream(max_line_bytes=40)
    stream.read(line(1, "x" * 60)[:81])
    stream.reopen()
    stream.read(line(5))
    assert [frame.part for frame in stream.taken] == [1, 2, 3, 0]
    assert stream.shown == [
        line(1, "x" * 60)[:40],
        b"x" * 40,
        b"x\n",
        "anchor_lost",
        line(5),
    ]
    exact = Stream(Checkpoint(2, 2, SECOND_NS, SECOND_NS), max_line_bytes=40)
    exact.taken = stream.taken[:2]
    exact.reopen()
    exact.read(line(5))
    assert exact.shown == [b"\n", "anchor_lost", line(5)]
    assert exact.taker.checkpoint.open_part == 0


def test_an_unfinished_line_that_is_read_again_shows_that_nothing_is_lost() -> None:
    stream = Stream()
    stream.read(line(1) + line(2, "hello world")[:-5])
    stream.reopen()
    stream.read(line(2, "hello world"))
    assert stream.text == line(1) + line(2, "hello world")
    assert stream.causes == []


def test_the_stamp_of_an_unfinished_line_alone_shows_nothing() -> None:
    stream = Stream()
    stream.read(line(1) + line(2)[:31])
    stream.reopen()
    stream.read(line(2, "another"))
    assert stream.shown == [line(1), line(2), "anchor_lost", line(2, "another")]
    stream = Stream()
    stream.read(line(1) + line(2)[:5])
    stream.reopen()
    stream.read(line(2, "another"))
    assert stream.causes == [GapCause.ANCHOR_LOST]


def test_an_unfinished_line_survives_streams_that_bring_nothing() -> None:
    stream = Stream()
    stream.read(line(1) + line(2, "hello world")[:-5])
    stream.reopen()
    stream.reopen()
    stream.store(stream.taker.keep_unfinished(NOW_NS))
    assert stream.text == line(1) + line(2, "hello world")[:-5]
    assert stream.causes == []


def test_of_an_unfinished_line_read_twice_the_longer_beginning_is_kept() -> None:
    for first, second in ((-5, -8), (-8, -5)):
        stream = Stream()
        stream.read(line(1) + line(2, "hello world")[:first])
        stream.reopen()
        stream.read(line(1) + line(2, "hello world")[:second])
        stream.reopen()
        stream.store(stream.taker.keep_unfinished(NOW_NS))
        assert stream.text == line(1) + line(2, "hello world")[:-5]


def test_the_beginning_of_an_old_line_that_is_read_again_is_not_kept() -> None:
    stream = Stream()
    stream.read(line(1, "first") + line(2, "second"))
    for again in (line(1, "first")[:-3], line(1, "first") + line(2, "second")[:-3]):
        stream.reopen()
        stream.read(again)
    stream.store(stream.taker.keep_unfinished(NOW_NS))
    assert stream.text == line(1, "first") + line(2, "second")


# The end of a stream ------------------------------------------------------------------------------


def test_a_last_line_without_its_newline_is_taken_at_the_end() -> None:
    stream = Stream()
    stream.read(line(1) + b"no newline", session_id="s")
    stream.finish()
    assert stream.text == line(1) + b"no newline"
    assert stream.taker.checkpoint == Checkpoint(2, 0, SECOND_NS, SECOND_NS)


def test_a_last_line_is_taken_once_when_the_end_is_read_again() -> None:
    stream = Stream()
    stream.read(line(1) + b"no newline")
    stream.reopen()
    stream.read(line(1) + b"no newline")
    stream.finish(read_to_end=False)
    assert stream.text == line(1) + b"no newline"
    assert stream.causes == []


def test_an_end_that_brings_nothing_of_what_was_taken_is_a_gap() -> None:
    stream = Stream()
    stream.read(line(1) + line(2, "hello")[:-2])
    stream.reopen()
    stream.finish(read_to_end=False)
    assert stream.shown == [line(1), line(2, "hell"), "anchor_lost"]


def test_an_end_that_was_read_before_may_be_empty_when_it_is_read_again() -> None:
    stream = Stream()
    stream.read(line(1) + b"no newline")
    stream.reopen()
    stream.finish(read_to_end=True)
    assert stream.shown == [line(1), b"no newline"]


def test_lines_held_back_until_the_end_are_new_after_a_gap() -> None:
    stream = Stream()
    stream.read(line(5))
    stream.reopen(from_ns=5 * SECOND_NS)
    stream.read(line(7))
    assert stream.shown == [line(5)]
    stream.finish(read_to_end=False)
    assert stream.shown == [line(5), "anchor_lost", line(7)]


def test_giving_up_keeps_the_unfinished_line_and_declares_a_gap() -> None:
    stream = Stream()
    stream.read(line(1) + line(2, "hello")[:-2], session_id="s")
    stream.store(stream.taker.give_up(GapCause.TAIL_UNKNOWN, NOW_NS))
    assert stream.shown == [line(1), line(2, "hell"), "tail_unknown"]
    assert stream.taker.checkpoint == Checkpoint(2, 0, 2 * SECOND_NS, 2 * SECOND_NS)


def test_giving_up_with_nothing_in_hand_is_a_gap_all_the_same() -> None:
    stream = Stream()
    stream.store(stream.taker.give_up(GapCause.TAIL_UNKNOWN, NOW_NS))
    assert stream.shown == ["tail_unknown"]
    assert orjson.loads(stream.records[0][1])["after_line"] == -1


def test_giving_up_in_a_re_read_that_met_nothing_known_leaves_its_last_line_to_the_gap() -> None:
    stream = Stream()
    stream.read(line(1))
    stream.reopen()
    stream.read(line(5, "unfinished")[:-3])
    stream.store(stream.taker.give_up(GapCause.TAIL_UNKNOWN, NOW_NS))
    assert stream.shown == [line(1), "tail_unknown"]


def test_giving_up_in_a_re_read_drops_what_was_held_back_as_old_or_new() -> None:
    stream = Stream()
    stream.read(line(5))
    stream.reopen(from_ns=5 * SECOND_NS)
    stream.read(line(7) + line(8, "unfinished")[:-3])
    stream.store(stream.taker.keep_unfinished(NOW_NS))
    assert stream.shown == [line(5)]


def test_giving_up_in_a_re_read_drops_the_beginning_of_an_old_line() -> None:
    stream = Stream()
    stream.read(line(1, "old"))
    stream.reopen()
    stream.read(line(1, "old")[:-2])
    stream.store(stream.taker.keep_unfinished(NOW_NS))
    assert stream.shown == [line(1, "old")]


# Doubts -------------------------------------------------------------------------------------------


def test_bytes_that_the_session_lost_and_the_re_read_brings_are_a_gap_that_was_filled() -> None:
    stream = Stream()
    stream.read(line(1, "a"), session_id="s")
    stream.taker.doubt()
    stream.reopen()
    stream.read(line(1, "a") + line(2, "b"))
    assert stream.shown == [line(1, "a"), line(2, "b")]
    assert (stream.causes, stream.filled) == ([], [GapCause.REPLAY_GAP])


def test_bytes_that_nobody_has_any_more_are_a_gap_with_the_place_where_they_began() -> None:
    stream = Stream()
    stream.read(line(1, "a"), session_id="s")
    stream.taker.doubt()
    stream.reopen()
    stream.read(line(5, "e"))
    assert stream.shown == [line(1, "a"), "replay_gap", line(5, "e")]
    assert orjson.loads(stream.records[1][1])["from_offset"] == len(line(1, "a"))


def test_a_session_that_leaves_bytes_out_says_how_many() -> None:
    stream = Stream()
    stream.read(line(1, "a"), session_id="s")
    after = len(line(1, "a"))
    with pytest.raises(SessionLostError):
        stream.taker.receive([Entry(line(3, "c"), "s", after + 100 + len(line(3, "c")))])
    stream.reopen()
    stream.read(line(5, "e"))
    assert stream.causes == [GapCause.REPLAY_GAP]
    assert orjson.loads(stream.records[1][1])["missing_bytes"] == 100


def test_what_is_in_no_message_that_can_be_read_is_a_gap() -> None:
    stream = Stream()
    stream.read(line(1, "a"))
    stream.reopen(reopening=Reopening(skipping=True))
    stream.read(line(5, "e"))
    assert stream.shown == [line(1, "a"), "message_too_large", line(5, "e")]


def test_what_is_in_no_message_that_can_be_read_is_a_gap_at_the_end_of_a_log_too() -> None:
    stream = Stream()
    stream.read(line(1, "a"))
    stream.reopen(reopening=Reopening(skipping=True))
    stream.finish()
    assert stream.shown == [line(1, "a"), "message_too_large"]


def test_an_end_that_had_been_given_up_and_is_found_is_taken_back() -> None:
    stream = Stream()
    stream.read(line(1, "a"))
    stream.store(stream.taker.give_up(GapCause.TAIL_UNKNOWN, NOW_NS))
    stream.reopen(reopening=Reopening(given_up=True))
    stream.read(line(1, "a") + line(2, "b"))
    assert stream.shown == [line(1, "a"), "tail_unknown", "+tail_unknown", line(2, "b")]


def test_an_end_that_had_been_given_up_and_was_complete_is_taken_back() -> None:
    stream = Stream()
    stream.read(line(1, "a"))
    stream.store(stream.taker.give_up(GapCause.TAIL_UNKNOWN, NOW_NS))
    stream.reopen(reopening=Reopening(given_up=True))
    stream.read(line(1, "a"))
    stream.finish()
    assert stream.shown == [line(1, "a"), "tail_unknown", "+tail_unknown"]


def test_an_end_that_had_been_given_up_and_is_gone_stays_missing() -> None:
    stream = Stream()
    stream.read(line(1, "a"))
    stream.store(stream.taker.give_up(GapCause.TAIL_UNKNOWN, NOW_NS))
    stream.reopen(reopening=Reopening(given_up=True))
    stream.read(line(5, "e"))
    assert stream.shown == [line(1, "a"), "tail_unknown", "anchor_lost", line(5, "e")]


# Restarted containers -----------------------------------------------------------------------------


def generations(stream: Stream) -> list[int]:
    return [stream.taker.checkpoint.generation, stream.taker.checkpoint.next_line]


def test_a_container_that_was_restarted_before_it_was_met_begins_with_that_generation() -> None:
    stream = Stream()
    stream.reopen(reopening=Reopening(generation=2))
    stream.read(line(1, "a"))
    assert generations(stream) == [2, 1]
    assert stream.causes == []


def test_a_restart_after_a_clean_end_is_no_gap_and_numbers_begin_again() -> None:
    stream = Stream()
    stream.read(line(1, "a") + b"half a line")
    stream.reopen(reopening=Reopening(generation=1, read_to_end=True))
    stream.read(line(5, "e"))
    assert stream.shown == [line(1, "a"), b"half a line", line(5, "e")]
    assert stream.numbers == [0, 1, 0]
    assert generations(stream) == [1, 1]


def test_a_restart_whose_end_was_not_read_is_a_missing_tail() -> None:
    stream = Stream()
    stream.read(line(1, "a"))
    stream.reopen(reopening=Reopening(generation=1))
    stream.read(line(5, "e"))
    assert stream.shown == [line(1, "a"), "restarted", line(5, "e")]
    assert orjson.loads(stream.records[1][1])["kind"] == "tail"
    assert generations(stream) == [1, 1]


def test_a_restart_of_which_the_server_keeps_the_old_log_is_no_gap_and_repeats_nothing() -> None:
    stream = Stream()
    stream.read(line(1, "a"))
    stream.reopen(reopening=Reopening(generation=1))
    stream.read(line(1, "a") + line(5, "e"))
    assert stream.shown == [line(1, "a"), line(5, "e")]
    assert generations(stream) == [1, 1]


def test_a_restart_that_is_seen_again_before_its_first_line_stays_clean() -> None:
    stream = Stream()
    stream.read(line(1, "a"))
    stream.reopen(reopening=Reopening(generation=1, read_to_end=True))
    stream.reopen(reopening=Reopening(generation=1))
    stream.read(line(5, "e"))
    assert stream.causes == []


def test_a_stream_that_is_opened_again_in_a_later_generation_still_knows_its_lines() -> None:
    stream = Stream()
    stream.read(line(1, "a"))
    stream.reopen(reopening=Reopening(generation=1, read_to_end=True))
    stream.read(line(5, "e"))
    stream.reopen(reopening=Reopening(generation=1))
    stream.read(line(5, "e") + line(6, "f"))
    assert stream.shown == [line(1, "a"), line(5, "e"), line(6, "f")]
    assert stream.numbers == [0, 0, 1]


def test_a_container_that_ended_right_after_its_restart_has_no_missing_lines() -> None:
    stream = Stream()
    stream.read(line(1, "a"))
    stream.reopen(reopening=Reopening(generation=1, read_to_end=True))
    stream.finish(read_to_end=False)
    assert stream.shown == [line(1, "a")]


# Stored lines -------------------------------------------------------------------------------------


def test_stored_lines_follow_what_was_taken() -> None:
    stream = Stream()
    stream.read(line(1, "a"))
    stream.reopen()
    stream.store(stream.taker.append_stored(line(2, "b") + line(3, "c"), NOW_NS))
    stream.store(stream.taker.give_up(GapCause.TAIL_UNKNOWN, NOW_NS))
    assert stream.shown == [line(1, "a"), line(2, "b") + line(3, "c"), "tail_unknown"]
    assert stream.numbers == [0, 1, 3]


def test_the_beginning_of_a_line_is_replaced_by_the_stored_one() -> None:
    stream = Stream()
    stream.read(line(1, "a") + line(2, "whole")[:-3])
    stream.store(stream.taker.append_stored(line(2, "whole"), NOW_NS))
    assert stream.shown == [line(1, "a"), line(2, "whole")]


def test_the_beginning_of_a_line_that_is_not_stored_is_kept_and_ended() -> None:
    stream = Stream()
    stream.read(line(1, "a") + line(2, "whole")[:-3])
    stream.store(stream.taker.append_stored(line(5, "e"), NOW_NS))
    assert stream.shown == [line(1, "a"), line(2, "who"), line(5, "e")]


def test_without_stored_lines_the_beginning_of_a_line_waits() -> None:
    stream = Stream()
    stream.read(line(1, "a") + b"half")
    stream.store(stream.taker.append_stored(b"", NOW_NS))
    stream.store(stream.taker.give_up(GapCause.TAIL_UNKNOWN, NOW_NS))
    assert stream.shown == [line(1, "a"), b"half\n", "tail_unknown"]


def test_the_beginning_of_a_line_is_replaced_also_when_its_stamp_is_stored_in_another_form() -> (
    None
):
    stream = Stream()
    stream.read(line(1, "a") + b"1970-01-01T00:00:02Z who")
    stream.store(stream.taker.append_stored(line(2, "whole"), NOW_NS))
    assert stream.shown == [line(1, "a"), line(2, "whole")]


def test_a_last_reading_that_is_cut_inside_a_line_that_was_taken_adds_nothing() -> None:
    stream = Stream()
    stream.read(line(1, "a") + line(2, "whole") + line(3, "c"))
    stream.reopen()
    stream.taker.receive([Entry(line(1, "a") + line(2, "whole")[:-3], "", 0)])
    stream.take()
    assert stream.taker.ended_early
    stream.finish()
    assert stream.text == line(1, "a") + line(2, "whole") + line(3, "c")


def test_a_last_reading_that_reaches_the_last_line_is_whole() -> None:
    stream = Stream()
    stream.read(line(1, "a") + line(2, "b"))
    stream.reopen()
    stream.read(line(1, "a") + line(2, "b"))
    assert not stream.taker.ended_early


def test_an_unterminated_last_line_that_was_taken_is_recognised() -> None:
    stream = Stream()
    stream.read(line(1, "a") + b"1970-01-01T00:00:02Z last")
    stream.finish()
    stream.reopen()
    stream.taker.receive([Entry(b"1970-01-01T00:00:02Z last", "", 0)])
    stream.finish(read_to_end=False)
    assert stream.text == line(1, "a") + b"1970-01-01T00:00:02Z last"
    assert stream.causes == []
