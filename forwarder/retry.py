"""How long to wait before the next attempt: the one policy, used by everything that tries again.

Waiting never gives up: an outage in the night must not end in lost lines. Every delay is capped and
jittered, so that a thousand streams cut at once do not come back at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import tenacity

from forwarder.errors import SpoolUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from forwarder.clock import Clock

_T = TypeVar("_T")

#: A server's own wish is honoured up to here: a huge Retry-After must not silence a stream.
RETRY_AFTER_MAX_S = 300.0


class Backoff:
    """Delays that double from `initial_s` to `max_s`, each between half and all of its value."""

    def __init__(self, *, initial_s: float, max_s: float, clock: Clock) -> None:
        self._initial_s = initial_s
        self._max_s = max_s
        self._clock = clock
        self.attempts = 0

    def next_s(self, retry_after_s: float | None = None) -> float:
        """The next delay; a server's wish for a longer one is honoured."""
        delay_s: float = min(self._initial_s * 2 ** min(self.attempts, 32), self._max_s)
        self.attempts += 1
        delay_s *= 0.5 + self._clock.random() / 2
        if retry_after_s is not None and retry_after_s > 0:
            delay_s = max(delay_s, min(retry_after_s, RETRY_AFTER_MAX_S))
        return delay_s

    def reset(self) -> None:
        """Something worked: begin with the shortest delay again."""
        self.attempts = 0


async def until_spool_answers(
    call: Callable[[], Awaitable[_T]],
    *,
    clock: Clock,
    failed: Callable[[Exception], None] = lambda _: None,
) -> _T:
    """Call until the spool has room and is not busy, however long that takes.

    Args:
        call: One attempt.
        clock: What waits.
        failed: Told of each failure; the intake says so, once for all who wait.
    """
    return await retry_forever(
        call,
        on=SpoolUnavailableError,
        backoff=Backoff(initial_s=0.25, max_s=5.0, clock=clock),
        clock=clock,
        failed=failed,
    )


async def retry_forever(
    call: Callable[[], Awaitable[_T]],
    *,
    on: type[Exception] | tuple[type[Exception], ...],
    backoff: Backoff,
    clock: Clock,
    failed: Callable[[Exception], None],
) -> _T:
    """Call until it works; other exceptions than `on`, and cancellation, pass at once.

    Args:
        call: One attempt.
        on: What to try again after.
        backoff: How long to wait; a `retry_after_s` of the exception is honoured.
        clock: What waits.
        failed: Told of each failure, before the wait.
    """

    def wait(state: tenacity.RetryCallState) -> float:
        assert state.outcome is not None
        error = state.outcome.exception()
        assert isinstance(error, Exception)
        failed(error)
        return backoff.next_s(getattr(error, "retry_after_s", None))

    async def attempt() -> _T:
        # tenacity awaits only what it recognises as a coroutine function; a lambda is none.
        return await call()

    retrying = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(on), wait=wait, sleep=clock.sleep, reraise=True
    )
    return await retrying(attempt)
