from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from forwarder.log_limit import BURST, GAP_BURST, INTERVAL_S, MAX_KINDS, LogLimit

if TYPE_CHECKING:
    from forwarder.log_limit import Event


def event(name: str = "stream held", level: str = "warning", **fields: object) -> Event:
    return {"event": name, "level": level, **fields}


def said(limit: LogLimit, count: int, now_s: float, **fields: str) -> int:
    """How many of so many like this are let through at once."""
    return sum(limit.admit(event(number=number, **fields), now_s) for number in range(count))


def test_a_burst_is_let_through_and_the_rest_is_held_back() -> None:
    limit = LogLimit()
    assert said(limit, BURST, 0.0) == BURST
    assert said(limit, 480, 0.0) == 0
    assert limit.due(0.0) == []


def test_then_the_newest_is_told_with_how_many_were_left_out_before_it() -> None:
    limit = LogLimit()
    said(limit, 500, 0.0)
    assert limit.due(INTERVAL_S - 0.1) == []
    assert limit.due(INTERVAL_S) == [event(number=499, more_like_this=500 - BURST - 1)]
    assert limit.due(2 * INTERVAL_S) == []


def test_one_that_was_held_back_alone_is_told_as_it_was() -> None:
    limit = LogLimit()
    said(limit, BURST + 1, 0.0)
    assert limit.due(INTERVAL_S) == [event(number=BURST)]


def test_while_one_is_held_back_a_newer_one_does_not_overtake_it() -> None:
    limit = LogLimit()
    said(limit, BURST + 1, 0.0)
    assert not limit.admit(event(number="newest"), INTERVAL_S)
    assert limit.due(INTERVAL_S) == [event(number="newest", more_like_this=1)]


def test_after_a_quiet_time_there_is_a_whole_burst_again() -> None:
    limit = LogLimit()
    said(limit, BURST, 0.0)
    assert said(limit, 2 * BURST, BURST * INTERVAL_S) == BURST


@pytest.mark.parametrize(
    "other", [{"name": "stream following"}, {"level": "error"}, {"logger": "a library"}]
)
def test_kinds_do_not_count_against_each_other(other: dict[str, str]) -> None:
    limit = LogLimit()
    said(limit, BURST + 1, 0.0)
    assert limit.admit(event(**other), 0.0)


def test_what_one_library_says_is_one_kind_whatever_the_words() -> None:
    limit = LogLimit()
    names = [f"connection {number} broke" for number in range(2 * BURST)]
    assert sum(limit.admit(event(name, logger="lib"), 0.0) for name in names) == BURST


def test_gaps_are_news_of_lost_lines_and_more_of_them_are_told() -> None:
    limit = LogLimit()
    assert said(limit, 1000, 0.0, name="gap", level="error") == GAP_BURST
    (last,) = limit.due(INTERVAL_S)
    assert (last["number"], last["more_like_this"]) == (999, 1000 - GAP_BURST - 1)


def test_at_the_end_everything_held_back_is_told() -> None:
    limit = LogLimit()
    said(limit, BURST + 3, 0.0)
    said(limit, BURST + 1, 0.0, name="other")
    assert limit.rest() == [
        event(number=BURST + 2, more_like_this=2),
        event("other", number=BURST),
    ]
    assert limit.rest() == []


def test_names_that_anybody_can_make_up_do_not_fill_the_memory() -> None:
    limit = LogLimit()
    for number in range(10 * MAX_KINDS):
        limit.admit(event(f"made up {number}"), 0.0)
    assert len(limit._buckets) <= MAX_KINDS + 1
    limit.due(BURST * INTERVAL_S)
    limit.due(2 * BURST * INTERVAL_S)
    assert limit._buckets == {}


def test_in_an_outage_of_a_thousand_streams_the_log_stays_below_a_hundred_lines_a_minute() -> None:
    """Each stream fails every 10 s, for ten minutes; each failure is told as four kinds."""
    limit = LogLimit()
    kinds = ("stream following", "stream resuming", "stream reopening", "stream held")
    told: list[tuple[float, Event]] = []
    happened: Counter[str] = Counter()
    for second in range(600):
        now_s = float(second)
        for stream in range(second % 10, 1000, 10):
            for kind in kinds:
                one = event(kind, stream=stream, at_s=second)
                happened[kind] += 1
                if limit.admit(one, now_s):
                    told.append((now_s, one))
        told += [(now_s, one) for one in limit.due(now_s)]
    told += [(600.0, one) for one in limit.rest()]
    a_minute = Counter(int(now_s // 60) for now_s, _ in told)
    assert max(a_minute.values()) <= 100
    for kind in kinds:
        ours = [one for _, one in told if one["event"] == kind]
        assert (ours[0]["stream"], ours[0]["at_s"]) == (0, 0)
        assert (ours[-1]["stream"], ours[-1]["at_s"]) == (999, 599)
        assert len(ours) + sum(one.get("more_like_this", 0) for one in ours) == happened[kind]
