from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.local.logstore import (
    NS_PER_S,
    STAMP_BYTES,
    LinesLostError,
    LogReader,
    LogStore,
    Since,
    format_stamp,
)

S = NS_PER_S
LARGE = 1024 * 1024


def filled(*stamps: int, retention_bytes: int = LARGE) -> LogStore:
    store = LogStore(retention_bytes)
    store.extend([(stamp, b"%d\n" % number) for number, stamp in enumerate(stamps)])
    return store


def texts(store: LogStore, since: Since) -> list[int]:
    reader = LogReader(store, store.first_index, timestamps=False, since=since)
    return [int(line) for line in reader.read().split()]


def test_a_stamp_is_rfc_3339_in_utc_with_nanoseconds_and_one_space() -> None:
    assert format_stamp(1767323045_123456789) == b"2026-01-02T03:04:05.123456789Z "
    assert format_stamp(0) == b"1970-01-01T00:00:00.000000000Z "
    assert len(format_stamp(0)) == STAMP_BYTES


def test_records_are_rendered_in_order_of_arrival_with_and_without_their_stamps() -> None:
    store = LogStore(LARGE)
    store.extend([(2 * S, b"second\n"), (1 * S, b"\n"), (3 * S, b"open")])
    stamped = LogReader(store, 0, timestamps=True).read()
    assert stamped == store.stamped()
    assert stamped == (
        b"1970-01-01T00:00:02.000000000Z second\n"
        b"1970-01-01T00:00:01.000000000Z \n"
        b"1970-01-01T00:00:03.000000000Z open"
    )
    assert LogReader(store, 0, timestamps=False).read() == b"second\n\nopen"


def test_a_reader_goes_on_with_what_comes_later_and_knows_the_end() -> None:
    store = filled(1, 2)
    reader = LogReader(store, 1, timestamps=False)
    assert reader.read() == b"1\n"
    assert reader.read() == b""
    store.extend([(3, b"late\n")])
    assert reader.read() == b"late\n"
    assert not reader.exhausted
    store.close()
    assert reader.exhausted


def test_retention_drops_the_oldest_records_and_a_slow_reader_is_told() -> None:
    store = LogStore(1000)
    reader = LogReader(store, 0, timestamps=True)
    store.extend([(number, b"line\n") for number in range(1000)])
    assert store.stored_bytes <= 1000
    assert store.first_index > 900
    assert store.next_index == 1000
    with pytest.raises(LinesLostError):
        reader.read()


def test_a_single_record_over_the_retention_is_kept_until_the_next_one() -> None:
    store = LogStore(10)
    store.extend([(1, b"x" * 100)])
    assert store.stamped().endswith(b"x" * 100)
    store.extend([(2, b"y\n")])
    assert LogReader(store, store.first_index, timestamps=False).read() == b"y\n"


def test_tail_is_the_newest_so_many_records() -> None:
    store = filled(1, 2, 3)
    assert store.tail_index(2) == 1
    assert store.tail_index(99) == 0


@pytest.mark.parametrize(
    ("inclusive", "granularity", "wanted"),
    [
        (True, "exact", [1, 2]),
        (False, "exact", [2]),
        (True, "second", [0, 1, 2]),
        (False, "second", [1, 2]),
    ],
)
def test_since_time_under_every_reading(
    inclusive: bool, granularity: str, wanted: list[int]
) -> None:
    store = filled(5 * S, 5 * S + 7, 5 * S + 8)
    since = Since.of(
        5 * S + 7,
        inclusive=inclusive,
        granularity="second" if granularity == "second" else "exact",
        per_line=True,
    )
    assert texts(store, since) == wanted


def test_a_since_filter_per_line_drops_late_lines_with_early_stamps() -> None:
    assert texts(filled(1, 9, 2, 10), Since(9)) == [1, 3]


