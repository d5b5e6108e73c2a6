from __future__ import annotations

import pytest

from forwarder.errors import (
    CredentialsRefusedError,
    InvalidRequestError,
    LogStreamError,
    SandboxNotFoundError,
    SandboxNotRunningError,
    SourceError,
    SourceUnavailableError,
)
from forwarder.model import Checkpoint
from forwarder.source.resume import (
    RECOGNISED_BYTES,
    SECOND_NS,
    SessionLostError,
    SessionPosition,
    Step,
    next_step,
    since_ns,
    stepped_back,
    tail_ns,
)
from tests.fakes.log_server import Entry

HUGE = 1 << 63
SEEN = b"a line\n".rjust(60, b".") + b"another line, unfinished".rjust(40, b".")


# What follows the end of a stream -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "step"),
    [
        ("STREAM_INTERRUPTED", Step.RESUME),
        ("SESSION_NOT_FOUND", Step.REOPEN),
        ("REPLAY_GAP", Step.REOPEN),
        ("RUNNER_UNAVAILABLE", Step.REOPEN),
        ("RUNNER_DRAINING", Step.REOPEN),
        ("INVALID_RESUME_OFFSET", Step.REOPEN),
        ("STREAM_TRUNCATED", Step.REOPEN),
        ("SANDBOX_NOT_FOUND", Step.ASK),
        ("PERMISSION_DENIED", Step.HOLD),
        ("NEVER_HEARD_OF", Step.REOPEN),
        ("", Step.REOPEN),
    ],
)
def test_an_in_band_error_is_decided_by_its_code(code: str, step: Step) -> None:
    assert next_step(LogStreamError("whatever the text says", code=code)) is step


@pytest.mark.parametrize(
    ("error", "code", "step"),
    [
        (SourceUnavailableError, "unavailable", Step.RESUME),
        (SourceUnavailableError, "internal", Step.RESUME),
        (SourceUnavailableError, "unknown", Step.RESUME),
        (SourceUnavailableError, "aborted", Step.RESUME),
        (SourceUnavailableError, "resource_exhausted", Step.RESUME),
        (SourceUnavailableError, "deadline_exceeded", Step.RESUME),
        (SourceUnavailableError, "connection", Step.RESUME),
        (SourceError, "never_heard_of", Step.RESUME),
        # A transport's code that looks like an in-band one means nothing of a session.
        (SourceUnavailableError, "SESSION_NOT_FOUND", Step.RESUME),
        (CredentialsRefusedError, "unauthenticated", Step.HOLD),
        (CredentialsRefusedError, "permission_denied", Step.HOLD),
        (SandboxNotFoundError, "not_found", Step.ASK),
        (SandboxNotRunningError, "failed_precondition", Step.ASK),
        (InvalidRequestError, "invalid_argument", Step.REOPEN),
        (SessionLostError, "OFFSET_MISMATCH", Step.REOPEN),
    ],
)
def test_a_transport_error_is_decided_by_its_kind(
    error: type[SourceError], code: str, step: Step
) -> None:
    assert next_step(error("whatever the text says", code=code)) is step


def test_a_clean_end_says_nothing_about_why() -> None:
    assert next_step(None) is Step.ASK


# Where a new stream begins ------------------------------------------------------------------------


def test_a_stream_of_which_nothing_was_taken_begins_at_the_beginning() -> None:
    assert since_ns(Checkpoint(), 10 * SECOND_NS) is None


def test_a_new_stream_begins_an_overlap_and_a_second_before_the_highest_stamp() -> None:
    at = Checkpoint(
        next_line=5, last_stamp_ns=95 * SECOND_NS + 9, high_stamp_ns=100 * SECOND_NS + 7
    )
    assert since_ns(at, 10 * SECOND_NS) == 89 * SECOND_NS + 7
    assert since_ns(at, 6 * SECOND_NS) == 93 * SECOND_NS + 7


def test_after_a_clock_was_set_back_the_last_stamp_decides() -> None:
    at = Checkpoint(next_line=5, last_stamp_ns=50 * SECOND_NS, high_stamp_ns=100 * SECOND_NS)
    assert stepped_back(at, 10 * SECOND_NS)
    assert since_ns(at, 10 * SECOND_NS) == 39 * SECOND_NS
    assert not stepped_back(at, 50 * SECOND_NS)
    assert since_ns(at, 50 * SECOND_NS) == 49 * SECOND_NS


