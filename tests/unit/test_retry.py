from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.errors import SourceUnavailableError
from forwarder.retry import RETRY_AFTER_MAX_S, Backoff, retry_forever
from tests.fakes.clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import Awaitable


def delays(count: int, *, chance: float) -> list[float]:
    backoff = Backoff(initial_s=1.0, max_s=10.0, clock=FakeClock(chance=chance))
    return [backoff.next_s() for _ in range(count)]


def unavailable(retry_after_s: float | None = None) -> SourceUnavailableError:
    return SourceUnavailableError("down", code="unavailable", retry_after_s=retry_after_s)


class Flaky:
    """Fails with these errors, one after the other, and then works."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    async def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


async def retried(call: Flaky, clock: FakeClock) -> tuple[str, list[Exception]]:
    failures: list[Exception] = []
    result = await retry_forever(
        call,
        on=SourceUnavailableError,
        backoff=Backoff(initial_s=1.0, max_s=8.0, clock=clock),
        clock=clock,
        failed=failures.append,
    )
    return result, failures


def test_delays_double_up_to_a_cap() -> None:
    assert delays(6, chance=1.0) == [1, 2, 4, 8, 10, 10]


def test_the_smallest_delay_is_half_of_its_value() -> None:
    assert delays(6, chance=0.0) == [0.5, 1, 2, 4, 5, 5]


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 5000))
def test_every_delay_is_between_half_and_all_of_its_value(chance: float, attempt: int) -> None:
    backoff = Backoff(initial_s=0.25, max_s=30.0, clock=FakeClock(chance=chance))
    backoff.attempts = attempt
    full_s = min(0.25 * 2 ** min(attempt, 20), 30.0)
    assert full_s / 2 <= backoff.next_s() <= full_s


def test_after_something_worked_the_shortest_delay_is_next() -> None:
    backoff = Backoff(initial_s=1.0, max_s=10.0, clock=FakeClock(chance=1.0))
    assert [backoff.next_s(), backoff.next_s()] == [1, 2]
    backoff.reset()
    assert backoff.next_s() == 1


@pytest.mark.parametrize(
    ("wish_s", "delay_s"),
    [
        (None, 1.0),
        (0.0, 1.0),
        (-5.0, 1.0),
        (0.2, 1.0),
        (7.0, 7.0),
        (1e9, RETRY_AFTER_MAX_S),
        (float("inf"), RETRY_AFTER_MAX_S),
        (float("nan"), 1.0),
    ],
)
def test_a_servers_wish_is_honoured_when_it_is_longer_and_up_to_a_cap(
    wish_s: float | None, delay_s: float
) -> None:
    backoff = Backoff(initial_s=1.0, max_s=10.0, clock=FakeClock(chance=1.0))
    assert backoff.next_s(wish_s) == delay_s


async def test_a_call_is_made_until_it_works() -> None:
    clock = FakeClock(chance=1.0)
    call = Flaky(*[unavailable() for _ in range(6)])
    result, failures = await retried(call, clock)
    assert result == "done"
    assert call.calls == 7
    assert len(failures) == 6
    assert clock.slept == [1, 2, 4, 8, 8, 8]


async def test_the_errors_own_wish_for_a_wait_is_honoured() -> None:
    clock = FakeClock(chance=1.0)
    await retried(Flaky(unavailable(60.0), unavailable()), clock)
    assert clock.slept == [60.0, 2.0]


async def test_every_other_error_passes_at_once() -> None:
    clock = FakeClock()
    call = Flaky(unavailable(), LookupError("a bug"), unavailable())
    with pytest.raises(LookupError, match="a bug"):
        await retried(call, clock)
    assert call.calls == 2


async def test_a_failure_is_told_before_the_wait() -> None:
    clock = FakeClock(instant=False)
    told: list[Exception] = []
    task = asyncio.create_task(
        retry_forever(
            Flaky(unavailable()),
            on=(SourceUnavailableError, LookupError),
            backoff=Backoff(initial_s=1.0, max_s=8.0, clock=clock),
            clock=clock,
            failed=told.append,
        )
    )
    await clock.slept_times(1)
    assert len(told) == 1
    clock.advance(1.0)
    assert await task == "done"


async def test_cancelling_ends_the_wait_and_the_call() -> None:
    clock = FakeClock(instant=False)
    waiting = asyncio.create_task(retried(Flaky(unavailable()), clock))
    await clock.slept_times(1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert clock.sleeping == 0


async def test_what_a_plain_lambda_returns_is_awaited() -> None:
    """It once was not: the coroutine was dropped unawaited, and a commit was lost in silence."""
    call = Flaky(unavailable())
    clock = FakeClock()

    def make() -> Awaitable[str]:
        return call()

    for plain in (lambda: call(), make):  # noqa: PLW0108 - a lambda is the point
        result = await retry_forever(
            plain,
            on=SourceUnavailableError,
            backoff=Backoff(initial_s=1.0, max_s=8.0, clock=clock),
            clock=clock,
            failed=lambda _: None,
        )
        assert result == "done"
    assert call.calls == 3
