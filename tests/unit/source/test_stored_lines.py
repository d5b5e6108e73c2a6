"""Stored lines against taken ones: what was taken never comes again, what was not always does."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.model import FrameKind
from forwarder.source.overlap import Taken
from forwarder.source.stored_lines import CUT_BYTES, StoredLine, missing_lines
from forwarder.stamps import decode_lines, format_stamp

if TYPE_CHECKING:
    from collections.abc import Sequence

S = 1_000_000_000
NOW = 1_767_323_045 * S

Line = tuple[int, bytes]


def raw(lines: Sequence[Line]) -> bytes:
    return b"".join(b"%s %s\n" % (format_stamp(stamp).encode(), text) for stamp, text in lines)


def taken(*lines: Line) -> list[Taken]:
    return [Taken(FrameKind.LINES, 0, raw(lines))] if lines else []


def stored(*lines: Line) -> list[StoredLine]:
    return [StoredLine(*line) for line in lines]


def missing(frames: list[Taken], lines: list[StoredLine], after_ns: int = 0) -> list[Line]:
    data = missing_lines(frames, lines, after_ns=after_ns)
    return list(zip(*decode_lines(data, 0), strict=True))


def test_what_was_not_taken_is_returned_as_lines_of_the_stream() -> None:
    lines = [(NOW + 1, b"a"), (NOW + 2, b"b"), (NOW + 3, b"")]
    assert missing_lines(taken(*lines[:1]), stored(*lines), after_ns=0) == (
        b"2026-01-02T03:04:05.000000002Z b\n2026-01-02T03:04:05.000000003Z \n"
    )


def test_nothing_stored_and_nothing_taken_miss_nothing() -> None:
    assert missing_lines([], [], after_ns=0) == b""
    assert missing_lines(taken((NOW, b"a")), [], after_ns=0) == b""


def test_equal_lines_are_counted() -> None:
    line = (NOW + 1, b"again")
    assert missing(taken(line, line), stored(line, line, line)) == [line]


def test_lines_of_one_stamp_and_other_text_are_other_lines() -> None:
    assert missing(taken((NOW + 1, b"a")), stored((NOW + 1, b"b"))) == [(NOW + 1, b"b")]


def test_lines_of_one_text_and_another_time_are_other_lines() -> None:
    assert missing(taken((NOW + 1, b"a")), stored((NOW + 2, b"a"))) == [(NOW + 2, b"a")]


def test_lines_before_the_bound_are_ignored_and_those_on_it_are_not() -> None:
    lines = [(NOW + 1, b"a"), (NOW + 2, b"b")]
    assert missing([], stored(*lines), after_ns=NOW + 2) == lines[1:]


@pytest.mark.parametrize("unit_ns", [1, 1_000, 1_000_000, S])
def test_stamps_are_compared_in_the_unit_in_which_they_are_stored(unit_ns: int) -> None:
    # Far enough apart to be told apart in every unit, and with digits in each.
    lines = [(NOW + number * 1_001_001_001, b"tick") for number in range(5)]
    coarse = [(stamp - stamp % unit_ns, text) for stamp, text in lines]
    assert missing(taken(*lines[:3]), stored(*coarse)) == coarse[3:]


def test_one_fine_stamp_makes_the_comparison_fine() -> None:
    assert missing(taken((NOW + 7, b"a")), stored((NOW, b"a"), (NOW + 9, b"b"))) == [
        (NOW, b"a"),
        (NOW + 9, b"b"),
    ]


@pytest.mark.parametrize(
    ("line", "normalised"),
    [
        (b'{"b": 1, "a": [1.0, 2e3]}', b'{"a":[1,2000],"b":1}'),
        (b'  {"text": "\\u00e9 <b>"} ', '{"text":"é \\u003cb\\u003e"}'.encode()),
        (b'{"id": 12345678901234567890}', b'{"id":1.2345678901234567e+19}'),
        (b"bytes \xff\xfe here", "bytes \N{REPLACEMENT CHARACTER} here".encode()),
    ],
)
def test_a_line_is_known_in_the_form_in_which_it_is_stored(line: bytes, normalised: bytes) -> None:
    assert missing(taken((NOW, line)), stored((NOW, normalised))) == []


@pytest.mark.parametrize(
    ("line", "other"),
    [
        (b'{"a": 1}', b'{"a": 2}'),
        (b'{"a": true}', b'{"a": 1}'),
        (b"{not json", b"{not jso"),
        (b"[1]", b"[1.0]"),
    ],
)
def test_another_value_is_another_line(line: bytes, other: bytes) -> None:
    assert missing(taken((NOW, line)), stored((NOW, other))) == [(NOW, other)]


def test_an_exact_line_is_not_used_up_by_one_that_only_has_its_form() -> None:
    loose, exact = (NOW, b'{"a": 1.0}'), (NOW, b'{"a":1}')
    assert missing(taken(exact), stored(loose, exact)) == [loose]


def test_the_beginning_of_a_long_line_is_that_line_once() -> None:
    long = (NOW + 1, b"x" * 5000)
    cut = (NOW + 1, b"x" * 2000)
    assert missing(taken(long), stored(cut)) == []
    assert missing(taken(long), stored(cut, cut)) == [cut]
    assert missing(taken((NOW + 2, long[1])), stored(cut)) == [cut]


def test_a_short_beginning_is_a_line_of_its_own() -> None:
    long = (NOW + 1, b"x" * 5000)
    short = (NOW + 1, b"x" * (CUT_BYTES - 1))
    assert missing(taken(long), stored(short)) == [short]


def test_a_line_may_be_cut_in_the_middle_of_a_character() -> None:
    long = ("é" * 3000).encode()
    cut = long[:2001].decode("utf-8", "replace").encode()
    assert missing(taken((NOW, long)), stored((NOW, cut))) == []


def test_a_long_line_may_hold_the_stamps_of_its_pieces() -> None:
    pieces = [(NOW + 1, b"x" * 2000), (NOW + 2, b"y" * 2000), (NOW + 3, b"z")]
    data = raw(pieces).replace(b"\n", b"") + b"\n"
    whole = (NOW + 1, b"".join(text for _, text in pieces))
    for size in (CUT_BYTES, 3000, 5000):
        cut = (whole[0], whole[1][:size])
        assert missing([Taken(FrameKind.LINES, 0, data)], stored(cut)) == []
    other = (NOW + 1, whole[1][:-1] + b"!")
    assert missing([Taken(FrameKind.LINES, 0, data)], stored(other)) == [other]


def test_the_parts_of_a_long_line_are_one_line() -> None:
    line = (NOW + 1, b"x" * 5000)
    whole = raw([line])
    frames = [
        *taken((NOW, b"before")),
        *(
            Taken(FrameKind.PART, number, whole[start : start + 2000])
            for number, start in enumerate(range(0, len(whole), 2000), start=1)
        ),
        *taken((NOW + 2, b"after")),
    ]
    lines = stored((NOW, b"before"), line, (NOW + 2, b"after"), (NOW + 3, b"new"))
    assert missing(frames, lines) == [(NOW + 3, b"new")]


def test_a_long_line_of_which_the_beginning_was_not_seen_is_not_known() -> None:
    frames = [Taken(FrameKind.PART, 2, b"x" * 2000), *taken((NOW + 2, b"after"))]
    rest = (NOW, b"x" * 2000)
    lines = stored(rest, (NOW + 2, b"after"))
    assert missing(frames, lines, after_ns=NOW) == [rest]


def test_a_line_of_which_only_a_part_was_taken_is_returned_whole() -> None:
    line = (NOW + 1, b"x" * 5000)
    frames = [Taken(FrameKind.PART, 1, raw([line])[:3000])]
    assert missing(frames, stored(line)) == [line]


def test_two_long_lines_in_a_row_are_two_lines() -> None:
    lines = [(NOW + 1, b"x" * 3000), (NOW + 2, b"y" * 3000)]
    frames = [
        Taken(FrameKind.PART, number, piece)
        for line in lines
        for number, piece in ((1, raw([line])[:2000]), (2, raw([line])[2000:]))
    ]
    assert missing(frames, stored(*lines)) == []


def test_a_gap_record_is_no_line() -> None:
    frames = [Taken(FrameKind.GAP, 0, b'{"cause":"anchor_lost"}'), *taken((NOW, b"a"))]
    assert missing(frames, stored((NOW, b"a"))) == []


def test_the_last_line_may_lack_its_newline() -> None:
    frames = [Taken(FrameKind.LINES, 0, raw([(NOW, b"open")])[:-1])]
    assert missing(frames, stored((NOW, b"open"))) == []


def test_a_line_without_a_stamp_has_that_of_the_line_before_it() -> None:
    frames = [Taken(FrameKind.LINES, 0, raw([(NOW, b"a")]) + b"bare\n")]
    assert missing(frames, stored((NOW, b"a"), (NOW, b"bare"))) == []


# Properties

TEXTS = st.sampled_from(
    [b"", b"a", b"b", b'{"n": 1.0, "a": 2}', b'{"a":2,"n":1}', b"\xff", b"x" * 3000, b"x" * 2999]
) | st.binary(max_size=8).map(lambda text: text.replace(b"\n", b""))
# A few stamps with digits in every unit, so that lines often share one.
LOGS = st.lists(
    st.tuples(st.integers(0, 6).map(lambda step: NOW + step * 400_400_401), TEXTS), max_size=30
)
UNITS = st.sampled_from([1, 1_000, 1_000_000, S])


def as_stored(line: Line, unit_ns: int, cut_bytes: int) -> Line:
    """A line as a server may keep it."""
    stamp_ns, text = line
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if isinstance(value, dict):
        text = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    text = text.decode("utf-8", "replace").encode()
    return stamp_ns - stamp_ns % unit_ns, text[:cut_bytes]


@given(LOGS, st.data(), UNITS, st.sampled_from([1 << 20, 2000]))
def test_what_was_taken_never_comes_again_and_what_was_not_does(
    log: list[Line], data: st.DataObject, unit_ns: int, cut_bytes: int
) -> None:
    log.sort(key=lambda line: line[0])
    kept = data.draw(st.lists(st.booleans(), min_size=len(log), max_size=len(log)))
    known = [line for line, was_taken in zip(log, kept, strict=True) if was_taken]
    lost = [line for line, was_taken in zip(log, kept, strict=True) if not was_taken]
    whole = [as_stored(line, unit_ns, cut_bytes) for line in log]
    found = missing(taken(*known), stored(*whole))
    assert len(found) == len(lost)
    # Which of two lines that are stored alike was taken cannot be told, and does not matter.
    assert Counter(map(alike, found)) == Counter(
        alike(as_stored(line, unit_ns, cut_bytes)) for line in lost
    )
    assert [stamp for stamp, _ in found] == sorted(stamp for stamp, _ in found)


def alike(line: Line) -> Line:
    """One form for lines that a server may have stored from one and the same line."""
    stamp_ns, text = as_stored(line, 1, 1 << 20)
    text = text.replace(b'{"a":2,"n":1.0}', b'{"a":2,"n":1}')
    replaced = "\N{REPLACEMENT CHARACTER}".encode()
    while replaced * 2 in text:
        text = text.replace(replaced * 2, replaced)
    return stamp_ns, text


@given(LOGS, UNITS)
def test_a_log_that_was_taken_whole_misses_nothing(log: list[Line], unit_ns: int) -> None:
    whole = [as_stored(line, unit_ns, 2000) for line in log]
    assert missing(taken(*log), stored(*whole)) == []


@given(LOGS, UNITS)
def test_a_log_of_which_nothing_was_taken_is_missing_whole(log: list[Line], unit_ns: int) -> None:
    whole = [as_stored(line, unit_ns, 1 << 20) for line in log]
    assert missing([], stored(*whole)) == whole
