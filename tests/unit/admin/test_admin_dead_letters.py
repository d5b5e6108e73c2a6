from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import pytest

from forwarder.admin.dead_letters import (
    asked_document,
    letter_document,
    letters_document,
    raw_content,
    render_asked,
    render_letter,
    render_letters,
)
from forwarder.model import DeadLetter, FrameKind, HeldLetter, StreamInfo, StreamKey
from forwarder.spool.letter_overview import LetterEntry, LetterGroup, SinkLetters
from sinks.terminal import terminal_safe
from tests.unit.admin.hostile import HOSTILE, is_harmless, on_terminal
from tests.unit.admin.overviews import NOW_NS, S

LETTER = DeadLetter(
    1,
    FrameKind.LINES,
    first_line=1204,
    lines=2,
    first_stamp_ns=NOW_NS - 90 * S,
    received_ns=NOW_NS - 80 * S,
    raw=b"one\ntwo\n",
    status="400",
    reason="entry too far behind",
    noticed_ns=NOW_NS - 60 * S,
)
ENTRY = LetterEntry("loki", StreamInfo(StreamKey("sbx-1", "main"), "web"), HeldLetter(7, LETTER))
GROUP = LetterGroup(
    "loki",
    "400",
    "entry too far behind",
    letters=12,
    lines=3400,
    unnamed=0,
    size_bytes=1 << 20,
    first_noticed_ns=NOW_NS - 3600 * S,
    last_noticed_ns=NOW_NS - 60 * S,
    newest_id=4812,
    replaying=0,
)
SINK = SinkLetters("loki", configured=True, letters=12, lines=3400, size_bytes=1 << 20)


def listed(
    *groups: LetterGroup, sink: SinkLetters = SINK, limit: int = 256 << 20, width: int = 150
) -> str:
    document = letters_document(groups, [sink], limits={"loki": limit}, now_ns=NOW_NS)
    return on_terminal(render_letters(document), width=width)


def entry(**changes: Any) -> LetterEntry:
    letter = replace(LETTER, **changes)
    return replace(ENTRY, held=replace(ENTRY.held, letter=letter))


def shown(of: LetterEntry, *ids: str) -> str:
    return on_terminal(render_letter(letter_document(of, record_ids=ids, now_ns=NOW_NS)))


def asked(wish: str = "replay", **changes: Any) -> str:
    document = asked_document(
        wish=wish, sink="loki", letters=13, lines=40, skipped=0, carried_out=False, now_ns=NOW_NS
    )
    return on_terminal(render_asked({**document, **changes})).replace("\n", " ").strip()


# list ---------------------------------------------------------------------------------------------


def test_the_document_of_a_list_has_this_shape() -> None:
    document = letters_document([GROUP], [SINK], limits={"loki": 5}, now_ns=NOW_NS)
    assert document == {
        "format": 1,
        "generated_at": "2026-01-02T03:04:05.000000000Z",
        "totals": {
            "letters": 12,
            "lines": 3400,
            "unnamed": 0,
            "size_bytes": 1048576,
            "replaying": 0,
        },
        "sinks": [
            {
                "name": "loki",
                "configured": True,
                "letters": 12,
                "lines": 3400,
                "size_bytes": 1048576,
                "max_bytes": 5,
            }
        ],
        "groups": [
            {
                "sink": "loki",
                "status": "400",
                "reason": "entry too far behind",
                "letters": 12,
                "lines": 3400,
                "unnamed": 0,
                "size_bytes": 1048576,
                "newest_id": 4812,
                "replaying": 0,
                "first_noticed": "2026-01-02T02:04:05.000000000Z",
                "last_noticed": "2026-01-02T03:03:05.000000000Z",
            }
        ],
    }


def test_a_group_is_told_in_one_row() -> None:
    heading, _, _, row, *_ = listed(GROUP).splitlines()
    assert heading == "loki: 12 dead letters, 3,400 lines, 1.0 MiB of 256.0 MiB"
    for part in ("400", "12", "3,400", "2026-01-02 03:03:05Z", "4812", "entry too far behind"):
        assert part in row


def test_on_a_narrow_terminal_the_reasons_stay_readable() -> None:
    heading, *told = (line.strip() for line in listed(GROUP, width=80).splitlines())
    assert heading.startswith("loki: 12 dead letters")
    assert told[:2] == [
        "• 400: entry too far behind",
        "12 letters, 3,400 lines, 2026-01-02 02:04:05Z to 2026-01-02 03:03:05Z, newest",
    ]


def test_lines_that_were_refused_without_being_named_are_told_apart() -> None:
    told = listed(replace(GROUP, lines=0, unnamed=3))
    assert "3?" in told
    assert "the destination did not say which lines" in told


def test_what_is_to_be_sent_again_is_told() -> None:
    assert "(5 to be sent again)" in listed(replace(GROUP, replaying=5))


def test_a_sink_that_is_not_configured_any_more_is_told_so() -> None:
    document = letters_document(
        [GROUP], [replace(SINK, configured=False)], limits={}, now_ns=NOW_NS
    )
    assert document["sinks"][0]["max_bytes"] is None
    told = on_terminal(render_letters(document))
    assert "3,400 lines, 1.0 MiB (not in the configuration any more)" in told


def test_without_dead_letters_the_view_says_so() -> None:
    assert listed() == "No dead letters: no destination has refused anything for good.\n"


