"""One sink of windows and a real spool: what its tests store, run and look at."""

from __future__ import annotations

import sqlite3
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, cast

from forwarder.cursor import Cursor
from forwarder.dispatcher import Dispatcher
from forwarder.model import Checkpoint, FrameDraft, FrameKind
from forwarder.sink_state import EngineState
from forwarder.spool.interface import Delivery, StreamCommit
from forwarder.windowing import WindowFeed
from sinks.plan import DeliveryPlan, WindowLimits
from tests.fakes.clock import FakeClock
from tests.fakes.delivery import INFO, NAME

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from forwarder.model import StreamInfo
    from forwarder.outlet import SinkOutlet
    from forwarder.spool.interface import Spool
    from forwarder.spool.sqlite import SqliteSpool
    from sinks.window import Window, WindowSink

#: One frame makes a window, and more when they come together.
EACH = WindowLimits(max_bytes=1, max_age_s=0.0)


def window_dispatcher(
    sink: WindowSink,
    spool: Spool,
    clock: FakeClock,
    *,
    limits: WindowLimits = EACH,
    in_flight: int = 1,
    timeout_s: float | None = None,
    state_dir: Path | None = None,
    room_bytes: int | None = None,
) -> Dispatcher:
    """What carries windows to the sink."""
    return Dispatcher(
        NAME,
        sink,
        spool=spool,
        from_oldest=True,
        batch_bytes=1,
        clock=clock,
        plan=DeliveryPlan(window=limits, in_flight=in_flight, timeout_s=timeout_s),
        exactly_once=True,
        state_dir=state_dir,
        room_bytes=room_bytes,
    )


class WindowLife:
    """Of the windows for one sink, from one start to the next crash."""

    def __init__(self, feed: WindowFeed, cursor: Cursor, state: EngineState) -> None:
        self.feed = feed
        self.cursor = cursor
        self.windows = feed.windows(cursor, state)

    async def next(self, count: int = 1) -> list[tuple[int, int, int]]:
        """The frame before, last frame and lines of the next windows."""
        windows = [await anext(self.windows) for _ in range(count)]
        return [edges(window) for window in windows]

    async def confirm(self, window: tuple[int, int, int]) -> None:
        """The sink has it."""
        self.cursor.move(window[1], {}, Delivery(delivered=window[2]))
        await self.cursor.commit()


def edges(window: Window) -> tuple[int, int, int]:
    """The frame before, last frame and lines."""
    return (window.after_id, window.last_id, window.line_count)


@asynccontextmanager
async def window_life(
    spool: Spool, limits: WindowLimits = EACH, clock: FakeClock | None = None
) -> AsyncIterator[WindowLife]:
    """Windows as they come, in time that stands still unless told otherwise."""
    clock = clock or FakeClock(instant=False)
    record = await spool.open_sink(NAME, from_oldest=True)
    cursor = Cursor(NAME, record.cursor, spool=spool, clock=clock)
    state = EngineState(NAME, spool, cursor, dict(record.state))
    feed = WindowFeed(NAME, spool, cast("SinkOutlet", None), limits, clock)
    one = WindowLife(feed, cursor, state)
    async with aclosing(one.windows):
        yield one


async def take_end(spool: SqliteSpool, info: StreamInfo = INFO) -> None:
    """Commit the end of a stream."""
    stream = await spool.open_stream(info)
    at = stream.checkpoint
    raw = b'{"state":"complete","detail":"","lines":%d,"ended_ns":5}' % at.next_line
    draft = FrameDraft(FrameKind.END, raw, at.next_line, 0, 0, 5, 5, 5, 7)
    await spool.commit([StreamCommit(stream.id, [draft], Checkpoint(at.next_line, 0, 5, 5))])


def damage(directory: Path, frame_id: int) -> None:
    """Flip a byte of what a frame holds, in a spool that is closed."""
    connection = sqlite3.connect(directory / "spool.db")
    with connection:
        connection.execute(
            "UPDATE frame SET data = CAST(x'00' || substr(data, 2) AS BLOB) WHERE id = ?",
            (frame_id,),
        )
    connection.close()
