"""What Loki's answers mean; the messages are those of Loki 3.7.8, word for word."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sinks.interface import (
    BatchRejectedError,
    SinkError,
    SinkMisconfiguredError,
    SinkUnavailableError,
)
from sinks.loki import LokiSettings
from sinks.loki.answers import Outcome, judge, judge_check
from sinks.loki.encoding import Push, encode_batch
from sinks.testing import slice_of
from sinks.web import Answer

NOW_NS = 1_795_429_847_705_877_037  # 2026-11-23T10:30:47.705877037Z
HOUR_NS = 3_600_000_000_000
URL = "http://loki.example.com/loki/api/v1/push"
STREAM = '{job="old", service_name="old"}'
TOTAL = f"user 'fake', total ignored: %d out of %d for stream: {STREAM}"


def push(*ages_ns: int, texts: list[str] | None = None, **given: Any) -> Push:
    """A request of lines that are so old; their records are numbered in this order."""
    lines: list[tuple[int, bytes | str]] = [
        (NOW_NS - age_ns, texts[i] if texts else f"line {i}") for i, age_ns in enumerate(ages_ns)
    ]
    settings = LokiSettings.model_validate(
        {"type": "loki", "endpoint": URL, "old_lines": "send", **given}
    )
    (made,) = encode_batch([slice_of(lines)], settings.options, NOW_NS).pushes
    return made


def answer(status: int, body: str = "", **given: Any) -> Answer:
    return Answer(status, {"content-type": "text/plain"}, body.encode(), **given)


def outcome(message: str, request: Push, **given: Any) -> Outcome:
    found = judge(answer(400, message, **given), request, url=URL)
    assert isinstance(found, Outcome)
    return found


def ignored(stamp: str, reason: str = "entry too far behind") -> str:
    return f"entry with timestamp {stamp} +0000 UTC ignored, reason: '{reason}',\n"


def all_of(found: Outcome, count: int) -> bool:
    """Whether every record is refused, and may be stored all the same."""
    told = {refusal.maybe_stored for refusal in found.refused.values()}
    return (sorted(found.refused), told, found.again) == ([*range(count)], {True}, frozenset())


@pytest.mark.parametrize("status", [200, 204])
def test_a_success_is_one(status: int) -> None:
    assert judge(answer(status), push(0), url=URL) == Outcome()


@pytest.mark.parametrize("status", [260, 201, 202, 299])
def test_another_success_is_none(status: int) -> None:
    error = judge(answer(status, "blocked until tomorrow"), push(0), url=URL)
    assert isinstance(error, SinkMisconfiguredError)
    assert "blocked until tomorrow; lines are not stored: ingestion is blocked" in str(error)


def test_one_line_that_is_too_far_behind_is_the_only_one_refused() -> None:
    message = ignored("2026-11-23 08:30:47.705877037") + TOTAL % (1, 3)
    found = outcome(message, push(0, 2 * HOUR_NS, 1))
    assert list(found.refused) == [1]
    assert found.refused[1].reason == "entry too far behind"
    assert found.refused[1].status == "400"
    assert not found.refused[1].maybe_stored


@pytest.mark.parametrize(
    ("stamp", "age_ns"),
    [
        ("2026-11-23 10:30:47", 705_877_037),
        ("2026-11-23 10:30:47.7", 5_877_037),
        ("2026-11-23 10:30:47.705877", 37),
    ],
)
def test_stamps_are_read_to_the_nanosecond(stamp: str, age_ns: int) -> None:
    found = outcome(ignored(stamp) + TOTAL % (1, 2), push(1_000, age_ns))
    assert list(found.refused) == [1]


def test_lines_that_only_met_a_rate_limit_are_sent_again() -> None:
    limited = f"Per stream rate limit exceeded (limit: 3MB/sec) ... '{STREAM}' totaling 9B, ..."
    message = ignored("2026-11-23 10:30:47.705877037", limited)
    message += ignored("2026-11-23 08:30:47.705877037")
    found = outcome(message + TOTAL % (2, 3), push(0, 2 * HOUR_NS, 1))
    assert (list(found.refused), set(found.again)) == ([1], {0})


@pytest.mark.parametrize(
    "message",
    [
        # Two lines of that stamp, one of which was refused.
        ignored("2026-11-23 10:30:47.705877037") + TOTAL % (1, 3),
        # More were refused than are named.
        ignored("2026-11-23 08:30:47.705877037") + TOTAL % (2, 3),
        # The third was refused before these were looked at, and nobody says so.
        ignored("2026-11-23 08:30:47.705877037") + TOTAL % (1, 2),
        # Two lines of the one stamp, none of the other.
        ignored("2026-11-23 10:30:47.705877037") + ignored("2026-11-23 09:30:47") + TOTAL % (2, 3),
        # No line of ours has this stamp.
        ignored("2026-11-23 08:30:47.705877036") + TOTAL % (1, 3),
        ignored("2026-11-23 08:30:47.705877037"),
        "something else\n" + TOTAL % (1, 3),
        TOTAL % (0, 3),
        "entry with timestamp x ignored, reason: 'y',\n" + TOTAL % (1, 3),
        "",
        "couldn't parse labels: 1:3: parse error: unexpected character",
        "1 errors like: x; 1 errors like: y",
        "entry for stream '{}' has timestamp too old: 2026-11-23T08:30:47Z; and more",
    ],
)
def test_without_certainty_all_are_refused_and_may_be_stored(message: str) -> None:
    assert all_of(outcome(message, push(0, 0, 2 * HOUR_NS)), 3)


def test_a_message_that_was_cut_off_is_not_believed() -> None:
    message = ignored("2026-11-23 08:30:47.705877037") + TOTAL % (1, 2)
    assert all_of(outcome(message, push(0, 2 * HOUR_NS), whole=False), 2)


def test_the_reason_has_the_servers_words_and_its_counts() -> None:
    found = outcome("rubbish, total ignored: 3 out of 100", push(0))
    assert "rubbish" in found.refused[0].reason
    assert "3 of 100 lines of the request were refused" in found.refused[0].reason
    found = outcome("2 errors like: a; 1 errors like: b", push(0))
    assert "3 lines of the request were refused" in found.refused[0].reason


OLD = (
    f"entry for stream '{STREAM}' has timestamp too old: %s,"
    " oldest acceptable timestamp is: 2026-11-16T10:30:47Z"
)


def test_a_line_that_is_too_old_is_the_only_one_refused() -> None:
    found = outcome(OLD % "2026-11-23T08:30:47Z", push(0, 2 * HOUR_NS))
    assert list(found.refused) == [1]
    assert "too old" in found.refused[1].reason


def test_a_line_of_the_future_is_the_only_one_refused() -> None:
    message = f"entry for stream '{STREAM}' has timestamp too new: 2026-11-23T11:30:47Z"
    assert list(outcome(message, push(0, -HOUR_NS)).refused) == [1]


def test_several_refusals_in_one_message_are_told_apart() -> None:
    message = f"2 errors like: {OLD % '2026-11-23T08:30:47Z'}; 1 errors like: "
    message += f"max entry size '9' bytes exceeded for stream '{STREAM}'"
    message += " while adding an entry with length '12' bytes"
    request = push(0, 2 * HOUR_NS, 1, 2 * HOUR_NS + 1, texts=["a", "b", "x" * 12, "d"])
    assert sorted(outcome(message, request).refused) == [1, 2, 3]


@pytest.mark.parametrize(
    "message",
    [
        OLD % "2026-11-23T10:30:47Z",  # two lines of this second
        f"3 errors like: {OLD % '2026-11-23T10:30:47Z'}",
        f"1 errors like: {OLD % '2026-11-23T08:30:47Z'}; 1 errors like: something else",
        OLD % "2026-11-23T07:30:47Z",
        "; ".join(f"1 errors like: {OLD % f'2026-11-23T{hour}:30:47Z'}" for hour in ("10", "09")),
    ],
)
def test_lines_that_are_described_but_not_counted_alike_are_not_told_apart(message: str) -> None:
    assert all_of(outcome(message, push(0, 1, 2 * HOUR_NS)), 3)


def test_one_line_refused_twice_over_is_not_taken_for_two() -> None:
    message = f"1 errors like: {OLD % '2026-11-23T08:30:47Z'}; 1 errors like: "
    message += f"max entry size '9' bytes exceeded for stream '{STREAM}'"
    message += " while adding an entry with length '12' bytes"
    request = push(0, 2 * HOUR_NS, texts=["a", "x" * 12])
    assert all_of(outcome(message, request), 2)


def test_a_line_in_pieces_is_not_taken_for_refused_whole() -> None:
    request = push(0, texts=["x" * 6000], max_line_bytes=4096)
    message = ignored("2026-11-23 10:30:47.705877037") + TOTAL % (1, 2)
    assert all_of(outcome(message, request), 1)


def test_a_line_all_of_whose_pieces_are_refused_is_refused() -> None:
    request = push(0, 2 * HOUR_NS, texts=["a", "x" * 6000], max_line_bytes=4096)
    message = ignored("2026-11-23 08:30:47.705877037") + ignored("2026-11-23 08:30:47.705877038")
    found = outcome(message + TOTAL % (2, 3), request)
    assert {i: refusal.maybe_stored for i, refusal in found.refused.items()} == {1: False}


def test_with_labels_that_look_like_a_message_none_is_believed() -> None:
    forged = "x' has timestamp too old: 2026-11-23T10:30:47Z; 1 errors like: entry for stream 'y"
    request = push(0, 2 * HOUR_NS, labels={"a": forged})
    assert all_of(outcome(OLD % "2026-11-23T08:30:47Z", request), 2)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 507, 599])
def test_these_are_tried_again(status: int) -> None:
    error = judge(answer(status, "<html>bad gateway</html>"), push(0), url=URL)
    assert isinstance(error, SinkUnavailableError)


def test_the_servers_wish_when_to_come_back_is_kept() -> None:
    error = judge(Answer(429, {"retry-after": "7"}), push(0), url=URL)
    assert isinstance(error, SinkUnavailableError)
    assert error.retry_after_s == 7.0


@pytest.mark.parametrize("status", [401, 403, 404, 405, 407, 415, 501, 301, 307])
def test_these_hold(status: int) -> None:
    error = judge(answer(status), push(0), url=URL)
    assert isinstance(error, SinkMisconfiguredError)
    assert error.credentials == (status in {401, 403, 407})


def test_a_tenant_that_is_missing_is_asked_for() -> None:
    error = judge(answer(401, "no org id\n"), push(0), url=URL)
    assert isinstance(error, SinkMisconfiguredError)
    assert 'set "tenant"' in str(error)
    assert error.credentials


@pytest.mark.parametrize(
    "body", ["<!DOCTYPE html><title>Sign in</title>", "  <html><body>Bad Request</body></html>"]
)
@pytest.mark.parametrize("status", [200, 400])
def test_a_web_page_holds(status: int, body: str) -> None:
    error = judge(answer(status, body), push(0), url=URL)
    assert isinstance(error, SinkMisconfiguredError)
    assert "web page" in str(error)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (413, "<html>413 Request Entity Too Large</html>"),
        (413, "request body too large: compressed message size 1 exceeds limit 2"),
        (400, "http: request body too large"),
        (500, "rpc error: code = ResourceExhausted desc = grpc: received message larger than max"),
        (400, "message size too large than max (9 vs 4)"),
    ],
)
def test_what_is_too_large_is_split(status: int, body: str) -> None:
    error = judge(answer(status, body), push(0), url=URL)
    assert isinstance(error, BatchRejectedError)
    assert error.too_large


RATE = (
    "ingestion rate limit exceeded for user fake (limit: %s) while attempting to ingest '2' lines"
    " totaling '7000000' bytes, reduce log volume"
)


@pytest.mark.parametrize("limit", ["200 bytes/sec", "0.1KB/sec", "50B/sec"])
def test_a_request_that_no_rate_limit_lets_pass_is_split(limit: str) -> None:
    error = judge(answer(429, RATE % limit), push(0, 1), url=URL)
    assert isinstance(error, BatchRejectedError)
    assert error.too_large


@pytest.mark.parametrize("limit", ["4194304 bytes/sec", "3MB/sec", "1GB/sec", "rubbish"])
def test_a_request_that_is_only_too_early_is_tried_again(limit: str) -> None:
    error = judge(answer(429, RATE % limit), push(0, 1), url=URL)
    assert isinstance(error, SinkUnavailableError)


def test_a_record_alone_waits_for_the_rate_limit_and_is_never_set_aside_for_it() -> None:
    error = judge(answer(429, RATE % "1 bytes/sec"), push(0), url=URL)
    assert isinstance(error, SinkUnavailableError)


def test_the_operator_may_have_a_400_tried_again() -> None:
    error = judge(answer(400, "x"), push(0), url=URL, retry_statuses={400})
    assert isinstance(error, SinkUnavailableError)


def test_the_check_takes_what_loki_says_of_an_empty_request() -> None:
    said = "error at least one valid stream is required for ingestion"
    assert judge_check(answer(422, said), url=URL) is None
    assert judge_check(answer(204), url=URL) is None


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (answer(401, "no org id"), SinkMisconfiguredError),
        (answer(260, "blocked"), SinkMisconfiguredError),
        (answer(422, "who are you"), SinkMisconfiguredError),
        (answer(400, "what is that"), SinkMisconfiguredError),
        (answer(200, "<html>"), SinkMisconfiguredError),
        (answer(503), SinkUnavailableError),
    ],
)
def test_the_check_tells_what_is_wrong(found: Answer, kind: type[SinkError]) -> None:
    assert isinstance(judge_check(found, url=URL), kind)


def test_no_message_shows_more_of_the_address_than_its_origin() -> None:
    for status in (260, 301, 400, 401, 413, 429, 501):
        text = str(judge(answer(status), push(0), url="http://h.example/secret?token=canary"))
        assert "secret" not in text
        assert "canary" not in text


def test_a_label_that_looks_like_a_naming_message_hides_no_size_and_no_rate() -> None:
    request = push(0, 1)
    named = replace(request, labels='{service_name="timestamper"}')
    large = "received message larger than max (6000000 vs. 4194304)"
    for one in (request, named):
        verdict = judge(answer(500, large), one, url=URL)
        assert isinstance(verdict, BatchRejectedError)
        assert verdict.too_large
    lying = replace(request, labels=f'{{service_name="{large}"}}')
    assert isinstance(judge(answer(500, large), lying, url=URL), SinkUnavailableError)


@pytest.mark.parametrize(
    "message",
    [
        "Client sent an HTTP request to an HTTPS server.",
        "stream '{job=\"x\"}' includes structured metadata, but this feature is disallowed.",
        'unsupported path requested: "/x/loki/api/v1/push"',
    ],
)
def test_what_is_wrong_with_every_line_costs_none(message: str) -> None:
    assert isinstance(judge(answer(400, message), push(0), url=URL), SinkMisconfiguredError)
