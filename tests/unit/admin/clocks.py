"""A clock that a test moves by hand."""

from __future__ import annotations

import asyncio

from tests.unit.admin.overviews import NOW_NS


class HandClock:
    """Stands still until `advance`; who sleeps is woken by it.

    Attributes:
        sleeping: Set while somebody sleeps.
    """

    def __init__(self) -> None:
        self.sleeping = asyncio.Event()
        self._now_s = 1000.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def time_ns(self) -> int:
        return NOW_NS

    def monotonic_s(self) -> float:
        return self._now_s

    def random(self) -> float:
        return 0.5

    async def sleep(self, delay_s: float) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._now_s + delay_s, woken))
        self.sleeping.set()
        await woken

    def advance(self, by_s: float) -> None:
        self._now_s += by_s
        due = [one for one in self._sleepers if one[0] <= self._now_s]
        self._sleepers = [one for one in self._sleepers if one[0] > self._now_s]
        if not self._sleepers:
            self.sleeping.clear()
        for _, woken in due:
            if not woken.done():
                woken.set_result(None)
