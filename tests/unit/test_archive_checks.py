"""Which line numbers an archive must have, and what is said when it has them not."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from forwarder.archive_checks import ArchiveReport, LineLedger, Spans
from tests.fakes.archive import gap, line, runs_of
from tests.unit.admin.hostile import HOSTILE, is_harmless

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sinks.archive import ArchivedRecord


def judged(
    *objects: Iterable[ArchivedRecord],
    explained: Iterable[tuple[int, int, int | None]] = (),
    believed: Iterable[ArchivedRecord] = (),
    whole: bool = True,
) -> ArchiveReport:
    """The report of some objects, and of gap records: generation, first number, behind the last."""
    report = ArchiveReport()
    ledger = LineLedger(report, whole=whole)
    for number, records in enumerate(objects):
        ledger.add(runs_of(records), f"object-{number}")
    ledger.believe(runs_of(believed))
    for told in explained:
        ledger.explain("sbx-1", "main", *told)
    ledger.finish()
    return report


def lines(start: int, stop: int, generation: int = 0) -> list[ArchivedRecord]:
    return [line(n, generation=generation) for n in range(start, stop)]


# Lines --------------------------------------------------------------------------------------------


def test_an_archive_with_every_line_once_is_well() -> None:
    report = judged(lines(0, 5), [*lines(5, 9), line(0, sandbox="sbx-2"), line(0, container="b")])
    assert (report.ok, report.problems, report.streams) == (True, [], 3)
    assert (report.missing_told, report.late) == (0, 0)


def test_windows_may_come_in_any_order() -> None:
    assert judged(lines(7, 9), lines(0, 3), lines(3, 7)).ok


def test_a_hole_is_a_problem() -> None:
    report = judged(lines(0, 3), lines(5, 7), lines(8, 9))
    assert report.problems == [
        "sbx-1/main: lines 3 to 4 are missing, and no gap record says why",
        "sbx-1/main: line 7 is missing, and no gap record says why",
    ]


def test_a_repeated_line_is_a_problem_that_names_its_object() -> None:
    report = judged(lines(0, 5), lines(3, 8), lines(6, 7))
    assert report.problems == [
        "sbx-1/main: line 3 once more in object-1",
        "sbx-1/main: line 4 once more in object-1",
        "sbx-1/main: line 6 once more in object-2",
    ]


def test_every_generation_counts_from_0_again() -> None:
    assert judged(lines(0, 5), lines(0, 3, generation=1)).ok
    report = judged(lines(0, 5), lines(2, 3, generation=2))
    assert report.problems == [
        "sbx-1/main (generation 2): lines 0 to 1 are missing, and no gap record says why"
    ]


def test_a_beginning_that_is_not_there_is_told_and_is_no_problem() -> None:
    report = judged(lines(5, 9))
    assert (report.ok, report.late, report.missing_told) == (True, 1, 0)


def test_a_beginning_is_not_expected_of_a_time() -> None:
    report = judged(lines(5, 9), whole=False)
    assert (report.ok, report.late) == (True, 0)


# Gap records --------------------------------------------------------------------------------------


def test_a_hole_that_a_gap_record_accounts_for_is_told_apart() -> None:
    report = judged(lines(0, 3), [gap(2, 6), *lines(6, 8)], explained=[(0, 3, 6)])
    assert (report.ok, report.missing_told) == (True, 3)


def test_a_gap_record_accounts_for_no_more_than_it_says() -> None:
    report = judged(lines(0, 3), [gap(2, 5), *lines(9, 10)], explained=[(0, 3, 5), (0, 7, 8)])
    assert report.problems == [
        "sbx-1/main: lines 5 to 6 are missing, and no gap record says why",
        "sbx-1/main: line 8 is missing, and no gap record says why",
    ]
    assert report.missing_told == 3


def test_a_gap_record_of_another_generation_accounts_for_nothing() -> None:
    assert not judged(lines(0, 3), lines(5, 6), explained=[(1, 3, 5)]).ok


def test_a_gap_record_may_account_for_all_that_follows() -> None:
    assert judged(lines(0, 3), lines(5, 6), explained=[(0, 3, None)]).ok


def test_a_gap_record_may_account_for_the_beginning() -> None:
    report = judged(lines(5, 6), explained=[(0, 0, 5)])
    assert (report.late, report.missing_told) == (0, 5)


def test_a_stream_of_which_only_a_gap_record_is_known_is_well() -> None:
    report = judged([gap(-1)])
    assert (report.ok, report.streams, report.lines) == (True, 1, 0)


def test_a_gap_of_no_numbers_leaves_none_out() -> None:
    assert judged([*lines(0, 3), gap(2), *lines(3, 5)]).ok


def test_what_is_not_read_is_believed_where_a_gap_record_stands() -> None:
    marked = [*lines(0, 3), gap(2, 6), *lines(6, 8)]
    assert not judged(marked).ok
    report = judged(marked, believed=marked)
    assert (report.ok, report.missing_told) == (True, 3)
    assert not judged(marked, believed=[gap(3), gap(7)]).ok
    late = judged(lines(4, 8), believed=[gap(-1, 4)])
    assert (late.late, late.missing_told) == (0, 4)


# Report -------------------------------------------------------------------------------------------


def test_names_in_problems_are_harmless() -> None:
    for text in HOSTILE:
        report = judged([line(0, sandbox=text), line(2, sandbox=text)])
        assert len(report.problems) == 1
        assert is_harmless(report.problems[0])


def test_only_so_many_problems_are_told_and_all_are_counted() -> None:
    report = judged(lines(0, 150), lines(0, 150))
    assert (len(report.problems), report.problem_count) == (100, 150)


# Spans --------------------------------------------------------------------------------------------

ranges = st.tuples(st.integers(0, 40), st.integers(1, 10)).map(lambda one: (one[0], sum(one)))


@given(st.lists(ranges), ranges)
def test_spans_are_what_a_set_would_be(
    added: list[tuple[int, int]], looked: tuple[int, int]
) -> None:
    spans = Spans()
    model: set[int] = set()
    for start, stop in added:
        known = spans.add(start, stop)
        assert _numbers(known) == sorted(model & set(range(start, stop)))
        model |= set(range(start, stop))
    assert _numbers(list(spans)) == sorted(model)
    assert _numbers(spans.holes(*looked)) == sorted(set(range(*looked)) - model)
    joined = list(spans)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(joined))


def _numbers(found: list[tuple[int, int]]) -> list[int]:
    return [n for start, stop in found for n in range(start, stop)]
