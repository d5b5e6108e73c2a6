"""Stamps of an object's lines, read back. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache

_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")
_NS_PER_S = 1_000_000_000


def parse_time(text: str) -> int | None:
    """A moment in RFC 3339 as nanoseconds since 1970; None when it is none."""
    match = _STAMP.fullmatch(text)
    if match is None:
        return None
    second = _second(match[1] + match[3].replace("Z", "+00:00"))
    return None if second is None else second * _NS_PER_S + int((match[2] or "").ljust(9, "0"))


def known_time(text: str) -> int:
    """The same, of a text that has to be one.

    Raises:
        ValueError: It is none.
    """
    found = parse_time(text)
    if found is None:
        raise ValueError(f"{text!r} is no time")
    return found


@lru_cache(maxsize=64)
def _second(text: str) -> int | None:
    """Lines of one second mostly stand together."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return int((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds())
