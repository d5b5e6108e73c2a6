from __future__ import annotations

from typing import Any

from forwarder.local.archive import NS_PER_S, Archive, StoredEvent, Storing, stored_page
from forwarder.local.archive import without_last as all_but_last

S = NS_PER_S


def archive(*records: tuple[int, bytes], **storing: Any) -> Archive:
    made = Archive("main", Storing(**storing))
    made.extend(records)
    return made


def stored(made: Archive) -> list[tuple[int, bytes]]:
    return [(event.stamp_ns, event.text) for event in made.events()]


def test_lines_are_kept_without_their_newlines_in_order_of_arrival() -> None:
    assert stored(archive((2, b"two\n"), (1, b"\n"))) == [(2, b"two"), (1, b"")]


def test_pieces_are_one_line_with_the_stamp_of_the_first() -> None:
    made = archive((1, b"0123"), (2, b"45"))
    made.extend([(3, b"6\n"), (4, b"next\n"), (5, b"open")])
    assert stored(made) == [(1, b"0123456"), (4, b"next"), (5, b"open")]


def test_a_line_that_still_grows_is_stored_as_far_as_it_is_there() -> None:
    made = archive((1, b"a\n"), (2, b"01"))
    assert stored(made) == [(1, b"a"), (2, b"01")]
    made.extend([(3, b"23\n"), (4, b"b\n")])
    assert stored(made) == stored(made) == [(1, b"a"), (2, b"0123"), (4, b"b")]
    assert [event.event_id for event in made.events()] == [
        "main-0000000000",
        "main-0000000001",
        "main-0000000002",
    ]


def test_another_process_begins_another_line() -> None:
    made = archive((1, b"open"))
    made.close_line()
    made.extend([(2, b"new\n")])
    assert stored(made) == [(1, b"open"), (2, b"new")]


def test_stamps_are_as_coarse_as_told() -> None:
    line = (5 * S + 123_456_789, b"x\n")
    assert stored(archive(line, precision_ns=1_000)) == [(5 * S + 123_456_000, b"x")]
    assert stored(archive(line, precision_ns=S)) == [(5 * S, b"x")]


def test_only_json_objects_are_normalised() -> None:
    lines = [(1, b'{"b": 1, "a": "\\u00e9"}\n'), (2, b"[1, 2]\n"), (3, b"{odd}\n")]
    assert stored(archive(*lines, normalises_json=True)) == [
        (1, '{"a":"é","b":1}'.encode()),
        (2, b"[1, 2]"),
        (3, b"{odd}"),
    ]


def test_a_long_line_is_cut() -> None:
    assert stored(archive((1, b"0123456789\n"), max_line_bytes=4)) == [(1, b"0123")]


def event(stamp_ns: int, name: str) -> StoredEvent:
    return StoredEvent(stamp_ns, name, "main", b"")


def test_pages_go_by_stamp_and_then_by_id() -> None:
    events = [event(2, "a"), event(1, "c"), event(1, "b")]
    page, more = stored_page(events, None, 2)
    assert page == [event(1, "b"), event(1, "c")]
    assert more
    assert stored_page(events, (1, "c"), 2) == ([event(2, "a")], False)


def test_a_late_line_behind_the_cursor_shows_only_from_the_first_page_on() -> None:
    events = [event(1, "a"), event(3, "c"), event(2, "late")]
    assert stored_page(events, (3, "c"), 9) == ([], False)
    assert event(2, "late") in stored_page(events, None, 9)[0]


def test_the_last_seconds_may_be_missing() -> None:
    events = [event(1 * S, "a"), event(3 * S, "b"), event(4 * S, "c")]
    assert all_but_last(events, 0) == events
    assert all_but_last(events, 1) == events[:2]
    assert all_but_last([], 1) == []
