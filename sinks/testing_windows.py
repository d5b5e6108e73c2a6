"""What tests of windows need: a sink that keeps windows as an archive does, and behaves as told.

Part of the public interface, as `sinks.testing` is.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeAlias

from sinks.testing_records import records_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sinks.interface import SinkState, StateChanges
    from sinks.testing_records import Record
    from sinks.window import Window

#: Origin, the frame before, and the last frame: what makes it this window and no other.
WindowKey: TypeAlias = tuple[str, int, int]

#: Of the keys that the sink remembers: one for each window that it has.
KEPT_PREFIX = "window:"


def window_key(window: Window) -> WindowKey:
    """What makes it this window and no other."""
    return (window.origin, window.after_id, window.last_id)


class MemoryWindowSink:
    """Keeps each window once, whole or not at all. A `sinks.window.WindowSink`.

    Args:
        kept: Where windows are kept; handed to a second sink it is what survived a crash.
        verdicts: What each `write` does, in order: raise this before anything is kept, or for None
            succeed. Afterwards every write succeeds.
        gated: Whether each `write` waits until it is let through.
        shrinks: What it makes of a window, for each byte that the server sent.

    Attributes:
        attempts: Every window that was given to `write`, in order.
        waiting: Those whose `write` has not been let through, in the order in which they came.
        most: The most that ever were under way at once.
        calls: `open`, `close`, and `write` with the window's edges, in order.
        state: What `open` was given last.
    """

    def __init__(
        self,
        kept: dict[WindowKey, Sequence[Record]] | None = None,
        *,
        verdicts: Iterable[Exception | None] = (),
        gated: bool = False,
        shrinks: float = 1.0,
    ) -> None:
        self.kept: dict[WindowKey, Sequence[Record]] = {} if kept is None else kept
        self.attempts: list[Window] = []
        self.waiting: list[Window] = []
        self.most = 0
        self.calls: list[str] = []
        self.state: SinkState | None = None
        self._verdicts = iter(verdicts)
        self._gated = gated
        self._shrinks = shrinks
        self._under_way = 0
        self._gates: dict[int, asyncio.Event] = {}
        self._came = asyncio.Condition()

    @property
    def edges(self) -> list[tuple[int, int]]:
        """Of every window that is kept, in order: the frame before, and the last one."""
        return sorted((after_id, last_id) for _, after_id, last_id in self.kept)

    @property
    def records(self) -> list[Record]:
        """Every record that is kept, window after window."""
        windows = sorted(self.kept, key=lambda key: (key[1], key[2]))
        return [record for key in windows for record in self.kept[key]]

    async def came(self, count: int) -> None:
        """Return when so many are waiting."""
        async with self._came:
            await self._came.wait_for(lambda: len(self.waiting) >= count)

    def release(self, *after_ids: int) -> None:
        """Let the windows through that come after these frames, also when they come later."""
        for after_id in after_ids:
            self._gate(after_id).set()

    async def open(self, state: SinkState) -> None:
        """Take note of it."""
        self.state = state
        self.calls.append("open")

    async def write(self, window: Window) -> StateChanges:
        """Keep the window's records; a window that is kept already is not read again."""
        self.calls.append(f"write {window.after_id}-{window.last_id}")
        self.attempts.append(window)
        self._under_way += 1
        self.most = max(self.most, self._under_way)
        try:
            if self._gated:
                await self._wait(window)
            verdict = next(self._verdicts, None)
            if verdict is not None:
                raise verdict
            await self._keep(window)
        finally:
            self._under_way -= 1
        return {f"{KEPT_PREFIX}{window.after_id}": b"%d" % window.last_id}

    async def close(self) -> None:
        """Take note of it."""
        self.calls.append("close")

    async def _keep(self, window: Window) -> None:
        if window_key(window) in self.kept:
            return
        records: list[Record] = []
        raw_bytes = 0
        async for batch in window.read():
            raw_bytes += batch.raw_bytes
            records += (record for source in batch.slices for record in records_of(source))
        window.made(round(raw_bytes * self._shrinks))
        self.kept[window_key(window)] = records

    async def _wait(self, window: Window) -> None:
        self.waiting.append(window)
        try:
            async with self._came:
                self._came.notify_all()
            await self._gate(window.after_id).wait()
        finally:
            self.waiting.remove(window)

    def _gate(self, after_id: int) -> asyncio.Event:
        return self._gates.setdefault(after_id, asyncio.Event())
