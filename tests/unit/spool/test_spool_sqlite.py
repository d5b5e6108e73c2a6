from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from forwarder.errors import SpoolUntrustedError
from forwarder.model import (
    Checkpoint,
    FrameKind,
    Gap,
    GapBounds,
    GapCause,
    GapKind,
    StreamInfo,
    StreamKey,
    StreamState,
)
from forwarder.spool import pruning, recent, sqlite, statements
from forwarder.spool.files import connect_reader
from forwarder.spool.interface import Delivery, StreamCommit
from forwarder.spool.overview import GapEntry, StreamPosition, checkpoints_of, gaps_of, overview_of
from forwarder.spool.room import SpoolLimits
from forwarder.spool.schema import PAGE_BYTES
from tests.unit.spool.builders import INFO, KEY, OTHER, commit, frame, letter
from tests.unit.spool.faults import Faults

if TYPE_CHECKING:
    from forwarder.spool.files import StateDir
    from forwarder.spool.sqlite import SqliteSpool
    from tests.unit.spool.conftest import Opener


async def stored(spool: SqliteSpool, count: int, *, at_ns: int = 100) -> int:
    """A stream with so many frames of one line, and a sink that is past all of them."""
    stream = await spool.open_stream(INFO)
    await spool.open_sink("archive", from_oldest=True)
    frames = [frame(b"%d\n" % line, line=line, at_ns=at_ns + line) for line in range(count)]
    await spool.commit([commit(stream.id, *frames)])
    await spool.advance("archive", spool.last_frame_id, {}, Delivery(delivered=count))
    return stream.id


async def ids(spool: SqliteSpool, after_id: int = 0) -> list[int]:
    return [one.id for one in await spool.read(after_id, max_bytes=1 << 30)]


# Streams ------------------------------------------------------------------------------------------


async def test_a_stream_is_known_by_its_key_and_nothing_else(spool: SqliteSpool) -> None:
    first = await spool.open_stream(INFO)
    renamed = replace(INFO, display_name="new", tags=("x",), attributes={})
    assert (await spool.open_stream(renamed)).id == first.id
    assert (await spool.open_stream(OTHER)).id != first.id
    side = StreamInfo(StreamKey(INFO.key.sandbox_id, "side"))
    assert (await spool.open_stream(side)).id != first.id
    assert spool.stream_info(first.id) == renamed


async def test_a_position_and_a_state_survive_a_restart_to_the_last_bit(start: Opener) -> None:
    spool = await start()
    stream = await spool.open_stream(INFO)
    at = Checkpoint(
        next_line=2**62,
        open_part=3,
        last_stamp_ns=2**63 - 1,
        high_stamp_ns=2**63 - 1,
        session_id="s" * 1000,
        session_offset=2**64 - 1,
        generation=2,
    )
    await spool.commit([StreamCommit(stream.id, [], at, state=StreamState.HELD, detail="why")])
    await spool.close()
    found = await (await start()).open_stream(INFO)
    assert found.checkpoint == at
    assert found.state is StreamState.HELD


async def test_a_stream_at_the_end_of_time_is_pruned_like_any_other(spool: SqliteSpool) -> None:
    stream = await spool.open_stream(INFO)
    await spool.open_sink("archive", from_oldest=True)
    last = frame(at_ns=2**63 - 1)
    await spool.commit([commit(stream.id, last, state=StreamState.COMPLETE)])
    await spool.advance("archive", 1, {}, Delivery(delivered=1))
    assert await spool.prune(keep_tail_ns=5) == 1


async def test_a_gap_is_kept_to_the_last_bit_with_the_stream_that_it_is_in(
    spool: SqliteSpool, state: StateDir
) -> None:
    stream = await spool.open_stream(INFO)
    gap = Gap(
        GapCause.REPLAY_GAP,
        after_line=4,
        from_stamp_ns=5,
        to_stamp_ns=6,
        noticed_ns=7,
        kind=GapKind.RANGE,
        before_line=5,
        from_offset=2**64 - 2,
        to_offset=2**64 - 1,
        bounds=GapBounds.EXACT,
        generation=3,
    )
    plain = Gap(GapCause.TAIL_UNKNOWN, 4, 5, 0, 7, kind=GapKind.TAIL)
    await spool.commit([StreamCommit(stream.id, [], Checkpoint(), gaps=[gap, plain])])
    assert gaps_of(state) == [
        GapEntry(1, INFO.key, "one", gap),
        GapEntry(2, INFO.key, "one", plain),
    ]
    assert (await spool.overview()).streams[0].gaps == 2


