"""Whether an archive has every line once. Pure.

The numbers of a stream's lines follow each other within a generation, and each is there once. Where
some are missing a gap record must say so. What cannot be known is whether there were lines before
the first one, or behind the last one.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sinks.terminal import terminal_safe

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sinks.archive import Run

#: So many problems are told; more say nothing new.
_MOST_PROBLEMS = 100

#: Behind every line number.
_END = 1 << 63


@dataclass(slots=True)
class ArchiveReport:
    """What was looked at, and what is wrong.

    Attributes:
        streams: Containers of sandboxes that have anything there.
        lines: As the manifests say, and parts of lines.
        size_bytes: Of the objects.
        contents: Whether the objects themselves were read, and not only their manifests.
        missing_told: Lines that are missing, and gap records that are there say so.
        late: Streams of which the archive has not the first line.
        problems: What is wrong, for people; empty when all is well.
        problem_count: How many, also of those that are not told any more.
    """

    windows: int = 0
    objects: int = 0
    streams: int = 0
    lines: int = 0
    size_bytes: int = 0
    contents: bool = True
    missing_told: int = 0
    late: int = 0
    problems: list[str] = field(default_factory=list)
    problem_count: int = 0

    @property
    def ok(self) -> bool:
        """Whether all is well."""
        return not self.problem_count

    def tell(self, problem: str) -> None:
        """Note a problem."""
        self.problem_count += 1
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(problem)


class Spans:
    """Ranges of numbers, each from its first to before its last; those that meet become one."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._stops, strict=True)

    def add(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Add a range; the parts of it that were there already."""
        first = bisect_left(self._stops, start)
        last = first
        known = []
        while last < len(self._starts) and self._starts[last] <= stop:
            low, high = max(start, self._starts[last]), min(stop, self._stops[last])
            if low < high:
                known.append((low, high))
            last += 1
        if last > first:
            start = min(start, self._starts[first])
            stop = max(stop, self._stops[last - 1])
        self._starts[first:last] = [start]
        self._stops[first:last] = [stop]
        return known

    def holes(self, start: int, stop: int) -> list[tuple[int, int]]:
        """What of a range is in none of them."""
        found = []
        first = bisect_left(self._stops, start)
        for low, high in zip(self._starts[first:], self._stops[first:], strict=True):
            if low >= stop:
                break
            if start < low:
                found.append((start, low))
            start = max(start, high)
        if start < stop:
            found.append((start, stop))
        return found


class _Life:
    """The lines of one generation of a stream."""

    __slots__ = ("believed", "lines", "lost")

    def __init__(self) -> None:
        self.lines = Spans()
        self.lost = Spans()
        self.believed: set[int] = set()

    @property
    def first(self) -> int:
        return next((start for start, _ in self.lines), 0)

    @property
    def stop(self) -> int:
        return max((stop for _, stop in self.lines), default=0)


class LineLedger:
    """Takes note of all lines that an archive has, stream by stream.

    Its memory grows with the streams, and with what is missing of them, not with the lines.

    Args:
        report: Told what is wrong.
        whole: Whether all of a stream is meant, and not only what was written in some time.
    """

    def __init__(self, report: ArchiveReport, *, whole: bool = True) -> None:
        self._report = report
        self._whole = whole
        self._streams: dict[tuple[str, str], dict[int, _Life]] = {}

    def add(self, runs: Iterable[Run], key: str) -> None:
        """An object has these."""
        for run in runs:
            life = self._life(run.sandbox_id, run.container, run.generation)
            if run.gap:
                continue
            for start, stop in life.lines.add(run.first_line, run.first_line + run.lines):
                which = _lines(start, stop)
                name = _name(run.sandbox_id, run.container, run.generation)
                self._report.tell(f"{name}: {which} once more in {terminal_safe(key)}")

    def believe(self, runs: Iterable[Run]) -> None:
        """An object has these, and was not read: a gap record among them accounts for its hole."""
        for run in runs:
            if run.gap:
                life = self._life(run.sandbox_id, run.container, run.generation)
                life.believed.add(run.first_line)

    def explain(
        self, sandbox_id: str, container: str, generation: int, first: int, stop: int | None
    ) -> None:
        """A gap record accounts for these numbers.

        Args:
            sandbox_id: Of the stream.
            container: The same.
            generation: The same.
            first: The first number.
            stop: The one behind the last; None for all that follow.
        """
        lost = self._life(sandbox_id, container, generation).lost
        stop = _END if stop is None else stop
        if first < stop:
            lost.add(first, stop)

    def finish(self) -> None:
        """Everything was added: tell what is missing."""
        self._report.streams = len(self._streams)
        for (sandbox_id, container), lives in sorted(self._streams.items()):
            began = False
            for generation, life in sorted(lives.items()):
                holes = list(self._holes(life, began=began))
                began = True
                for start, stop in holes:
                    name = _name(sandbox_id, container, generation)
                    verb = "is" if stop - start == 1 else "are"
                    self._report.tell(
                        f"{name}: {_lines(start, stop)} {verb} missing, and no gap record says why"
                    )

    def _holes(self, life: _Life, *, began: bool) -> Iterator[tuple[int, int]]:
        """What is missing and was not told; `began` says that there is an earlier generation."""
        first = 0 if began else life.first
        for start, stop in life.lines.holes(first, life.stop):
            yield from self._untold(life, start, stop)
        if not began and self._whole and life.first:
            self._report.late += bool(self._untold(life, 0, life.first))

    def _untold(self, life: _Life, start: int, stop: int) -> list[tuple[int, int]]:
        """What of a hole no gap record accounts for; the rest is counted."""
        is_believed = not life.believed.isdisjoint((start, stop))
        untold = [] if is_believed else life.lost.holes(start, stop)
        self._report.missing_told += stop - start - sum(high - low for low, high in untold)
        return untold

    def _life(self, sandbox_id: str, container: str, generation: int) -> _Life:
        lives = self._streams.setdefault((sandbox_id, container), {})
        return lives.setdefault(generation, _Life())


def _name(sandbox_id: str, container: str, generation: int) -> str:
    name = "/".join(terminal_safe(one) for one in (sandbox_id, container) if one)
    return f"{name} (generation {generation})" if generation else name


def _lines(start: int, stop: int) -> str:
    return f"line {start}" if stop - start == 1 else f"lines {start} to {stop - 1}"
