"""Foreign text on a terminal. Pure.

Log lines, ids and names come from others: an escape sequence among them could rewrite the screen,
the window's title or the clipboard (the class of CVE-2009-4487), and a bidirectional override could
make a line read as something it is not.
"""

from __future__ import annotations

import unicodedata

#: Categories that are never shown as they are: controls, formats (bidi, zero width), surrogates,
#: private use and unassigned characters, line and paragraph separators.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def terminal_safe(text: str) -> str:
    """The text with everything that could act on a terminal written out; tabs stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character
        if character == "\t" or unicodedata.category(character) not in _HIDDEN
        else _written_out(character)
        for character in text
    )


def line_safe(line: bytes) -> str:
    """A line of a log, for a terminal: bytes that are not UTF-8 are written out as well."""
    return terminal_safe(line.decode("utf-8", "backslashreplace"))


def _written_out(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
