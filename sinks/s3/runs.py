"""Which records are in which object, in so little memory that a window may have many streams. Pure.

What is kept of a run are numbers in arrays: 64 bytes, and about 300 more for each stream of an
object. A `Run` is made from them when somebody asks for it.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, overload

import orjson

from sinks.archive import Run

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sinks.interface import Slice

#: What stands for no run at all.
_NONE = -1


class RunBuilder:
    """Collects the runs of all objects of a window; objects are numbered from 0, as they begin.

    Records of one stream and generation that follow each other without a hole become one run, also
    when other streams' records stand between them: an object that a thousand streams share has a
    thousand runs, however they are mixed. A part and a gap record are runs of their own, and
    nothing is joined across them, so the runs of one stream stand as its records do.
    """

    def __init__(self) -> None:
        self._streams: list[tuple[int, str, str]] = []
        self._generations = array("q")
        self._first_lines = array("q")
        self._lines = array("q")
        self._parts = array("q")
        self._first_ns = array("q")
        self._last_ns = array("q")
        self._next = array("q")
        #: The newest run of each object's streams.
        self._newest: dict[tuple[int, str, str], int] = {}
        self._heads = array("q")
        self._tails = array("q")
        self._counts = array("q")

    def add(
        self, number: int, source: Slice, start: int, stop: int, first_ns: int, last_ns: int
    ) -> None:
        """Some records of a slice, or its gap record, stand at the end of an object now.

        Args:
            number: The object.
            source: The slice.
            start: Its first record.
            stop: Behind its last one.
            first_ns: The lowest stamp of them.
            last_ns: The highest one.
        """
        identity = (number, source.stream.sandbox_id, source.stream.container)
        first_line = source.first_line + start
        newest = self._newest.get(identity, _NONE)
        if newest != _NONE and self._goes_on(newest, source, first_line):
            self._lines[newest] += stop - start
            self._first_ns[newest] = min(self._first_ns[newest], first_ns)
            self._last_ns[newest] = max(self._last_ns[newest], last_ns)
            return
        if newest != _NONE:
            identity = self._streams[newest]  # one tuple for all runs of a stream
        self._newest[identity] = self._begin(identity)
        self._generations.append(source.generation)
        self._first_lines.append(first_line)
        self._lines.append(0 if source.gap is not None else stop - start)
        self._parts.append(source.part)
        self._first_ns.append(first_ns)
        self._last_ns.append(last_ns)

    def runs(self, number: int) -> Sequence[Run]:
        """An object's runs, by where they begin; made anew at each look."""
        return _Runs(self, number)

    def _goes_on(self, newest: int, source: Slice, first_line: int) -> bool:
        """Whether a slice's records follow a run, and are of its kind."""
        lines = self._lines[newest]
        return (
            lines > 0
            and source.gap is None
            and source.part == self._parts[newest] == 0
            and source.generation == self._generations[newest]
            and first_line == self._first_lines[newest] + lines
        )

    def _begin(self, identity: tuple[int, str, str]) -> int:
        """A place for a run at the end of its object's."""
        index, number = len(self._streams), identity[0]
        if number == len(self._heads):
            self._heads.append(_NONE)
            self._tails.append(_NONE)
            self._counts.append(0)
        if self._heads[number] == _NONE:
            self._heads[number] = index
        else:
            self._next[self._tails[number]] = index
        self._tails[number] = index
        self._counts[number] += 1
        self._streams.append(identity)
        self._next.append(_NONE)
        return index

    def count(self, number: int) -> int:
        """How many runs an object has."""
        return self._counts[number]

    def bounds_ns(self, number: int) -> tuple[int, int]:
        """The lowest and the highest stamp in an object."""
        first_ns = min(self._first_ns[index] for index in self._indices(number))
        return first_ns, max(self._last_ns[index] for index in self._indices(number))

    def each(self, number: int) -> Iterator[Run]:
        """See `runs`."""
        for index in self._indices(number):
            lines = self._lines[index]
            yield Run(
                *self._streams[index][1:],
                self._generations[index],
                self._first_lines[index],
                lines,
                self._parts[index],
                self._first_ns[index],
                self._last_ns[index],
                gap=lines == 0,
            )

    def _indices(self, number: int) -> Iterator[int]:
        index = self._heads[number]
        while index != _NONE:
            yield index
            index = self._next[index]


class _Runs(Sequence[Run]):
    """One object's runs. Meant to be read from the beginning: an index costs what it counts."""

    def __init__(self, builder: RunBuilder, number: int) -> None:
        self._builder = builder
        self._number = number

    def __len__(self) -> int:
        return self._builder.count(self._number)

    def __iter__(self) -> Iterator[Run]:
        return self._builder.each(self._number)

    @overload
    def __getitem__(self, index: int) -> Run: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Run]: ...
    def __getitem__(self, index: int | slice) -> Run | Sequence[Run]:
        if isinstance(index, slice):
            return list(self)[index]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return next(islice(self, index % len(self), None))


def encode_rows(runs: Iterable[Run]) -> Iterator[bytes]:
    """Each run as a manifest has it: a JSON array."""
    for run in runs:
        yield orjson.dumps(
            [
                run.sandbox_id,
                run.container,
                run.generation,
                run.first_line,
                run.lines,
                run.part,
                run.first_ns,
                run.last_ns,
                int(run.gap),
            ]
        )


def records_digest(runs: Iterable[Run]) -> str:
    """What stands for the records of an object, hexadecimal: equal for equal runs."""
    digest = hashlib.sha256()
    for row in encode_rows(runs):
        digest.update(row)
    return digest.hexdigest()
