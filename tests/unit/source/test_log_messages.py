"""The StreamLogs messages; requests are compared with the vendor's own in their bytes."""

from __future__ import annotations

from cwsandbox._proto import sandbox_pb2 as vendor
from hypothesis import given
from hypothesis import strategies as st

from forwarder.errors import LogStreamError, SourceUnavailableError
from forwarder.source.interface import LogRequest
from forwarder.source.log_messages import decode_entries, encode_request
from forwarder.source.messages_pb2 import LogEntry
from tests.fakes.api import in_band


def vendor_request(request: LogRequest) -> vendor.StreamLogsRequest:
    return vendor.StreamLogsRequest.FromString(encode_request(request))


@given(
    sandbox_id=st.text(),
    container=st.text(),
    follow=st.booleans(),
    tail_lines=st.none() | st.integers(min_value=1, max_value=2**31 - 1),
    since_ns=st.none() | st.integers(min_value=-(10**18), max_value=2 * 10**18),
    timestamps=st.booleans(),
)
def test_the_vendor_reads_a_fresh_request_as_it_was_meant(
    *,
    sandbox_id: str,
    container: str,
    follow: bool,
    tail_lines: int | None,
    since_ns: int | None,
    timestamps: bool,
) -> None:
    found = vendor_request(
        LogRequest(sandbox_id, container, follow, tail_lines, since_ns, timestamps)
    )
    assert (found.sandbox_id, found.container) == (sandbox_id, container)
    assert (found.follow, found.timestamps) == (follow, timestamps)
    assert found.tail_lines == (tail_lines or 0)
    assert found.HasField("since_time") == (since_ns is not None)
    assert found.since_time.ToNanoseconds() == (since_ns or 0)
    assert not found.resume_log_session_id


def test_a_continuation_always_follows_and_says_nothing_else() -> None:
    request = LogRequest("a", "c", False, 5, 7, True, session_id="s", offset=2**64 - 1)
    assert vendor_request(request) == vendor.StreamLogsRequest(
        sandbox_id="a",
        container="c",
        follow=True,
        resume_log_session_id="s",
        resume_log_offset=2**64 - 1,
    )


def test_a_session_may_be_continued_from_its_first_byte() -> None:
    found = vendor_request(LogRequest("a", session_id="s"))
    assert (found.resume_log_session_id, found.resume_log_offset) == ("s", 0)


@given(st.binary(), st.text(), st.integers(min_value=0, max_value=2**64 - 1))
def test_an_entry_of_the_vendor_is_read(data: bytes, session: str, offset: int) -> None:
    sent = vendor.LogEntry(data=data, log_session_id=session, next_log_offset=offset)
    (entry,), error = decode_entries([sent.SerializeToString()])
    assert (entry.data, entry.log_session_id, entry.next_log_offset) == (data, session, offset)
    assert error is None


def test_entries_before_an_error_are_returned_and_none_behind_it() -> None:
    plain = LogEntry(data=b"x").SerializeToString()
    failed = in_band("REPLAY_GAP", "gone\n").entries[0].SerializeToString()
    entries, error = decode_entries([plain, plain, failed, plain])
    assert [entry.data for entry in entries] == [b"x", b"x"]
    assert isinstance(error, LogStreamError)
    assert error.code == "REPLAY_GAP"
    assert "\n" not in str(error)


def test_an_empty_error_is_still_an_error() -> None:
    failed = LogEntry()
    failed.error.SetInParent()
    entries, error = decode_entries([failed.SerializeToString()])
    assert entries == []
    assert isinstance(error, LogStreamError)
    assert error.code == "UNKNOWN"


def test_a_message_that_cannot_be_read_ends_the_stream_behind_what_came_before() -> None:
    entries, error = decode_entries([LogEntry(data=b"x").SerializeToString(), b"\xff"])
    assert [entry.data for entry in entries] == [b"x"]
    assert isinstance(error, SourceUnavailableError)
    assert error.code == "internal"
