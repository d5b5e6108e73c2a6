"""A frame that the disk gives back damaged becomes a gap record: never silent, never the end."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from forwarder.errors import SpoolUntrustedError
from forwarder.model import (
    FrameKind,
    Gap,
    GapBounds,
    GapCause,
    GapKind,
    StreamState,
)
from forwarder.spool import pruning
from forwarder.spool.interface import Delivery
from forwarder.spool.overview import gaps_of
from tests.unit.spool.builders import INFO, OTHER, commit, frame
from tests.unit.spool.faults import Faults

if TYPE_CHECKING:
    from forwarder.spool.files import StateDir
    from forwarder.spool.interface import SinkOverview
    from forwarder.spool.sqlite import SqliteSpool
    from tests.unit.spool.conftest import Opener

#: What a flipped bit in a payload looks like.
FLIP = "UPDATE frame SET data = CAST(x'00' || substr(data, 2) AS BLOB) WHERE id = {}"


def damage(state: StateDir, *statements: str) -> None:
    with closing(sqlite3.connect(state.database, isolation_level=None)) as connection:
        for statement in statements:
            assert connection.execute(statement).rowcount == 1


async def filled(start: Opener, count: int = 4) -> None:
    """Two lines to a frame; a sink that has the first frame, and one that has nothing."""
    spool = await start()
    stream = await spool.open_stream(INFO)
    for name in ("ahead", "behind"):
        await spool.open_sink(name, from_oldest=True)
    frames = [
        frame(b"%d a\n%d b\n" % (one, one), line=2 * one, lines=2, at_ns=100 + one)
        for one in range(count)
    ]
    await spool.commit([commit(stream.id, *frames)])
    await spool.advance("ahead", 1, {}, Delivery(delivered=2))
    await spool.close()


async def numbers(spool: SqliteSpool) -> dict[str, SinkOverview]:
    sinks = (await spool.overview()).sinks
    for one in sinks:
        done = one.delivered + one.filtered + one.dead_lettered + one.dropped
        assert one.taken == done + one.pending, "promise 5"
    return {one.name: one for one in sinks}


async def read_all(spool: SqliteSpool, after_id: int = 0) -> list[tuple[int, FrameKind]]:
    frames = []
    while batch := await spool.read(after_id, max_bytes=10):
        frames += [(one.id, one.kind) for one in batch]
        after_id = batch[-1].id
    return frames


def expected(first: int, last: int, bounds: GapBounds = GapBounds.EXACT, **more: Any) -> Gap:
    gap = Gap(
        GapCause.SPOOL_DAMAGED,
        after_line=first - 1,
        before_line=last,
        from_stamp_ns=100,
        to_stamp_ns=102,
        noticed_ns=1,
        kind=GapKind.DROPPED,
        bounds=bounds,
    )
    return replace(gap, **more)


@pytest.mark.parametrize(
    "change",
    [
        FLIP.format(2),
        "UPDATE frame SET first_line = first_line + 1 WHERE id = 2",
        "UPDATE frame SET lines = lines + 3 WHERE id = 2",
        "UPDATE frame SET received_ns = 1 WHERE id = 2",
        "UPDATE frame SET generation = 7 WHERE id = 2",
        "UPDATE frame SET raw_bytes = 4000000 WHERE id = 2",
    ],
)
async def test_a_damaged_frame_becomes_an_exact_gap_record_in_its_place(
    start: Opener, state: StateDir, change: str
) -> None:
    await filled(start)
    damage(state, change)
    told: list[tuple[GapCause, int]] = []
    spool = await start(on_gap=lambda cause, lines: told.append((cause, lines)))
    lines, gap = FrameKind.LINES, FrameKind.GAP
    assert await read_all(spool) == [(1, lines), (2, gap), (3, lines), (4, lines)]
    record = (await spool.read(1, max_bytes=1))[0]
    assert orjson.loads(record.raw) == expected(2, 4).record()
    assert (record.first_line, record.lines) == (2, 0)
    assert [one.gap for one in gaps_of(state)] == [expected(2, 4)]
    assert told == [(GapCause.SPOOL_DAMAGED, 2)]
    assert {name: (one.dropped, one.pending) for name, one in (await numbers(spool)).items()} == {
        "ahead": (2, 4),
        "behind": (2, 6),
    }
    await spool.advance("behind", 4, {}, Delivery(delivered=6))
    await spool.advance("ahead", 4, {}, Delivery(delivered=4))
    assert {one.pending_bytes for one in (await numbers(spool)).values()} == {0}


async def test_a_sink_that_is_past_it_lost_nothing(start: Opener, state: StateDir) -> None:
    await filled(start)
    damage(state, FLIP.format(1))
    spool = await start()
    await read_all(spool)
    sinks = await numbers(spool)
    assert (sinks["ahead"].dropped, sinks["ahead"].delivered, sinks["ahead"].pending) == (0, 2, 6)
    assert (sinks["behind"].dropped, sinks["behind"].pending) == (2, 6)


async def test_neighbours_that_are_not_there_leave_what_the_frame_says_of_itself(
    start: Opener, state: StateDir
) -> None:
    await filled(start)
    damage(state, FLIP.format(1))
    spool = await start()
    await read_all(spool)
    assert [one.gap for one in gaps_of(state)] == [expected(0, 2, from_stamp_ns=0, to_stamp_ns=101)]


async def test_the_newest_frame_ends_at_the_position_of_its_stream(
    start: Opener, state: StateDir
) -> None:
    await filled(start)
    damage(state, "UPDATE frame SET lines = 1 WHERE id = 4")
    spool = await start()
    await read_all(spool)
    assert [one.gap for one in gaps_of(state)] == [expected(6, 8, from_stamp_ns=102, to_stamp_ns=0)]


async def test_a_frame_that_lies_about_its_lines_and_has_no_neighbour_is_declared_approximately(
    start: Opener, state: StateDir
) -> None:
    await filled(start)
    damage(state, "UPDATE frame SET first_line = 1 WHERE id = 1")
    spool = await start()
    await read_all(spool)
    (entry,) = gaps_of(state)
    assert entry.gap.bounds is GapBounds.APPROXIMATE


async def test_a_record_of_ours_that_is_damaged_loses_no_line(
    start: Opener, state: StateDir
) -> None:
    spool = await start()
    stream = await spool.open_stream(INFO)
    await spool.open_sink("archive", from_oldest=True)
    end = frame(b"{}", line=1, kind=FrameKind.END)
    await spool.commit([commit(stream.id, frame(), end)])
    await spool.close()
    damage(state, FLIP.format(2))
    spool = await start()
    assert [kind for _, kind in await read_all(spool)] == [FrameKind.LINES, FrameKind.GAP]
    (entry,) = gaps_of(state)
    assert (entry.gap.after_line, entry.gap.before_line) == (0, 1)
    assert entry.gap.bounds is GapBounds.APPROXIMATE
    assert (await numbers(spool))["archive"].pending == 1


async def test_what_was_declared_before_is_not_declared_again_when_its_record_is_pruned(
    start: Opener, state: StateDir
) -> None:
    """The newest lines are kept for comparison, and a record behind them is not."""
    await filled(start)
    damage(state, FLIP.format(3), FLIP.format(4))
    spool = await start()
    await read_all(spool)
    await spool.advance("ahead", 4, {}, Delivery(delivered=2))
    await spool.advance("behind", 4, {}, Delivery(delivered=4))
    assert await spool.prune(keep_tail_ns=0) == 2
    await spool.close()
    damage(state, FLIP.format(2))
    spool = await start()
    assert await read_all(spool) == [(2, FrameKind.GAP), (4, FrameKind.GAP)]
    entries = [one.gap for one in gaps_of(state)]
    assert [(one.after_line, one.before_line) for one in entries] == [(3, 6), (5, 8), (1, 4)]
    assert {one.bounds for one in entries} == {GapBounds.EXACT}


async def test_a_damaged_record_of_ours_does_not_declare_again_what_was_lost_before_it(
    start: Opener, state: StateDir
) -> None:
    spool = await start()
    stream = await spool.open_stream(INFO)
    await spool.open_sink("archive", from_oldest=True)
    end = frame(b"{}", line=2, at_ns=101, kind=FrameKind.END)
    lines = [frame(line=number, at_ns=100 + number) for number in range(3)]
    await spool.commit([commit(stream.id, *lines[:2], end, lines[2])])
    await spool.close()
    damage(state, FLIP.format(2), FLIP.format(4))
    spool = await start()
    await read_all(spool)
    await spool.advance("archive", 2, {}, Delivery(delivered=1))
    assert await spool.prune(keep_tail_ns=0) == 1
    await spool.close()
    damage(state, FLIP.format(3))
    spool = await start()
    await read_all(spool, 2)
    assert [(one.gap.after_line, one.gap.before_line) for one in gaps_of(state)] == [
        (0, 2),
        (1, 3),
        (1, 2),
    ]
    assert (await numbers(spool))["archive"].dropped == 2


async def test_how_much_a_generation_lost_at_its_end_is_known_approximately(
    start: Opener, state: StateDir
) -> None:
    """Only the frame itself says how many lines it had, and it may be wrong about that."""
    spool = await start()
    stream = await spool.open_stream(INFO)
    await spool.commit([commit(stream.id, frame(), frame(lines=3, line=1))])
    await spool.commit([commit(stream.id, frame(generation=1))])
    await spool.close()
    damage(state, "UPDATE frame SET lines = 2 WHERE id = 2")
    spool = await start()
    await read_all(spool)
    (entry,) = gaps_of(state)
    assert (entry.gap.after_line, entry.gap.before_line) == (0, 3)
    assert entry.gap.bounds is GapBounds.APPROXIMATE


async def test_a_frame_that_lies_where_a_record_was_pruned_is_declared_approximately(
    start: Opener, state: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its neighbour is not the frame that was before it; what was between them may be delivered."""
    monkeypatch.setattr(pruning, "STANDING_FRAMES", 0)
    spool = await start()
    stream = await spool.open_stream(INFO)
    await spool.open_sink("archive", from_oldest=True)
    first, lost, liar = [frame(lines=2, line=line, at_ns=0) for line in (0, 2, 4)]
    await spool.commit([commit(stream.id, first, lost)])
    await spool.close()
    damage(state, FLIP.format(2))
    spool = await start()
    await read_all(spool)
    await spool.advance("archive", 2, {}, Delivery(delivered=2))
    assert await spool.prune(keep_tail_ns=0) == 1
    await spool.commit([commit(stream.id, liar)])
    await spool.close()
    damage(state, "UPDATE frame SET first_line = first_line + 1 WHERE id = 3")
    spool = await start()
    await read_all(spool, 2)
    entries = [(one.gap.after_line, one.gap.before_line, one.gap.bounds) for one in gaps_of(state)]
    assert entries == [(1, 4, GapBounds.EXACT), (1, 6, GapBounds.APPROXIMATE)]
    assert (await numbers(spool))["archive"].dropped == 4


