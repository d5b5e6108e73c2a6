from __future__ import annotations

import orjson

from forwarder.drafts import Doubt, TakeDraft
from forwarder.model import Block, Checkpoint, FrameKind, GapCause, GapKind, StreamState

NOW_NS = 777


def lines(raw: bytes, first_ns: int, last_ns: int) -> Block:
    return Block(FrameKind.LINES, raw, raw.count(b"\n") or 1, 0, first_ns, last_ns)


def part(raw: bytes, number: int, at_ns: int = 5) -> Block:
    return Block(FrameKind.PART, raw, 1, number, at_ns, at_ns)


def test_nothing_added_is_nothing_to_store() -> None:
    assert TakeDraft(Checkpoint(3, 0, 1, 2), NOW_NS).done() is None


def test_a_position_alone_is_something_to_store() -> None:
    draft = TakeDraft(Checkpoint(3), NOW_NS)
    draft.checkpoint = Checkpoint(3, session_id="A", session_offset=9)
    take = draft.done()
    assert take is not None
    assert (take.frames, take.gaps, take.checkpoint.session_offset) == ([], [], 9)


def test_records_are_numbered_and_the_highest_stamp_never_goes_back() -> None:
    draft = TakeDraft(Checkpoint(10, 0, 50, 50), NOW_NS)
    draft.add(lines(b"a\nb\n", 60, 40))
    draft.add(lines(b"c\n", 45, 45))
    take = draft.done()
    assert take is not None
    places = [(one.first_line, one.lines, one.high_stamp_ns) for one in take.frames]
    assert places == [(10, 2, 60), (12, 1, 60)]
    assert {one.received_ns for one in take.frames} == {NOW_NS}
    assert take.checkpoint == Checkpoint(13, 0, 45, 60)


def test_a_line_stays_open_until_the_part_with_its_end() -> None:
    draft = TakeDraft(Checkpoint(), NOW_NS)
    opened = []
    for one in (part(b"abc", 1), part(b"def", 2), part(b"g\n", 3)):
        draft.add(one)
        opened.append(draft.checkpoint.open_part)
    assert opened == [1, 2, 0]


def test_a_gap_is_a_record_after_the_last_line() -> None:
    draft = TakeDraft(Checkpoint(4, 0, 30, 40), NOW_NS)
    draft.declare_gap(Doubt(GapCause.ANCHOR_LOST), [], to_ns=99)
    take = draft.done()
    assert take is not None
    ((frame,), (gap,)) = take.frames, take.gaps
    assert (frame.kind, frame.first_line, frame.lines) == (FrameKind.GAP, 4, 0)
    assert orjson.loads(frame.raw) == {
        "kind": "range",
        "cause": "anchor_lost",
        "bounds": "approximate",
        "generation": 0,
        "after_line": 3,
        "before_line": 4,
        "from_stamp_ns": 30,
        "to_stamp_ns": 99,
        "from_offset": None,
        "to_offset": None,
        "missing_bytes": None,
        "noticed_ns": NOW_NS,
        "filled_ns": 0,
    }
    assert (gap.after_line, gap.cause) == (3, GapCause.ANCHOR_LOST)
    assert take.checkpoint == Checkpoint(4, 0, 30, 40)


def test_the_beginning_of_a_line_is_ended_before_a_gap() -> None:
    draft = TakeDraft(Checkpoint(4), NOW_NS)
    draft.declare_gap(Doubt(GapCause.TAIL_UNKNOWN), [lines(b"unfinis", 5, 5)], to_ns=0)
    take = draft.done()
    assert take is not None
    assert [(one.kind, one.first_line) for one in take.frames] == [
        (FrameKind.LINES, 4),
        (FrameKind.GAP, 5),
    ]
    assert take.frames[0].raw == b"unfinis\n"
    assert take.gaps[0].after_line == 4


def test_a_long_line_that_was_open_is_ended_before_a_gap() -> None:
    draft = TakeDraft(Checkpoint(4, open_part=2, last_stamp_ns=30), NOW_NS)
    draft.declare_gap(Doubt(GapCause.TAIL_UNKNOWN), [], to_ns=0)
    take = draft.done()
    assert take is not None
    end = take.frames[0]
    assert (end.kind, end.raw, end.part, end.first_stamp_ns) == (FrameKind.PART, b"\n", 3, 30)
    assert (take.checkpoint.open_part, take.checkpoint.next_line) == (0, 5)


def test_a_gap_says_which_bytes_of_the_session_are_missing_where_that_is_known() -> None:
    draft = TakeDraft(Checkpoint(4), NOW_NS)
    draft.declare_gap(Doubt(GapCause.REPLAY_GAP, 100, 150), [], to_ns=9)
    take = draft.done()
    assert take is not None
    (gap,) = take.gaps
    assert (gap.from_offset, gap.to_offset, gap.missing_bytes) == (100, 150, 50)


def test_a_missing_end_has_nothing_behind_it() -> None:
    draft = TakeDraft(Checkpoint(4), NOW_NS)
    draft.declare_gap(Doubt(GapCause.TAIL_UNKNOWN), [])
    take = draft.done()
    assert take is not None
    assert (take.gaps[0].kind, take.gaps[0].before_line) == (GapKind.TAIL, None)


def test_what_was_feared_and_did_not_happen_is_told_to_the_spool_alone() -> None:
    draft = TakeDraft(Checkpoint(4), NOW_NS)
    draft.settle(Doubt(GapCause.REPLAY_GAP, 100))
    take = draft.done()
    assert take is not None
    assert (take.frames, take.gaps[0].filled_ns) == ([], NOW_NS)


def test_a_restarted_container_counts_its_lines_from_0_again_and_stamps_stay() -> None:
    draft = TakeDraft(Checkpoint(4, 2, 30, 40), NOW_NS)
    draft.begin_generation(3)
    draft.add(lines(b"a\n", 50, 50))
    take = draft.done()
    assert take is not None
    assert [(one.generation, one.first_line) for one in take.frames] == [(3, 0)]
    assert take.checkpoint == Checkpoint(1, 0, 50, 50, generation=3)


def test_the_end_of_a_stream_is_a_record_without_lines() -> None:
    draft = TakeDraft(Checkpoint(4, 0, 30, 40), NOW_NS)
    draft.end(StreamState.COMPLETE, "done")
    take = draft.done()
    assert take is not None
    (frame,) = take.frames
    assert (frame.kind, frame.lines, frame.first_line) == (FrameKind.END, 0, 4)
    assert orjson.loads(frame.raw) == {
        "state": "complete",
        "detail": "done",
        "lines": 4,
        "ended_ns": NOW_NS,
    }
