"""In which order archived records come, wherever they lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.archive_order import (
    Repeats,
    Source,
    merged,
    place,
    sources_of,
    stamp,
    without_repeats,
)
from sinks.archive import Selection
from tests.fakes.archive import ONE_PM_NS, FakeArchive, S, gap, line, object_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from sinks.archive import ArchivedRecord

Records = list["ArchivedRecord"]


async def in_order(archive: FakeArchive, selection: Selection | None = None) -> Records:
    """The records of the only stream that is meant."""
    meant = selection or Selection("sbx-1", "main")
    objects = [one async for window in archive.windows(meant) for one in window.objects]
    streams = sources_of(archive, objects, meant)
    assert list(streams) == [("sbx-1", "main")]
    return await everything(merged(streams["sbx-1", "main"], place))


async def everything(chunks: AsyncIterator[Sequence[ArchivedRecord]]) -> Records:
    return [record async for chunk in chunks for record in chunk]


async def some(records: Sequence[ArchivedRecord]) -> AsyncIterator[Sequence[ArchivedRecord]]:
    for start in range(0, len(records), 2):
        yield records[start : start + 2]


def source(start: tuple[int, ...], *records: ArchivedRecord) -> Source:
    return Source(start, lambda: some(records))


async def test_lines_come_by_their_numbers_though_stamps_went_back() -> None:
    late, early = [line(n, second=100 + n) for n in range(4)], [line(n) for n in range(4, 8)]
    archive = FakeArchive({"w-2": {"b": early}, "w-1": {"a": late}})
    assert await in_order(archive) == [*late, *early]


async def test_a_new_generation_comes_behind_all_of_the_one_before() -> None:
    old = [line(n) for n in range(5)]
    new = [line(n, generation=1, second=50) for n in range(5)]
    archive = FakeArchive({"w": {"new": new, "old": old}})
    assert await in_order(archive) == [*old, *new]


async def test_objects_between_which_lines_alternate_are_merged() -> None:
    first = [line(n) for n in (0, 1, 3, 4, 9)]
    second = [line(n) for n in (2, 5, 6, 7, 8)]
    archive = FakeArchive({"w": {"hour=13": first, "hour=14": second}})
    assert [one.line for one in await in_order(archive)] == list(range(10))


async def test_only_objects_that_overlap_are_open_at_once() -> None:
    content = {f"w-{n}": {f"o-{n}": [line(n * 4 + i) for i in range(4)]} for n in range(10)}
    archive = FakeArchive(content)
    assert [one.line for one in await in_order(archive)] == list(range(40))
    assert (archive.reads, archive.most_open) == ([f"o-{n}" for n in range(10)], 1)


async def test_what_is_not_read_to_its_end_is_closed() -> None:
    archive = FakeArchive({"w": {"a": [line(n) for n in range(9)]}})
    objects = [one async for window in archive.windows(Selection()) for one in window.objects]
    chunks = merged(sources_of(archive, objects, Selection())["sbx-1", "main"], place)
    await anext(chunks)
    assert archive.open_now == 1
    await chunks.aclose()  # type: ignore[attr-defined] # it is a generator
    assert archive.open_now == 0


async def test_only_what_is_meant_comes() -> None:
    mixed = [line(0), line(0, sandbox="sbx-2"), line(1, container="side"), line(1), line(2)]
    archive = FakeArchive({"w": {"a": mixed}})
    meant = Selection("sbx-1", "main", ONE_PM_NS + S, ONE_PM_NS + 2 * S)
    assert await in_order(archive, meant) == [line(1)]


async def test_a_gap_record_stands_before_the_line_of_its_number() -> None:
    archive = FakeArchive({"w-1": {"a": [line(0)]}, "w-2": {"b": [gap(0), line(1)]}})
    assert await in_order(archive) == [line(0), gap(0), line(1)]


async def test_an_object_that_only_has_a_gap_record_is_read_in_its_place() -> None:
    archive = FakeArchive({"w-1": {"a": [gap(0, 5)]}, "w-2": {"b": [line(0), line(5)]}})
    assert await in_order(archive) == [line(0), gap(0, 5), line(5)]


async def test_a_gap_record_behind_the_last_line_waits_for_the_lines_before_it() -> None:
    first = [line(0), line(3), gap(5, kind="tail", cause="tail_unknown")]
    second = [line(n) for n in (1, 2, 4, 5)]
    archive = FakeArchive({"w-1": {"a": first}, "w-2": {"b": second}})
    assert [one.line for one in (await in_order(archive))[:-1]] == list(range(6))


async def test_several_streams_come_by_their_stamps_and_keep_their_own_order() -> None:
    one = [line(0, second=1), line(1, second=5), line(2, second=2)]
    two = [line(0, container="side", second=3), line(1, container="side", second=4)]
    found = await everything(merged([source((), *one), source((), *two)], stamp))
    assert found == [one[0], *two, one[1], one[2]]


async def test_parts_of_a_line_stay_together_among_lines_of_the_same_moment() -> None:
    parts = [line(n, part=n + 1, second=1) for n in range(5)]
    others = [line(n, container="side", second=1) for n in range(5)]
    for sources in ([parts, others], [others, parts]):
        found = await everything(merged([source((), *one) for one in sources], stamp))
        at = found.index(parts[0])
        assert found[at : at + 5] == parts


@given(st.lists(st.lists(st.integers(0, 30), max_size=12), max_size=5))
async def test_a_merge_is_the_sorted_whole(numbers: list[list[int]]) -> None:
    sources = [
        source(place(line(min(one))), *[line(n) for n in sorted(one)]) for one in numbers if one
    ]
    found = [one.line for one in await everything(merged(sources, place))]
    assert found == sorted(n for one in numbers for n in one)


# Repeats ------------------------------------------------------------------------------------------


async def test_a_line_that_two_daemons_archived_comes_once() -> None:
    both = [line(n) for n in range(6)]
    archive = FakeArchive({"w-1": {"a": both}, "w-2": {"b": both[2:]}})
    repeats = Repeats()
    streams = sources_of(
        archive, [object_of("a", both), object_of("b", both[2:])], Selection("sbx-1")
    )
    chunks = without_repeats(merged(streams["sbx-1", "main"], place), repeats)
    assert await everything(chunks) == both
    assert (repeats.lines, repeats.conflicts) == (4, 0)


@pytest.mark.parametrize(
    "other", [line(1, "else", second=7), line(1, part=1)], ids=["stamp", "part"]
)
def test_different_lines_of_one_number_all_come(other: ArchivedRecord) -> None:
    repeats = Repeats()
    lines = [line(0), line(1), other, line(2)]
    assert repeats.without(lines) == lines
    assert (repeats.lines, repeats.conflicts) == (0, 1)


def test_a_gap_record_that_is_there_twice_comes_once() -> None:
    repeats = Repeats()
    assert repeats.without([gap(0, 3), gap(0, 3), gap(0, 4)]) == [gap(0, 3), gap(0, 4)]
    assert repeats.lines == 0


def test_parts_of_a_line_have_numbers_of_their_own() -> None:
    parts = [line(n, part=n + 1, second=0) for n in range(3)]
    assert Repeats().without(parts) == parts