async def test_many_damaged_frames_are_declared_at_once_and_told_one_by_one(
    start: Opener, state: StateDir
) -> None:
    await filled(start, 9)
    damage(state, *[FLIP.format(number) for number in (1, 2, 5, 9)])
    faults = Faults()
    spool = await start(faults)
    before = faults.commits
    await spool.read(0, max_bytes=1 << 20)
    assert faults.commits == before + 1
    entries = [one.gap for one in gaps_of(state)]
    assert [(one.after_line, one.before_line) for one in entries] == [
        (-1, 2),
        (1, 4),
        (7, 10),
        (15, 18),
    ]
    assert {one.bounds for one in entries} == {GapBounds.EXACT}
    assert (await numbers(spool))["behind"].dropped == 8


async def test_whose_a_frame_was_is_not_guessed(start: Opener, state: StateDir) -> None:
    await filled(start)
    damage(state, "UPDATE frame SET stream_id = 99 WHERE id = 2")
    spool = await start()
    with pytest.raises(SpoolUntrustedError, match=r"frame 2 is damaged, .* --new-spool"):
        await read_all(spool)


async def test_a_sink_that_is_not_configured_counts_it_when_it_comes_back(
    start: Opener, state: StateDir
) -> None:
    await filled(start)
    damage(state, FLIP.format(3))
    spool = await start()
    await spool.configure_sinks({"ahead": ""})
    await read_all(spool)
    await spool.configure_sinks({"ahead": "", "behind": ""})
    assert (await spool.open_sink("behind", from_oldest=True)).missed == 2
    assert (await numbers(spool))["behind"].dropped == 2


