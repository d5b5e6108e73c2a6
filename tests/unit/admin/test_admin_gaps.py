from __future__ import annotations

import json

import pytest

from forwarder.admin.gaps import CAUSES, gaps_document, render_gaps
from forwarder.admin.parts import document_json
from forwarder.model import Gap, GapBounds, GapCause, GapKind, StreamKey
from forwarder.spool.overview import GapEntry
from sinks.terminal import terminal_safe
from tests.unit.admin.hostile import HOSTILE, is_harmless, on_terminal
from tests.unit.admin.overviews import NOW_NS, S

#: 2026-01-02T03:00:05Z
FROM_NS = NOW_NS - 240 * S

NUMBERS = iter(range(1, 1_000_000))


def gap(
    cause: GapCause = GapCause.ANCHOR_LOST,
    *,
    kind: GapKind = GapKind.RANGE,
    after_line: int = 4811,
    before_line: int | None = 4812,
    stamps_ns: tuple[int, int] = (FROM_NS, NOW_NS),
    offsets: tuple[int | None, int | None] = (None, None),
    bounds: GapBounds = GapBounds.APPROXIMATE,
    filled_ns: int = 0,
    generation: int = 0,
) -> Gap:
    return Gap(
        cause,
        after_line,
        *stamps_ns,
        NOW_NS,
        kind,
        before_line,
        *offsets,
        filled_ns,
        bounds,
        generation,
    )


def entry(of: Gap, sandbox_id: str = "sbx-1", container: str = "main", name: str = "") -> GapEntry:
    return GapEntry(next(NUMBERS), StreamKey(sandbox_id, container), name, of)


def view(*entries: GapEntry, width: int = 72, sandbox_id: str = "", open_only: bool = False) -> str:
    document = gaps_document(entries, now_ns=NOW_NS, sandbox_id=sandbox_id, open_only=open_only)
    return on_terminal(render_gaps(document), width=width)


def words(shown: str) -> str:
    """The text without its line breaks."""
    return " ".join(shown.split())


# The document -------------------------------------------------------------------------------------


def test_the_document_has_every_key_of_the_record_and_its_times_for_people() -> None:
    one = gap(offsets=(10, 30), filled_ns=NOW_NS + S, generation=2)
    document = gaps_document(
        [GapEntry(17, StreamKey("sbx-1", "main"), "trainer", one)], now_ns=NOW_NS + 2 * S
    )
    assert document == {
        "format": 1,
        "generated_at": "2026-01-02T03:04:07.000000000Z",
        "totals": {"gaps": 1, "unfilled": 0, "filled": 1},
        "gaps": [
            {
                "id": 17,
                "sandbox_id": "sbx-1",
                "container": "main",
                "display_name": "trainer",
                "kind": "range",
                "cause": "anchor_lost",
                "bounds": "approximate",
                "generation": 2,
                "after_line": 4811,
                "before_line": 4812,
                "from_stamp_ns": FROM_NS,
                "to_stamp_ns": NOW_NS,
                "from_offset": 10,
                "to_offset": 30,
                "missing_bytes": 20,
                "noticed_ns": NOW_NS,
                "filled_ns": NOW_NS + S,
                "from_stamp": "2026-01-02T03:00:05.000000000Z",
                "to_stamp": "2026-01-02T03:04:05.000000000Z",
                "noticed_at": "2026-01-02T03:04:05.000000000Z",
                "filled_at": "2026-01-02T03:04:06.000000000Z",
            }
        ],
    }


def test_no_key_of_a_gap_hides_a_key_of_its_record() -> None:
    one = gap()
    listed = gaps_document([entry(one)], now_ns=NOW_NS)["gaps"][0]
    assert {key: listed[key] for key in one.record()} == one.record()


def test_only_the_sandbox_asked_for_is_listed_and_counted() -> None:
    entries = [entry(gap(), "a"), entry(gap(), "ab"), entry(gap(), "a", "side")]
    document = gaps_document(entries, now_ns=NOW_NS, sandbox_id="a")
    assert [one["sandbox_id"] for one in document["gaps"]] == ["a", "a"]
    assert document["totals"]["gaps"] == 2


def test_of_open_gaps_only_the_filled_ones_are_counted_all_the_same() -> None:
    entries = [entry(gap(), "open"), entry(gap(filled_ns=NOW_NS), "filled")]
    document = gaps_document(entries, now_ns=NOW_NS, open_only=True)
    assert [one["sandbox_id"] for one in document["gaps"]] == ["open"]
    assert document["totals"] == {"gaps": 2, "unfilled": 1, "filled": 1}


@pytest.mark.parametrize("text", HOSTILE)
def test_the_json_is_printable_ascii(text: str) -> None:
    document = gaps_document([entry(gap(), text, text, text)], now_ns=NOW_NS)
    body = document_json(document, indent=2)
    assert is_harmless(body.decode("ascii"))
    assert json.loads(body) == document


# In words -----------------------------------------------------------------------------------------


def test_without_gaps_one_sentence_says_so() -> None:
    assert view() == "No gaps: no line is known to be missing.\n"


