"""From a YAML 1.2 file to a tree of marked nodes.

Only what a configuration needs is taken: mappings, lists and scalars. Anchors, aliases, tags, merge
keys and directives are refused, so there is nothing to expand and nothing to construct; depth,
size and number of values are bounded before anything walks the tree.
"""

from __future__ import annotations

import io
import re
from contextlib import contextmanager
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
from forwarder.config.tree import ListNode, MapNode, Node, Scalar

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from forwarder.config.problems import Loc, Report

MAX_FILE_BYTES: Final = 1024 * 1024
MAX_DEPTH: Final = 50
#: Room for 5,000 sandboxes by id; reading so many takes about a second.
MAX_VALUES: Final = 50_000
#: An escape such as "\ud800" names half a character, which no encoder takes.
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_LEFT_OPEN: Final = re.compile("stream|could not find")
#: What the YAML reader says, and an operator's words for it.
_SYNTAX_WORDS: Final = (
    (r"found character '\\t' that cannot start.*", "a tab; YAML is indented with spaces"),
    (r"found character '(.)' that cannot start.*", r'a value that begins with "\1" needs quotes'),
    (r"mapping values are not allowed here", 'a ":" where none can be; is the indentation right?'),
    (r"could not find expected ':'", 'a ":" is missing'),
    (r"found unexpected end of stream", "a quote that is never closed"),
    (r"expected ',' or '(.)', but got '<stream end>'", r'a "\1" is missing'),
    (
        r"expected ',' or '(.)', but got .*",
        r'expected a comma or "\1"; is there text that needs quotes?',
    ),
    (
        r"expected <block end>, but found .*",
        'text where none can be; is the indentation right? Text that begins with "{" needs quotes',
    ),
)


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
        # The end of the file says nothing about what was left open: its beginning does.
        if error.context_mark is not None and _LEFT_OPEN.search(error.problem or ""):
            mark = error.context_mark
        words = _in_words(error.problem or "not readable")
        report.fatal(mark.line + 1 if mark else None, f"not valid YAML: {words}")
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        report.fatal(line, "not valid YAML: a control character")


def _in_words(problem: str) -> str:
    for pattern, words in _SYNTAX_WORDS:
        if (match := re.fullmatch(pattern, problem)) is not None:
            return match.expand(words)
    return problem


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