async def test_what_a_sink_was_handed_and_delivers_is_not_dropped(
    start: Opener, state: StateDir
) -> None:
    """It had the lines from memory when another one found them damaged on the disk."""
    spool = await start()
    stream = await spool.open_stream(INFO)
    for name in ("fast", "slow"):
        await spool.open_sink(name, from_oldest=True)
    await spool.commit([commit(stream.id, frame(lines=3), frame(line=3))])
    assert len(await spool.read(0, max_bytes=100, sink="fast")) == 2
    await spool._writer.run(lambda one: one.execute(FLIP.format(1)))
    spool._recent.forget(2)
    await spool.read(0, max_bytes=100, sink="slow")
    assert (await numbers(spool))["fast"].dropped == 3
    await spool.advance("fast", 2, {}, Delivery(delivered=4))
    assert (await numbers(spool))["fast"].dropped == 0
    await spool.advance("slow", 2, {}, Delivery(delivered=1))
    assert (await numbers(spool))["slow"].dropped == 3


async def test_two_readers_that_find_the_same_damage_declare_it_once(
    start: Opener, state: StateDir
) -> None:
    await filled(start)
    damage(state, FLIP.format(2))
    spool = await start()
    await asyncio.gather(*[spool.read(1, max_bytes=100) for _ in range(5)])
    assert len(gaps_of(state)) == 1


