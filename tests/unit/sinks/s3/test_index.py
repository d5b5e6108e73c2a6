"""What the s3 sink remembers of its windows, and that it stays small."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinks.archive import ArchiveError
from sinks.s3.index import MOST_SINGLE, IndexEntry, compacted, from_state, to_state

S = 1_000_000_000
DAY_NS = 86_400 * S
#: 2026-11-23T00:00:00Z
MIDNIGHT_NS = 1_795_392_000 * S

stamps = st.integers(0, 2**63 - 1)
entries = st.builds(IndexEntry, st.text(min_size=1), st.text(), stamps, stamps)


def entry(number: int, first_ns: int = MIDNIGHT_NS) -> IndexEntry:
    return IndexEntry(f"0f3c9a61-{number:x}-{number + 1:x}", f"m/{number}", first_ns, first_ns + S)


def remembered(count: int, *, every_ns: int = 60 * S, start: int = 0) -> dict[str, bytes]:
    numbers = range(start, start + count)
    return dict(to_state(n, entry(n, MIDNIGHT_NS + n * every_ns)) for n in numbers)


def applied(state: dict[str, bytes]) -> dict[str, bytes]:
    """The state after it was compacted."""
    changed = {**state, **compacted(state)}
    return {key: value for key, value in changed.items() if value is not None}


def test_a_window_is_remembered_under_the_frame_before_it() -> None:
    key, value = to_state(41, entry(41))
    assert key == "window:41"
    assert value == (
        b'{"window":"0f3c9a61-29-2a","manifest":"m/41",'
        b'"first_ns":1795392000000000000,"last_ns":1795392001000000000}'
    )


@given(st.dictionaries(st.integers(0), entries))
def test_what_is_remembered_is_read_back(windows: dict[int, IndexEntry]) -> None:
    state = dict(to_state(after_id, one) for after_id, one in windows.items())
    assert set(from_state(state)) == set(windows.values())


def test_windows_come_by_their_first_stamps_each_once() -> None:
    late, early = entry(1, 5), entry(2, 3)
    state = dict([to_state(1, late), to_state(2, early), to_state(3, late)])
    assert from_state(state) == [early, late]


def test_what_else_a_sink_remembers_is_let_be() -> None:
    others = {"plan:1": b"x", "upload:a/b": b"y"}
    assert from_state(others) == []
    state = {**others, **remembered(MOST_SINGLE + 1)}
    assert compacted(state).keys().isdisjoint(others)


def test_few_windows_stay_as_they_are() -> None:
    assert compacted(remembered(MOST_SINGLE)) == {}


def test_many_windows_are_put_together_by_their_days() -> None:
    state = remembered(MOST_SINGLE + 1, every_ns=DAY_NS // 100)
    after = applied(state)
    assert sorted(after) == ["index:2026-11-23", "index:2026-11-24", "index:2026-11-25"]
    assert from_state(after) == from_state(state)
    assert sum(map(len, after.values())) < sum(map(len, state.values())) / 5


def test_what_was_put_together_before_stays_in_its_day() -> None:
    first = remembered(MOST_SINGLE + 1)
    more = remembered(MOST_SINGLE + 1, start=1000)
    after = applied({**applied(first), **more})
    assert from_state(after) == from_state({**first, **more})
    assert len(after) == 1


def test_a_page_that_is_not_concerned_is_not_written_again() -> None:
    old = applied(remembered(MOST_SINGLE + 1))
    new = remembered(MOST_SINGLE + 1, start=10_000)
    assert compacted({**old, **new}).keys() & old.keys() == set()


def test_a_window_that_is_there_twice_is_there_once_afterwards() -> None:
    first = remembered(MOST_SINGLE + 1)
    after = applied({**applied(first), **first})
    assert from_state(after) == from_state(first)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("window:1", b"{"),
        ("window:1", b"{}"),
        ("window:1", b"[]"),
        ("window:1", b'{"window":"w","manifest":"m","first_ns":null,"last_ns":1}'),
        ("index:2026-11-23", b"not zstd"),
        ("index:2026-11-23", b""),
    ],
)
def test_a_damaged_index_is_refused_with_what_to_do(key: str, value: bytes) -> None:
    with pytest.raises(ArchiveError, match=f"{key}.*--from-store"):
        from_state({key: value})


def test_entries_are_told_apart_by_all_they_say() -> None:
    one = entry(1)
    state = dict([to_state(1, one), to_state(2, replace(one, manifest_key="elsewhere"))])
    assert len(from_state(state)) == 2
