from __future__ import annotations

import json

import pytest

from forwarder.admin.checkpoints import checkpoints_document, render_checkpoints
from forwarder.admin.parts import document_json
from forwarder.model import Checkpoint, StreamKey, StreamState
from forwarder.spool.overview import StreamPosition
from sinks.terminal import terminal_safe
from tests.unit.admin.hostile import HOSTILE, is_harmless, on_terminal
from tests.unit.admin.overviews import NOW_NS, S

AT = Checkpoint(
    next_line=4812,
    last_stamp_ns=NOW_NS - S,
    high_stamp_ns=NOW_NS,
    session_id="ses-1",
    session_offset=2**64 - 1,
    generation=2,
)


def position(
    at: Checkpoint = AT,
    sandbox_id: str = "sbx-1",
    container: str = "main",
    name: str = "",
    state: StreamState = StreamState.FOLLOWING,
) -> StreamPosition:
    return StreamPosition(
        key=StreamKey(sandbox_id, container),
        display_name=name,
        state=state,
        checkpoint=at,
        bytes=2048,
    )


def view(*positions: StreamPosition, width: int = 200) -> str:
    document = checkpoints_document(positions, now_ns=NOW_NS)
    return on_terminal(render_checkpoints(document), width=width)


def test_the_document_has_this_shape() -> None:
    assert checkpoints_document([position(name="trainer")], now_ns=NOW_NS) == {
        "format": 1,
        "generated_at": "2026-01-02T03:04:05.000000000Z",
        "streams": [
            {
                "sandbox_id": "sbx-1",
                "container": "main",
                "display_name": "trainer",
                "state": "following",
                "bytes": 2048,
                "generation": 2,
                "next_line": 4812,
                "open_part": 0,
                "last_stamp": "2026-01-02T03:04:04.000000000Z",
                "last_stamp_ns": NOW_NS - S,
                "high_stamp": "2026-01-02T03:04:05.000000000Z",
                "high_stamp_ns": NOW_NS,
                "session_id": "ses-1",
                "session_offset": 2**64 - 1,
            }
        ],
    }


def test_a_stream_of_which_nothing_was_taken_has_no_stamps() -> None:
    listed = checkpoints_document([position(Checkpoint())], now_ns=NOW_NS)["streams"][0]
    assert (listed["last_stamp"], listed["high_stamp"]) == (None, None)
    assert "last stamp" not in view(position(Checkpoint()), width=40)


def test_before_the_first_stream_the_view_says_so() -> None:
    assert view() == "No stream was ever followed.\n"


def test_a_table_shows_the_whole_position() -> None:
    shown = view(position(name="trainer"))
    row = next(line for line in shown.splitlines() if line.startswith("sbx-1"))
    assert row.split() == [
        *("sbx-1/main", "(trainer)", "following", "2", "4,812"),
        *("2026-01-02", "03:04:04Z", "ses-1", "18,446,744,073,709,551,615"),
    ]
    assert shown.splitlines()[-1] == "1 stream, 2.0 KiB taken"


def test_a_narrow_terminal_shows_the_same_as_a_list() -> None:
    shown = view(position(), position(Checkpoint(3), "sbx-2", ""), width=72)
    assert [line.rstrip() for line in shown.splitlines()] == [
        "• sbx-1/main · following",
        "  generation 2, next line 4,812, last stamp 2026-01-02 03:04:04Z",
        "  session ses-1 at offset 18,446,744,073,709,551,615",
        "• sbx-2 · following",
        "  next line 3",
        "",
        "2 streams, 4.0 KiB taken",
    ]


@pytest.mark.parametrize("width", [72, 200])
def test_parts_of_a_long_line_that_are_stored_are_told(width: int) -> None:
    assert "7 (+ 2 parts of it)" in view(position(Checkpoint(7, 2)), width=width)


@pytest.mark.parametrize("width", [60, 800])
@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_from_outside_acts_on_the_terminal(text: str, width: int) -> None:
    at = Checkpoint(session_id=text)
    shown = view(position(at, text, text, text), width=width)
    assert is_harmless(shown)
    assert " ".join(shown.split()).count(terminal_safe(text)) == 4
    document = checkpoints_document([position(at, text, text, text)], now_ns=NOW_NS)
    body = document_json(document, indent=2)
    assert is_harmless(body.decode("ascii"))
    assert json.loads(body) == document