# Tails --------------------------------------------------------------------------------------------


async def test_a_tail_begins_behind_a_damaged_frame_and_says_so(
    start: Opener, state: StateDir
) -> None:
    await filled(start)
    damage(state, FLIP.format(2))
    spool = await start()
    before = await spool.tail(1, from_ns=0, max_bytes=1 << 20)
    await read_all(spool)
    after = await spool.tail(1, from_ns=0, max_bytes=1 << 20)
    assert [one.raw for one in before.frames] == [b"2 a\n2 b\n", b"3 a\n3 b\n"]
    assert before.from_ns == 102
    assert after == before, "also when a gap record is in its place"


async def test_a_tail_whose_newest_frame_is_damaged_is_empty_and_says_from_where(
    start: Opener, state: StateDir
) -> None:
    await filled(start)
    damage(state, FLIP.format(4))
    spool = await start()
    before = await spool.tail(1, from_ns=0, max_bytes=1 << 20)
    await read_all(spool)
    after = await spool.tail(1, from_ns=0, max_bytes=1 << 20)
    assert (before.frames, before.from_ns) == ([], 103)
    assert after == before


async def test_a_damaged_record_of_ours_leaves_the_tail_whole(
    start: Opener, state: StateDir
) -> None:
    """It was never sent by a server: a re-read is compared with lines, and none is missing."""
    spool = await start()
    stream = await spool.open_stream(INFO)
    ours = [frame(b"{}", line=1, kind=kind) for kind in (FrameKind.GAP, FrameKind.END)]
    await spool.commit([commit(stream.id, frame(b"text\n"), *ours)])
    await spool.close()
    damage(state, FLIP.format(2), FLIP.format(3))
    spool = await start()
    before = await spool.tail(1, from_ns=0, max_bytes=100)
    await read_all(spool)
    after = await spool.tail(1, from_ns=0, max_bytes=100)
    assert ([one.raw for one in before.frames], before.from_ns) == ([b"text\n"], 0)
    assert after == before


async def test_a_hole_before_what_is_asked_for_does_not_cut_a_tail_short(
    start: Opener, state: StateDir
) -> None:
    await filled(start)
    damage(state, FLIP.format(1))
    spool = await start()
    await read_all(spool)
    tail = await spool.tail(1, from_ns=102, max_bytes=1 << 20)
    assert ([one.raw for one in tail.frames], tail.from_ns) == (
        [b"2 a\n2 b\n", b"3 a\n3 b\n"],
        0,
    )


async def test_a_new_generation_of_line_numbers_is_no_hole(spool: SqliteSpool) -> None:
    stream = await spool.open_stream(INFO)
    await spool.commit([commit(stream.id, frame(b"old\n", line=41))])
    await spool.commit([commit(stream.id, frame(b"new\n", generation=1))])
    tail = await spool.tail(stream.id, from_ns=0, max_bytes=100)
    assert ([one.raw for one in tail.frames], tail.from_ns) == ([b"old\n", b"new\n"], 0)