# show ---------------------------------------------------------------------------------------------


def test_the_document_of_a_letter_has_this_shape() -> None:
    assert letter_document(ENTRY, record_ids=["a", "b"], now_ns=NOW_NS) == {
        "format": 1,
        "generated_at": "2026-01-02T03:04:05.000000000Z",
        "id": 7,
        "sink": "loki",
        "sandbox_id": "sbx-1",
        "container": "main",
        "display_name": "web",
        "kind": "lines",
        "generation": 0,
        "first_line": 1204,
        "last_line": 1205,
        "lines": 2,
        "part": 0,
        "unnamed": 0,
        "first_stamp": "2026-01-02T03:02:35.000000000Z",
        "received_at": "2026-01-02T03:02:45.000000000Z",
        "status": "400",
        "reason": "entry too far behind",
        "maybe_stored": False,
        "noticed_at": "2026-01-02T03:03:05.000000000Z",
        "attempts": 1,
        "replay_asked_at": None,
        "size_bytes": LETTER.size_bytes,
        "record_ids": ["a", "b"],
        "text": "one\ntwo\n",
        "base64": None,
    }


def test_a_letter_is_shown_with_what_it_holds() -> None:
    told = shown(ENTRY, "a", "b")
    for part in (
        "7 of sink loki",
        "sbx-1/main (web)",
        "lines 1,204 to 1,205",
        "entry too far behind",
        "last 2026-01-02 03:03:05Z",
        "a to b",
    ):
        assert part in told
    assert [line.rstrip() for line in told.splitlines()[-2:]] == ["one", "two"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"lines": 1}, "line 1,204"),
        ({"kind": FrameKind.PART, "lines": 1, "part": 3}, "part 3 of line 1,204"),
        ({"kind": FrameKind.GAP, "lines": 0, "raw": b"{}"}, "the gap record at line 1,204"),
        ({"kind": FrameKind.END, "lines": 0, "raw": b"{}"}, "the end record at line 1,204"),
        ({"lines": 0, "raw": b"", "unnamed": 3}, "nothing: 3 lines from about line 1,204 on"),
        ({"generation": 4}, "generation"),
        ({"maybe_stored": True}, "maybe stored"),
    ],
)
def test_what_kind_of_letter_it_is_is_told(changes: dict[str, Any], told: str) -> None:
    assert told in shown(entry(**changes))


def test_how_often_it_was_refused_and_whether_it_is_sent_again_is_told() -> None:
    held = HeldLetter(7, LETTER, attempts=3, replay_ns=NOW_NS)
    told = shown(replace(ENTRY, held=held))
    assert "3 times, last 2026-01-02 03:03:05Z" in told
    assert "asked 2026-01-02 03:04:05Z" in told


@pytest.mark.parametrize("raw", [b"", b"text", "\u202e é\n\n".encode(), b"\xff\x00\x1b[2J\n"])
def test_content_comes_back_byte_for_byte(raw: bytes) -> None:
    document = letter_document(entry(raw=raw), record_ids=[], now_ns=NOW_NS)
    assert raw_content(document) == raw
    if document["text"] is None:
        assert base64.b64decode(document["base64"]) == raw
    else:
        assert document["base64"] is None


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_from_outside_acts_on_the_terminal(text: str) -> None:
    group = replace(GROUP, status=text, reason=text, sink=text)
    listing = listed(group, sink=replace(SINK, name=text))
    narrow = listed(group, sink=replace(SINK, name=text), width=80)
    one = entry(status=text, reason=text, raw=text.encode() + b"\n\xff\xfe\n")
    stream = StreamInfo(StreamKey(text, text), text)
    view = shown(replace(one, sink=text, stream=stream))
    for told in (listing, narrow, view, asked(sink=text)):
        assert is_harmless(told)
        assert terminal_safe(text) in told


# replay, drop -------------------------------------------------------------------------------------


def settled(**changes: int) -> dict[str, int]:
    names = ("waiting", "delivered", "refused", "delivered_lines", "refused_lines")
    return {**dict.fromkeys(names, 0), **changes}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"settled": settled(delivered=12, delivered_lines=39, refused=1, refused_lines=1)},
            "12 delivered (39 lines), 1 refused again (1 line)",
        ),
        (
            {"settled": settled(delivered=3, delivered_lines=9, waiting=10)},
            "3 delivered (9 lines), 10 still to be sent by the daemon",
        ),
        ({}, "13 dead letters of loki (40 lines) will be sent again by the daemon that runs"),
        (
            {"carried_out": True},
            "13 dead letters of loki (40 lines) will be sent again when a daemon runs",
        ),
        ({"letters": 0}, "Nothing to do: loki has no such dead letters"),
        (
            {"wish": "drop", "carried_out": True},
            "13 dead letters of loki (40 lines) dropped",
        ),
        (
            {"wish": "drop"},
            "13 dead letters of loki (40 lines): the daemon was asked to drop them",
        ),
    ],
)
def test_what_was_asked_is_told_in_one_line(changes: dict[str, Any], told: str) -> None:
    assert asked(**changes) == told


def test_letters_that_hold_nothing_are_told_to_be_left_out() -> None:
    assert asked(skipped=2).endswith("2 letters left out: only a count, nothing that could be sent")
