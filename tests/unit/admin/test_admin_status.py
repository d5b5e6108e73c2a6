from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

import pytest

from forwarder.admin.parts import document_json
from forwarder.admin.status import render_status, status_document
from forwarder.model import StreamState
from sinks.terminal import terminal_safe
from tests.unit.admin.hostile import HOSTILE, is_harmless, on_terminal
from tests.unit.admin.overviews import NOW_NS, S, note, overview, sink, stream

if TYPE_CHECKING:
    from forwarder.spool.interface import SpoolOverview


def view(seen: SpoolOverview, *, pid: int | None = 42, width: int = 200) -> str:
    document = status_document(seen, daemon_pid=pid, now_ns=NOW_NS)
    return on_terminal(render_status(document), width=width)


def test_what_a_running_sink_says_of_itself_is_below_the_table_and_no_reason_for_trouble() -> None:
    running = sink("archive", state="running", detail="refuses to write a key twice")
    held = sink("other", state="held", detail="disk full")
    lines = [line.rstrip() for line in view(overview(sinks=[running, held])).splitlines()]
    assert "archive: refuses to write a key twice" in lines
    assert next(line for line in lines if "disk full" in line).startswith("other")
    assert sum("key twice" in line for line in lines) == 1


def test_the_document_has_this_shape() -> None:
    seen = overview(
        sinks=[sink(detail="disk full", state="held")],
        streams=[stream(gaps=1, gaps_filled=2, generation=3)],
        notes=[note("unavailable: down")],
    )
    assert status_document(seen, daemon_pid=42, now_ns=NOW_NS) == {
        "format": 1,
        "generated_at": "2026-01-02T03:04:05.000000000Z",
        "daemon": {"running": True, "pid": 42},
        "spool": {
            "id": "spool-1",
            "frames": 7,
            "size_bytes": 67108864,
            "used_bytes": 16777216,
            "max_bytes": None,
            "wal_bytes": 4194304,
            "oldest_frame": "2026-01-02T02:04:05.000000000Z",
            "kept_lines": 0,
            "kept_bytes": 0,
        },
        "notes": [
            {
                "name": "discovery",
                "text": "unavailable: down",
                "since": "2026-01-02T03:01:00.000000000Z",
                "state_age_s": 185,
            }
        ],
        "totals": {
            "streams": 1,
            "streams_by_state": {
                "waiting": 0,
                "following": 1,
                "reconnecting": 0,
                "held": 0,
                "complete": 0,
                "not_found": 0,
            },
            "lines": 10,
            "bytes": 1000,
            "gaps": 1,
            "gaps_filled": 2,
        },
        "sinks": [
            {
                "name": "archive",
                "state": "held",
                "detail": "disk full",
                "since": "2026-01-02T03:03:05.000000000Z",
                "state_age_s": 60,
                "taken": 100,
                "delivered": 50,
                "filtered": 1,
                "dead_lettered": 2,
                "dropped": 3,
                "pending": 44,
                "pending_bytes": 4400,
                "dropped_for": {"spool_full": 3},
                "dead_letters": 1,
                "dead_letter_bytes": 2000,
                "dead_letter_max_bytes": None,
                "replaying": 0,
                "ranges": [],
                "last_range": None,
                "oldest_pending": "2026-01-02T03:04:00.000000000Z",
                "oldest_pending_age_s": 5,
            }
        ],
        "streams": [
            {
                "sandbox_id": "sbx-1",
                "container": "main",
                "display_name": "",
                "state": "following",
                "detail": "",
                "since": "2026-01-02T03:02:35.000000000Z",
                "state_age_s": 90,
                "lines": 10,
                "bytes": 1000,
                "last_stamp": "2026-01-02T03:04:04.000000000Z",
                "gaps": 1,
                "gaps_filled": 2,
                "generation": 3,
            }
        ],
    }


@pytest.mark.parametrize(
    ("pid", "expected"),
    [
        (42, {"running": True, "pid": 42}),
        (0, {"running": True, "pid": None}),
        (None, {"running": False, "pid": None}),
    ],
)
def test_whether_a_daemon_runs_is_told_also_when_its_process_id_is_not_known(
    pid: int | None, expected: dict[str, object]
) -> None:
    assert status_document(overview(), daemon_pid=pid, now_ns=NOW_NS)["daemon"] == expected


def test_stamps_keep_their_nanoseconds_and_unknown_ones_are_null() -> None:
    seen = overview(
        streams=[
            stream("a", last_stamp_ns=NOW_NS + 123456789),
            stream("b", last_stamp_ns=0),
            stream("c", last_stamp_ns=2**63 - 1),
            stream("d", last_stamp_ns=300_000 * 365 * 86400 * S),
        ]
    )
    stamps = [
        one["last_stamp"] for one in status_document(seen, daemon_pid=1, now_ns=NOW_NS)["streams"]
    ]
    assert stamps == [
        "2026-01-02T03:04:05.123456789Z",
        None,
        "2262-04-11T23:47:16.854775807Z",
        None,
    ]


