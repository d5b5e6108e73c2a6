"""A parsed file as a tree of marked nodes: every value knows its line, and none was executed."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from forwarder.config.problems import Loc

#: A longer number is text: converting one costs quadratic time.
_MAX_NUMBER_CHARS: Final = 40

_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLS: Final = {
    "true": True,
    "True": True,
    "TRUE": True,
    "false": False,
    "False": False,
    "FALSE": False,
}
_INT: Final = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", re.ASCII)
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
Plain = bool | int | float | str | list["Plain"] | dict[str, "Plain"] | None


@dataclass(slots=True)
class Scalar:
    """One value.

    Attributes:
        source: As it stands in the file.
        text: After substitution.
        typed: It stands without quotes, so that it may be a number, a truth value or nothing.
        broken: A problem with it was already reported; what it holds means nothing.
    """

    line: int
    source: str
    text: str
    typed: bool
    broken: bool = False

    @property
    def substituted(self) -> bool:
        """Whether the text came, even in part, from outside the file."""
        return self.text != self.source

    def plain(self) -> Plain:
        """The value by YAML's core schema; text from a substitution stays text."""
        return resolve(self.text) if self.typed and not self.substituted else self.text


@dataclass(slots=True)
class ListNode:
    """A list."""

    line: int
    items: list[Node]

    def plain(self) -> Plain:
        """The list without marks."""
        return [item.plain() for item in self.items]


@dataclass(slots=True)
class MapNode:
    """A mapping; `key_lines` says where each key stands."""

    line: int
    items: dict[str, Node]
    key_lines: dict[str, int]

    def plain(self) -> dict[str, Plain]:
        """The mapping without marks."""
        return {key: node.plain() for key, node in self.items.items()}


Node = Scalar | ListNode | MapNode


def resolve(text: str) -> bool | int | float | str | None:
    """What an unquoted scalar means in YAML 1.2: `no` and `1:30` are text."""
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if len(text) > _MAX_NUMBER_CHARS:
        return text
    if _INT.fullmatch(text):
        return int(text, 0) if text.startswith("0") and not text.isdigit() else int(text)
    if _FLOAT.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    return text


def scalars(node: Node, loc: Loc = ()) -> Iterator[tuple[Loc, Scalar]]:
    """Every scalar below a node, with its place."""
    if isinstance(node, Scalar):
        yield loc, node
    elif isinstance(node, ListNode):
        for index, item in enumerate(node.items):
            yield from scalars(item, (*loc, index))
    else:
        for key, item in node.items.items():
            yield from scalars(item, (*loc, key))


def locate(root: Node, loc: Loc) -> tuple[int, Loc, Node]:
    """The line, the place and the node of a place, or of the nearest one above it that exists."""
    line, node = root.line, root
    for depth, part in enumerate(loc):
        if isinstance(node, MapNode) and part in node.items:
            line, node = node.key_lines[str(part)], node.items[str(part)]
        elif isinstance(node, ListNode) and isinstance(part, int) and part < len(node.items):
            node = node.items[part]
            line = node.line
        else:
            return line, loc[:depth], node
    return line, loc, node
