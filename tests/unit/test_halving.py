from __future__ import annotations

from math import ceil, log2

from hypothesis import example, given, settings
from hypothesis import strategies as st

from forwarder.halving import Halving


class Destination:
    """Refuses what holds a poison record, and what is too large.

    Args:
        sizes: Of all records.
        poison: Those that it never takes.
        largest: What it takes at once.
    """

    def __init__(self, sizes: list[int], poison: set[int], largest: int) -> None:
        self.sizes = sizes
        self.poison = poison
        self.largest = largest
        self.sends: list[range] = []
        self.taken: list[int] = []

    def take(self, start: int, end: int) -> str:
        """One request; why it is refused, or nothing."""
        self.sends.append(range(start, end))
        if sum(self.sizes[start:end]) > self.largest:
            return "too large"
        if self.poison & set(range(start, end)):
            return "poison"
        self.taken += range(start, end)
        return ""


def deliver(destination: Destination) -> list[int]:
    """Send everything, as the engine does; the records that are to blame."""
    refused = destination.take(0, len(destination.sizes))
    if not refused:
        return []
    if len(destination.sizes) == 1:
        return [0]
    halving = Halving(destination.sizes, too_large=refused == "too large")
    blamed: list[int] = []
    while (trial := halving.trial) is not None:
        refused = destination.take(*trial)
        record = (
            halving.refused(too_large=refused == "too large") if refused else halving.accepted()
        )
        if record is not None:
            blamed.append(record)
    return blamed


UNLIMITED = 1 << 60


@given(
    sizes=st.lists(st.integers(0, 300), min_size=1, max_size=80),
    poison=st.sets(st.integers(0, 79), max_size=10),
    largest=st.integers(0, 3000) | st.just(UNLIMITED),
)
@example(sizes=[0] * 64, poison=set(range(64)), largest=UNLIMITED)
@settings(max_examples=150, deadline=None)
def test_exactly_the_records_to_blame_are_blamed_and_all_others_taken_once_and_in_order(
    sizes: list[int], poison: set[int], largest: int
) -> None:
    count = len(sizes)
    to_blame = sorted(n for n in range(count) if n in poison or sizes[n] > largest)
    destination = Destination(sizes, poison, largest)
    assert deliver(destination) == to_blame
    assert destination.taken == [n for n in range(count) if n not in to_blame]
    levels = ceil(log2(count)) if count > 1 else 0
    # Every refusal for size halves what is sent; from then on a part is at least a quarter full.
    total = sum(sizes) + 32 * count
    shrinking = ceil(log2(total + 1))
    parts = 1 + (0 if largest == UNLIMITED else count)
    assert len(destination.sends) <= parts + shrinking + (levels + 2) * len(to_blame)


@given(levels=st.integers(1, 10), data=st.data())
@settings(max_examples=60, deadline=None)
def test_one_poison_record_costs_its_logarithm_and_one_more(
    levels: int, data: st.DataObject
) -> None:
    count = 2**levels
    bad = data.draw(st.integers(0, count - 1))
    destination = Destination([100] * count, {bad}, UNLIMITED)
    assert deliver(destination) == [bad]
    assert len(destination.sends) - 1 <= levels + 1


def test_a_single_record_that_is_too_large_does_not_make_the_others_go_one_by_one() -> None:
    sizes = [100] * 1000
    sizes[300] = 600_000
    destination = Destination(sizes, set(), 500_000)
    assert deliver(destination) == [300]
    assert len(destination.sends) <= 8


def test_parts_are_never_larger_than_half_of_what_was_too_large() -> None:
    destination = Destination([1000] * 100, set(), 30_000)
    assert deliver(destination) == []
    assert [len(send) for send in destination.sends] == [100, 50, 25, 25, 25, 25]


def test_what_is_too_large_and_holds_poison_is_first_made_smaller() -> None:
    destination = Destination([1000] * 16, {5}, 8000)
    assert deliver(destination) == [5]
    sends = [(send.start, send.stop) for send in destination.sends]
    assert sends == [(0, 16), (0, 8), (0, 4), (4, 6), (4, 5), (6, 14), (14, 16)]


def test_one_verdict_that_was_a_whim_blames_nobody() -> None:
    halving = Halving([1] * 8, too_large=False)
    trials = []
    while (trial := halving.trial) is not None:
        trials.append(trial)
        assert halving.accepted() is None
    assert trials == [(0, 4), (4, 6), (6, 7), (7, 8)]


def test_what_is_left_of_two_refused_parts_is_not_asked_about_alone() -> None:
    halving = Halving([1] * 4, too_large=False)
    assert halving.refused(too_large=False) is None
    assert halving.trial == (0, 1)
    assert halving.accepted() == 1
    assert halving.trial == (2, 4)


def test_a_refusal_that_was_explained_says_nothing_of_the_rest() -> None:
    halving = Halving([1] * 8, too_large=False)
    assert halving.refused(too_large=False) is None
    assert halving.trial == (0, 2)
    assert halving.accepted(explained=True) is None
    assert halving.trial == (2, 8)


def test_records_without_bytes_can_be_too_many() -> None:
    halving = Halving([0] * 8, too_large=True)
    assert halving.trial == (0, 4)
    assert halving.refused(too_large=True) is None
    assert halving.trial == (0, 2)