def test_a_clock_that_was_set_back_makes_no_negative_age_and_no_time_makes_none() -> None:
    seen = overview(sinks=[sink("a", since_ns=NOW_NS + S), sink("b", since_ns=0)])
    first, second = status_document(seen, daemon_pid=1, now_ns=NOW_NS)["sinks"]
    assert first["state_age_s"] == 0
    assert (second["since"], second["state_age_s"]) == (None, None)


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("indent", [None, 2])
def test_the_json_is_printable_ascii_and_holds_the_very_text(text: str, indent: int | None) -> None:
    seen = overview(streams=[stream(text, display_name=text, detail=text)])
    document = status_document(seen, daemon_pid=1, now_ns=NOW_NS)
    body = document_json(document, indent=indent)
    assert all(byte == 0x0A or 0x20 <= byte < 0x7F for byte in body)
    assert json.loads(body) == document


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_from_outside_acts_on_the_terminal(text: str) -> None:
    seen = overview(
        sinks=[sink(detail=text)], streams=[stream(text, display_name=text, detail=text)]
    )
    shown = view(seen, width=400)
    assert is_harmless(shown)
    assert shown.count(terminal_safe(text)) == 4


def test_a_running_daemon_is_shown_with_its_process_id() -> None:
    assert "● daemon running (process 42)" in view(overview())
    assert "● daemon running\n" in view(overview(), pid=0).replace(" \n", "\n")


def test_without_a_daemon_the_view_says_that_it_is_the_past() -> None:
    assert "○ no daemon running: this is how the last one left things" in view(overview(), pid=None)


def test_a_sink_shows_state_since_when_backlog_and_reason() -> None:
    seen = overview(
        sinks=[
            sink(
                state="held",
                detail="no space left on /var/log",
                since_ns=NOW_NS - 3 * 3600 * S,
                pending=4812,
                oldest_pending_ns=NOW_NS - 7260 * S,
                filtered=0,
            )
        ]
    )
    row = next(line for line in view(seen).splitlines() if line.startswith("archive"))
    for part in ("held", "3h 0m", "50", "4,812", "469.9 KiB", "2h 1m", "no space left on /var/log"):
        assert part in row
    aside = "(1 dead letter with 2 lines, 2.0 KiB, 3 dropped: 3 spool full)"
    assert aside in row


def test_dead_letters_are_shown_with_their_room_and_what_is_to_be_sent_again() -> None:
    seen = overview(sinks=[sink(dead_lettered=340, dead_letters=12, replaying=3, dropped=0)])
    limits = {"archive": 1 << 20, "other": 1}
    document = status_document(seen, daemon_pid=42, now_ns=NOW_NS, letter_limits=limits)
    assert document["sinks"][0]["dead_letter_max_bytes"] == 1 << 20
    shown = on_terminal(render_status(document), width=250)
    told = "12 dead letters with 340 lines, 332.0 KiB of 1.0 MiB, 3 to be sent again"
    assert told in shown


def test_a_reason_of_a_newer_version_is_shown_as_it_is() -> None:
    seen = overview(sinks=[replace(sink(), dropped_for={"eaten_by_\x1bmice": 3})])
    assert "3 eaten by \\x1bmice" in view(seen, width=250)


def test_before_the_first_sink_is_opened_the_view_says_so() -> None:
    assert "No sink has been opened yet." in view(overview())


def test_streams_in_trouble_come_first_and_the_rest_is_counted() -> None:
    seen = [stream(f"sbx-{number:04}") for number in range(4830)]
    seen += [
        stream("z-complete", StreamState.COMPLETE),
        stream("z-gap", gaps=1),
        stream("z-reconnecting", StreamState.RECONNECTING),
        stream("z-unknown", StreamState.NOT_FOUND),
        stream("z-held", StreamState.HELD, detail="unauthenticated: key refused"),
    ]
    shown = view(overview(streams=seen))
    rows = [line.split("/")[0] for line in shown.splitlines() if "/main" in line]
    assert rows[:5] == ["z-held", "z-unknown", "z-reconnecting", "z-gap", "sbx-0000"]
    assert len(rows) == 20
    assert "… and 4,815 more; --json shows all" in shown
    assert "unauthenticated: key refused" in shown
    assert (
        "4,835 streams · 1 held · 1 not found · 1 reconnecting · 4,831 following · 1 complete"
        in shown
    )
    assert "1 gap: lines are missing, or may be" in shown


