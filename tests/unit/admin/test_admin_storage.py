from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from forwarder.admin.storage import render_spool, spool_document
from sinks.terminal import terminal_safe
from tests.unit.admin.hostile import HOSTILE, is_harmless, on_terminal
from tests.unit.admin.overviews import NOW_NS, S, note, overview, sink

if TYPE_CHECKING:
    from forwarder.admin.parts import Document
    from forwarder.spool.interface import SpoolOverview

PATH = Path("/var/lib/x/spool.db")


def document(
    seen: SpoolOverview,
    *,
    path: Path = PATH,
    pid: int | None = 42,
) -> Document:
    return spool_document(
        seen,
        path=path,
        when_full="block",
        daemon_pid=pid,
        now_ns=NOW_NS,
        letter_limits={"archive": 1 << 20},
    )


def view(seen: SpoolOverview, *, path: Path = PATH) -> str:
    return on_terminal(render_spool(document(seen, path=path)), width=400)


def test_the_document_has_this_shape() -> None:
    notes = [note("older", "spool"), note("down")]
    seen = overview(sinks=[sink()], notes=notes, max_bytes=64 << 20)
    assert document(seen) == {
        "format": 1,
        "generated_at": "2026-01-02T03:04:05.000000000Z",
        "daemon": {"running": True, "pid": 42},
        "spool": {
            "path": "/var/lib/x/spool.db",
            "id": "spool-1",
            "frames": 7,
            "size_bytes": 64 << 20,
            "used_bytes": 16 << 20,
            "wal_bytes": 4 << 20,
            "max_bytes": 64 << 20,
            "when_full": "block",
            "oldest_frame": "2026-01-02T02:04:05.000000000Z",
            "kept_lines": 0,
            "kept_bytes": 0,
            "oldest_frame_age_s": 3600,
        },
        "notes": [
            {
                "name": "spool",
                "text": "older",
                "since": "2026-01-02T03:01:00.000000000Z",
                "state_age_s": 185,
            }
        ],
        "sinks": [
            {
                "name": "archive",
                "state": "running",
                "pending": 44,
                "pending_bytes": 4400,
                "oldest_pending": "2026-01-02T03:04:00.000000000Z",
                "oldest_pending_age_s": 5,
                "dead_letters": 1,
                "dead_letter_bytes": 2000,
                "dead_letter_max_bytes": 1 << 20,
            }
        ],
    }


def test_how_full_it_is_stands_beside_its_limit() -> None:
    lines = view(overview(max_bytes=64 << 20)).splitlines()
    assert "● daemon running (process 42)" in lines[0]
    assert "/var/lib/x/spool.db" in lines[1]
    used = next(line for line in lines if line.startswith("in use"))
    for part in ("16.0 MiB", "25 % of spool.max_size, 64.0 MiB", "when full: block"):
        assert part in used


def test_without_a_limit_the_view_says_what_ends_its_growth() -> None:
    assert "no limit but the disk" in view(overview())


def test_the_oldest_frame_is_told_with_its_age_when_there_is_one() -> None:
    assert "received 1h 0m ago, at 2026-01-02 02:04:05Z" in view(overview())
    assert "received" not in view(overview(oldest_frame_ns=0))


def test_each_sinks_backlog_is_told_with_the_age_of_its_oldest_line() -> None:
    done = sink("done", pending=0, oldest_pending_ns=0, dead_lettered=0)
    late = sink("late", "held", pending=4812, oldest_pending_ns=NOW_NS - 7260 * S, dead_lettered=0)
    lines = view(overview(sinks=[done, late])).splitlines()
    assert lines[-2].split() == ["done", "running", "none"]
    assert lines[-1].split() == [
        "late",
        "held",
        "4,812",
        "lines",
        "469.9",
        "KiB",
        "2h",
        "1m",
        "ago",
    ]


def test_what_dead_letters_take_of_it_is_told() -> None:
    assert view(overview(sinks=[sink()])).splitlines()[-1].endswith("1, 2.0 KiB of 1.0 MiB")


def test_before_the_first_sink_is_opened_the_view_says_so() -> None:
    assert "No sink has been opened yet." in view(overview())


def test_what_is_wrong_with_the_spool_is_told() -> None:
    shown = view(overview(notes=[note("went back", "spool"), note("down")]))
    assert "✗ spool: went back (since 2026-01-02 03:01:00Z, 3m 5s)" in shown
    assert "down" not in shown


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_from_outside_acts_on_the_terminal(text: str) -> None:
    shown = view(
        overview(sinks=[sink(text, text)], notes=[note(text, "spool")]), path=Path("/") / text
    )
    assert is_harmless(shown)
    assert shown.count(terminal_safe(text)) >= 3