def test_a_gap_tells_when_where_what_and_why() -> None:
    shown = view(entry(gap(offsets=(0, 12600)), "sbx-7", "main", "trainer"), width=80)
    assert [line.rstrip() for line in shown.splitlines()] == [
        "✗ 2026-01-02 03:04:05Z · sbx-7/main (trainer) · open",
        "  missing at most what was between line 4,811 and line 4,812, 12.3 KiB, from",
        "  2026-01-02 03:00:05Z to 03:04:05Z (4m 0s)",
        "  because the log session was lost, and the log read anew no longer reached back",
        "  to the last line taken",
        "",
        "1 gap: 1 open, where lines are missing or may be.",
    ]


def test_a_wide_terminal_shows_the_same_words_in_a_table() -> None:
    shown = view(entry(gap(), "sbx-7"), width=240)
    for part in ("NOTICED", "MISSING", "BECAUSE", "sbx-7/main", "between line 4,811 and line"):
        assert part in shown


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (gap(after_line=-1), "at most what was before line 4,812"),
        (gap(before_line=None), "at most what followed line 4,811"),
        (gap(after_line=-1, before_line=None), "at most the beginning"),
        (gap(kind=GapKind.TAIL, before_line=None), "at most everything after line 4,811"),
        (gap(kind=GapKind.TAIL, after_line=-1, before_line=None), "at most the whole log"),
        (
            gap(kind=GapKind.DROPPED, bounds=GapBounds.EXACT, after_line=4, before_line=1010),
            "exactly lines 5 to 1,009 (1,005 lines)",
        ),
        (gap(kind=GapKind.DROPPED, after_line=4, before_line=6), "at most line 5"),
        (gap(kind=GapKind.DROPPED, after_line=-1, before_line=None), "at most lines from 0 on"),
        (gap(generation=2), "line 4,812, generation 2, from"),
        (gap(offsets=(5, 5)), "line 4,812, 0 B, from"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_missing_is_said_in_words(one: Gap, expected: str) -> None:
    assert f"missing {expected}" in words(view(entry(one))) or expected in words(view(entry(one)))


@pytest.mark.parametrize(
    ("stamps_ns", "expected"),
    [
        ((FROM_NS, NOW_NS), "from 2026-01-02 03:00:05Z to 03:04:05Z (4m 0s)"),
        ((FROM_NS, 0), "from 2026-01-02 03:00:05Z on"),
        ((0, NOW_NS), "up to 2026-01-02 03:04:05Z"),
        ((NOW_NS, NOW_NS + 5), "within 2026-01-02 03:04:05Z"),
        ((NOW_NS, NOW_NS - S), "from 2026-01-02 03:04:05Z to 03:04:04Z because"),
        (
            (NOW_NS - 86400 * S, NOW_NS),
            "from 2026-01-01 03:04:05Z to 2026-01-02 03:04:05Z (1d 0h)",
        ),
        ((0, 0), "line 4,812 because"),
    ],
)
def test_when_it_was_written_is_said_as_far_as_it_is_known(
    stamps_ns: tuple[int, int], expected: str
) -> None:
    assert expected in words(view(entry(gap(stamps_ns=stamps_ns))))


def test_a_gap_that_was_filled_says_when_and_the_last_line_counts_both() -> None:
    shown = view(entry(gap()), entry(gap(filled_ns=NOW_NS + 60 * S)), entry(gap()))
    assert "✓ 2026-01-02 03:04:05Z · sbx-1/main · filled 2026-01-02 03:05:05Z" in shown
    assert shown.count("· open") == 2
    last = "3 gaps: 2 open, where lines are missing or may be; 1 filled: the lines were found after"
    assert words(shown).endswith(f"{last} all.")


def test_when_every_gap_was_filled_none_is_called_open() -> None:
    shown = words(view(entry(gap(filled_ns=NOW_NS)), open_only=True))
    assert shown == "1 gap: 1 filled: the lines were found after all."


@pytest.mark.parametrize("cause", GapCause)
def test_every_cause_is_explained(cause: GapCause) -> None:
    assert f"because {CAUSES[cause]}" in words(view(entry(gap(cause))))


def test_a_cause_of_a_newer_version_is_shown_as_it_is() -> None:
    document = gaps_document([entry(gap())], now_ns=NOW_NS)
    document["gaps"][0].update(cause="\x1b[2Jmoon", kind="phase", bounds="vague")
    shown = on_terminal(render_gaps(document), width=72)
    assert "because \\x1b[2Jmoon" in shown


def test_of_very_many_gaps_the_newest_are_shown_and_the_others_counted() -> None:
    entries = [entry(gap(), f"sbx-{number:04}") for number in range(1060)]
    shown = view(*entries)
    assert shown.startswith("… 1,010 earlier; --json shows all\n")
    assert "sbx-1009" not in shown
    assert "sbx-1010" in shown
    assert shown.count("✗") == 50
    assert "1,060 gaps" in shown


@pytest.mark.parametrize("width", [40, 72, 120, 200])
def test_an_id_can_be_copied_whole_from_any_terminal(width: int) -> None:
    sandbox_id = "0198c4f2-7d1e-7b33-9a51-2c5be0c8"
    shown = view(entry(gap(), sandbox_id, ""), width=width)
    assert any(sandbox_id in line for line in shown.splitlines())
    assert max(map(len, shown.splitlines())) <= width


@pytest.mark.parametrize("width", [60, 400])
@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_from_outside_acts_on_the_terminal(text: str, width: int) -> None:
    shown = view(entry(gap(), text, text, text), width=width)
    assert is_harmless(shown)
    assert words(shown).count(terminal_safe(text)) == 3
