"""One sink's delivery from a real spool: what its tests store, run and look at."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from forwarder.dispatcher import Dispatcher
from forwarder.errors import SpoolError
from forwarder.model import Checkpoint, FrameDraft, FrameKind, StreamInfo, StreamKey
from forwarder.spool.dead_letters import Choice
from forwarder.spool.files import StateDir
from forwarder.spool.interface import StreamCommit
from forwarder.spool.requests import LetterRequest, Wish, put_request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from forwarder.spool.interface import SinkOverview, Spool
    from forwarder.spool.sqlite import SqliteSpool
    from sinks.interface import Sink
    from sinks.plan import DeliveryPlan
    from tests.fakes.clock import FakeClock

NAME = "archive"

#: Where syncing costs nothing: what a power cut does is not asked here.
FAST = "/dev/shm" if Path("/dev/shm").is_dir() else None

#: A wait that takes so long is one for something that will not come.
_BOUND_S = 20.0

INFO = StreamInfo(StreamKey("sbx-1", "main"), tags=("prod",))


async def take(
    spool: SqliteSpool, *frames: bytes, info: StreamInfo = INFO, stamp_ns: int = 5
) -> None:
    """Commit frames; each holds the lines of a text, and one without lines is a gap record."""
    stream = await spool.open_stream(info)
    at = stream.checkpoint.next_line
    drafts: list[FrameDraft] = []
    for text in frames:
        lines = text.count(b"\n") + 1 if text else 0
        number = spool.last_frame_id + len(drafts)  # no two gap records are the same
        kind, raw = FrameKind.GAP, b'{"cause":"x","noticed_ns":%d}' % number
        if text:
            kind, raw = FrameKind.LINES, text + b"\n"
        drafts.append(FrameDraft(kind, raw, at, lines, 0, stamp_ns, stamp_ns, stamp_ns, 7))
        at += lines
    checkpoint = Checkpoint(at, 0, stamp_ns, stamp_ns)
    await spool.commit([StreamCommit(stream.id, drafts, checkpoint)])


def dispatcher(
    sink: Sink,
    spool: Spool,
    clock: FakeClock,
    *,
    name: str = NAME,
    batch_bytes: int = 1,
    plan: DeliveryPlan | None = None,
    exactly_once: bool = False,
) -> Dispatcher:
    """One frame makes a batch, unless more is asked for."""
    return Dispatcher(
        name,
        sink,
        spool=spool,
        from_oldest=True,
        batch_bytes=batch_bytes,
        clock=clock,
        plan=plan,
        exactly_once=exactly_once,
    )


@asynccontextmanager
async def running(*dispatchers: Dispatcher) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Run them; what is under way at the end is cancelled, as if the daemon had been killed."""
    tasks = [asyncio.create_task(one.run()) for one in dispatchers]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        with suppress(SpoolError):
            await asyncio.wait(tasks)
            for task in tasks:
                task.cancelled() or task.exception()


async def overview(spool: SqliteSpool, name: str = NAME) -> SinkOverview:
    """The sink's numbers; they always add up."""
    one = next(sink for sink in (await spool.overview()).sinks if sink.name == name)
    settled = one.delivered + one.filtered + one.dead_lettered + one.dropped
    assert one.taken == settled + one.pending
    return one


async def until(condition: Callable[[], bool]) -> None:
    """Let everything else run until it is so."""
    async with asyncio.timeout(_BOUND_S):
        while not condition():
            await asyncio.sleep(0)


async def until_seen(
    spool: SqliteSpool, condition: Callable[[SinkOverview], bool], name: str = NAME
) -> SinkOverview:
    """The sink's numbers once they are so."""
    async with asyncio.timeout(_BOUND_S):
        while all(sink.name != name for sink in (await spool.overview()).sinks):
            await asyncio.sleep(0)
        while not condition(one := await overview(spool, name)):
            await asyncio.sleep(0)
    return one


async def settled_down(look: Callable[[], object], turns: int = 50) -> None:
    """Return when nothing that can be seen has changed for many turns of the loop."""
    before, left = look(), turns
    while left:
        await asyncio.sleep(0)
        left -= 1
        if look() != before:
            before, left = look(), turns


async def cursor_of(spool: SqliteSpool, name: str = NAME) -> int:
    """Where the sink stands."""
    return (await spool.open_sink(name, from_oldest=True)).cursor


def ask(directory: Path, wish: Wish, name: str = NAME) -> None:
    """What an operator asks of all dead letters of a sink."""
    put_request(StateDir(directory), LetterRequest(wish, name, Choice(2**62)))
