from __future__ import annotations

import pytest

from sinks.terminal import line_safe, terminal_safe


@pytest.mark.parametrize(
    "text", ["", "plain text", "a\ttab", "Grüße, 世界 🙂", "e\N{COMBINING ACUTE ACCENT}"]
)
def test_text_that_does_nothing_is_shown_as_it_is(text: str) -> None:
    assert terminal_safe(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", r"\x1b[2J"),
        ("\x9b2J", r"\x9b2J"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("a\rb\n", r"a\rb\n"),
        ("\x7f", r"\x7f"),
        ("\N{RIGHT-TO-LEFT OVERRIDE}txt.exe", r"\u202etxt.exe"),
        ("zero\N{ZERO WIDTH SPACE}width", r"zero\u200bwidth"),
        ("\N{LINE SEPARATOR}", r"\u2028"),
        ("\ue000", r"\ue000"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_what_could_act_on_a_terminal_is_written_out(text: str, shown: str) -> None:
    assert terminal_safe(text) == shown


def test_bytes_that_are_no_text_are_written_out_too() -> None:
    assert line_safe(b"ok \xff\xfe \xc3\xbc") == r"ok \xff\xfe " + "ü"
