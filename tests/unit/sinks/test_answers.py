"""What answers mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinks.answers import Answer, StatusTable, origin, printable, verdict
from sinks.interface import BatchRejectedError, SinkMisconfiguredError, SinkUnavailableError

TABLE = StatusTable(retry=frozenset({429, 503}))
URL = "https://logs.example.com:4318/secret/path?token=secret"


def meaning(answer: Answer, **more: object) -> str:
    found = verdict(answer, TABLE, url=URL, **more)  # type: ignore[arg-type]  # in one place
    match found:
        case None:
            return "taken"
        case SinkUnavailableError():
            return "again"
        case SinkMisconfiguredError(credentials=True):
            return "credentials"
        case SinkMisconfiguredError():
            return "held"
        case BatchRejectedError(too_large=True):
            return "too large"
        case BatchRejectedError(status=status):
            assert status == str(answer.status)
            return "refused"
        case _:
            raise AssertionError(found)


@pytest.mark.parametrize(
    ("status", "what"),
    [
        *((200, "taken"), (202, "taken"), (204, "taken"), (299, "taken")),
        *((101, "held"), (301, "held"), (302, "held"), (304, "held"), (307, "held")),
        *((400, "refused"), (405, "refused"), (422, "refused"), (500, "refused")),
        *((401, "credentials"), (403, "credentials"), (407, "credentials"), (404, "held")),
        *((413, "too large"), (429, "again"), (503, "again"), (600, "again"), (999, "again")),
    ],
)
def test_each_status_means_what_the_table_says(status: int, what: str) -> None:
    assert meaning(Answer(status, {})) == what


def test_an_operator_may_have_more_tried_again() -> None:
    assert meaning(Answer(500, {}), retry_statuses=(500,)) == "again"
    assert meaning(Answer(404, {}), retry_statuses=(404,)) == "again"


@given(st.integers(100, 999), st.binary(max_size=40), st.text(max_size=20))
def test_every_answer_means_something_and_no_message_has_more_of_the_address_than_its_origin(
    status: int, body: bytes, header: str
) -> None:
    answer = Answer(status, {"location": header, "retry-after": header, "date": header}, body)
    found = verdict(answer, TABLE, url=URL)
    text = str(found)
    assert "secret" not in text
    assert text.isprintable()
    assert len(text) < 600


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"content-type": "text/html; charset=utf-8"}, b" <form>"),
        ({}, b"\n<!DOCTYPE html><title>Log in"),
        ({}, b"\xef\xbb\xbf<HTML >"),
        ({"content-type": "application/json"}, b"<html>"),
    ],
)
def test_a_web_page_is_not_the_service(headers: dict[str, str], body: bytes) -> None:
    assert meaning(Answer(200, headers, body)) == "held"
    assert "web page" in str(verdict(Answer(200, headers, body), TABLE, url=URL))


def test_a_compressed_web_page_is_one_too() -> None:
    answer = Answer(200, {"content-type": "text/html", "content-encoding": "br"}, whole=False)
    assert meaning(answer) == "held"


@pytest.mark.parametrize(
    ("headers", "body"),
    [({"content-type": "text/html"}, b"ok"), ({"content-type": "text/html"}, b""), ({}, b"<ok/>")],
)
def test_what_is_only_called_html_is_taken(headers: dict[str, str], body: bytes) -> None:
    assert meaning(Answer(200, headers, body)) == "taken"


@pytest.mark.parametrize(
    "body",
    [
        b"Client sent an HTTP request to an HTTPS server.\n",
        b"<html>\r\n<head><title>400 The plain HTTP request was sent to HTTPS port</title></head>",
        b"<!DOCTYPE HTML PUBLIC><p>You're speaking plain HTTP to an SSL-enabled server port.",
        b"Bad Request\r\nThis combination of host and port requires TLS.\r\n",
        b'unsupported path requested: "/v1/logs"',
    ],
)
def test_a_server_that_wants_tls_does_not_cost_records(body: bytes) -> None:
    assert meaning(Answer(400, {}, body)) == "held"


def test_a_record_that_says_so_is_not_believed() -> None:
    echoed = b'{"error":"bad record: Client sent an HTTP request to an HTTPS server"}'
    assert meaning(Answer(400, {}, echoed)) == "refused"


@pytest.mark.parametrize(
    "body", [b"No required SSL certificate was sent", b"The SSL certificate error"]
)
def test_a_server_that_wants_our_certificate_does_not_cost_records(body: bytes) -> None:
    assert meaning(Answer(400, {}, body)) == "credentials"


def test_a_redirection_names_where_to_and_no_path() -> None:
    answer = Answer(302, {"location": "https://login.example.com/?back=token"})
    text = str(verdict(answer, TABLE, url=URL))
    assert "https://login.example.com," in text
    assert "token" not in text
    assert "elsewhere" in str(verdict(Answer(302, {"location": "/x"}), TABLE, url=URL))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        *(("0", 0.0), ("120", 120.0), (" 7 ", 7.0), ("9" * 400, 999_999_999_999_999.0)),
        *(("-1", None), ("1.5", None), ("", None), ("soon", None), ("\u0661", None), ("²", None)),
        ("Mon, 23 Nov 2026 10:00:30 GMT", 30.0),
        ("Mon, 23 Nov 2026 09:00:00 GMT", 0.0),
        ("Mon, 23 Nov 2026 10:00:30 -0000", None),
        ("Mon, 99 Nov 2026 10:00:30 GMT", None),
        ("Fri, 31 Dec 9999 23:59:59 GMT", pytest.approx(2.5e11, rel=0.01)),
    ],
)
def test_retry_after_is_taken_when_it_makes_sense(value: str, seconds: float | None) -> None:
    headers = {"retry-after": value, "date": "Mon, 23 Nov 2026 10:00:00 GMT"}
    found = verdict(Answer(503, headers), TABLE, url=URL)
    assert isinstance(found, SinkUnavailableError)
    assert found.retry_after_s == seconds


def test_a_date_to_wait_for_means_nothing_without_the_servers_own() -> None:
    assert Answer(503, {"retry-after": "Mon, 23 Nov 2026 10:00:30 GMT"}).retry_after_s is None


@given(st.text(max_size=50), st.text(max_size=50))
def test_no_header_breaks_reading_it(value: str, date: str) -> None:
    seconds = Answer(503, {"retry-after": value, "date": date}).retry_after_s
    assert seconds is None or seconds >= 0


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://h.example/p?q#f", "https://h.example"),
        ("http://h.example:8080", "http://h.example:8080"),
        ("http://user:pass@[::1]:9/", "http://[::1]:9"),
        *(("ftp://h/", ""), ("", ""), ("http://h\n/", ""), ("http://h:99999/", "")),
    ],
)
def test_the_origin_is_all_that_is_shown_of_an_address(url: str, shown: str) -> None:
    assert origin(url) == shown


@given(st.text())
def test_what_servers_say_becomes_one_short_line(text: str) -> None:
    assert printable(text).isprintable()
    assert len(printable(text)) <= 300


def test_a_long_text_is_cut_visibly() -> None:
    assert printable("x" * 301) == "x" * 297 + "..."
    assert printable("a\n  b\x1b[2J") == "a b\N{REPLACEMENT CHARACTER}[2J"
