"""Records as lines for a terminal."""

from __future__ import annotations

import unicodedata
from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinks.console_lines import ConsoleOptions, render
from sinks.interface import Stream
from sinks.ndjson import encode_gap, encode_lines
from sinks.terminal import terminal_safe
from sinks.testing import end_of, gap_of, slice_of

STAMP_NS = 1_763_870_706_000_000_007
TIME = "2025-11-23T04:05:06.000000007Z"
TEXT = ConsoleOptions()
NDJSON = ConsoleOptions("ndjson")


def test_a_line_has_its_stamp_and_where_it_comes_from() -> None:
    source = slice_of([(STAMP_NS, "hello"), (STAMP_NS, "")], stream=Stream("sbx-1", "my app"))
    assert render([source], TEXT).decode() == (
        f"{TIME} sbx-1/my~20app | hello\n{TIME} sbx-1/my~20app | \n"
    )


def test_stamp_and_name_are_as_set() -> None:
    source = slice_of([(STAMP_NS, "x")], stream=Stream("sbx-1", "main", display_name="a b"))
    named = replace(TEXT, stamp=False, sandbox="name")
    assert render([source], named) == b"a~20b/main | x\n"
    assert render([slice_of([(STAMP_NS, "x")])], named) == b"sbx-1/main | x\n"
    assert render([gap_of()], named).startswith(b"sbx-1/main ! gap {")


def test_the_further_parts_of_a_long_line_are_marked() -> None:
    parts = [slice_of([(STAMP_NS, "x")], part=part) for part in (1, 2)]
    assert render(parts, replace(TEXT, stamp=False)) == b"sbx-1/main | x\nsbx-1/main + x\n"


def test_a_gap_has_a_mark_of_its_own_and_all_its_keys() -> None:
    gap = gap_of(from_stamp_ns=STAMP_NS, cause="offset_jump")
    head, _, json = render([gap], TEXT).decode().partition(" ! gap ")
    assert head == f"{TIME} sbx-1/main"
    assert orjson.loads(json) == gap.gap


def test_the_end_of_a_stream_is_nothing() -> None:
    assert render([end_of()], TEXT) == render([end_of()], NDJSON) == b""


def test_colour_is_only_where_it_is_wanted() -> None:
    slices = [slice_of([(STAMP_NS, "x")]), gap_of()]
    assert b"\x1b" not in render(slices, TEXT)
    line, gap = render(slices, replace(TEXT, color=True)).decode().splitlines()
    assert line == f"\x1b[2m{TIME} sbx-1/main |\x1b[0m x"
    assert gap.startswith("\x1b[1;31m")
    assert gap.endswith("\x1b[0m")
    assert b"\x1b" not in render(slices, replace(NDJSON, color=True))


names = st.text(st.sampled_from("a |!+\n\x1b\u202e"), min_size=1, max_size=6)
texts = st.one_of(
    st.binary(max_size=20),
    st.text(st.sampled_from('a"|!+\\ \t\r\x1b\x7f\x9b\u202e\u2028\U000e0041é🙂'), max_size=12),
)


@given(names, names, st.lists(texts, max_size=4))
def test_nothing_a_sandbox_says_acts_on_a_terminal_or_looks_like_a_gap(
    name: str, sandbox_id: str, found: list[bytes | str]
) -> None:
    stream = Stream(sandbox_id, name, display_name=name)
    lines = [(STAMP_NS, text) for text in found if b"\n" not in _bytes(text)]
    source = slice_of(lines, stream=stream)
    for options in (TEXT, NDJSON, replace(TEXT, sandbox="name")):
        shown = render([source], options).decode()
        assert shown.count("\n") == len(lines)
        assert {c for c in shown if unicodedata.category(c) in {"Cc", "Cf", "Zl", "Co"}} <= set(
            "\n\t"
        )
        if options.format == "text":
            assert all(line.split(" ")[2] == "|" for line in shown.split("\n")[:-1])


def _bytes(text: bytes | str) -> bytes:
    return text.encode() if isinstance(text, str) else text


@given(st.lists(texts, max_size=4))
def test_ndjson_says_the_same_as_in_files(found: list[bytes | str]) -> None:
    source = slice_of([(STAMP_NS, text) for text in found])
    shown = render([source, gap_of()], NDJSON).split(b"\n")[:-1]
    wanted = (encode_lines(source) + encode_gap(gap_of())).split(b"\n")[:-1]
    assert [orjson.loads(line) for line in shown] == [orjson.loads(line) for line in wanted]


@pytest.mark.parametrize("text", ["plain", "Grüße, 世界"])
def test_harmless_ndjson_is_byte_for_byte_that_of_files(text: str) -> None:
    source = slice_of([(STAMP_NS, text)])
    assert terminal_safe(text) == text
    assert render([source], NDJSON) == encode_lines(source)
