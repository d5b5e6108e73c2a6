"""`spool.keep`: what every sink has stays for a while, and never at the cost of anything else."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from forwarder.errors import SpoolUnavailableError
from forwarder.model import StreamState
from forwarder.spool import keeping
from forwarder.spool.interface import Delivery
from forwarder.spool.ranges import RangeRequest
from forwarder.spool.requests import put_request
from forwarder.spool.room import SpoolLimits
from forwarder.spool.sqlite import SqliteSpool, open_spool
from forwarder.spool.verify import verify
from tests.unit.spool.builders import INFO, OTHER, commit, frame
from tests.unit.spool.faults import Faults

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from forwarder.spool.files import StateDir

#: What one line takes in the tests of what there is room for.
UNIT = 256 << 10
LIMIT = 16 * UNIT

LONG = SpoolLimits(keep_ns=1 << 40)


@dataclass
class Place:
    """A spool's directory, and the time there."""

    state: StateDir
    stack: AsyncExitStack
    now_ns: int = 1000

    async def open(
        self, *, keep_ns: int = 0, limits: SpoolLimits | None = None, faults: Faults | None = None
    ) -> SqliteSpool:
        limits = limits or SpoolLimits(keep_ns=keep_ns)
        factory = (faults or Faults()).connection()
        spool = await open_spool(
            self.state, now=lambda: self.now_ns, limits=limits, factory=factory
        )
        self.stack.push_async_callback(spool.close)
        return spool


@pytest.fixture
async def place(state: StateDir) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        yield Place(state, stack)


async def store(
    spool: SqliteSpool, *times_ns: int, info: Any = INFO, size: int = 5, ended: bool = True
) -> None:
    """A frame of one line for each of these times, taken and mostly also stamped then."""
    stream = await spool.open_stream(info)
    for taken_ns in times_ns:
        at = (await spool.open_stream(info)).checkpoint
        stamp_ns = max(taken_ns, at.high_stamp_ns)
        draft = frame(os.urandom(size), line=at.next_line, at_ns=stamp_ns)
        state = StreamState.COMPLETE if ended else None
        await spool.commit([commit(stream.id, replace(draft, received_ns=taken_ns), state=state)])


async def deliver(spool: SqliteSpool, *names: str) -> None:
    """These sinks are past everything."""
    for name in names:
        sink = next(one for one in (await spool.overview()).sinks if one.name == name)
        if sink.pending:
            await spool.advance(name, spool.last_frame_id, {}, Delivery(delivered=sink.pending))


async def held(spool: SqliteSpool) -> list[int]:
    rows = await spool._writer.run(
        lambda one: one.execute("SELECT id FROM frame ORDER BY id").fetchall()
    )
    return [row[0] for row in rows]


async def test_it_stays_so_long_after_it_was_taken_and_then_goes(place: Place) -> None:
    spool = await place.open(keep_ns=100)
    await spool.open_sink("archive", from_oldest=True)
    await store(spool, 1000, 1010)
    await store(spool, 1020, info=OTHER)
    await deliver(spool, "archive")
    place.now_ns = 1099
    assert await spool.prune(keep_tail_ns=0) == 0
    place.now_ns = 1110
    assert await spool.prune(keep_tail_ns=0) == 2
    assert await held(spool) == [3]
    place.now_ns = 1120
    assert await spool.prune(keep_tail_ns=0) == 1
    assert verify(place.state).ok


async def test_streams_of_which_something_is_only_kept_are_not_looked_at_again_and_again(
    place: Place,
) -> None:
    spool = await place.open(keep_ns=100)
    await spool.open_sink("archive", from_oldest=True)
    await store(spool, 1000)
    await deliver(spool, "archive")
    await spool.prune(keep_tail_ns=0)
    assert not spool._unpruned
    assert not spool._infos, "nor is anything known of them by heart"


async def test_what_a_sink_has_not_got_stays_longer(place: Place) -> None:
    spool = await place.open(keep_ns=100)
    await spool.open_sink("archive", from_oldest=True)
    await spool.open_sink("behind", from_oldest=True)
    await store(spool, 1000)
    await deliver(spool, "archive")
    place.now_ns = 5000
    assert await spool.prune(keep_tail_ns=0) == 0
    await deliver(spool, "behind")
    assert await spool.prune(keep_tail_ns=0) == 1


async def test_a_restart_keeps_what_was_kept_and_no_longer(place: Place) -> None:
    spool = await place.open(keep_ns=100)
    await spool.open_sink("archive", from_oldest=True)
    await store(spool, 1000, 1050)
    await deliver(spool, "archive")
    await spool.close()
    place.now_ns = 1120
    spool = await place.open(keep_ns=100)
    assert await spool.prune(keep_tail_ns=0) == 1
    await spool.close()
    spool = await place.open()
    assert await spool.prune(keep_tail_ns=0) == 1, "nothing is to be kept any more"


async def test_a_new_sink_begins_with_what_is_kept(place: Place) -> None:
    spool = await place.open(keep_ns=100)
    await spool.open_sink("archive", from_oldest=True)
    await store(spool, 1000, 1010)
    await deliver(spool, "archive")
    await spool.prune(keep_tail_ns=0)
    late = await spool.open_sink("late", from_oldest=True)
    assert [one.id for one in await spool.read(late.cursor, max_bytes=1 << 20)] == [1, 2]
    place.now_ns = 5000
    assert await spool.prune(keep_tail_ns=0) == 0
    await deliver(spool, "late")
    assert await spool.prune(keep_tail_ns=0) == 2


