"""Pages of stored logs, whatever their fields are called."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.source.sandbox_json import UnreadableAnswerError
from forwarder.source.stored_json import stored_page_from_json
from forwarder.source.stored_lines import StoredLine

STAMP = "2026-01-02T03:04:05.123456789Z"
STAMP_NS = 1_767_323_045_123_456_789

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def lines(entry: dict[str, Any]) -> list[StoredLine]:
    return [line for _, line in stored_page_from_json({"entries": [entry]}).lines]


def text(value: object) -> list[bytes]:
    return [line.text for line in lines({"timestamp": STAMP, "message": value})]


def stamp(value: object) -> int:
    (line,) = lines({"timestamp": value, "message": "x"})
    return line.stamp_ns


@pytest.mark.parametrize("entries", ["entries", "logs", "items", "lines", "log_entries", "records"])
@pytest.mark.parametrize("time", ["timestamp", "time", "ts", "logTime", "event_time"])
@pytest.mark.parametrize("name", ["message", "text", "line", "body", "log", "content"])
def test_the_usual_names_are_understood(entries: str, time: str, name: str) -> None:
    page = stored_page_from_json({entries: [{time: STAMP, name: "hello", "eventId": "7"}]})
    assert page.lines == (("", StoredLine(STAMP_NS, b"hello")),)
    assert (page.first_id, page.next_token) == ("7", "")


def test_a_page_names_the_next_one_and_its_lines_their_containers() -> None:
    page = stored_page_from_json(
        {
            "entries": [
                {"timestamp": STAMP, "message": "a", "container": "main", "event_id": 5},
                {"timestamp": STAMP, "message": "b", "containerName": "side"},
            ],
            "nextPageToken": "more",
            "retentionExpiresAt": STAMP,
        }
    )
    assert [where for where, _ in page.lines] == ["main", "side"]
    assert (page.next_token, page.first_id) == ("more", "5")


@pytest.mark.parametrize(
    "page", [{}, {"nextPageToken": ""}, {"retentionExpiresAt": STAMP}, {"entries": None}]
)
def test_a_page_without_a_list_is_empty(page: dict[str, Any]) -> None:
    assert stored_page_from_json(page).lines == ()


@pytest.mark.parametrize(
    "page",
    [
        None,
        [],
        "page",
        {"data": []},
        {"result": {"entries": []}},
        {"entries": {}},
        {"entries": "none"},
        {"entries": [], "nextPageToken": 5},
        {"entries": ["line"]},
        {"entries": [{"message": "x"}]},
        {"entries": [{"timestamp": STAMP, "unknown": "x"}]},
        {"entries": [{"timestamp": STAMP, "message": 5}]},
        {"entries": [{"timestamp": STAMP, "message": "x", "container": {}}]},
        {"entries": [{"timestamp": STAMP, "message": "x"}, {}]},
    ],
)
def test_what_is_not_surely_understood_is_refused_whole(page: object) -> None:
    with pytest.raises(UnreadableAnswerError):
        stored_page_from_json(page)


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        ("", [b""]),
        ("x\n", [b"x"]),
        ("x\r\n", [b"x\r"]),
        ("x\ny", [b"x", b"y"]),
        ("x\n\n", [b"x", b""]),
        ({"b": 1}, [b'{"b":1}']),
        ("\ud800", [b"?"]),
    ],
)
def test_an_entry_is_the_lines_of_its_text(value: object, texts: list[bytes]) -> None:
    assert text(value) == texts


def test_an_entry_without_a_text_is_an_empty_line_when_nothing_else_could_be_the_text() -> None:
    (line,) = lines({"timestamp": STAMP, "eventId": "7", "stream": "stdout"})
    assert line == StoredLine(STAMP_NS, b"")


@pytest.mark.parametrize(
    ("value", "stamp_ns"),
    [
        ("2026-01-02T03:04:05Z", 1_767_323_045_000_000_000),
        ("2026-01-02T04:04:05.5+01:00", 1_767_323_045_500_000_000),
        (1_767_323_045, 1_767_323_045_000_000_000),
        (1_767_323_045_123, 1_767_323_045_123_000_000),
        (1_767_323_045_123_456, 1_767_323_045_123_456_000),
        (STAMP_NS, STAMP_NS),
        (str(STAMP_NS), STAMP_NS),
        (0, 0),
    ],
)
def test_times_are_text_or_counts_since_1970(value: object, stamp_ns: int) -> None:
    assert stamp(value) == stamp_ns


@pytest.mark.parametrize(
    "value", [None, "", "yesterday", True, 1.5, -1, 2**63, {}, "9" * 19, "1960-01-01T00:00:00Z"]
)
def test_what_is_no_time_is_refused(value: object) -> None:
    with pytest.raises(UnreadableAnswerError):
        stamp(value)


@given(JSON)
def test_any_json_is_read_or_refused(value: object) -> None:
    for page in (value, {"entries": value}, {"entries": [value]}):
        try:
            found = stored_page_from_json(page)
        except UnreadableAnswerError:
            continue
        assert all(b"\n" not in line.text for _, line in found.lines)
