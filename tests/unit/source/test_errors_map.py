"""What the API's errors are read as. The table by code and reason is in the contract suite."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.errors import (
    CredentialsRefusedError,
    SandboxNotFoundError,
    SourceUnavailableError,
)
from forwarder.source.errors_map import (
    CONNECT_CODES,
    Failure,
    connect_failure,
    end_failure,
    http_failure,
    one_line,
    retry_after,
    status_failure,
    typed_error,
)
from tests.fakes.api import error_info, retry_info


def detail(name: str, value: bytes) -> dict[str, str]:
    return {"type": name, "value": base64.b64encode(value).decode()}


REASON = detail("google.rpc.ErrorInfo", error_info("CWSANDBOX_X").SerializeToString())


def reason_of(*details: object) -> str:
    failure = connect_failure({"code": "unavailable", "details": list(details)})
    assert failure is not None
    return failure.reason


def test_the_reason_is_read_with_and_without_padding_and_with_a_type_url() -> None:
    bare = {**REASON, "value": REASON["value"].rstrip("=")}
    url = {**REASON, "type": "type.googleapis.com/google.rpc.ErrorInfo"}
    assert [reason_of(each) for each in (REASON, bare, url)] == ["CWSANDBOX_X"] * 3


def test_the_apis_own_reason_wins_over_a_middleboxs() -> None:
    other = detail("google.rpc.ErrorInfo", error_info("OTHER", "mesh").SerializeToString())
    assert reason_of(other) == "OTHER"
    assert reason_of(other, REASON) == "CWSANDBOX_X"
    assert reason_of(REASON, other) == "CWSANDBOX_X"


@pytest.mark.parametrize(
    "damaged",
    [
        7,
        None,
        {},
        {"type": "google.rpc.ErrorInfo"},
        {"type": "google.rpc.ErrorInfo", "value": "***"},
        {"type": "google.rpc.ErrorInfo", "value": "é"},
        detail("google.rpc.ErrorInfo", b"\xff\xff"),
        detail("google.rpc.Unknown", b"x"),
    ],
)
def test_a_damaged_detail_is_passed_over(damaged: object) -> None:
    assert reason_of(damaged, REASON) == "CWSANDBOX_X"


@pytest.mark.parametrize("details", ["text", 5, {}, None])
def test_details_that_are_no_list_are_passed_over(details: object) -> None:
    assert connect_failure({"code": "aborted", "details": details}) == Failure("aborted")


@pytest.mark.parametrize("delay_s", [0.0, 1.5, 3600.0])
def test_a_retry_delay_is_read(delay_s: float) -> None:
    value = retry_info(delay_s).SerializeToString()
    failure = connect_failure(
        {"code": "aborted", "details": [detail("google.rpc.RetryInfo", value)]}
    )
    assert failure == Failure("aborted", retry_after_s=delay_s)


def test_a_negative_retry_delay_is_none() -> None:
    value = retry_info(-1).SerializeToString()
    failure = connect_failure(
        {"code": "aborted", "details": [detail("google.rpc.RetryInfo", value)]}
    )
    assert failure == Failure("aborted")


@pytest.mark.parametrize("error", [None, [], "x", {}, {"code": 5}, {"code": "nope"}, {"code": []}])
def test_what_is_no_connect_error_is_not_read_as_one(error: object) -> None:
    assert connect_failure(error) is None


@given(st.recursive(st.none() | st.text() | st.integers(), st.lists))
def test_no_json_at_all_makes_the_reader_raise(value: object) -> None:
    connect_failure(value)
    connect_failure({"code": "internal", "message": value, "details": value})


# End of stream


@pytest.mark.parametrize("payload", [b"{}", b'{"metadata":{"a":["b"]}}', b'{"error":null}'])
def test_an_end_without_an_error_is_clean(payload: bytes) -> None:
    assert end_failure(payload) is None


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b"null", b"\xff"])
def test_an_end_that_cannot_be_read_is_not_clean(payload: bytes) -> None:
    failure = end_failure(payload)
    assert failure is not None
    assert failure.code == "internal"


@pytest.mark.parametrize("error", [{}, 5, {"code": "nope"}, []])
def test_an_end_with_an_unknown_error_is_not_clean(error: object) -> None:
    failure = end_failure(json.dumps({"error": error}).encode())
    assert failure is not None
    assert failure.code == "unknown"


# HTTP


def test_a_connect_error_counts_whatever_its_http_status() -> None:
    body = json.dumps({"code": "not_found", "message": "m"}).encode()
    for status in (200, 400, 404, 500):
        assert http_failure(status, {}, body) == Failure("not_found", "m")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, CredentialsRefusedError),
        (403, CredentialsRefusedError),
        (200, SourceUnavailableError),
        (204, SourceUnavailableError),
        (302, SourceUnavailableError),
        (400, SourceUnavailableError),
        (404, SourceUnavailableError),
        (405, SourceUnavailableError),
        (429, SourceUnavailableError),
        (500, SourceUnavailableError),
        (502, SourceUnavailableError),
        (503, SourceUnavailableError),
        (504, SourceUnavailableError),
        (599, SourceUnavailableError),
    ],
)
@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"code": 5, "message": "gateway"}'])
def test_a_bare_status_is_a_middleboxs_word(status: int, kind: type, body: bytes) -> None:
    error = typed_error(http_failure(status, {}, body), "GetSandbox", sandbox_id="sbx-1")
    assert type(error) is kind
    assert f"HTTP {status}" in str(error)


def test_a_bare_404_asks_for_the_base_url() -> None:
    failure = http_failure(404, {"content-type": "text/html"}, b"<html>")
    assert "base URL" in failure.message
    assert "text/html" in failure.message


def test_the_header_gives_the_delay_and_the_detail_wins() -> None:
    assert http_failure(503, {"retry-after": "7"}, b"").retry_after_s == 7
    plain = json.dumps({"code": "unavailable"}).encode()
    assert http_failure(503, {"retry-after": "7"}, plain).retry_after_s == 7
    value = retry_info(3).SerializeToString()
    detailed = {"code": "unavailable", "details": [detail("google.rpc.RetryInfo", value)]}
    headers = {"retry-after": "7"}
    assert http_failure(503, headers, json.dumps(detailed).encode()).retry_after_s == 3


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", 0),
        ("120", 120),
        (" 5 ", 5),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("²", None),
        ("9" * 400, None),
        ("Fri, 01 Nov 2024 10:00:30 GMT", 30),
        ("Fri, 01 Nov 2024 09:59:00 GMT", None),
    ],
)
def test_retry_after_is_read_without_a_clock(value: str, expected: float | None) -> None:
    date = "Fri, 01 Nov 2024 10:00:00 GMT"
    assert retry_after({"retry-after": value, "date": date}) == expected


def test_a_retry_date_without_a_date_to_compare_is_none() -> None:
    assert retry_after({"retry-after": "Fri, 01 Nov 2024 10:00:30 GMT"}) is None


# gRPC


def test_a_grpc_status_is_read_like_connects() -> None:
    assert status_failure("cancelled", "m", None) == Failure("canceled", "m")
    assert status_failure("unavailable", "m", b"\xff\xff") == Failure("unavailable", "m")


# Errors


@pytest.mark.parametrize("code", [*sorted(CONNECT_CODES), "CODE_FROM_THE_FUTURE", ""])
def test_every_code_has_a_typed_error_that_keeps_it(code: str) -> None:
    error = typed_error(Failure(code, "m", "R", 2), "GetSandbox", sandbox_id="sbx-1")
    assert (error.code, error.reason, error.retry_after_s) == (code, "R", 2)


def test_not_found_needs_a_sandbox_that_was_asked_for() -> None:
    assert type(typed_error(Failure("not_found"), "x", sandbox_id="s")) is SandboxNotFoundError
    assert type(typed_error(Failure("not_found"), "x")) is SourceUnavailableError


def test_a_servers_text_cannot_forge_a_log_line_or_drive_a_terminal() -> None:
    error = typed_error(Failure("internal", "a\r\nERROR \x1b]0;x\x07\x9b" + "y" * 9999), "x")
    assert str(error).isprintable()
    assert len(str(error)) < 600
    assert one_line("plain text, ünïcode") == "plain text, ünïcode"
