"""What `archive verify` and the objects of `archive list` look like."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.admin.archive import render_verify, verify_document, window_rows
from forwarder.archive_checks import ArchiveReport
from sinks.archive import ArchivedWindow
from tests.fakes.archive import line, object_of
from tests.unit.admin.hostile import HOSTILE, is_harmless, on_terminal
from tests.unit.admin.overviews import NOW_NS


def report(**changes: Any) -> ArchiveReport:
    numbers = {"windows": 2, "objects": 3, "streams": 1, "lines": 1504, "size_bytes": 3000}
    return ArchiveReport(**{**numbers, **changes})


def shown(found: ArchiveReport) -> list[str]:
    document = verify_document(found, sink="s3", now_ns=NOW_NS)
    return on_terminal(render_verify(document)).rstrip().split("\n")


def test_the_document_has_this_shape() -> None:
    found = report()
    found.tell("something")
    assert verify_document(found, sink="s3", now_ns=NOW_NS) == {
        "format": 1,
        "generated_at": "2026-01-02T03:04:05.000000000Z",
        "sink": "s3",
        "ok": False,
        "contents": True,
        "windows": 2,
        "objects": 3,
        "streams": 1,
        "lines": 1504,
        "size_bytes": 3000,
        "missing_told": 0,
        "late": 0,
        "problem_count": 1,
        "problems": ["something"],
    }


def test_what_is_well_is_one_line() -> None:
    (only,) = shown(report())
    looked_at = "2 windows, 3 objects (2.9 KiB) read; 1,504 lines of 1 container"
    assert only == f"✓ every line is there once: {looked_at}"
    assert "looked up, not read" in shown(report(contents=False))[0]


def test_problems_come_first_and_what_is_known_to_be_missing_behind_them() -> None:
    found = report(missing_told=1, late=2)
    for number in range(102):
        found.tell(f"problem {number}")
    lines = [one.rstrip() for one in shown(found)]
    assert lines[0].startswith("✗ 102 problems: 2 windows, ")
    reasons = "written before the sink was there, or deleted since"
    assert lines[1:3] + lines[100:] == [
        "• problem 0",
        "• problem 1",
        "• problem 99",
        "• and 2 more",
        "• 1 line is missing, and gap records say so",
        f"• 2 containers without the first lines: {reasons}",
    ]


@pytest.mark.parametrize("text", HOSTILE)
def test_what_others_wrote_is_harmless(text: str) -> None:
    found = report()
    found.tell(text)
    assert is_harmless("\n".join(shown(found)))
    window = ArchivedWindow(text, text, 0, 1, [object_of(text, [line(0, sandbox=text)])])
    assert all(is_harmless(row) for row in window_rows(window, objects=True))