async def test_a_tail_that_was_found_after_all_fills_its_gap_and_no_other(
    spool: SqliteSpool, state: StateDir
) -> None:
    stream = await spool.open_stream(INFO)
    lost = Gap(GapCause.ANCHOR_LOST, 1, 1, 1, 1)
    tail = Gap(GapCause.TAIL_UNKNOWN, 4, 5, 0, 7, kind=GapKind.TAIL)
    await spool.commit([StreamCommit(stream.id, [], Checkpoint(), gaps=[lost, tail])])
    await spool.commit([StreamCommit(stream.id, [], Checkpoint(), filled_ns=99)])
    assert [one.gap.filled_ns for one in gaps_of(state)] == [0, 99]
    overview = await spool.overview()
    assert (overview.streams[0].gaps, overview.streams[0].gaps_filled) == (1, 1)
    assert overview.gaps_unfilled == 1


async def test_a_state_is_new_only_when_it_changes(start: Opener) -> None:
    spool = await start()
    ticks = iter(range(100))
    spool._now = lambda: next(ticks)
    stream = await spool.open_stream(INFO)
    await spool.commit([commit(stream.id, state=StreamState.FOLLOWING)])
    since_ns = (await spool.overview()).streams[0].since_ns
    await spool.commit([commit(stream.id, state=StreamState.FOLLOWING)])
    assert (await spool.overview()).streams[0].since_ns == since_ns
    await spool.commit([commit(stream.id, state=StreamState.HELD)])
    assert (await spool.overview()).streams[0].since_ns > since_ns


# Reading ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recent_bytes", [0, 5000, 1 << 20])
async def test_a_reader_sees_the_same_from_memory_as_from_the_database(
    start: Opener, monkeypatch: pytest.MonkeyPatch, recent_bytes: int
) -> None:
    monkeypatch.setattr(recent, "RECENT_BYTES", recent_bytes)
    spool = await start()
    stream = await spool.open_stream(INFO)
    for line in range(20):
        kind = [FrameKind.LINES, FrameKind.PART, FrameKind.GAP][line % 3]
        await spool.commit(
            [commit(stream.id, frame(os.urandom(line * 40), line=line, kind=kind, at_ns=line))]
        )
    warm = [await spool.read(after, max_bytes=size) for after in range(22) for size in (0, 900)]
    infos = spool.stream_info(stream.id)
    await spool.close()
    again = await start()
    cold = [await again.read(after, max_bytes=size) for after in range(22) for size in (0, 900)]
    assert warm == cold
    assert again.stream_info(stream.id) == infos


async def test_a_read_gives_at_least_one_frame_and_about_as_much_as_asked_for(
    spool: SqliteSpool,
) -> None:
    stream = await spool.open_stream(INFO)
    await spool.commit([commit(stream.id, *[frame(b"x" * 10, line=line) for line in range(9)])])
    sizes = [len(await spool.read(0, max_bytes=size)) for size in (0, 9, 10, 19, 20, 1000)]
    assert sizes == [1, 1, 1, 1, 2, 9]
    assert await spool.read(9, max_bytes=1) == []


async def test_waiting_ends_with_the_commit_that_was_waited_for(spool: SqliteSpool) -> None:
    stream = await spool.open_stream(INFO)
    waits = [asyncio.create_task(spool.wait_beyond(frame_id)) for frame_id in (0, 0, 1, 2)]
    for line in range(3):
        await asyncio.sleep(0)
        assert [wait.done() for wait in waits] == [line > 0, line > 0, line > 1, line > 2]
        await spool.commit([commit(stream.id)])
        await spool.commit([commit(stream.id, frame(line=line))])
    await asyncio.gather(*waits)


async def test_waiting_for_what_is_there_returns_at_once(start: Opener) -> None:
    spool = await start()
    await stored(spool, 2)
    await spool.close()
    again = await start()
    assert again.last_frame_id == 2
    await again.wait_beyond(1)


