"""The file sink's own threads: disks block, and the event loop must not."""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from sinks.interface import SinkMisconfiguredError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_T = TypeVar("_T")

_WORKERS = 8  # syncs of different files overlap on the disk; more of them gain nothing


class Threads:
    """Work on many items at a time. One call at a time."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix=name)
        self._jobs: list[Future[None]] = []

    async def each(self, work: Callable[[_T], None], items: Sequence[_T]) -> None:
        """Do the work on every item; returns or raises when no thread is at it any more.

        Cancellation returns at once and begins no further item: see `settle`.

        Raises:
            SinkError: One of the items' errors, what somebody has to mend first.
        """
        if not items:
            return
        waiting = deque(items)

        def work_off() -> None:
            while waiting:
                try:
                    item = waiting.popleft()
                except IndexError:  # another thread was faster
                    return
                work(item)

        workers = min(_WORKERS, len(items))
        self._jobs = [self._pool.submit(work_off) for _ in range(workers)]
        try:
            results = await asyncio.gather(
                *map(asyncio.wrap_future, self._jobs), return_exceptions=True
            )
        except asyncio.CancelledError:
            waiting.clear()
            raise
        errors = [result for result in results if result is not None]
        if errors:
            raise min(errors, key=lambda error: not isinstance(error, SinkMisconfiguredError))

    async def settle(self) -> None:
        """Wait for what a cancelled call has left behind."""
        left = [asyncio.wrap_future(job) for job in self._jobs if not job.done()]
        await asyncio.gather(*left, return_exceptions=True)

    def close(self) -> None:
        """Let the threads end; after `settle` that takes no time."""
        self._pool.shutdown()
