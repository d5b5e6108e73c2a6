"""A clock that tests own: time moves only when somebody sleeps, or when the test says so."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field


@dataclass(order=True)
class _Sleeper:
    until_s: float
    done: asyncio.Event = field(compare=False, default_factory=asyncio.Event)


class FakeClock:
    """A `forwarder.clock.Clock`.

    Args:
        instant: Whether a sleep ends at once, as if its time had passed; else `advance` ends it.
        chance: What `random` answers.
        start_ns: The wall clock at the beginning.

    Attributes:
        slept: Every delay that was asked for, in order.
    """

    def __init__(
        self, *, instant: bool = True, chance: float = 0.0, start_ns: int = 1_800_000_000 * 10**9
    ) -> None:
        self.slept: list[float] = []
        self.chance = chance
        self._instant = instant
        self._start_ns = start_ns
        self._now_s = 0.0
        self._sleepers: list[_Sleeper] = []
        self._changed = asyncio.Condition()

    @property
    def sleeping(self) -> int:
        """How many sleeps have not ended."""
        return len(self._sleepers)

    def time_ns(self) -> int:
        """The wall clock; it runs with the monotonic one."""
        return self._start_ns + round(self._now_s * 10**9)

    def monotonic_s(self) -> float:
        """Seconds since the beginning."""
        return self._now_s

    def random(self) -> float:
        """The same number every time."""
        return self.chance

    async def sleep(self, delay_s: float) -> None:
        """Record the delay; then return as told."""
        self.slept.append(delay_s)
        sleeper = _Sleeper(self._now_s + delay_s)
        self._sleepers.append(sleeper)
        try:
            async with self._changed:
                self._changed.notify_all()
            if self._instant:
                self._now_s = max(self._now_s, sleeper.until_s)
                await asyncio.sleep(0)
            else:
                await sleeper.done.wait()
        finally:
            self._sleepers.remove(sleeper)

    async def slept_times(self, count: int) -> None:
        """Return once so many sleeps were asked for, over all time."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.slept) >= count)

    def advance(self, delay_s: float) -> None:
        """Let time pass; the sleeps that it ends return, the earliest first."""
        self._now_s += delay_s
        for sleeper in sorted(self._sleepers):
            if sleeper.until_s <= self._now_s:
                sleeper.done.set()