def test_a_stream_of_the_only_container_is_named_by_its_sandbox_alone() -> None:
    shown = view(overview(streams=[stream("sbx-9", container="", display_name="trainer")]))
    assert "sbx-9 (trainer)" in shown
    assert "1 stream · 1 following" in shown


def test_the_last_line_is_shown_to_the_second() -> None:
    assert "2026-01-02 03:04:04Z" in view(overview(streams=[stream()]))
    assert datetime.fromisoformat("2026-01-02 03:04:04Z").timestamp() * S == NOW_NS - S


@pytest.mark.parametrize(
    ("age_s", "expected"),
    [(0, "0s"), (59, "59s"), (61, "1m 1s"), (7260, "2h 1m"), (90000, "1d 1h")],
)
def test_ages_are_shown_in_their_two_largest_units(age_s: int, expected: str) -> None:
    shown = view(overview(sinks=[sink(since_ns=NOW_NS - age_s * S)]))
    assert f" {expected} " in shown


@pytest.mark.parametrize("width", [40, 72, 80, 120, 200])
def test_an_id_can_be_copied_whole_from_any_terminal_however_long_the_reason(width: int) -> None:
    sandbox_id = "0198c4f2-7d1e-7b33-9a51-2c5be0c8d913"
    seen = [
        stream(sandbox_id, StreamState.RECONNECTING, container="", detail="no answer " * 20, gaps=2)
    ]
    shown = view(overview(streams=seen), width=width)
    assert any(sandbox_id in line for line in shown.splitlines())
    assert shown.count("answer") == 20
    assert max(map(len, shown.splitlines())) <= width


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_from_outside_acts_on_a_narrow_terminal_either(text: str) -> None:
    shown = view(overview(streams=[stream(text, display_name=text, detail=text)]), width=60)
    assert is_harmless(shown)


def test_a_discovery_that_fails_is_told_at_the_top_with_its_reason() -> None:
    shown = view(overview(notes=[note("unauthenticated: bad key")], sinks=[sink()]))
    line = "✗ discovery failing for 3m 5s: unauthenticated: bad key; new sandboxes are not seen"
    assert line in shown
    assert shown.index(line) < shown.index("SINK")
    assert "discovery" not in view(overview(sinks=[sink()]))


def test_any_other_note_is_shown_by_its_name() -> None:
    shown = view(overview(notes=[note("rain", "weather")]))
    assert "✗ weather: rain (since 2026-01-02 03:01:00Z, 3m 5s)" in shown


@pytest.mark.parametrize("order", [1, -1])
def test_a_spool_in_trouble_is_told_before_everything_else(order: int) -> None:
    notes = [note("unavailable: down"), note("went back to an older state", "spool")]
    lines = view(overview(notes=notes[::order], sinks=[sink()])).splitlines()
    assert [line.split(":")[0] for line in lines if line.startswith("✗")] == [
        "✗ spool",
        "✗ discovery failing for 3m 5s",
    ]


@pytest.mark.parametrize("width", [72, 200])
def test_gaps_that_were_filled_are_told_beside_those_that_are_open(width: int) -> None:
    seen = [stream("both", gaps=2, gaps_filled=1), stream("filled", gaps_filled=3), stream("none")]
    shown = view(overview(streams=seen), width=width)
    both, filled = ("2 gaps, 1 filled", "3 gaps filled") if width == 72 else ("2, 1 filled", "3 fi")
    assert both in shown
    assert filled in shown
    summary = " ".join(shown.split())
    told = "2 gaps: lines are missing, or may be; the command gaps says which · 4 gaps filled"
    assert told in summary
    assert "filled" not in view(overview(streams=[stream()]), width=width)


@pytest.mark.parametrize("width", [72, 200])
def test_the_generation_is_shown_where_a_container_was_restarted(width: int) -> None:
    seen = [stream("again", generation=2, detail="reset"), stream("once")]
    shown = view(overview(streams=seen), width=width)
    assert shown.count("generation") == 1
    assert "generation 2" in shown


def test_a_sink_without_a_backlog_has_no_oldest_line() -> None:
    seen = overview(sinks=[sink(pending=0, oldest_pending_ns=0)], oldest_frame_ns=0)
    document = status_document(seen, daemon_pid=1, now_ns=NOW_NS)
    assert document["sinks"][0]["oldest_pending"] is None
    assert document["sinks"][0]["oldest_pending_age_s"] is None
    assert document["spool"]["oldest_frame"] is None


@pytest.mark.parametrize("text", HOSTILE)
def test_a_note_does_not_act_on_the_terminal(text: str) -> None:
    shown = view(overview(notes=[note(text), note(text, text)]), width=400)
    assert is_harmless(shown)
    assert shown.count(terminal_safe(text)) == 3