async def test_status_shows_how_much_is_kept_and_none_of_it_as_pending(place: Place) -> None:
    spool = await place.open(keep_ns=100)
    assert (await spool.overview()).kept_lines == 0
    await store(spool, 1000)
    assert (await spool.overview()).kept_lines == 0, "all waits for a sink"
    await spool.open_sink("archive", from_oldest=True)
    await spool.open_sink("behind", from_oldest=True)
    await store(spool, 1000)
    await deliver(spool, "archive")
    await spool.advance("behind", 1, {}, Delivery(delivered=1))
    seen = await spool.overview()
    assert (seen.kept_lines, seen.kept_bytes) == (1, 5)
    assert {one.name: one.pending for one in seen.sinks} == {"archive": 0, "behind": 1}


async def test_a_clock_that_was_set_back_makes_no_holes_and_keeps_nothing_for_ever(
    place: Place,
) -> None:
    spool = await place.open(keep_ns=100)
    await spool.open_sink("archive", from_oldest=True)
    await store(spool, 9000, 1000, 1050, 1020)
    await deliver(spool, "archive")
    place.now_ns = 1060
    assert await spool.prune(keep_tail_ns=0) == 1, "it would be there until 9100"
    place.now_ns = 1125
    assert await spool.prune(keep_tail_ns=0) == 1
    assert await held(spool) == [3, 4], "what stands behind a frame that is kept is kept"
    assert verify(place.state).ok


async def test_many_frames_are_passed_page_by_page(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "_PAGE_FRAMES", 2)
    spool = await place.open(keep_ns=100)
    await spool.open_sink("archive", from_oldest=True)
    await store(spool, *[1000] * 5)
    await deliver(spool, "archive")
    place.now_ns = 2000
    assert await spool.prune(keep_tail_ns=0) == 5


# Room ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drop_oldest", [False, True])
async def test_what_is_kept_goes_before_reading_stops_or_a_sink_loses_anything(
    place: Place, *, drop_oldest: bool
) -> None:
    limits = replace(LONG, max_bytes=LIMIT, drop_oldest=drop_oldest)
    spool = await place.open(limits=limits)
    await spool.open_sink("archive", from_oldest=True)
    await spool.open_sink("behind", from_oldest=True)
    await store(spool, *range(1000, 1008), size=UNIT)
    await deliver(spool, "archive", "behind")
    with capture_logs() as logs:
        for number in range(40):
            await store(spool, 2000 + number, size=UNIT, info=OTHER)
            await deliver(spool, "archive")
            if number > 4:
                cursor = (await spool.open_sink("behind", from_oldest=True)).cursor
                await spool.advance("behind", max(cursor + 1, 9), {}, Delivery(delivered=1))
            await spool.prune(keep_tail_ns=0)
            assert all(one.dropped == 0 for one in (await spool.overview()).sinks)
    seen = await spool.overview()
    assert seen.used_bytes < LIMIT + 3 * UNIT
    assert seen.kept_lines > 0, "no more went than had to"
    assert len([one for one in logs if "too small for spool.keep" in one["event"]]) == 1
    assert verify(place.state).ok


async def test_the_oldest_goes_first_and_the_tail_of_a_live_stream_does_not_go(
    place: Place,
) -> None:
    limits = replace(LONG, max_bytes=LIMIT, keep_tail_ns=100)
    spool = await place.open(limits=limits)
    await spool.open_sink("archive", from_oldest=True)
    await store(spool, 1000, 5000, 5010, size=UNIT, ended=False)
    await store(spool, *range(6000, 6012), size=UNIT, info=OTHER)
    await deliver(spool, "archive")
    await store(spool, *range(7000, 7004), size=UNIT, info=OTHER)
    left = await held(spool)
    assert left[:2] == [2, 3]
    assert 1 not in left
    assert 4 not in left
    tail = await spool.tail(1, from_ns=4950, max_bytes=1 << 30)
    assert len(tail.frames) == 2
    assert not tail.cut_short


async def test_what_a_replay_needs_goes_for_room_too(place: Place) -> None:
    spool = await place.open(limits=SpoolLimits(max_bytes=LIMIT))
    await spool.open_sink("archive", from_oldest=True)
    await store(spool, *range(1000, 1012), size=UNIT)
    await deliver(spool, "archive")
    put_request(place.state, RangeRequest("r1", "archive", 0, None, "", 12, 12, 1))
    assert await spool.prune(keep_tail_ns=0) == 0, "it is being replayed"
    await store(spool, *range(2000, 2010), size=UNIT)
    assert 1 not in await held(spool)


async def test_on_a_full_disk_nothing_is_kept(place: Place) -> None:
    faults = Faults()
    spool = await place.open(limits=LONG, faults=faults)
    await spool.open_sink("archive", from_oldest=True)
    await store(spool, 1000, 1010)
    await deliver(spool, "archive")
    assert await spool.prune(keep_tail_ns=0) == 0
    faults.fail("UPDATE counter", "SQLITE_FULL")
    with pytest.raises(SpoolUnavailableError):
        await store(spool, 1020)
    assert await spool.prune(keep_tail_ns=0) == 2
    await store(spool, 1030)
    await deliver(spool, "archive")
    assert await spool.prune(keep_tail_ns=0) == 0, "there is room again"
