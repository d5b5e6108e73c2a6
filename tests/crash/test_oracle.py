"""The negative control: what judges every other test here must itself notice each kind of harm."""

from __future__ import annotations

import pytest

from tests.fakes.oracle import Count, count, line

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
    assert judged(lines) == {"lost": 1}


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
    assert judged(lines) == {"damaged": 1, "lost": 1}


def test_an_added_line_is_foreign_or_damaged() -> None:
    assert judged([*whole_log(), STAMP + line("b/out", 0)]) == {"foreign": 1}
    assert judged([*whole_log(), STAMP + line("a/out", 300)]) == {"foreign": 1}
    assert judged([*whole_log(), STAMP + b"hello\n"]) == {"damaged": 1}


def test_a_log_cut_in_the_middle_of_a_line_is_damaged_and_has_lost_its_end() -> None:
    log = b"".join(whole_log())[:-3]
    assert count(log, SOURCES).wrong == {"damaged": 1, "lost": 1}


def test_a_source_that_never_came_is_lost() -> None:
    assert count(b"", ("a/out",)).wrong == {"lost": 1}
