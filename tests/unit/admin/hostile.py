"""Texts that would act on a terminal, and what a view made of them looks like on one."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from rich.console import RenderableType

HOSTILE = (
    "\x1b[2J",  # CSI: clears the screen
    "\x1b]52;c;AAAA\x07",  # OSC: writes the clipboard
    "\x1b]8;;http://evil\x1b\\",  # OSC: a link
    "\x9b31m",  # C1
    "\x7f",
    "two\nlines\rone",
    "\u202egnp.exe",  # reads from right to left
    "zero\u200bwidth",
    "[bold red]markup[/]",
)


def on_terminal(view: RenderableType, *, width: int = 200) -> str:
    """The view as text, without the colours."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(view)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def is_harmless(shown: str) -> bool:
    """Whether nothing in it can act on a terminal."""
    return all(character.isprintable() or character == "\n" for character in shown)
