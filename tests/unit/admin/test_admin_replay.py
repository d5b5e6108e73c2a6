"""What the command `replay` says."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from forwarder.admin.replay import render_replay, replay_document
from forwarder.spool.range_overview import RangeContents
from forwarder.spool.ranges import RangeRequest
from tests.unit.admin.hostile import HOSTILE, is_harmless

#: 2026-01-02T03:04:05Z
NOW_NS = 1_767_323_045_000_000_000

REQUEST = RangeRequest("r1", "out", NOW_NS - 10, None, "", 9, 1200, NOW_NS)
CONTENTS = RangeContents(1200, 2, 0, 0, NOW_NS - 10, NOW_NS, 0)


def told(
    contents: RangeContents = CONTENTS,
    *,
    request: RangeRequest = REQUEST,
    keep_s: float = 0.0,
    archives: tuple[str, ...] = (),
    daemon: bool = True,
) -> str:
    document = replay_document(
        request,
        contents,
        keep_s=keep_s,
        archives=archives,
        asked=contents.lines > 0,
        daemon=daemon,
        now_ns=NOW_NS,
    )
    output = StringIO()
    Console(file=output, width=200).print(render_replay(document))
    return output.getvalue()


def test_who_sends_it_and_how_much_stands_first() -> None:
    first = told().splitlines()[0]
    assert (
        first
        == "1,200 lines of 2 streams will be sent to out again by the daemon that runs; see status"
    )
    assert "again when a daemon runs" in told(daemon=False)


def test_what_is_older_may_be_in_an_archive() -> None:
    gone = replace(CONTENTS, gone_before_ns=NOW_NS - 5)
    assert "the archive has it (cold): see archive cat" in told(gone, archives=("cold",))
    assert "archive" not in told(gone)
    assert "spool.keep is not set" in told(gone)


def test_a_spool_that_keeps_nothing_is_not_said_to_reach_anywhere() -> None:
    assert "reaches" not in told(replace(CONTENTS, lines=0, gone_before_ns=NOW_NS + 1))
    assert "the spool has no lines" in told(replace(CONTENTS, lines=0, newest_ns=0))


def test_frames_that_cannot_be_read_are_told() -> None:
    assert "1 frame cannot be read: see spool verify" in told(replace(CONTENTS, damaged=1))


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_safe_for_a_terminal(name: str) -> None:
    gone = replace(CONTENTS, gone_before_ns=NOW_NS - 5)
    assert is_harmless(told(gone, request=replace(REQUEST, sink=name), archives=(name,)))