def test_no_stream_begins_before_the_epoch() -> None:
    assert since_ns(Checkpoint(next_line=5), 10 * SECOND_NS) == 0
    at = Checkpoint(next_line=5, last_stamp_ns=SECOND_NS, high_stamp_ns=SECOND_NS)
    assert since_ns(at, SECOND_NS) == 0


def test_what_is_kept_reaches_below_any_re_read_by_as_much_as_lines_are_out_of_order() -> None:
    assert tail_ns(0) == 2 * SECOND_NS
    assert tail_ns(10 * SECOND_NS) == 22 * SECOND_NS


# A session's bytes --------------------------------------------------------------------------------


def resumed(offset: int, seen: bytes = SEEN) -> SessionPosition:
    """A session resumed at an offset, after these bytes."""
    return SessionPosition("s", offset).resumed(seen)


def test_the_offset_counts_the_bytes_up_to_and_including_an_entry() -> None:
    position = SessionPosition()
    assert position.session_id == ""
    assert position.accept(Entry(b"abc", "s", 3)) == b"abc"
    assert position.accept(Entry(b"defg", "s", 7)) == b"defg"
    assert (position.session_id, position.offset) == ("s", 7)


def test_a_session_that_begins_elsewhere_is_believed_when_a_second_offset_agrees() -> None:
    position = SessionPosition()
    assert position.accept(Entry(b"abc", "s", 503)) == b"abc"
    assert position.session_id == ""
    assert not position.covers(503)
    assert position.accept(Entry(b"d", "s", 504)) == b"d"
    assert (position.session_id, position.offset) == ("s", 504)
    assert position.covers(500)
    assert not position.covers(499)


@pytest.mark.parametrize("second", [13, 3, 1, 5, HUGE, HUGE * 2 - 1])
def test_an_offset_that_does_not_follow_loses_the_session(second: int) -> None:
    position = SessionPosition()
    position.accept(Entry(b"abc", "s", 3))
    with pytest.raises(SessionLostError) as caught:
        position.accept(Entry(b"d", "s", second))
    assert caught.value.code == "OFFSET_MISMATCH"
    assert position.offset == 3


@pytest.mark.parametrize("first", [13, HUGE])
def test_a_first_offset_that_lies_is_found_out_by_the_second(first: int) -> None:
    position = SessionPosition()
    position.accept(Entry(b"abc", "s", first))
    with pytest.raises(SessionLostError):
        position.accept(Entry(b"d", "s", 4))
    assert position.session_id == ""


def test_an_offset_smaller_than_its_bytes_loses_the_session() -> None:
    with pytest.raises(SessionLostError):
        SessionPosition().accept(Entry(b"abc", "s", 2))


def test_an_entry_without_an_offset_is_what_follows() -> None:
    position = SessionPosition()
    assert position.accept(Entry(b"abc", "s", 0)) == b"abc"
    assert position.session_id == ""
    assert position.accept(Entry(b"d", "s", 4)) == b"d"
    assert position.accept(Entry(b"e", "s", 0)) == b"e"
    assert position.accept(Entry(b"f", "s", 6)) == b"f"
    assert (position.session_id, position.offset) == ("s", 6)


def test_bytes_missing_after_an_entry_without_an_offset_are_noticed() -> None:
    position = SessionPosition()
    position.accept(Entry(b"abc", "s", 0))
    with pytest.raises(SessionLostError):
        position.accept(Entry(b"d", "s", 6))


def test_a_server_that_never_gives_an_offset_is_never_resumed() -> None:
    position = SessionPosition()
    assert position.accept(Entry(b"abc", "s", 0)) == b"abc"
    assert position.accept(Entry(b"d", "s", 0)) == b"d"
    assert position.session_id == ""
    assert not position.covers(0)


def test_a_session_may_be_named_only_once() -> None:
    position = SessionPosition()
    position.accept(Entry(b"abc", "s", 3))
    assert position.accept(Entry(b"d", "", 4)) == b"d"
    assert (position.session_id, position.offset) == ("s", 4)


def test_offsets_count_also_before_the_session_has_a_name() -> None:
    position = SessionPosition()
    assert position.accept(Entry(b"abc", "", 3)) == b"abc"
    assert position.session_id == ""
    assert position.accept(Entry(b"d", "s", 4)) == b"d"
    assert position.session_id == "s"
    assert position.covers(0)


def test_what_came_before_the_session_had_a_name_is_not_asked_of_it() -> None:
    position = SessionPosition()
    assert position.accept(Entry(b"abc")) == b"abc"
    assert position.accept(Entry(b"de", "s", 2)) == b"de"
    assert position.offset == 2
    assert position.accept(Entry(b"f", "s", 3)) == b"f"
    assert position.covers(0)
    assert not position.covers(-3)


