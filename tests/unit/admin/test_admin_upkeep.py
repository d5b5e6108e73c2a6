from __future__ import annotations

from pathlib import Path

import pytest

from forwarder.admin.upkeep import (
    backup_document,
    render_backup,
    render_verify,
    verify_document,
)
from forwarder.spool.backup import BackupReport
from forwarder.spool.verify import VerifyReport
from sinks.terminal import terminal_safe
from tests.unit.admin.hostile import HOSTILE, is_harmless, on_terminal
from tests.unit.admin.overviews import NOW_NS

COPY = BackupReport(Path("/srv/copy"), "spool-1", size_bytes=2048, frames=1, last_frame_id=4812)


def verified(report: VerifyReport) -> str:
    return on_terminal(render_verify(verify_document(report, now_ns=NOW_NS)), width=80)


def test_a_whole_spool_is_told_with_what_was_read() -> None:
    shown = verified(VerifyReport(frames=1200, lines=1))
    assert shown == "✓ no damage: 1,200 frames with 1 line read, each as it was stored\n"


def test_dead_letters_are_told_when_there_are_any() -> None:
    shown = verified(VerifyReport(frames=1, lines=1, dead_letters=2))
    assert "1 frame with 1 line and 2 dead letters read" in shown


def test_damage_is_told_piece_by_piece() -> None:
    shown = verified(VerifyReport(3, 40, ["frame 2: checksum", "frame 3: checksum"]))
    assert [line.rstrip() for line in shown.splitlines()] == [
        "✗ 2 problems; 3 frames with 40 lines looked at",
        " • frame 2: checksum",
        " • frame 3: checksum",
    ]


def test_of_very_much_damage_the_rest_is_counted() -> None:
    shown = verified(VerifyReport(30, 40, [f"frame {number}" for number in range(1020)]))
    assert "✗ 1,020 problems" in shown
    assert "frame 19\n" in shown.replace(" \n", "\n")
    assert "frame 20" not in shown
    assert "… and 1,000 more; --json shows all" in shown


def test_the_documents_have_these_shapes() -> None:
    made = "2026-01-02T03:04:05.000000000Z"
    assert verify_document(VerifyReport(3, 40, ["frame 2"]), now_ns=NOW_NS) == {
        "format": 1,
        "generated_at": made,
        "ok": False,
        "frames": 3,
        "lines": 40,
        "dead_letters": 0,
        "problems": ["frame 2"],
    }
    assert backup_document(COPY, now_ns=NOW_NS) == {
        "format": 1,
        "generated_at": made,
        "path": "/srv/copy",
        "spool_id": "spool-1",
        "size_bytes": 2048,
        "frames": 1,
        "last_frame_id": 4812,
    }


def test_a_copy_is_told_with_where_it_is_and_how_far_it_goes() -> None:
    shown = on_terminal(render_backup(backup_document(COPY, now_ns=NOW_NS)))
    assert shown.splitlines()[0] == "✓ /srv/copy: 2.0 KiB, 1 frame, up to frame 4,812"


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_from_outside_acts_on_the_terminal(text: str) -> None:
    report = BackupReport(Path("/") / text, text, size_bytes=1, frames=1, last_frame_id=1)
    for shown, told in (
        (verified(VerifyReport(1, 1, [text])), text),
        (on_terminal(render_backup(backup_document(report, now_ns=NOW_NS))), str(report.path)),
    ):
        assert is_harmless(shown)
        assert terminal_safe(told) in shown
