"""A page of stored logs from JSON, under any of the names that its fields may have; pure.

Nobody has seen a page of the real endpoint (API reference, stored logs), so the names are a list of
what is usual, and whatever is not surely understood is refused: a line that is left out, or read
from the wrong field, would be worse than none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from forwarder.source.sandbox_json import UnreadableAnswerError, time_ns_from_json
from forwarder.source.stored_lines import StoredLine
from forwarder.stamps import MAX_STAMP_NS

# Names in lower case and without underscores: proto JSON allows `eventId` and `event_id`.
_ENTRIES = ("entries", "logs", "items", "lines", "logentries", "loglines", "records", "events")
_TEXTS = ("message", "text", "line", "body", "log", "content", "msg")
_TIMES = ("timestamp", "time", "ts", "eventtime", "logtime", "stamp")
_CONTAINERS = ("container", "containername")
_TOKENS = ("nextpagetoken", "nexttoken")
_IDS = ("eventid", "id")
#: What an entry may have beside these without a text of its own, which is then empty: proto JSON
#: leaves out an empty string.
_LABELS = frozenset({*_TIMES, *_CONTAINERS, *_IDS, "stream", "source", "sandboxid"})

_INTEGER = re.compile(r"\d{1,19}", re.ASCII)
#: A count since 1970 below the bound is in this unit: seconds up to the year 5138, and so on.
_UNITS_NS = ((10**11, 1_000_000_000), (10**14, 1_000_000), (10**17, 1_000))


@dataclass(frozen=True, slots=True)
class StoredPage:
    """One page of stored logs.

    Attributes:
        lines: In the page's order, with the container of each; empty where none is named.
        next_token: The next page's token, empty on the last.
        first_id: The event id of the first entry; empty where it has none.
    """

    lines: tuple[tuple[str, StoredLine], ...]
    next_token: str
    first_id: str


def stored_page_from_json(value: object) -> StoredPage:
    """Read one page.

    Raises:
        UnreadableAnswerError: Not everything of it is understood.
    """
    page = _fields(value, "a page of stored logs")
    entries = [_fields(entry, "a stored line") for entry in _entries(page)]
    token = _first(page, _TOKENS)
    if token is not None and not isinstance(token, str):
        raise UnreadableAnswerError("the next page's token is not a string")
    first_id = _first(entries[0], _IDS) if entries else None
    return StoredPage(
        tuple(line for entry in entries for line in _lines(entry)),
        token or "",
        str(first_id) if isinstance(first_id, str | int) else "",
    )


def _entries(page: Mapping[str, Any]) -> list[Any]:
    entries = _first(page, _ENTRIES)
    if isinstance(entries, list):
        return entries
    if entries is not None or any(isinstance(each, list | dict) for each in page.values()):
        raise UnreadableAnswerError("a page of stored logs has no list of lines that we know")
    return []  # proto JSON leaves out an empty list


def _lines(entry: Mapping[str, Any]) -> list[tuple[str, StoredLine]]:
    """The entry as a line; as several where its text has line ends within."""
    container = _first(entry, _CONTAINERS)
    if container is not None and not isinstance(container, str):
        raise UnreadableAnswerError("a stored line's container is not a string")
    stamp_ns = _stamp_ns(_first(entry, _TIMES))
    texts = _text(entry).removesuffix(b"\n").split(b"\n")
    return [(container or "", StoredLine(stamp_ns, text)) for text in texts]


def _text(entry: Mapping[str, Any]) -> bytes:
    text = _first(entry, _TEXTS)
    if isinstance(text, str):
        # JSON may hold half of a surrogate pair, which no UTF-8 can.
        return text.encode("utf-8", "replace")
    if isinstance(text, dict):
        return orjson.dumps(text)
    if text is None and entry.keys() <= _LABELS:
        return b""
    raise UnreadableAnswerError("a stored line has no text that we know")


def _stamp_ns(value: object) -> int:
    """RFC 3339, or an integer (proto JSON: as a string) of s, ms, us or ns since 1970."""
    stamp_ns = time_ns_from_json(value)
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        unit_ns = next((unit_ns for bound, unit_ns in _UNITS_NS if value < bound), 1)
        stamp_ns = value * unit_ns
    if stamp_ns is None or not 0 <= stamp_ns <= MAX_STAMP_NS:
        raise UnreadableAnswerError("a stored line has no time that we know")
    return stamp_ns


def _fields(value: object, what: str) -> dict[str, Any]:
    """The object's fields by their names in lower case and without underscores."""
    if not isinstance(value, Mapping):
        raise UnreadableAnswerError(f"{what} is not a JSON object")
    return {str(name).replace("_", "").lower(): each for name, each in value.items()}


def _first(fields: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """The first of these fields that is there; null counts as missing."""
    return next((fields[name] for name in names if fields.get(name) is not None), None)
