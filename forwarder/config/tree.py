"""YAML 1.2 as a tree of marked nodes: every value knows its line, and nothing is executed.

Only what a configuration needs is taken: mappings, lists and scalars. Anchors, aliases, tags, merge
keys and directives are refused, so there is nothing to expand and nothing to construct; depth,
size and number of values are bounded before anything walks the tree.
"""

from __future__ import annotations

import io
import math
import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)
from ruamel.yaml.reader import ReaderError

from forwarder.config.problems import dotted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from forwarder.config.problems import Loc, Report

MAX_FILE_BYTES: Final = 1024 * 1024
MAX_DEPTH: Final = 50
#: Room for 5,000 sandboxes by id; reading so many takes about a second.
MAX_VALUES: Final = 50_000
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
#: An escape such as "\\ud800" names half a character, which no encoder takes.
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
#: What the YAML reader says, in an operator's words.
_SYNTAX_WORDS: Final = {
    r"found character '\t' that cannot start any token": "a tab; YAML is indented with spaces",
    "mapping values are not allowed here": (
        'a ":" in an unexpected place; check the indentation, or put the value in quotes'
    ),
    "found unexpected end of stream": "a quote that is never closed",
}
_START_CHARACTER: Final = re.compile(r"found character ('.') that cannot start any token")

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


def read_tree(path: Path, report: Report) -> MapNode:
    """Read a file whose top is a mapping. Problems that do not stop reading go to the report.

    Raises:
        InvalidConfigError: There is nothing to go on with.
    """
    text = _read_text(path, report)
    with _syntax_errors(report, text):
        # The pure reader: libyaml's knows only YAML 1.1.
        events = YAML(typ="safe", pure=True).parse(io.StringIO(text))
        root = _Composer(events, report).document()
    if isinstance(root, Scalar) and root.plain() is None:
        report.fatal(None, "the file is empty")
    if not isinstance(root, MapNode):
        report.fatal(root.line, "expected a mapping (key: value) at the top of the file")
    return root


def _read_text(path: Path, report: Report) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except IsADirectoryError:
        report.fatal(None, "is a directory; name the file in it")
    except FileNotFoundError:
        report.fatal(None, "no such file")
    except OSError as error:
        report.fatal(None, f"cannot be read: {error.strerror or type(error).__name__}")
    if len(content) > MAX_FILE_BYTES:
        report.fatal(None, "larger than 1 MiB")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        report.fatal(line, "not UTF-8 text")


@contextmanager
def _syntax_errors(report: Report, text: str) -> Iterator[None]:
    # The reader's own messages quote the file, and with it what may be a secret: only its name for
    # the mistake is used.
    try:
        yield
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        # An end of file says nothing about what was left open: its beginning does.
        if error.context_mark is not None and "end" in (error.problem or ""):
            mark = error.context_mark
        words = error.problem or "not readable"
        if start := _START_CHARACTER.fullmatch(words):
            words = f"a value cannot begin with {start[1]}; put it in quotes"
        words = _SYNTAX_WORDS.get(error.problem or "", words)
        report.fatal(mark.line + 1 if mark else None, f"not valid YAML: {words}")
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        report.fatal(line, "not valid YAML: a control character")


class _Composer:
    """Builds nodes from the reader's events; the depth bound is what bounds its recursion."""

    def __init__(self, events: Iterator[Any], report: Report) -> None:
        self._events = events
        self._report = report
        self._values = 0

    def document(self) -> Node:
        """The one document of the stream; an empty stream gives an empty scalar."""
        root: Node = Scalar(line=1, source="", text="", typed=True)
        seen = False
        for event in self._events:
            if isinstance(event, DocumentStartEvent):
                self._check_document(event, seen=seen)
                seen = True
                root = self._node(next(self._events), ())
            elif isinstance(event, (DocumentEndEvent, StreamEndEvent)):
                continue
        return root

    def _check_document(self, event: DocumentStartEvent, *, seen: bool) -> None:
        line = _line(event)
        if seen:
            self._report.fatal(line, 'more than one document: remove the "---"')
        if event.tags or event.version not in {None, (1, 2)}:
            self._report.fatal(line, "YAML directives are not supported")

    def _node(self, event: Any, loc: Loc) -> Node:
        self._count(event, loc)
        if isinstance(event, AliasEvent):
            return self._refused(event, loc, "aliases (*name) are not supported")
        if event.anchor is not None:
            self._report.add(_line(event), loc, "anchors (&name) are not supported")
        if event.tag is not None:
            self._report.add(_line(event), loc, "tags (!name) are not supported")
        if isinstance(event, MappingStartEvent):
            return self._mapping(event, loc)
        if isinstance(event, SequenceStartEvent):
            return self._sequence(event, loc)
        if _SURROGATE.search(event.value):
            return self._refused(event, loc, "not valid Unicode text")
        typed = event.style is None
        return Scalar(_line(event), event.value, event.value, typed, broken=event.tag is not None)

    def _count(self, event: Any, loc: Loc) -> None:
        self._values += 1
        if len(loc) > MAX_DEPTH:
            self._report.fatal(_line(event), f"nested deeper than {MAX_DEPTH} levels")
        if self._values > MAX_VALUES:
            self._report.fatal(_line(event), f"more than {MAX_VALUES:,} values")

    def _refused(self, event: Any, loc: Loc, text: str) -> Scalar:
        self._report.add(_line(event), loc, text)
        return Scalar(_line(event), "", "", typed=False, broken=True)

    def _sequence(self, event: SequenceStartEvent, loc: Loc) -> ListNode:
        node = ListNode(_line(event), [])
        while not isinstance(item := next(self._events), SequenceEndEvent):
            node.items.append(self._node(item, (*loc, len(node.items))))
        return node

    def _mapping(self, event: MappingStartEvent, loc: Loc) -> MapNode:
        node = MapNode(_line(event), {}, {})
        while not isinstance(key := next(self._events), MappingEndEvent):
            name = self._key(key, loc)
            value = self._node(next(self._events), (*loc, name))
            if name in node.items:
                first = node.key_lines[name]
                text = f"given twice; the first one is on line {first}"
                self._report.add(_line(key), (*loc, name), text)
            elif name == "<<" and key.style is None:
                self._report.add(_line(key), (*loc, name), "merge keys are not supported")
            else:
                node.items[name] = value
                node.key_lines[name] = _line(key)
        return node

    def _key(self, event: Any, loc: Loc) -> str:
        if not isinstance(event, ScalarEvent) or event.anchor is not None or event.tag is not None:
            where = f" in {dotted(loc)}" if loc else ""
            self._report.fatal(_line(event), f"a key{where} must be plain text")
        if _SURROGATE.search(event.value):
            self._report.fatal(_line(event), "a key that is not valid Unicode text")
        return str(event.value)


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1
