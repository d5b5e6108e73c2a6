"""Lines that describe themselves, and a counter that tells what became of them.

Every line is `<number:09d> <crc32:08x> <source> <payload>`. The payload is a function of source and
number, so a line can be judged on its own: whether it is whole, whose it is, and which it is. The
last line of a source says so, so a missing end is noticed too.

Lines may be missing where a gap was declared. A gap record speaks of the numbers that the records
of its own stream have (`line`), the oracle of the numbers inside the texts, of each source. The
file relates them: of every source, the last line before the gap and the first behind it are in it,
and what is between their numbers is what was declared missing.

Run as a program (`python oracle.py NAME STOP_FILE`) it prints such lines steadily on standard
output (source `NAME/out`) and standard error (`NAME/err`) until the file is there.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

LAST = "last"

#: How long the program prints at most, also when whoever started it is gone.
LIFETIME_S = 300.0

#: Payload lengths, in characters: around what buffers and frames are made of.
_USUAL = (0, 1, 40, 80, 127, 128, 200)
_RARE = (1000, 4095, 4096, 4097, 16383, 16384, 16385)
_RARE_EVERY = 211


def payload(source: str, number: int) -> str:
    """What this line of this source says: letters, also ones of two and three bytes."""
    if number % _RARE_EVERY == _RARE_EVERY - 1:
        length = _RARE[number // _RARE_EVERY % len(_RARE)]
    else:
        length = _USUAL[number % len(_USUAL)]
    pattern = f"{zlib.crc32(f'{source} {number}'.encode()):x}-äß€ "
    return (pattern * (length // len(pattern) + 1))[:length]


def line(source: str, number: int, *, last: bool = False) -> bytes:
    """One whole line, with its newline."""
    return _framed(source, number, LAST if last else payload(source, number))


def _framed(source: str, number: int, text: str) -> bytes:
    body = f"{source} {text}"
    check = zlib.crc32(f"{number:09d} {body}".encode())
    return f"{number:09d} {check:08x} {body}\n".encode()


@dataclass(slots=True)
class Count:
    """What became of the lines; all zero but `good` when nothing is wrong and nothing is missing.

    Attributes:
        good: Whole lines of known sources, each counted once.
        lost: Numbers that are missing between a source's first line and its last; a last line that
            is missing counts as one, whatever was before it.
        declared: Those of them that lie inside declared gaps.
        falsely_declared: Gaps that were declared over lines that are there, or over nothing.
        repeated: Lines that were there before.
        damaged: Lines that do not match their own checksum, or cannot be read.
        out_of_order: Lines that come after one of the same source with a higher number.
        foreign: Whole lines that nobody printed: of an unknown source, or behind its last line.
    """

    good: int = 0
    lost: int = 0
    declared: int = 0
    falsely_declared: int = 0
    repeated: int = 0
    damaged: int = 0
    out_of_order: int = 0
    foreign: int = 0

    @property
    def unexplained(self) -> int:
        """Lines that are missing without a gap record."""
        return self.lost - self.declared

    @property
    def wrong(self) -> dict[str, int]:
        """What is not as it should be, by name; what was declared is as it should be."""
        names = (
            "unexplained",
            "falsely_declared",
            "repeated",
            "damaged",
            "out_of_order",
            "foreign",
        )
        return {name: value for name in names if (value := getattr(self, name))}


@dataclass(slots=True)
class _Source:
    seen: set[int] = field(default_factory=set)
    highest: int = -1
    last: int | None = None

    @property
    def missing(self) -> set[int]:
        """The numbers that should be there and are not; the one after the highest, without an end.

        How many lines there were behind it nobody can know.
        """
        end = self.last if self.last is not None else self.highest + 1
        return set(range(end + 1)) - self.seen


def count(log: bytes, sources: Iterable[str], *, stamped: bool = True) -> Count:
    """Judge a log: each of its lines, and whether all of the sources' lines are there.

    Args:
        log: Whole lines.
        sources: Whose lines should be in it, from number 0 to their last.
        stamped: Whether every line is preceded by a stamp and a space.
    """
    result = Count()
    known = {source: _Source() for source in sources}
    for text in log.split(b"\n")[:-1]:
        _judge(result, known, text.partition(b" ")[2] if stamped else text)
    if log and not log.endswith(b"\n"):
        result.damaged += 1
    result.lost = sum(len(source.missing) for source in known.values())
    return result


def count_records(output: bytes, sources: Iterable[str]) -> Count:
    """Judge the NDJSON output of one stream: its lines as `count` does, and its gap records.

    A gap is placed by its `after_line` and `before_line`: the records with these numbers are the
    last before the hole and the first behind it. Without a `before_line` a gap of the kind `tail`
    never ends, and any other at the next record. Stamps place nothing: they may be out of order. A
    gap that a later record says to be filled is none.

    A gap is false if lines that are there have numbers inside it, or if nothing is missing in it.
    Only a tail with approximate bounds may turn out to be empty: nobody could know.

    Args:
        output: What the sink has written of one stream, in its order.
        sources: Whose lines should be in it, from number 0 to their last.
    """
    result = Count()
    known = {source: _Source() for source in sources}
    records = [json.loads(text) for text in output.split(b"\n")[:-1]]
    lines = [
        (place, *described)
        for place, text in _texts(record for record in records if "gap" not in record)
        if (described := _judge(result, known, text)) is not None
    ]
    if output and not output.endswith(b"\n"):
        result.damaged += 1
    missing = {(name, each) for name, source in known.items() for each in source.missing}
    result.lost = len(missing)
    explained: set[tuple[str, int]] = set()
    for gap in _unfilled(record["gap"] for record in records if "gap" in record):
        within = gap.explains(lines, missing)
        result.falsely_declared += gap.is_false(lines, within)
        explained |= within
    result.declared = len(explained)
    return result


#: A line's generation and its number in it.
_Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Gap:
    """A gap record, as far as it is judged."""

    after: _Place
    before: _Place
    may_be_empty: bool

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> _Gap:
        generation, after_line = record.get("generation", 0), record["after_line"]
        before_line = record.get("before_line")
        tail = before_line is None and record.get("kind") == "tail"
        if before_line is None:
            before_line = after_line + 1
        return cls(
            after=(generation, after_line),
            before=(generation + 1, 0) if tail else (generation, before_line),
            may_be_empty=tail and record.get("bounds") == "approximate",
        )

    def explains(
        self, lines: Iterable[tuple[_Place, str, int]], missing: set[tuple[str, int]]
    ) -> set[tuple[str, int]]:
        """What is missing between the lines on both sides of it, of every source."""
        last_before: dict[str, int] = {}
        first_behind: dict[str, int] = {}
        for place, source, number in lines:
            if place <= self.after:
                last_before[source] = max(number, last_before.get(source, -1))
            elif place >= self.before:
                first_behind[source] = min(number, first_behind.get(source, number))
        return {
            (source, number)
            for source, number in missing
            if last_before.get(source, -1) < number
            and (source not in first_behind or number < first_behind[source])
        }

    def is_false(
        self, lines: Iterable[tuple[_Place, str, int]], within: set[tuple[str, int]]
    ) -> bool:
        """Whether it says of lines that are there that they are not, or speaks of nothing."""
        over_lines = any(self.after < place < self.before for place, *_ in lines)
        return over_lines or not (within or self.may_be_empty)


def _unfilled(records: Iterable[Mapping[str, Any]]) -> list[_Gap]:
    """The gaps, without those of which a later record says that they were filled."""
    gaps: dict[tuple[Any, ...], _Gap] = {}
    for record in records:
        key = tuple(record.get(name) for name in ("kind", "generation", "after_line"))
        if record.get("filled_ns"):
            gaps.pop(key, None)
        else:
            gaps[key] = _Gap.of(record)
    return list(gaps.values())


def _texts(records: Iterable[Mapping[str, Any]]) -> list[tuple[_Place, bytes]]:
    """Each line with its place; the numbered parts of one are put together again."""
    texts: list[tuple[_Place, bytes]] = []
    for record in records:
        if "text_base64" in record:
            text = base64.b64decode(record["text_base64"], validate=True)
        else:
            text = str(record["text"]).encode()
        if record.get("part", 0) > 1:
            place, begun = texts.pop()
            texts.append((place, begun + text))
        else:
            texts.append(((record.get("generation", 0), record["line"]), text))
    return texts


def _judge(result: Count, known: Mapping[str, _Source], text: bytes) -> tuple[str, int] | None:
    """Count one line; returns its source and number, if it can be read."""
    described = _read(text)
    if described is None:
        result.damaged += 1
        return None
    source, number, said = described
    _place(result, known.get(source), number, said)
    return source, number


def _place(result: Count, source: _Source | None, number: int, text: str) -> None:
    if source is None or (source.last is not None and number > source.last):
        result.foreign += 1
    elif number in source.seen:
        result.repeated += 1
    else:
        result.good += 1
        result.out_of_order += number < source.highest
        source.seen.add(number)
        source.highest = max(source.highest, number)
        if text == LAST:
            source.last = number


def _read(text: bytes) -> tuple[str, int, str] | None:
    """Source, number and payload of a line, if it is what was printed, to the byte."""
    parts = text.decode("utf-8", "replace").split(" ", 3)
    if len(parts) != 4 or not parts[0].isdigit():
        return None
    number, source, said = int(parts[0]), parts[2], parts[3]
    if said != LAST and said != payload(source, number):
        return None
    return (source, number, said) if text + b"\n" == _framed(source, number, said) else None


def main() -> None:
    """Print steadily on both streams until told to stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("stop_file", type=Path)
    parser.add_argument("--burst-lines", type=int, default=4)
    parser.add_argument("--pause-s", type=float, default=0.01)
    parser.add_argument("--lifetime-s", type=float, default=LIFETIME_S)
    parser.add_argument("--lines", type=int, default=sys.maxsize, help="end by itself after these")
    given = parser.parse_args()
    outputs = {f"{given.name}/out": sys.stdout.buffer, f"{given.name}/err": sys.stderr.buffer}
    number = 0
    until_s = time.monotonic() + given.lifetime_s
    # The last line comes on top of the bursts.
    while number < given.lines - 1 and not given.stop_file.exists() and time.monotonic() < until_s:
        numbers = range(number, min(number + given.burst_lines, given.lines - 1))
        for source, output in outputs.items():
            output.write(b"".join(line(source, each) for each in numbers))
            output.flush()
        number = numbers.stop
        time.sleep(given.pause_s)
    for source, output in outputs.items():
        output.write(line(source, number, last=True))
        output.flush()


if __name__ == "__main__":
    main()
