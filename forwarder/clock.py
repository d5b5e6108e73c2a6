"""Time and chance, passed in wherever they are used, so that tests own them."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Protocol


class Clock(Protocol):
    """What the engine may know of time. Positions are never decided by it: server stamps are."""

    def time_ns(self) -> int:
        """The wall clock, for people and records only."""
        ...

    def monotonic_s(self) -> float:
        """A clock that never jumps, for intervals."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Wait; cancellation ends the wait at once."""
        ...

    def random(self) -> float:
        """A number from [0, 1), for jitter."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def time_ns(self) -> int:
        """The wall clock."""
        return time.time_ns()

    def monotonic_s(self) -> float:
        """The machine's monotonic clock."""
        return time.monotonic()

    async def sleep(self, delay_s: float) -> None:
        """Sleep on the running loop."""
        await asyncio.sleep(delay_s)

    def random(self) -> float:
        """A random number, not for secrets."""
        return random.random()  # noqa: S311 - jitter, not cryptography