async def test_a_generation_without_lines_yet_leaves_the_tail_of_the_one_before(
    spool: SqliteSpool,
) -> None:
    stream = await spool.open_stream(INFO)
    await spool.commit([commit(stream.id, frame(b"old\n", line=41))])
    restarted = frame(b"{}", kind=FrameKind.GAP, generation=1)
    await spool.commit([commit(stream.id, restarted)])
    tail = await spool.tail(stream.id, from_ns=0, max_bytes=100)
    assert ([one.raw for one in tail.frames], tail.from_ns) == ([b"old\n"], 0)


@pytest.mark.parametrize(
    ("lost", "left", "from_ns"),
    [
        (4, [], 104),
        (3, [b"4\n"], 104),
        (2, [b"3\n", b"4\n"], 103),
        (1, [b"2\n", b"3\n", b"4\n"], 102),
    ],
)
async def test_a_tail_reaches_over_a_restart_only_where_nothing_is_missing(
    start: Opener, state: StateDir, lost: int, left: list[bytes], from_ns: int
) -> None:
    """Also where the numbers of the generation before happen to go on."""
    spool = await start()
    stream = await spool.open_stream(INFO)
    for number in range(1, 5):
        generation, line = divmod(number - 1, 2)
        raw = b"%d\n" % number
        one = frame(raw, line=line, at_ns=100 + number, generation=generation)
        await spool.commit([commit(stream.id, one)])
    await spool.close()
    damage(state, FLIP.format(lost))
    spool = await start()
    await read_all(spool)
    tail = await spool.tail(stream.id, from_ns=0, max_bytes=100)
    assert ([one.raw for one in tail.frames], tail.from_ns) == (left, from_ns)


async def test_the_only_lines_of_a_new_generation_leave_no_older_tail_when_they_are_lost(
    start: Opener, state: StateDir
) -> None:
    spool = await start()
    stream = await spool.open_stream(INFO)
    await spool.commit([commit(stream.id, frame(b"old\n"))])
    await spool.commit([commit(stream.id, frame(b"new\n", at_ns=101, generation=1))])
    await spool.close()
    damage(state, FLIP.format(2))
    spool = await start()
    await read_all(spool)
    tail = await spool.tail(stream.id, from_ns=0, max_bytes=100)
    assert (tail.frames, tail.from_ns) == ([], 101)


async def test_damage_in_one_generation_does_not_reach_into_the_next(
    start: Opener, state: StateDir
) -> None:
    spool = await start()
    stream = await spool.open_stream(INFO)
    await spool.open_sink("archive", from_oldest=True)
    await spool.commit([commit(stream.id, frame(lines=41))])
    await spool.commit([commit(stream.id, frame(b"new\n", generation=1))])
    await spool.commit([commit(stream.id, frame(b"new\n", line=1, generation=1))])
    await spool.close()
    damage(state, FLIP.format(1), FLIP.format(2))
    spool = await start()
    await read_all(spool)
    assert [
        (one.gap.generation, one.gap.after_line, one.gap.before_line) for one in gaps_of(state)
    ] == [(0, -1, 41), (1, -1, 1)]


async def test_the_frames_of_other_streams_are_no_neighbours(
    start: Opener, state: StateDir
) -> None:
    spool = await start()
    streams = [await spool.open_stream(info) for info in (INFO, OTHER)]
    for line in range(3):
        await spool.commit([commit(one.id, frame(line=line)) for one in streams])
    await spool.close()
    damage(state, FLIP.format(3))
    spool = await start()
    await read_all(spool)
    (entry,) = gaps_of(state)
    assert (entry.key, entry.gap.after_line, entry.gap.before_line) == (INFO.key, 0, 2)


async def test_an_ended_stream_is_pruned_with_its_gap_records(
    start: Opener, state: StateDir
) -> None:
    await filled(start)
    damage(state, FLIP.format(2))
    spool = await start()
    await read_all(spool)
    for name in ("ahead", "behind"):
        done = (await numbers(spool))[name].pending
        await spool.advance(name, 4, {}, Delivery(delivered=done))
    await spool.commit([commit(1, state=StreamState.COMPLETE)])
    assert await spool.prune(keep_tail_ns=0) == 4
    assert len(gaps_of(state)) == 1, "what is missing is known as long as the stream is"