def test_a_session_never_changes_under_a_stream() -> None:
    position = SessionPosition()
    position.accept(Entry(b"abc", "s", 0))
    with pytest.raises(SessionLostError) as caught:
        position.accept(Entry(b"d", "t", 4))
    assert caught.value.code == "SESSION_CHANGED"
    with pytest.raises(SessionLostError):
        SessionPosition("s", 3).accept(Entry(b"d", "t", 4))


def test_a_resumed_session_goes_on_at_the_offset_asked() -> None:
    position = resumed(100)
    assert position.session_id == "s"
    assert position.accept(Entry(b"new", "s", 103)) == b"new"
    assert position.offset == 103
    assert position.covers(100)


def test_a_resumed_session_still_covers_what_it_gave_before() -> None:
    position = SessionPosition()
    position.accept(Entry(b"abc", "s", 503))
    position.accept(Entry(b"d", "s", 504))
    again = position.resumed(b"abcd")
    assert again.covers(500)
    assert not again.covers(499)


def test_bytes_replayed_before_the_offset_are_cut_off() -> None:
    position = resumed(100)
    assert position.accept(Entry(SEEN[10:60], "s", 60)) == b""
    assert position.accept(Entry(SEEN[60:] + b"new", "s", 103)) == b"new"
    assert position.accept(Entry(b"er", "s", 105)) == b"er"
    assert position.offset == 105


def test_a_replay_longer_than_what_is_remembered_is_cut_off() -> None:
    position = resumed(1000)
    assert position.accept(Entry(b"old" * 100, "s", 800)) == b""
    assert position.accept(Entry(b"?" * 100 + SEEN + b"new", "s", 1003)) == b"new"


def test_a_replay_that_ends_at_the_offset_is_followed_by_what_is_new() -> None:
    position = resumed(100)
    assert position.accept(Entry(SEEN[-5:], "s", 100)) == b""
    assert position.accept(Entry(b"new", "s", 103)) == b"new"


def test_an_empty_entry_gives_no_bytes_and_harms_nothing() -> None:
    position = resumed(100)
    assert position.accept(Entry(b"", "s", 0)) == b""
    assert position.accept(Entry(b"", "", 0)) == b""
    assert position.accept(Entry(b"", "s", 100)) == b""
    assert position.accept(Entry(b"new", "s", 103)) == b"new"


def test_a_replay_that_differs_from_what_was_read_loses_the_session() -> None:
    with pytest.raises(SessionLostError, match="differs"):
        resumed(100).accept(Entry(b"x" * 80 + b"new", "s", 103))
    with pytest.raises(SessionLostError, match="differs"):
        resumed(100).accept(Entry(b"x" * 10, "s", 60))


@pytest.mark.parametrize(
    ("seen", "replayed"),
    [
        (SEEN, RECOGNISED_BYTES - 1),
        (b"", 80),
        (b"a\nb", 80),
        (b"the inside of a line" * 5, 80),
    ],
)
def test_a_replay_of_which_too_little_is_known_loses_the_session(
    seen: bytes, replayed: int
) -> None:
    position = resumed(100, seen)
    with pytest.raises(SessionLostError, match="too little"):
        position.accept(Entry(seen.rjust(100, b"?")[-replayed:] + b"new", "s", 103))
    assert position.offset == 100


def test_a_resumed_session_that_skips_bytes_is_lost() -> None:
    with pytest.raises(SessionLostError):
        resumed(100).accept(Entry(b"new", "s", 104))
    with pytest.raises(SessionLostError):
        resumed(0, b"").accept(Entry(b"new", "s", 8))


def test_entries_of_a_replay_follow_each_other_too() -> None:
    position = resumed(100)
    position.accept(Entry(SEEN[20:50], "s", 50))
    with pytest.raises(SessionLostError):
        position.accept(Entry(SEEN[50:80], "s", 100))


def test_a_resumed_session_has_to_say_where_it_goes_on() -> None:
    with pytest.raises(SessionLostError, match="where it goes on"):
        resumed(100).accept(Entry(b"new", "s", 0))


def test_a_server_whose_offsets_are_not_believed_is_taken_as_it_comes() -> None:
    position = SessionPosition(trusting=False)
    assert position.accept(Entry(b"abc", "s", 99)) == b"abc"
    assert position.accept(Entry(b"def", "t", 1)) == b"def"
    assert position.session_id == ""
