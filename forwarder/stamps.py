r"""Server stamps: RFC 3339 text at the beginning of a line, to integer nanoseconds and back. Pure.

A line is `<stamp> <text>\n`. Whatever cannot be read as a stamp is left as it is: the bytes are
kept, and the line takes the stamp of the line before it.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

#: Stamps are kept as signed 64-bit nanoseconds: from 1970 to the year 2262.
MAX_STAMP_NS = 2**63 - 1

_SECOND = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")
_STAMP = re.compile(
    rb"(%s)(?:\.(\d{1,9})\d*)?(Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)(?:[ \n]|$)" % _SECOND.pattern
)
#: The last second all of whose nanoseconds are within `MAX_STAMP_NS`.
_LAST_FULL_SECOND_NS = MAX_STAMP_NS - MAX_STAMP_NS % 1_000_000_000 - 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

#: Whole seconds already converted. Lines come in runs of one second, so a few entries serve all.
_seconds: dict[bytes, int | None] = {}
_SECONDS_KEPT = 4096


def _second_ns(text: bytes) -> int | None:
    """`2026-01-02T03:04:05` in nanoseconds, or None where there is no such time (`:60`)."""
    try:
        return _seconds[text]
    except KeyError:
        pass
    seconds: int | None = None
    # Python reads more forms of a time than this one, week dates among them.
    if _SECOND.fullmatch(text):
        try:
            moment = datetime.fromisoformat(text.decode("ascii")).replace(tzinfo=UTC)
            seconds = int((moment - _EPOCH).total_seconds()) * 1_000_000_000
        except ValueError:
            seconds = None
    if len(_seconds) >= _SECONDS_KEPT:
        _seconds.clear()
    _seconds[text] = seconds
    return seconds


def parse_stamp(raw: bytes, start: int = 0) -> tuple[int, int] | None:
    """The stamp at `start`, and where the line's text begins; None when there is no stamp.

    Fractions of 0 to 9 digits are read in full; further digits are below a nanosecond. A stamp is
    followed by one space, or by the line's end when the text is empty and the space was trimmed.
    """
    found = _STAMP.match(raw, start)
    if found is None:
        return None
    second_ns = _second_ns(found[1])
    if second_ns is None:
        return None
    stamp_ns = second_ns
    if found[2] is not None:
        stamp_ns += int(found[2].ljust(9, b"0"))
    if found[3] != b"Z":
        stamp_ns -= _offset_ns(found[3])
    if not 0 <= stamp_ns <= MAX_STAMP_NS:
        return None
    end = found.end()
    return stamp_ns, end - 1 if raw[end - 1 : end] == b"\n" else end


def _offset_ns(text: bytes) -> int:
    """`+02:00` in nanoseconds east of UTC."""
    minutes = int(text[1:3]) * 60 + int(text[4:6])
    return (-minutes if text.startswith(b"-") else minutes) * 60_000_000_000


def decode_lines(raw: bytes, first_stamp_ns: int) -> tuple[list[int], list[bytes]]:
    r"""Stamps and texts of whole lines; the last one may lack its newline.

    Args:
        raw: `<stamp> <text>\n` for each line.
        first_stamp_ns: What a first line without a readable stamp takes.
    """
    lines = raw.split(b"\n")
    if not lines[-1]:
        lines.pop()
    stamps: list[int] = []
    texts: list[bytes] = []
    stamp_ns = first_stamp_ns
    for line in lines:
        # The server's own form, `2026-01-02T03:04:05.123456789Z `, needs no pattern.
        if line[29:31] == b"Z " and line[19:20] == b"." and line[20:29].isdigit():
            second_ns = _second_ns(line[:19])
            if second_ns is not None and 0 <= second_ns <= _LAST_FULL_SECOND_NS:
                stamp_ns = second_ns + int(line[20:29])
                stamps.append(stamp_ns)
                texts.append(line[31:])
                continue
        found = parse_stamp(line)
        if found is None:
            texts.append(line)
        else:
            stamp_ns = found[0]
            texts.append(line[found[1] :])
        stamps.append(stamp_ns)
    return stamps, texts


def format_stamp(stamp_ns: int) -> str:
    """RFC 3339 in UTC with nine digits, as the server writes it."""
    seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, tz=UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"
