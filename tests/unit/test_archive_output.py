"""How archived records look, to a person and to a script."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import orjson
import pytest

from forwarder.archive_output import (
    JsonWriter,
    LineForm,
    LineWriter,
    describe_gap,
    lost_lines,
)
from tests.fakes.archive import gap, line
from tests.unit.admin.hostile import HOSTILE, is_harmless

if TYPE_CHECKING:
    from sinks.archive import ArchivedRecord


def lines(*chunks: list[ArchivedRecord], form: LineForm | None = None) -> tuple[bytes, list[str]]:
    """What is written, and what is told besides."""
    output = io.BytesIO()
    told: list[str] = []
    writer = LineWriter(output, told.append, form or LineForm())
    for chunk in chunks:
        writer.write(chunk)
    writer.finish()
    return output.getvalue(), told


def documents(*records: ArchivedRecord) -> list[dict[str, object]]:
    output = io.BytesIO()
    writer = JsonWriter(output)
    writer.write(records)
    writer.finish()
    return [orjson.loads(one) for one in output.getvalue().splitlines()]


def test_lines_are_written_byte_for_byte() -> None:
    assert lines([line(0, b"\x1b[1m\xff\r"), line(1, b"")]) == (b"\x1b[1m\xff\r\n\n", [])


def test_a_terminal_is_not_given_what_could_act_on_it() -> None:
    written, _ = lines([line(0, text) for text in HOSTILE], form=LineForm(raw=False))
    assert is_harmless(written.decode())


def test_a_line_has_its_stamp_in_front_when_asked_for() -> None:
    written, _ = lines([line(1, "x", second=1.5)], form=LineForm(timestamps=True))
    assert written == b"2026-11-23T13:00:01.500000000Z x\n"


def test_lines_of_several_containers_say_whose_they_are() -> None:
    records = [line(0, "a"), line(0, "b", container="side\x1b")]
    written, _ = lines(records, form=LineForm(containers=True, timestamps=True))
    assert written.splitlines() == [
        b"2026-11-23T13:00:00.000000000Z main: a",
        b"2026-11-23T13:00:00.000000000Z side\\x1b: b",
    ]


def test_the_parts_of_a_line_are_one_line_again_also_over_chunks() -> None:
    parts = [line(n, f"part{n} ", part=n, second=0) for n in (1, 2, 3)]
    form = LineForm(containers=True)
    assert lines(parts[:2], [parts[2], line(4, "x")], form=form)[0] == (
        b"main: part1 part2 part3 \nmain: x\n"
    )
    assert lines(parts, form=form)[0] == b"main: part1 part2 part3 \n"


@pytest.mark.parametrize(
    "after",
    [
        line(2, "b", part=1, second=1),
        line(2, "b", part=2, container="side"),
        line(3, "b", part=3),
        line(2, "b"),
    ],
    ids=["another first part", "another container", "not the next part", "a whole line"],
)
def test_what_is_not_the_next_part_is_a_line_of_its_own(after: ArchivedRecord) -> None:
    assert lines([line(1, "a", part=1), after])[0] == b"a\nb\n"


def test_a_gap_is_told_where_it_is_and_ends_a_line_that_it_cut_off() -> None:
    output = io.BytesIO()
    heard: list[tuple[bytes, str]] = []
    writer = LineWriter(output, lambda text: heard.append((output.getvalue(), text)), LineForm())
    writer.write([line(0, "a", part=1), gap(0, 41), line(41, "b")])
    assert heard == [(b"a\n", "gap after line 0: spool_full, 40 lines of sbx-1/main")]
    assert output.getvalue() == b"a\nb\n"


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (gap(7), "gap after line 7: replay_gap"),
        (gap(-1, 1), "gap at the beginning: spool_full, 1 line"),
        (gap(7, kind="tail", cause="tail_unknown"), "gap after line 7: tail_unknown"),
        (gap(7, filled_ns=5), "what was missing after line 7 was found after all"),
        (gap(7, cause="\x1b[2J"), "gap after line 7: \\x1b[2J"),
    ],
)
def test_a_gap_in_words(record: ArchivedRecord, text: str) -> None:
    assert record.gap is not None
    assert describe_gap(record.gap) == text


def test_only_lines_that_had_numbers_are_accounted_for() -> None:
    known = [gap(4, 9), gap(4), gap(4, 9, filled_ns=1), gap(4, kind="dropped"), gap(4, 3)]
    found = [lost_lines(one.gap or {}) for one in known]
    assert found == [(5, 9), None, None, (5, None), (5, 5)]


def test_json_is_what_the_sinks_write() -> None:
    assert documents(line(0, 'say "hi"'), line(1, b"\xff", generation=2, part=3), gap(1, 5)) == [
        {
            "time": "2026-11-23T13:00:00.000000000Z",
            "sandbox_id": "sbx-1",
            "container": "main",
            "line": 0,
            "text": 'say "hi"',
        },
        {
            "time": "2026-11-23T13:00:01.000000000Z",
            "sandbox_id": "sbx-1",
            "container": "main",
            "generation": 2,
            "line": 1,
            "text_base64": "/w==",
            "part": 3,
        },
        {
            "time": "2026-11-23T13:00:01.000000000Z",
            "sandbox_id": "sbx-1",
            "container": "main",
            "gap": gap(1, 5).gap,
        },
    ]
