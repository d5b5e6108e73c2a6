"""Which of the stored lines of a log were not taken from its stream. Pure: no I/O, no clock.

Stored lines are not the stream's bytes: their stamps may be coarser, a line that is a JSON object
is stored normalised, a long line is not whole, and text that is not UTF-8 cannot be carried (API
reference, stored logs). A line is recognised by its text within one unit of time, and counted: each
line that was taken accounts for one stored line, never for more, and never by its stamp alone.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from forwarder.model import FrameKind
from forwarder.stamps import decode_lines, format_stamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from forwarder.source.overlap import Taken

#: A stored text of at least so many bytes may be the beginning of a line that was cut.
CUT_BYTES = 1024

_UNITS_NS = (1_000_000_000, 1_000_000, 1_000)
_STAMPS = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{1,9}Z ")
_REPLACED = re.compile("\N{REPLACEMENT CHARACTER}+")


@dataclass(frozen=True, slots=True)
class StoredLine:
    """One line of the stored log; `text` is without its newline and holds none."""

    stamp_ns: int
    text: bytes


#: A line for comparison: its stamp in whole units of time, and its text.
_Line = tuple[int, bytes]


def missing_lines(taken: Iterable[Taken], stored: Iterable[StoredLine], *, after_ns: int) -> bytes:
    r"""The stored lines that are not among the taken ones, as `<stamp> <text>\n`, in their order.

    A taken line of which only the beginning was taken does not account for the whole stored line,
    which is then returned.

    Args:
        taken: What was taken of the stream, in its order, from `after_ns` on or from before it.
        stored: What is stored, in its order. Lines older than `after_ns` are welcome: the more
            lines, the surer the unit of the stamps.
        after_ns: Stored lines with a lower stamp are ignored. A stored stamp may be cut to its
            whole second, so this must be at least a second before any line that may be missing.
    """
    lines = list(stored)
    unit_ns = _unit_ns(lines)
    known = Counter((stamp_ns // unit_ns, text) for stamp_ns, text in _taken_lines(taken, after_ns))
    rest = [line for line in lines if line.stamp_ns >= after_ns]
    rest = _without_equal(rest, known, unit_ns, lambda text: text)
    rest = _without_equal(rest, known, unit_ns, _canonical)
    rest = _without_cut(rest, known, unit_ns)
    return b"".join(b"%s %s\n" % (format_stamp(at.stamp_ns).encode(), at.text) for at in rest)


def _unit_ns(lines: Iterable[StoredLine]) -> int:
    """The coarsest unit of which every stamp is a multiple."""
    stamps = {line.stamp_ns for line in lines}
    for unit_ns in _UNITS_NS:
        if all(stamp_ns % unit_ns == 0 for stamp_ns in stamps):
            return unit_ns
    return 1


def _taken_lines(taken: Iterable[Taken], first_stamp_ns: int) -> Iterator[tuple[int, bytes]]:
    """Stamp and text of each line; the parts of a long line are put together again."""
    stamp_ns = first_stamp_ns
    parts: list[bytes] = []
    for frame in taken:
        if frame.kind is FrameKind.GAP:
            continue
        # A later part continues the line whose first part was seen.
        if parts and frame.part <= 1:
            yield _whole(parts, stamp_ns)
            parts = []
        if frame.kind is FrameKind.PART:
            if frame.part == 1 or parts:
                parts.append(frame.raw)
            continue
        stamps, texts = decode_lines(frame.raw, stamp_ns)
        yield from zip(stamps, texts, strict=True)
        stamp_ns = stamps[-1] if stamps else stamp_ns
    if parts:
        yield _whole(parts, stamp_ns)


def _whole(parts: list[bytes], first_stamp_ns: int) -> tuple[int, bytes]:
    stamps, texts = decode_lines(b"".join(parts), first_stamp_ns)
    return stamps[0], texts[0]


def _without_equal(
    lines: list[StoredLine],
    known: Counter[_Line],
    unit_ns: int,
    form: Callable[[bytes], bytes],
) -> list[StoredLine]:
    """The lines without those that have a known one of the same form; those are used up."""
    if not lines or not known:
        return lines
    by_form: defaultdict[_Line, list[bytes]] = defaultdict(list)
    for (unit, text), count in known.items():
        by_form[unit, form(text)] += [text] * count
    rest: list[StoredLine] = []
    for line in lines:
        unit = line.stamp_ns // unit_ns
        texts = by_form.get((unit, form(line.text)))
        if texts:
            _use_up(known, (unit, texts.pop()))
        else:
            rest.append(line)
    return rest


def _without_cut(lines: list[StoredLine], known: Counter[_Line], unit_ns: int) -> list[StoredLine]:
    """The lines without those that are the beginning of a known one; those are used up."""
    long: defaultdict[int, list[_Line]] = defaultdict(list)
    for (unit, text), count in known.items():
        if len(text) > CUT_BYTES:
            long[unit] += [(unit, text)] * count
    rest: list[StoredLine] = []
    for line in lines:
        candidates = long[line.stamp_ns // unit_ns]
        found = next((each for each in candidates if _is_cut(line.text, each[1])), None)
        if found is None:
            rest.append(line)
        else:
            candidates.remove(found)
            _use_up(known, found)
    return rest


def _is_cut(stored: bytes, whole: bytes) -> bool:
    """Whether the stored text is the beginning of the whole one."""
    if len(stored) < CUT_BYTES:
        return False
    # A cut may be in the middle of a character, of which a replacement is left.
    beginning = _plain(stored).rstrip(b"\xef\xbf\xbd")
    return _plain(whole).startswith(beginning) or _bare(whole).startswith(_bare(beginning))


def _bare(text: bytes) -> bytes:
    """The text without stamps: a runtime may stamp the pieces of which it makes a long line."""
    return _STAMPS.sub(b"", _plain(text))


def _use_up(known: Counter[_Line], line: _Line) -> None:
    known[line] -= 1
    if not known[line]:
        del known[line]


def _canonical(text: bytes) -> bytes:
    """A form that the same line has, whether it was stored as it is or normalised."""
    if text.lstrip()[:1] == b"{":
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError:
            return _plain(text)
        return orjson.dumps(_uniform(value), option=orjson.OPT_SORT_KEYS)
    return _plain(text)


def _uniform(value: Any) -> Any:
    """The JSON value with every number as a double, which is what most readers of JSON keep."""
    if isinstance(value, dict):
        return {key: _uniform(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_uniform(each) for each in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


def _plain(text: bytes) -> bytes:
    """The text as UTF-8; how many replacements stand for one bad sequence differs by language."""
    return _REPLACED.sub("\N{REPLACEMENT CHARACTER}", text.decode("utf-8", "replace")).encode()
