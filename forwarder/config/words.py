"""A validation error in an operator's words: what was seen, and what is allowed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from forwarder.config.problems import listed, nearest, quoted
from forwarder.config.shape import field_at
from forwarder.config.tree import ListNode, MapNode, Scalar, scalars

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic_core import ErrorDetails

    from forwarder.config.problems import Loc
    from forwarder.config.tree import Node

NO_VALUE: Final = "has no value; write one, or remove the key"
_EXPECTED: Final = {
    "string_type": "expected text",
    "path_type": "expected text",
    "bool_type": "expected true or false",
    "int_type": "expected a whole number",
    "float_type": "expected a number",
    "tuple_type": "expected a list",
    "list_type": "expected a list",
    "set_type": "expected a list",
    "frozen_set_type": "expected a list",
    "dict_type": "expected a mapping (key: value)",
    "mapping_type": "expected a mapping (key: value)",
    "model_type": "expected a mapping (key: value)",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
    "string_pattern_mismatch": "must match {pattern}",
}
_MAPPING_EXPECTED: Final = frozenset({"dict_type", "mapping_type", "model_type"})


def describe_error(error: ErrorDetails, node: Node, *, hidden: bool) -> str:
    """One error as one sentence.

    Args:
        error: As pydantic reports it.
        node: What stands at its place.
        hidden: Whether that is a secret.
    """
    if error["type"] == "literal_error":
        return _not_a_choice(error, node, hidden=hidden)
    text = _expectation(error, node)
    if not _context(error).get("seen", True):
        return text
    return text + _seen(error["type"], node, hidden=hidden)


def required(model: type[BaseModel], loc: Loc) -> str:
    """What to say of a key that is not there."""
    field = field_at(model, loc)
    about = field.description if field else None
    # A description may go over several lines; a problem is one.
    return f"is required: {' '.join(about.split()).rstrip('.')}" if about else "is required"


def unknown_key(meant: str | None, known: list[str]) -> str:
    """What to say of a key that nobody knows: the one that was meant, or all there are."""
    if meant is not None:
        return f'unknown key; did you mean "{meant}"?'
    return f"unknown key; allowed: {listed(known, last='and')}" if known else "unknown key"


def show(node: Node, *, hidden: bool = False) -> str:
    """What was seen. Text that came from the environment is shown as the reference to it."""
    if isinstance(node, ListNode):
        return "a list"
    if isinstance(node, MapNode):
        return "a mapping"
    if hidden:
        return "a hidden value"
    return quoted(node.source) if isinstance(node.plain(), str) else node.source


def _not_a_choice(error: ErrorDetails, node: Node, *, hidden: bool) -> str:
    allowed = re.findall(r"'([^']*)'", str(_context(error).get("expected", "")))
    text = f"expected {listed(allowed)}, got {show(node, hidden=hidden)}"
    word = node.text if isinstance(node, Scalar) and not hidden else ""
    meant = nearest(word, allowed) if word else None
    return f'{text}; did you mean "{meant}"?' if meant else text


def _expectation(error: ErrorDetails, node: Node) -> str:
    kind, context = error["type"], _context(error)
    if kind == "settings":
        return str(context["text"])
    if kind in {"value_error", "assertion_error"}:
        return _scrub(str(context["error"]), node)
    if kind in _EXPECTED:
        return _EXPECTED[kind].format_map(context)
    message = error["msg"].removeprefix("Input should be ")
    return f"expected {message}" if message != error["msg"] else message


def _seen(kind: str, node: Node, *, hidden: bool) -> str:
    if isinstance(node, Scalar) and kind in _MAPPING_EXPECTED:
        # A whole section given as one text may well be a secret in the wrong place.
        return ", got text"
    if kind in _EXPECTED and kind.endswith("_type"):
        return f", got {show(node, hidden=hidden)}{_quote_hint(kind, node)}"
    if isinstance(node, Scalar) and node.text:
        return f", got {show(node, hidden=hidden)}"
    return ""


def _quote_hint(kind: str, node: Node) -> str:
    if kind not in {"string_type", "path_type"}:
        return ""
    if isinstance(node, Scalar):
        return "; put it in quotes"
    opening = "{" if isinstance(node, MapNode) else "["
    return f'; text that begins with "{opening}" needs quotes'


def _scrub(text: str, node: Node) -> str:
    """A sink's own message may repeat what it was given, and that may come from the environment."""
    for _, scalar in scalars(node):
        if scalar.substituted and scalar.text:
            text = text.replace(scalar.text, scalar.source)
    return text


def _context(error: ErrorDetails) -> dict[str, Any]:
    return error.get("ctx", {})