def test_a_since_filter_that_is_off_after_the_first_match_lets_them_through() -> None:
    assert texts(filled(1, 9, 2, 10), Since(9, per_line=False)) == [1, 2, 3]


@given(
    st.lists(st.integers(0, 50), max_size=300),
    st.integers(0, 50),
    st.booleans(),
    st.booleans(),
    st.integers(0, 300),
)
def test_a_filter_is_the_same_across_blocks_and_reads(
    stamps: list[int], bound: int, inclusive: bool, per_line: bool, first_part: int
) -> None:
    since = Since(bound, inclusive, per_line)
    store = LogStore(16 * 200)  # blocks of 200 bytes: a handful of records each
    reader = LogReader(store, 0, timestamps=False, since=since)
    numbered = [(stamp, b"%d\n" % number) for number, stamp in enumerate(stamps)]
    data = bytearray()
    for part in (numbered[:first_part][:80], numbered[first_part:][:80]):
        store.extend(part)
        while piece := reader.read():
            data += piece
    kept = numbered[:first_part][:80] + numbered[first_part:][:80]
    passing = [since.passes(stamp) for stamp, _ in kept]
    if not per_line:
        passing = [any(passing[: place + 1]) for place in range(len(kept))]
    wanted = b"".join(text for (_, text), wanted in zip(kept, passing, strict=True) if wanted)
    assert data == wanted


def test_a_reader_finds_records_in_blocks_in_the_middle() -> None:
    store = LogStore(16 * 100)
    store.extend([(number, b"%d\n" % number) for number in range(40)])
    for start in range(store.first_index, store.next_index):
        assert LogReader(store, start, timestamps=False).read().startswith(b"%d\n" % start)


# Rotation and restarts


def test_rotation_drops_whole_records_from_the_oldest_on() -> None:
    store = filled(1, 2, 3)
    record_bytes = STAMP_BYTES + 2
    assert store.rotate(2 * record_bytes + 1) == 1
    assert store.first_index == 1
    assert store.stored_bytes == len(store.stamped()) == 2 * record_bytes
    assert LogReader(store, 1, timestamps=False).read() == b"1\n2\n"


def test_rotation_to_nothing_leaves_an_empty_log_that_goes_on() -> None:
    store = filled(1, 2)
    reader, slow = LogReader(store, 2, timestamps=False), LogReader(store, 1, timestamps=False)
    assert store.rotate(0) == 2
    assert store.stamped() == b""
    assert reader.read() == b""
    with pytest.raises(LinesLostError):
        slow.read()
    store.extend([(3, b"new\n")])
    assert reader.read() == b"new\n"


def test_rotation_of_a_small_log_drops_nothing() -> None:
    assert filled(1, 2).rotate(LARGE) == 0


@given(st.integers(0, 60), st.integers(0, 4000))
def test_rotation_keeps_as_much_as_it_may(records: int, keep_bytes: int) -> None:
    store = LogStore(16 * 200)
    store.extend([(number, b"%d\n" % number) for number in range(records)])
    before = store.stamped()
    dropped = store.rotate(keep_bytes)
    kept = store.stamped()
    assert before.endswith(kept)
    assert len(kept) == store.stored_bytes <= max(keep_bytes, 0)
    assert kept.count(b"\n") == store.next_index - store.first_index
    gone = before[: len(before) - len(kept)].splitlines(keepends=True)
    assert len(gone) == dropped
    # One record more would have been too much.
    assert not gone or len(kept) + len(gone[-1]) > keep_bytes


def test_a_store_that_goes_on_with_another_shares_nothing_that_grows() -> None:
    old = filled(1, 2)
    old.close()
    new = old.continued()
    new.extend([(3, b"new\n")])
    assert not new.closed
    assert new.next_index == 3
    assert LogReader(old, 0, timestamps=False).read() == b"0\n1\n"
    reader = LogReader(new, 0, timestamps=False)
    assert reader.read() + reader.read() == b"0\n1\nnew\n"
