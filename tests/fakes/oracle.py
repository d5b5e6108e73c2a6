"""Lines that describe themselves, and a counter that tells what became of them.

Every line is `<number:09d> <crc32:08x> <source> <payload>`. The payload is a function of source and
number, so a line can be judged on its own: whether it is whole, whose it is, and which it is. The
last line of a source says so, so a missing end is noticed too.

Run as a program (`python oracle.py NAME STOP_FILE`) it prints such lines steadily on standard
output (source `NAME/out`) and standard error (`NAME/err`) until the file is there.
"""

from __future__ import annotations

import argparse
import sys
import time
import zlib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

LAST = "last"
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
    """What became of the lines; all zero but `good` when nothing is wrong.

    Attributes:
        good: Whole lines of known sources, each counted once.
        lost: Numbers that are missing between a source's first line and its last.
        repeated: Lines that were there before.
        damaged: Lines that do not match their own checksum, or cannot be read.
        out_of_order: Lines that come after one of the same source with a higher number.
        foreign: Whole lines that nobody printed: of an unknown source, or behind its last line.
    """

    good: int = 0
    lost: int = 0
    repeated: int = 0
    damaged: int = 0
    out_of_order: int = 0
    foreign: int = 0

    @property
    def wrong(self) -> dict[str, int]:
        """What is not as it should be, by name."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if value and name != "good"}


@dataclass(slots=True)
class _Source:
    seen: set[int] = field(default_factory=set)
    highest: int = -1
    last: int | None = None


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
        described = _read(text.partition(b" ")[2] if stamped else text)
        if described is None:
            result.damaged += 1
        else:
            _place(result, known.get(described[0]), *described[1:])
    if log and not log.endswith(b"\n"):
        result.damaged += 1
    for source in known.values():
        end = source.last if source.last is not None else source.highest + 1
        result.lost += end + 1 - len(source.seen)
    return result


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
    given = parser.parse_args()
    outputs = {f"{given.name}/out": sys.stdout.buffer, f"{given.name}/err": sys.stderr.buffer}
    number = 0
    until_s = time.monotonic() + LIFETIME_S  # also when whoever started it is gone
    while not given.stop_file.exists() and time.monotonic() < until_s:
        numbers = range(number, number + given.burst_lines)
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
