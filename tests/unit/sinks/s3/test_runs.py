"""Which records are told together."""

from __future__ import annotations

import pytest

from sinks.archive import Run
from sinks.interface import Stream
from sinks.s3.runs import RunBuilder, records_digest
from sinks.testing import gap_of, slice_of

A = Stream("a", "main")
B = Stream("b", "main")


class Told:
    """A builder that is told whole slices, received in this order."""

    def __init__(self) -> None:
        self.builder = RunBuilder()

    def lines(
        self, first: int, count: int, stream: Stream = A, *, generation: int = 0, at_ns: int = 5
    ) -> Told:
        pairs = [(at_ns + index, "x") for index in range(count)]
        source = slice_of(pairs, stream=stream, first_line=first, generation=generation)
        self.builder.add(0, source, 0, count, at_ns, at_ns + count - 1)
        return self

    def part(self, line: int, part: int) -> Told:
        source = slice_of([(5, "x")], stream=A, first_line=line, part=part)
        self.builder.add(0, source, 0, 1, 5, 5)
        return self

    def gap(self, line: int) -> Told:
        self.builder.add(0, gap_of(stream=A, first_line=line), 0, 0, 5, 5)
        return self

    @property
    def shown(self) -> list[tuple[str, int, int, int]]:
        """Stream, first line, lines, part; a gap record has no lines."""
        return [
            (run.sandbox_id, run.first_line, run.lines, run.part) for run in self.builder.runs(0)
        ]


def test_what_follows_without_a_hole_is_one_run() -> None:
    told = Told().lines(3, 2, at_ns=50).lines(5, 1, at_ns=20).lines(6, 4, at_ns=30)
    assert list(told.builder.runs(0)) == [Run("a", "main", 0, 3, 7, 0, 20, 51)]
    assert told.builder.bounds_ns(0) == (20, 51)


def test_streams_that_alternate_have_one_run_each() -> None:
    told = Told()
    for line in range(100):
        told.lines(line, 1, A).lines(line, 1, B)
    assert told.shown == [("a", 0, 100, 0), ("b", 0, 100, 0)]


def test_containers_of_one_sandbox_are_different_streams() -> None:
    told = Told().lines(0, 1).lines(1, 1, Stream("a", "side"))
    assert [run.container for run in told.builder.runs(0)] == ["main", "side"]


def test_a_hole_ends_a_run() -> None:
    assert Told().lines(0, 2).lines(3, 1).shown == [("a", 0, 2, 0), ("a", 3, 1, 0)]


def test_another_generation_is_another_run() -> None:
    told = Told().lines(0, 2).lines(2, 1, generation=1)
    assert [run.generation for run in told.builder.runs(0)] == [0, 1]


def test_a_gap_record_is_a_run_and_ends_the_one_before() -> None:
    told = Told().lines(0, 2).gap(2).gap(2).lines(2, 1).lines(3, 1)
    assert told.shown == [("a", 0, 2, 0), ("a", 2, 0, 0), ("a", 2, 0, 0), ("a", 2, 2, 0)]
    assert [run.gap for run in told.builder.runs(0)] == [False, True, True, False]


def test_each_part_of_a_line_is_a_run() -> None:
    told = Told().lines(0, 1).part(1, 1).part(2, 2).lines(3, 1)
    assert told.shown == [("a", 0, 1, 0), ("a", 1, 1, 1), ("a", 2, 1, 2), ("a", 3, 1, 0)]


def test_objects_have_runs_of_their_own() -> None:
    builder = RunBuilder()
    source = slice_of([(1, "x"), (2, "y"), (3, "z")], stream=A)
    builder.add(0, source, 0, 1, 1, 1)
    builder.add(1, source, 1, 2, 2, 2)
    builder.add(0, source, 2, 3, 3, 3)
    assert [(run.first_line, run.lines) for run in builder.runs(0)] == [(0, 1), (2, 1)]
    assert [(run.first_line, run.lines) for run in builder.runs(1)] == [(1, 1)]


def test_runs_are_a_sequence() -> None:
    runs = Told().lines(0, 1).lines(5, 1).lines(9, 1).builder.runs(0)
    assert len(runs) == 3
    assert [run.first_line for run in (runs[0], runs[-1])] == [0, 9]
    assert runs[1:] == list(runs)[1:]
    with pytest.raises(IndexError):
        _ = runs[3]


def test_equal_runs_have_equal_digests() -> None:
    one = Told().lines(0, 2).lines(2, 2, at_ns=7).builder.runs(0)
    same = Told().lines(0, 4).builder.runs(0)
    other = Told().lines(0, 5).builder.runs(0)
    assert records_digest(one) == records_digest(same)
    assert records_digest(one) != records_digest(other)
    assert len(records_digest(one)) == 64
