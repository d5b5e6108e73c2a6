"""The negative control: what judges every other test here must itself notice each kind of harm."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.fakes.oracle import Count, count, count_records, line

SOURCES = ("a/out", "a/err")
STAMP = b"2026-01-02T03:04:05.000000006Z "


def whole_log() -> list[bytes]:
    return [
        STAMP + line(source, number, last=number == 299)
        for number in range(300)
        for source in SOURCES
    ]


def judged(lines: list[bytes]) -> dict[str, int]:
    return count(b"".join(lines), SOURCES).wrong


def test_a_whole_log_has_nothing_wrong() -> None:
    assert count(b"".join(whole_log()), SOURCES) == Count(good=600)


@pytest.mark.parametrize("place", [0, 1, 250, 598, 599])
def test_a_deleted_line_is_lost(place: int) -> None:
    lines = whole_log()
    del lines[place]
    assert judged(lines) == {"unexplained": 1}


@pytest.mark.parametrize("place", [0, 250, 599])
def test_a_doubled_line_is_repeated(place: int) -> None:
    lines = whole_log()
    lines.insert(place, lines[place])
    assert judged(lines) == {"repeated": 1}


@pytest.mark.parametrize("place", [0, 250, 590])
def test_two_lines_of_a_source_that_changed_places_are_out_of_order(place: int) -> None:
    lines = whole_log()
    lines[place], lines[place + 2] = lines[place + 2], lines[place]
    assert judged(lines) == {"out_of_order": 1}


@pytest.mark.parametrize("at", [0, 8, 9, 12, 18, 20, -2])
def test_a_flipped_bit_damages_a_line_which_is_lost_with_it(at: int) -> None:
    lines = whole_log()
    text = bytearray(lines[250])
    text[len(STAMP) + at if at >= 0 else at] ^= 1
    lines[250] = bytes(text)
    assert judged(lines) == {"damaged": 1, "unexplained": 1}


def test_an_added_line_is_foreign_or_damaged() -> None:
    assert judged([*whole_log(), STAMP + line("b/out", 0)]) == {"foreign": 1}
    assert judged([*whole_log(), STAMP + line("a/out", 300)]) == {"foreign": 1}
    assert judged([*whole_log(), STAMP + b"hello\n"]) == {"damaged": 1}


def test_a_log_cut_in_the_middle_of_a_line_is_damaged_and_has_lost_its_end() -> None:
    log = b"".join(whole_log())[:-3]
    assert count(log, SOURCES).wrong == {"damaged": 1, "unexplained": 1}


def test_a_source_that_never_came_is_lost() -> None:
    assert count(b"", ("a/out",)).wrong == {"unexplained": 1}


def whole_output() -> list[dict[str, Any]]:
    """The same log as records of a sink."""
    texts = [text.removeprefix(STAMP).decode().removesuffix("\n") for text in whole_log()]
    return [{"line": number, "text": text} for number, text in enumerate(texts)]


def numbered(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As the daemon numbers what it got: without holes."""
    return [{**record, "line": number} for number, record in enumerate(records)]


def gap(after_line: int, **fields: Any) -> dict[str, Any]:
    return {"gap": {"after_line": after_line, "kind": "range", "cause": "anchor_lost", **fields}}


def tail_gap(after_line: int, **fields: Any) -> dict[str, Any]:
    return gap(after_line, kind="tail", cause="tail_unknown", **fields)


def judged_records(records: list[dict[str, Any]]) -> Count:
    output = "".join(f"{json.dumps(record)}\n" for record in records)
    return count_records(output.encode(), SOURCES)


def test_whole_output_has_nothing_wrong() -> None:
    assert judged_records(whole_output()) == Count(good=600)


@pytest.mark.parametrize(
    ("harm", "wrong"),
    [
        (lambda each: each.pop(250), "unexplained"),
        (lambda each: each.insert(250, each[250]), "repeated"),
        (lambda each: each.insert(250, each.pop(252)), "out_of_order"),
        (lambda each: each.insert(250, {"line": 250, "text": "hello"}), "damaged"),
        (
            lambda each: each.insert(9, {"line": 9, "text": line("b/out", 0).decode()[:-1]}),
            "foreign",
        ),
    ],
)
def test_harm_to_a_record_is_noticed_as_harm_to_a_line(harm: Any, wrong: str) -> None:
    records = whole_output()
    harm(records)
    assert judged_records(numbered(records)).wrong == {wrong: 1}


def test_a_line_in_numbered_parts_is_one_line() -> None:
    records = whole_output()
    text = records[7]["text"]
    parts = [{**records[7], "text": text[:9], "part": 1}, {"text": text[9:], "part": 2, "line": 8}]
    assert judged_records([*records[:7], *parts, *records[8:]]) == Count(good=600)


@pytest.mark.parametrize(("first", "behind"), [(100, 150), (0, 1), (0, 300), (599, 600), (1, 598)])
def test_a_hole_with_its_gap_is_declared_and_without_it_is_unexplained(
    first: int, behind: int
) -> None:
    records = whole_output()
    del records[first:behind]
    records = numbered(records)
    missing = judged_records(records).wrong
    assert missing == {"unexplained": behind - first}
    for found in (gap(first - 1), gap(first - 1, before_line=first)):
        found_count = judged_records([*records[:first], found, *records[first:]])
        assert found_count.wrong == {}
        assert found_count.declared == found_count.lost == behind - first


def test_an_end_that_is_missing_is_declared_or_unexplained() -> None:
    records = whole_output()[:500]
    assert judged_records(records).wrong == {"unexplained": 2}
    assert judged_records([*records, tail_gap(499)]).wrong == {}


def test_an_end_declared_missing_that_is_there_is_false_unless_nobody_could_know() -> None:
    records = whole_output()
    assert judged_records([*records, tail_gap(599)]).wrong == {"falsely_declared": 1}
    assert judged_records([*records, tail_gap(599, bounds="approximate")]).wrong == {}


def test_an_end_that_came_after_all_has_to_be_said_to_be_filled() -> None:
    records = whole_output()
    told = [*records[:500], tail_gap(499, bounds="approximate")]
    assert judged_records([*told, *records[500:]]).wrong == {"falsely_declared": 1}
    filled = tail_gap(499, bounds="approximate", filled_ns=1)
    assert judged_records([*told, filled, *records[500:]]).wrong == {}


@pytest.mark.parametrize("after_line", [-1, 0, 300, 599])
def test_a_gap_declared_over_lines_that_were_delivered_is_false(after_line: int) -> None:
    records = whole_output()
    records.insert(after_line + 1, gap(after_line))
    assert judged_records(records).wrong == {"falsely_declared": 1}


def test_a_gap_that_is_wider_than_its_hole_is_false() -> None:
    records = numbered(whole_output()[:100] + whole_output()[150:])
    records.insert(100, gap(95, before_line=105))
    assert judged_records(records).wrong == {"falsely_declared": 1}


def test_a_gap_in_another_place_is_false_and_explains_nothing() -> None:
    records = numbered(whole_output()[:100] + whole_output()[150:])
    records.insert(51, gap(50))
    assert judged_records(records).wrong == {"falsely_declared": 1, "unexplained": 50}