async def test_a_long_reader_does_not_hold_up_commits(spool: SqliteSpool, state: StateDir) -> None:
    with closing(connect_reader(state)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM frame").fetchone()
        stream = await spool.open_stream(INFO)
        await spool.commit([commit(stream.id, frame())])
        assert reader.execute("SELECT count(*) FROM frame").fetchone() == (0,)
        reader.execute("ROLLBACK")
        assert reader.execute("SELECT count(*) FROM frame").fetchone() == (1,)


async def test_what_was_opened_meanwhile_is_known_better_than_what_was_read(
    start: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = await start()
    stream = await spool.open_stream(INFO)
    await spool.commit([commit(stream.id, frame())])
    await spool.close()
    read_frames = statements.read_frames
    queried, go_on = threading.Event(), threading.Event()

    def slowly(*args: Any, **options: Any) -> Any:
        found = read_frames(*args, **options)
        queried.set()
        go_on.wait()
        return found

    monkeypatch.setattr(statements, "read_frames", slowly)
    again = await start()
    reading = asyncio.create_task(again.read(0, max_bytes=100))
    await asyncio.to_thread(queried.wait)
    renamed = replace(INFO, display_name="new")
    await again.open_stream(renamed)
    go_on.set()
    await reading
    assert again.stream_info(stream.id) == renamed


async def test_a_description_that_was_damaged_is_noticed(start: Opener, state: StateDir) -> None:
    spool = await start()
    stream = await spool.open_stream(INFO)
    await spool.commit([commit(stream.id, frame())])
    await spool.close()
    with closing(sqlite3.connect(state.database, isolation_level=None)) as connection:
        connection.execute("UPDATE stream SET info = '{'")
    with pytest.raises(SpoolUntrustedError, match="what is known of stream 1 is damaged"):
        await (await start()).read(0, max_bytes=100)


# Tails --------------------------------------------------------------------------------------------


async def test_a_tail_holds_what_reaches_to_a_stamp_and_at_least_the_newest(
    spool: SqliteSpool,
) -> None:
    stream_id = await stored(spool, 5)  # stamps 100 to 104

    async def texts(from_ns: int) -> list[bytes]:
        tail = await spool.tail(stream_id, from_ns=from_ns, max_bytes=1 << 20)
        assert tail.from_ns == 0
        return [one.raw for one in tail.frames]

    assert await texts(0) == [b"0\n", b"1\n", b"2\n", b"3\n", b"4\n"]
    assert await texts(103) == [b"3\n", b"4\n"]
    assert await texts(1000) == [b"4\n"]


async def test_a_tail_that_is_cut_short_says_where_it_begins(spool: SqliteSpool) -> None:
    stream_id = await stored(spool, 5)
    tail = await spool.tail(stream_id, from_ns=0, max_bytes=5)
    assert [one.raw for one in tail.frames] == [b"3\n", b"4\n"]
    assert tail.from_ns == 103
    smallest = await spool.tail(stream_id, from_ns=0, max_bytes=0)
    assert [one.raw for one in smallest.frames] == [b"4\n"]
    assert smallest.from_ns == 104


async def test_gap_records_are_no_part_of_a_tail_and_do_not_cut_it_short(
    spool: SqliteSpool,
) -> None:
    """A gap record may have no stamp: taken for the tail's beginning it would say "not cut"."""
    stream = await spool.open_stream(INFO)
    gap = replace(frame(b'{"cause":1}' * 99, line=1, kind=FrameKind.GAP), first_stamp_ns=0)
    await spool.commit([commit(stream.id, frame(b"a\n"), gap, frame(b"b\n", line=1))])
    whole = await spool.tail(stream.id, from_ns=0, max_bytes=4)
    assert [one.raw for one in whole.frames] == [b"a\n", b"b\n"]
    assert whole.from_ns == 0
    cut = await spool.tail(stream.id, from_ns=0, max_bytes=2)
    assert [one.raw for one in cut.frames] == [b"b\n"]
    assert cut.from_ns == 100


async def test_a_stream_without_frames_has_an_empty_tail(spool: SqliteSpool) -> None:
    stream = await spool.open_stream(INFO)
    assert (await spool.tail(stream.id, from_ns=0, max_bytes=9)).frames == []


# Sinks --------------------------------------------------------------------------------------------


async def test_a_cursor_its_counters_and_what_the_sink_remembers_move_together(
    start: Opener,
) -> None:
    spool = await start()
    stream = await spool.open_stream(INFO)
    await spool.open_sink("archive", from_oldest=True)
    await spool.commit([commit(stream.id, *[frame(line=line) for line in range(4)])])
    await spool.remember("archive", {"a": b"1", "b": b"2"})
    delivery = Delivery(1, 1, 1, 0)
    await spool.advance("archive", 3, {"a": None, "c": b"3"}, delivery, [letter()])
    await spool.close()
    again = await start()
    record = await again.open_sink("archive", from_oldest=True)
    assert record.cursor == 3
    assert record.state == {"b": b"2", "c": b"3"}
    (sink,) = (await again.overview()).sinks
    assert (sink.taken, sink.delivered, sink.filtered, sink.dead_lettered) == (4, 1, 1, 1)
    assert (sink.pending, sink.pending_bytes) == (1, 5)


@pytest.mark.parametrize(
    ("sink", "cursor"), [("archive", 1), ("archive", 2), ("archive", 4), ("unknown", 3)]
)
async def test_a_cursor_that_cannot_stand_there_is_an_error_and_stores_nothing(
    spool: SqliteSpool, sink: str, cursor: int
) -> None:
    """Neither back, nor beyond the newest frame, nor for a sink that was never opened."""
    await stored(spool, 2)
    await spool.commit([commit(1, frame(line=2))])
    with pytest.raises(SpoolUntrustedError, match=f"sink {sink} cannot move to frame {cursor}"):
        await spool.advance(sink, cursor, {"key": b"value"}, Delivery(delivered=1))


async def test_a_new_sink_begins_at_the_oldest_frame_held_or_at_the_newest(
    spool: SqliteSpool,
) -> None:
    await stored(spool, 3)
    assert (await spool.open_sink("from oldest", from_oldest=True)).cursor == 0
    assert (await spool.open_sink("from now", from_oldest=False)).cursor == 3
    pending = {one.name: one.pending for one in (await spool.overview()).sinks}
    assert pending == {"archive": 0, "from now": 0, "from oldest": 3}


async def test_a_sink_that_is_new_after_a_pruning_sees_and_counts_only_what_is_held(
    spool: SqliteSpool,
) -> None:
    """A quiet stream's tail is older than much that is gone: there are holes in between."""
    quiet = await spool.open_stream(INFO)
    busy = await spool.open_stream(OTHER)
    await spool.open_sink("archive", from_oldest=True)
    await spool.commit([commit(quiet.id, frame())])
    await spool.commit([commit(busy.id, frame(lines=7), state=StreamState.COMPLETE)])
    await spool.commit([commit(quiet.id, frame(line=1, at_ns=101))])
    await spool.advance("archive", 3, {}, Delivery(delivered=9))
    assert await spool.prune(keep_tail_ns=50) == 1
    await spool.open_sink("new", from_oldest=True)
    assert await ids(spool) == [1, 3]
    await spool.advance("new", 3, {}, Delivery(delivered=2))
    new = (await spool.overview()).sinks[1]
    assert (new.taken, new.delivered, new.pending) == (2, 2, 0)


async def test_a_retired_sink_holds_nothing_back_and_its_backlog_is_told(
    spool: SqliteSpool,
) -> None:
    stream = await spool.open_stream(INFO)
    for name in ("archive", "gone"):
        await spool.open_sink(name, from_oldest=True)
    await spool.remember("gone", {"key": b"value"})
    await spool.commit([commit(stream.id, frame(lines=5), state=StreamState.COMPLETE)])
    await spool.advance("archive", 1, {}, Delivery(delivered=5))
    assert await spool.prune(keep_tail_ns=0) == 0
    assert await spool.configure_sinks({"archive": ""}) == {"gone": 5}
    assert await spool.configure_sinks({"archive": ""}) == {}, "told once"
    assert [one.name for one in (await spool.overview()).sinks] == ["archive"]
    assert await spool.prune(keep_tail_ns=0) == 1


async def test_a_sink_that_is_configured_again_goes_on_and_counts_what_it_missed(
    spool: SqliteSpool,
) -> None:
    stream = await spool.open_stream(INFO)
    for name in ("archive", "back"):
        await spool.open_sink(name, from_oldest=True)
    await spool.remember("back", {"key": b"value"})
    frames = [frame(line=line, at_ns=100 + line) for line in range(4)]
    await spool.commit([commit(stream.id, *frames)])
    await spool.advance("back", 1, {}, Delivery(delivered=1))
    await spool.advance("archive", 4, {}, Delivery(delivered=4))
    await spool.configure_sinks({"archive": ""})
    assert await spool.prune(keep_tail_ns=0) == 3, "all but the newest line of a live stream"
    for times in ("at first", "and at a restart"):
        await spool.configure_sinks({"archive": "", "back": ""})
        back = await spool.open_sink("back", from_oldest=False)
        assert (back.cursor, back.state) == (1, {"key": b"value"}), times
        assert back.missed == (2 if times == "at first" else 0), times
        numbers = (await spool.overview()).sinks[1]
        assert (numbers.taken, numbers.delivered, numbers.dropped, numbers.pending) == (4, 1, 2, 1)
    await spool.advance("back", 4, {}, Delivery(delivered=1))
    assert (await spool.overview()).sinks[1].pending == 0


@pytest.mark.parametrize("restarted", [True, False], ids=["after a restart", "when reloaded"])
async def test_a_renamed_sink_is_known_by_its_destination(start: Opener, restarted: bool) -> None:
    spool = await start()
    await spool.configure_sinks({"archive": "/logs/x"})
    await spool.open_sink("archive", from_oldest=True)
    stream = await spool.open_stream(INFO)
    await spool.commit([commit(stream.id, frame(lines=5))])
    await spool.advance("archive", 1, {"key": b"value"}, Delivery(delivered=5))
    if restarted:
        await spool.close()
        spool = await start()
    assert await spool.configure_sinks({"files": "/logs/x", "other": "/logs/y"}) == {}
    files = await spool.open_sink("files", from_oldest=True)
    assert (files.cursor, files.state, files.missed) == (1, {"key": b"value"}, 0)
    other = await spool.open_sink("other", from_oldest=True)
    assert (other.cursor, other.state) == (0, {})
    assert [one.name for one in (await spool.overview()).sinks] == ["files", "other"]


async def test_sinks_whose_destination_is_not_to_be_compared_are_known_by_name_only(
    spool: SqliteSpool,
) -> None:
    await spool.configure_sinks({"one": ""})
    await spool.open_sink("one", from_oldest=True)
    await spool.remember("one", {"key": b"value"})
    assert await spool.configure_sinks({"two": ""}) == {"one": 0}
    assert (await spool.open_sink("two", from_oldest=True)).state == {}


async def test_of_two_that_wrote_to_one_place_the_last_one_is_renamed(spool: SqliteSpool) -> None:
    """The older one knows nothing of what the newer one has written."""
    await spool.configure_sinks({"a": "/logs/x", "b": "/logs/y"})
    for name in ("a", "b"):
        await spool.open_sink(name, from_oldest=True)
        await spool.remember(name, {"whose": name.encode()})
    await spool.configure_sinks({"b": "/logs/x"})
    await spool.configure_sinks({"c": "/logs/x"})
    assert (await spool.open_sink("c", from_oldest=True)).state == {"whose": b"b"}


# Pruning ------------------------------------------------------------------------------------------


async def test_a_tail_says_where_it_begins_when_more_is_asked_for_than_was_kept(
    spool: SqliteSpool,
) -> None:
    """A longer overlap: what was deleted under the shorter one must not count as new."""
    stream_id = await stored(spool, 10)
    assert await spool.prune(keep_tail_ns=3) == 6
    kept = await spool.tail(stream_id, from_ns=106, max_bytes=1000)
    assert ([one.raw for one in kept.frames], kept.from_ns) == ([b"6\n", b"7\n", b"8\n", b"9\n"], 0)
    longer = await spool.tail(stream_id, from_ns=102, max_bytes=1000)
    assert (longer.frames, longer.from_ns) == (kept.frames, 106)


async def test_without_a_sink_nothing_is_deleted(spool: SqliteSpool) -> None:
    stream = await spool.open_stream(INFO)
    await spool.commit([commit(stream.id, frame(), state=StreamState.COMPLETE)])
    assert await spool.prune(keep_tail_ns=0) == 0


async def test_a_live_stream_keeps_its_tail_and_an_ended_one_nothing(spool: SqliteSpool) -> None:
    stream_id = await stored(spool, 10)  # stamps 100 to 109
    assert await spool.prune(keep_tail_ns=3) == 6
    assert await ids(spool) == [7, 8, 9, 10]
    assert await spool.prune(keep_tail_ns=3) == 0
    await spool.commit([commit(stream_id, state=StreamState.COMPLETE)])
    assert await spool.prune(keep_tail_ns=3) == 4
    assert (await spool.overview()).frames == 0


async def test_a_stream_that_the_api_does_not_know_keeps_its_newest_lines_until_it_comes_back(
    spool: SqliteSpool,
) -> None:
    stream = await spool.open_stream(INFO)
    await spool.open_sink("archive", from_oldest=True)
    lines = [frame(b"%d\n" % line, line=line, at_ns=100 + line) for line in range(5)]
    await spool.commit([commit(stream.id, *lines, state=StreamState.NOT_FOUND)])
    await spool.advance("archive", 4, {}, Delivery(delivered=4))
    assert await spool.prune(keep_tail_ns=1000) == 4, "all that the sink is past"
    await spool.advance("archive", 5, {}, Delivery(delivered=1))
    assert await spool.prune(keep_tail_ns=1000) == 0
    tail = await spool.tail(stream.id, from_ns=0, max_bytes=1000)
    assert [one.raw for one in tail.frames] == [b"4\n"]
    assert tail.from_ns == 104, "it says that it is cut short"


async def test_a_stream_that_is_over_and_delivered_is_forgotten_and_known_again_when_needed(
    spool: SqliteSpool,
) -> None:
    complete, unknown, live, idle = [
        await spool.open_stream(StreamInfo(StreamKey(f"sbx-{number}", "main")))
        for number in range(4)
    ]
    await spool.open_sink("archive", from_oldest=True)
    await spool.commit(
        [
            commit(complete.id, frame(), state=StreamState.COMPLETE),
            commit(unknown.id, frame(), state=StreamState.NOT_FOUND),
            commit(live.id, frame(), state=StreamState.FOLLOWING),
            commit(idle.id, state=StreamState.COMPLETE),
        ]
    )
    await spool.prune(keep_tail_ns=1000)
    assert spool._infos.keys() == {complete.id, unknown.id, live.id}, "a sink has not got these"
    await spool.advance("archive", 3, {}, Delivery(delivered=3))
    await spool.prune(keep_tail_ns=1000)
    assert spool._infos.keys() == {live.id}
    for one in await spool.read(1, max_bytes=1000):
        assert spool.stream_info(one.stream_id).key.sandbox_id == f"sbx-{one.stream_id - 1}"
    await spool.commit([commit(complete.id, frame(line=1))])
    (again,) = await spool.read(3, max_bytes=1000)
    assert spool.stream_info(again.stream_id).key == complete.key, "of a follower that knew it"


async def test_a_stream_of_which_something_is_being_committed_is_not_forgotten(
    start: Opener,
) -> None:
    """A reader may have the new frames before the pruning is heard of."""
    faults = Faults()
    spool = await start(faults)
    await spool.open_sink("archive", from_oldest=True)
    stream = await spool.open_stream(INFO)
    await spool.commit([commit(stream.id, frame(), state=StreamState.COMPLETE)])
    await spool.advance("archive", 1, {}, Delivery(delivered=1))
    faults.hold_commits()
    pruning = asyncio.create_task(spool.prune(keep_tail_ns=0))
    await faults.holding()
    committing = asyncio.create_task(spool.commit([commit(stream.id, frame(line=1))]))
    async with asyncio.timeout(10):
        while not spool._unpruned:
            await asyncio.sleep(0)
    faults.let_go()
    await asyncio.gather(pruning, committing)
    assert spool.stream_info(stream.id) == INFO


async def test_a_log_without_stamps_keeps_its_tail(spool: SqliteSpool) -> None:
    stream = await spool.open_stream(INFO)
    await spool.open_sink("archive", from_oldest=True)
    lines = [frame(b"%d\n" % line, line=line, at_ns=0) for line in range(5)]
    await spool.commit([commit(stream.id, *lines)])
    await spool.advance("archive", 5, {}, Delivery(delivered=5))
    assert await spool.prune(keep_tail_ns=1000) == 0
    tail = await spool.tail(stream.id, from_ns=-1000, max_bytes=1000)
    assert (len(tail.frames), tail.cut_short) == (5, False)


@pytest.mark.parametrize(("name", "limit"), [("STANDING_FRAMES", 2), ("STANDING_BYTES", 5)])
@pytest.mark.parametrize("at_ns", [0, 100])
async def test_lines_of_the_highest_stamp_are_bounded_and_the_tail_says_that_it_is_cut_short(
    spool: SqliteSpool, monkeypatch: pytest.MonkeyPatch, name: str, limit: int, at_ns: int
) -> None:
    """Of a log without stamps, or one whose clock stands still, all lines are the newest."""
    monkeypatch.setattr(pruning, name, limit)
    stream = await spool.open_stream(INFO)
    await spool.open_sink("archive", from_oldest=True)
    older = frame(b"x\n", at_ns=max(at_ns - 5, 0))
    lines = [frame(b"%d\n" % line, line=line, at_ns=at_ns) for line in range(1, 6)]
    await spool.commit([commit(stream.id, older, *lines)])
    await spool.advance("archive", 6, {}, Delivery(delivered=6))
    assert await spool.prune(keep_tail_ns=1000) == 4
    tail = await spool.tail(stream.id, from_ns=at_ns - 1000, max_bytes=1000)
    assert [one.raw for one in tail.frames] == [b"4\n", b"5\n"]
    assert (tail.from_ns, tail.cut_short) == (at_ns, True)
    assert await spool.prune(keep_tail_ns=1000) == 0


async def test_nothing_left_of_a_log_without_stamps_is_a_tail_cut_short(
    start: Opener,
) -> None:
    spool = await start()
    await spool.open_sink("archive", from_oldest=True)
    for at in (Checkpoint(next_line=1), Checkpoint(generation=1)):
        record = await spool.open_stream(StreamInfo(StreamKey(f"sbx-{at.generation}", "main")))
        await spool.commit([StreamCommit(record.id, [frame(at_ns=0)], at)])
    await spool.advance("archive", 2, {}, Delivery(delivered=2))
    await spool.close()
    spool = await start(limits=SpoolLimits(max_bytes=PAGE_BYTES, drop_oldest=True))
    await spool.prune(keep_tail_ns=1000)
    for stream_id in (1, 2):
        tail = await spool.tail(stream_id, from_ns=0, max_bytes=1000)
        assert (tail.frames, tail.cut_short) == ([], True)
    new = await spool.open_stream(OTHER)
    assert not (await spool.tail(new.id, from_ns=0, max_bytes=1000)).cut_short


async def test_the_newest_lines_of_a_stream_without_stamps_outlive_a_gap_record(
    spool: SqliteSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "STANDING_FRAMES", 0)
    stream = await spool.open_stream(INFO)
    await spool.open_sink("archive", from_oldest=True)
    gap = frame(b"{}", line=2, at_ns=0, kind=FrameKind.GAP)
    lines = [frame(b"%d\n" % line, line=line, at_ns=0) for line in range(2)]
    await spool.commit([commit(stream.id, *lines, gap)])
    await spool.advance("archive", 3, {}, Delivery(delivered=2))
    await spool.prune(keep_tail_ns=5)
    tail = await spool.tail(stream.id, from_ns=0, max_bytes=100)
    assert [one.raw for one in tail.frames] == [b"1\n"]


async def test_ids_go_on_after_everything_was_deleted(start: Opener) -> None:
    spool = await start()
    for life in range(1, 4):
        info = StreamInfo(StreamKey(f"sbx-{life}", "main"))
        stream = await spool.open_stream(info)
        await spool.open_sink("archive", from_oldest=True)
        await spool.commit([commit(stream.id, frame(), state=StreamState.COMPLETE)])
        assert await ids(spool) == [life]
        await spool.advance("archive", life, {}, Delivery(delivered=1))
        assert await spool.prune(keep_tail_ns=0) == 1
        assert await ids(spool) == []
        await spool.close()
        spool = await start()


async def test_a_backlog_is_deleted_a_little_at_a_time(
    spool: SqliteSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "PRUNE_FRAMES", 3)
    stream_id = await stored(spool, 10)
    await spool.commit([commit(stream_id, state=StreamState.COMPLETE)])
    assert await spool.prune(keep_tail_ns=0) == 10


async def test_a_stream_of_which_only_the_tail_is_left_costs_no_more_transactions(
    spool: SqliteSpool,
) -> None:
    stream_id = await stored(spool, 10)
    await spool.prune(keep_tail_ns=3)
    assert spool._unpruned == set()
    frames = [frame(line=line, at_ns=line * 10) for line in (20, 21)]
    await spool.commit([commit(stream_id, *frames)])
    assert spool._unpruned == {stream_id}
    await spool.prune(keep_tail_ns=3)
    assert spool._unpruned == {stream_id}, "what a sink still needs is looked at again"


async def test_what_an_earlier_life_left_is_pruned_too(start: Opener) -> None:
    spool = await start()
    stream_id = await stored(spool, 4)
    await spool.commit([commit(stream_id, state=StreamState.COMPLETE)])
    await spool.close()
    assert await (await start()).prune(keep_tail_ns=0) == 4


async def test_a_stream_that_commits_during_the_first_pruning_is_not_forgotten(
    spool: SqliteSpool,
) -> None:
    await stored(spool, 4)
    other = await spool.open_stream(OTHER)
    pruning_now = asyncio.create_task(spool.prune(keep_tail_ns=0))
    await spool.commit([commit(other.id, frame(), state=StreamState.COMPLETE)])
    await pruning_now
    await spool.advance("archive", 5, {}, Delivery(delivered=1))
    await spool.prune(keep_tail_ns=0)
    assert await ids(spool, 4) == []


async def test_space_is_given_back_after_a_backlog_also_when_nothing_more_comes(
    spool: SqliteSpool, state: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "FREE_PAGES", 8)
    stream = await spool.open_stream(INFO)
    await spool.open_sink("archive", from_oldest=True)
    backlog = [frame(os.urandom(200_000), line=line, lines=1) for line in range(60)]
    await spool.commit([commit(stream.id, *backlog, state=StreamState.COMPLETE)])
    large_bytes = (await spool.overview()).size_bytes
    assert large_bytes > 12_000_000
    await spool.advance("archive", 60, {}, Delivery(delivered=60))
    assert [await spool.prune(keep_tail_ns=0) for _ in range(3)] == [60, 0, 0]
    assert (await spool.overview()).size_bytes < large_bytes / 10


# Numbers ------------------------------------------------------------------------------------------


async def test_another_process_reads_the_same_numbers(spool: SqliteSpool, state: StateDir) -> None:
    await stored(spool, 3)
    await spool.note_sink("archive", "held", "no room")
    overview = await spool.overview()
    assert overview_of(state) == overview
    assert overview.spool_id == state.marker.read_text("ascii").strip()
    (stream,) = overview.streams
    assert (stream.key, stream.display_name) == (INFO.key, "one")
    assert (stream.lines, stream.bytes, stream.last_stamp_ns) == (3, 6, 102)
    assert (overview.sinks[0].state, overview.sinks[0].detail) == ("held", "no room")


async def test_a_closed_spool_leaves_one_file_that_holds_everything(
    start: Opener, state: StateDir
) -> None:
    spool = await start()
    await stored(spool, 3)
    await spool.close()
    assert {path.name for path in state.path.iterdir()} == {"spool.db", "spool.id", "spool.mark"}
    assert overview_of(state).frames == 3


async def test_positions_are_listed_by_key(spool: SqliteSpool, state: StateDir) -> None:
    for info in (OTHER, INFO):
        stream = await spool.open_stream(info)
        await spool.commit([commit(stream.id, frame(lines=3), state=StreamState.HELD)])
    at = Checkpoint(3, 0, 100, 100)
    assert checkpoints_of(state) == [
        StreamPosition(INFO.key, "one", StreamState.HELD, at, 5),
        StreamPosition(OTHER.key, "", StreamState.HELD, at, 5),
    ]


async def test_the_age_of_a_backlog_is_that_of_its_first_frame(spool: SqliteSpool) -> None:
    stream = await spool.open_stream(INFO)
    for name in ("done", "half", "none"):
        await spool.open_sink(name, from_oldest=True)
    frames = [replace(frame(line=line), received_ns=10 + line) for line in range(3)]
    await spool.commit([commit(stream.id, *frames)])
    await spool.advance("half", 2, {}, Delivery(delivered=2))
    await spool.advance("done", 3, {}, Delivery(delivered=3))
    overview = await spool.overview()
    assert [one.oldest_pending_ns for one in overview.sinks] == [0, 12, 10]
    assert overview.oldest_frame_ns == 10


async def test_what_is_used_is_the_file_and_its_log_less_the_free_pages(
    spool: SqliteSpool, state: StateDir
) -> None:
    stream = await spool.open_stream(INFO)
    await spool.open_sink("archive", from_oldest=True)
    backlog = [frame(os.urandom(200_000), line=line) for line in range(9)]
    await spool.commit([commit(stream.id, *backlog, state=StreamState.COMPLETE)])
    before = await spool.overview()
    assert before.wal_bytes == state.wal.stat().st_size > 1_800_000
    assert before.used_bytes == before.size_bytes + before.wal_bytes
    await spool.advance("archive", 9, {}, Delivery(delivered=9))
    await spool.prune(keep_tail_ns=0)
    after = await spool.overview()
    assert after.used_bytes < after.size_bytes + after.wal_bytes - 1_000_000


async def test_a_stream_counts_the_lines_of_all_its_generations(spool: SqliteSpool) -> None:
    stream = await spool.open_stream(INFO)
    await spool.commit([commit(stream.id, frame(lines=3))])
    await spool.commit([commit(stream.id, frame(lines=2, generation=1))])
    (overview,) = (await spool.overview()).streams
    assert (overview.lines, overview.generation) == (5, 1)


async def test_a_stream_without_lines_gets_the_name_of_the_primary_container(
    spool: SqliteSpool,
) -> None:
    nameless = await spool.open_stream(StreamInfo(StreamKey("sbx-1", "")))
    named = await spool.open_stream(INFO, primary=True)
    assert (named.id, named.key) == (nameless.id, KEY)
    assert len((await spool.overview()).streams) == 1


async def test_a_stream_with_lines_keeps_no_name_and_goes_on(spool: SqliteSpool) -> None:
    nameless = await spool.open_stream(StreamInfo(StreamKey("sbx-1", "")))
    await spool.commit([commit(nameless.id, frame(lines=2))])
    named = await spool.open_stream(INFO, primary=True)
    assert (named.id, named.key) == (nameless.id, StreamKey("sbx-1", ""))
    assert named.checkpoint.next_line == 2
    assert spool.stream_info(named.id).key.container == ""


async def test_another_container_is_never_taken_for_the_nameless_one(spool: SqliteSpool) -> None:
    nameless = await spool.open_stream(StreamInfo(StreamKey("sbx-1", "")))
    other = await spool.open_stream(INFO)
    assert other.id != nameless.id


async def test_a_missing_end_is_known_until_it_is_found_and_only_in_its_generation(
    spool: SqliteSpool,
) -> None:
    stream = await spool.open_stream(INFO)
    gap = Gap(GapCause.TAIL_UNKNOWN, 0, 1, 0, 7, kind=GapKind.TAIL)
    await spool.commit([replace(commit(stream.id, frame()), gaps=[gap])])
    assert (await spool.open_stream(INFO)).tail_missing
    await spool.commit([commit(stream.id, frame(generation=1))])
    assert not (await spool.open_stream(INFO)).tail_missing
    await spool.commit([replace(commit(stream.id, frame(generation=1)), filled_ns=9)])
    (overview,) = (await spool.overview()).streams
    assert (overview.gaps, overview.gaps_filled) == (1, 0), "that of another generation stays"


async def test_a_stream_counts_the_bytes_of_its_lines_and_not_our_records(
    spool: SqliteSpool,
) -> None:
    stream = await spool.open_stream(INFO)
    end = frame(b"{}", line=1, kind=FrameKind.END)
    await spool.commit([commit(stream.id, frame(b"text\n"), end)])
    (overview,) = (await spool.overview()).streams
    assert (overview.lines, overview.bytes) == (1, 5)
