"""Stamps of an object's lines, read back. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache

_NS_PER_S = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", re.ASCII)
_SECOND_LENGTH = len("2026-11-23T04:05:06")
_TIME_LENGTH = len("2026-11-23T04:05:06.000000007Z")
#: What the server's stamps may look like.
_STAMP = re.compile(
    rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?"
    rb"(?:Z|([+-])((?:[01]\d|2[0-3])):([0-5]\d))(?: |$)"
)
#: Elsewhere stamps are signed numbers of 64 bits.
_MAX_NS = 2**63 - 1


def known_time(text: str) -> int:
    """What `sinks.ndjson.rfc3339` made, as nanoseconds since 1970.

    Raises:
        ValueError: It is something else.
    """
    fraction = text[_SECOND_LENGTH + 1 : -1]
    if (
        len(text) == _TIME_LENGTH
        and text.isascii()
        and text[_SECOND_LENGTH] == "."
        and text[-1] == "Z"
        and fraction.isdigit()
    ):
        second = _second(text[:_SECOND_LENGTH])
        if second is not None:
            return second * _NS_PER_S + int(fraction)
    raise ValueError(f"{text!r} is no time")


def split_stamp(line: bytes) -> tuple[int, bytes] | None:
    """A line's stamp in nanoseconds since 1970, and the text behind it; None without a stamp.

    It finds the same stamps as the daemon does when it takes lines.

    Args:
        line: Without its newline.
    """
    found = _STAMP.match(line)
    if found is None:
        return None
    second = _second(found[1].decode())
    if second is None:
        return None
    stamp_ns = second * _NS_PER_S + int((found[2] or b"").ljust(9, b"0"))
    if found[3] is not None:
        offset_ns = (int(found[4]) * 60 + int(found[5])) * 60 * _NS_PER_S
        stamp_ns -= -offset_ns if found[3] == b"-" else offset_ns
    return (stamp_ns, line[found.end() :]) if 0 <= stamp_ns <= _MAX_NS else None


@lru_cache(maxsize=256)
def _second(text: str) -> int | None:
    """`2026-11-23T04:05:06` in seconds; lines of one second mostly stand together."""
    if _SECOND.fullmatch(text) is None:  # Python reads other forms of a time, too
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return int((moment.replace(tzinfo=UTC) - _EPOCH).total_seconds())
