"""Transactions: shared, all or nothing, and over for good after a failed sync."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from forwarder.errors import SpoolUnavailableError, SpoolUntrustedError
from forwarder.model import FrameKind
from forwarder.spool.files import connect_writer
from forwarder.spool.interface import Delivery, Replayed
from forwarder.spool.writer import Writer
from tests.unit.spool.builders import INFO, OTHER, commit, frame, letter
from tests.unit.spool.faults import Faults

if TYPE_CHECKING:
    from collections.abc import Callable

    from forwarder.spool.files import StateDir
    from forwarder.spool.interface import StreamCommit
    from forwarder.spool.sqlite import SqliteSpool
    from tests.unit.spool.conftest import Opener


def full(connection: sqlite3.Connection) -> None:
    """No page more: from now on SQLite itself says SQLITE_FULL."""
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")


def roomy(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA max_page_count = 1000000")


def large(stream_id: int, line: int = 0) -> StreamCommit:
    """More than fits into what is free in any page."""
    return commit(stream_id, frame(os.urandom(100_000), line=line, kind=FrameKind.PART))


#: Takes pages that there are not.
FILL = "INSERT INTO note VALUES ('x', hex(zeroblob(200000)), 1)"


async def test_what_waits_at_the_same_time_shares_one_transaction(start: Opener) -> None:
    faults = Faults()
    spool = await start(faults)
    stream = await spool.open_stream(INFO)
    faults.hold_commits()
    first = asyncio.create_task(spool.commit([commit(stream.id, frame(line=0))]))
    await faults.holding()
    before = faults.commits
    others = [
        asyncio.create_task(spool.note_sink(f"sink {number}", "running", ""))
        for number in range(20)
    ]
    await asyncio.sleep(0)  # each has handed over its job
    faults.let_go()
    await asyncio.gather(first, *others)
    assert faults.commits - before == 1


async def test_a_full_spool_stores_nothing_and_takes_the_same_commit_later(
    spool: SqliteSpool,
) -> None:
    stream = await spool.open_stream(INFO)
    await spool.commit([commit(stream.id, frame(b"first\n"))])
    await spool._writer.run(full)
    with pytest.raises(SpoolUnavailableError, match="SQLITE_FULL"):
        await spool.commit([large(stream.id, 1)])
    assert spool.last_frame_id == 1
    assert (await spool.overview()).frames == 1
    assert (await spool.open_stream(INFO)).checkpoint.next_line == 1

    await spool._writer.run(roomy)
    await spool.commit([large(stream.id, 1)])
    assert [one.id for one in await spool.read(0, max_bytes=1 << 20)] == [1, 2]
    assert (await spool.open_stream(INFO)).checkpoint.next_line == 2


async def test_frames_are_still_delivered_from_a_full_spool(spool: SqliteSpool) -> None:
    stream = await spool.open_stream(INFO)
    await spool.open_sink("archive", from_oldest=True)
    await spool.commit([commit(stream.id, frame())])
    await spool._writer.run(full)
    await spool.advance("archive", 1, {}, Delivery(delivered=1))
    assert (await spool.open_sink("archive", from_oldest=True)).cursor == 1


async def test_pruning_a_spool_without_room_waits_for_better_times(start: Opener) -> None:
    faults = Faults()
    spool = await start(faults)
    stream = await spool.open_stream(INFO)
    await spool.open_sink("archive", from_oldest=True)
    await spool.commit([commit(stream.id, frame(at_ns=1), frame(line=1, at_ns=100))])
    await spool.advance("archive", 2, {}, Delivery(delivered=2))
    faults.fail("DELETE FROM frame", "SQLITE_FULL")
    assert await spool.prune(keep_tail_ns=10) == 0
    assert await spool.prune(keep_tail_ns=10) == 1


@pytest.mark.parametrize("statement", ["BEGIN IMMEDIATE", "UPDATE counter", "COMMIT"])
@pytest.mark.parametrize(
    "name", ["SQLITE_FULL", "SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_BUSY_SNAPSHOT"]
)
async def test_a_passing_error_rolls_back_and_the_same_works_again(
    start: Opener, name: str, statement: str
) -> None:
    faults = Faults()
    spool = await start(faults)
    stream = await spool.open_stream(INFO)
    faults.fail(statement, name)
    with pytest.raises(SpoolUnavailableError, match=name):
        await spool.commit([commit(stream.id, frame(b"once\n"))])
    assert (await spool.overview()).frames == 0
    assert await spool.read(0, max_bytes=100) == []
    await spool.commit([commit(stream.id, frame(b"once\n"))])
    assert [(one.id, one.raw) for one in await spool.read(0, max_bytes=100)] == [(1, b"once\n")]


async def test_who_shares_a_transaction_that_fails_is_told_so_too(start: Opener) -> None:
    faults = Faults()
    spool = await start(faults)
    stream = await spool.open_stream(INFO)
    faults.hold_commits()
    first = asyncio.create_task(spool.note_sink("archive", "running", ""))
    await faults.holding()
    faults.fail("BEGIN", "SQLITE_BUSY")
    both = [
        asyncio.create_task(spool.note_sink("archive", "held", "")),
        asyncio.create_task(spool.open_stream(OTHER)),
    ]
    await asyncio.sleep(0)
    faults.let_go()
    await first
    for one in await asyncio.gather(*both, return_exceptions=True):
        assert isinstance(one, SpoolUnavailableError)
    assert (await spool.open_stream(INFO)).id == stream.id


async def test_a_cursor_moves_on_a_full_disk_beside_lines_for_which_there_is_no_room(
    start: Opener,
) -> None:
    faults = Faults()
    spool = await start(faults)
    stream = await spool.open_stream(INFO)
    await spool.open_sink("archive", from_oldest=True)
    await spool.commit([commit(stream.id, frame())])
    await spool._writer.run(full)
    faults.hold_commits()
    first = asyncio.create_task(spool.note_sink("archive", "running", ""))
    await faults.holding()
    lines = asyncio.create_task(spool._writer.run(lambda one: one.execute(FILL)))
    cursor = asyncio.create_task(spool.advance("archive", 1, {}, Delivery(delivered=1)))
    await asyncio.sleep(0)
    faults.let_go()
    await asyncio.gather(first, cursor)
    with pytest.raises(SpoolUnavailableError, match="SQLITE_FULL"):
        await lines


async def test_a_lock_that_another_process_holds_is_waited_for_and_told(
    start: Opener, state: StateDir
) -> None:
    """E16: nothing is lost, and the same works when the other one is done."""
    spool = await start(busy_timeout_s=0.01)
    stream = await spool.open_stream(INFO)
    with closing(sqlite3.connect(state.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(SpoolUnavailableError, match="database is locked"):
            await spool.commit([commit(stream.id, frame())])
        other.execute("ROLLBACK")
    await spool.commit([commit(stream.id, frame())])
    assert [one.id for one in await spool.read(0, max_bytes=100)] == [1]


def test_a_lock_is_waited_for_five_seconds(state: StateDir) -> None:
    with closing(connect_writer(state)) as connection:
        assert connection.execute("PRAGMA busy_timeout").fetchone() == (5000,)


CALLS: list[Callable[[SqliteSpool], object]] = [
    lambda spool: spool.open_stream(INFO),
    lambda spool: spool.commit([commit(1, frame())]),
    lambda spool: spool.tail(1, from_ns=0, max_bytes=1),
    lambda spool: spool.open_sink("archive", from_oldest=True),
    lambda spool: spool.read(0, max_bytes=1),
    lambda spool: spool.advance("archive", 1, {}, Delivery()),
    lambda spool: spool.advance("archive", 1, {}, Delivery(dead_lettered=1), [letter()]),
    lambda spool: spool.dead_letter_bytes("archive"),
    lambda spool: spool.letters_to_replay("archive", max_bytes=1),
    lambda spool: spool.settle_replay("archive", {1: Replayed()}),
    lambda spool: spool.remember("archive", {}),
    lambda spool: spool.note_sink("archive", "running", ""),
    lambda spool: spool.configure_sinks({}),
    lambda spool: spool.prune(keep_tail_ns=0),
    lambda spool: spool.overview(),
]


async def expect_distrust(spool: SqliteSpool, message: str) -> None:
    """Every call there is says the same."""
    for call in CALLS:
        answer = call(spool)
        assert asyncio.iscoroutine(answer)
        with pytest.raises(SpoolUntrustedError, match=message):
            await answer


@pytest.mark.parametrize("statement", ["BEGIN IMMEDIATE", "UPDATE counter", "COMMIT"])
@pytest.mark.parametrize(
    "name", ["SQLITE_IOERR_FSYNC", "SQLITE_IOERR_WRITE", "SQLITE_CORRUPT", "SQLITE_READONLY"]
)
async def test_after_an_error_of_the_storage_nothing_is_believed_any_more(
    start: Opener, name: str, statement: str
) -> None:
    faults = Faults()
    spool = await start(faults)
    stream = await spool.open_stream(INFO)
    await spool.commit([commit(stream.id, frame())])
    faults.fail(statement, name)
    with pytest.raises(SpoolUntrustedError, match=name):
        await spool.commit([commit(stream.id, frame(line=1))])
    assert spool.last_frame_id == 1
    await expect_distrust(spool, name)


async def test_what_was_waiting_when_the_storage_failed_is_not_tried(start: Opener) -> None:
    faults = Faults()
    spool = await start(faults)
    stream = await spool.open_stream(INFO)
    faults.hold_commits()
    faults.fail("COMMIT", "SQLITE_IOERR_FSYNC")
    first = asyncio.create_task(spool.note_sink("archive", "running", ""))
    await faults.holding()
    second = asyncio.create_task(spool.open_stream(OTHER))
    await asyncio.sleep(0)
    faults.let_go()
    results = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(one) for one in results] == [SpoolUntrustedError] * 2
    assert faults.commits == 2  # that of open_stream, and the one that failed
    assert stream.id == 1


async def test_a_rollback_that_fails_is_an_error_of_the_storage(start: Opener) -> None:
    faults = Faults()
    spool = await start(faults)
    faults.fail("COMMIT", "SQLITE_FULL")
    faults.fail("ROLLBACK", "SQLITE_IOERR")
    with pytest.raises(SpoolUnavailableError):
        await spool.open_stream(INFO)
    await expect_distrust(spool, "rollback failed")


async def test_a_bug_in_a_job_fails_its_callers_and_hangs_nobody(spool: SqliteSpool) -> None:
    def buggy(_: sqlite3.Connection) -> None:
        raise LookupError("a bug")

    with pytest.raises(SpoolUntrustedError, match=r"the spool met a bug: LookupError\('a bug'\)"):
        await spool._writer.run(buggy)
    await expect_distrust(spool, "a bug")


async def test_a_closed_spool_says_so(spool: SqliteSpool) -> None:
    await spool.close()
    await expect_distrust(spool, "the spool is closed")
    await spool.close()


async def test_closing_finishes_what_was_handed_over(start: Opener) -> None:
    faults = Faults()
    spool = await start(faults)
    faults.hold_commits()
    storing = [asyncio.create_task(spool.open_stream(one)) for one in (INFO, OTHER)]
    await faults.holding()
    closing = asyncio.create_task(spool.close())
    await asyncio.sleep(0)
    faults.let_go()
    await closing
    first, second = await asyncio.gather(*storing)
    again = await start()
    assert [(await again.open_stream(one)).id for one in (INFO, OTHER)] == [first.id, second.id]


async def test_a_commit_whose_caller_was_cancelled_leaves_no_hole(start: Opener) -> None:
    """It may happen all the same, and then its frames must not be missing for the readers."""
    faults = Faults()
    spool = await start(faults)
    stream = await spool.open_stream(INFO)
    await spool.commit([commit(stream.id, frame(b"one\n"))])
    faults.hold_commits()
    cancelled = asyncio.create_task(spool.commit([commit(stream.id, frame(b"two\n", line=1))]))
    await faults.holding()
    cancelled.cancel()
    waiting = asyncio.create_task(spool.wait_beyond(1))
    await asyncio.sleep(0)
    faults.let_go()
    await waiting
    await spool.commit([commit(stream.id, frame(b"three\n", line=2))])
    assert cancelled.cancelled()
    assert [(one.id, one.raw) for one in await spool.read(0, max_bytes=100)] == [
        (1, b"one\n"),
        (2, b"two\n"),
        (3, b"three\n"),
    ]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_writing_thread_that_died_does_not_look_alive() -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    with closing(connection):
        writer = Writer(connection, asyncio.get_running_loop())

        def die(_: sqlite3.Connection) -> None:
            raise SystemExit

        waiting = asyncio.create_task(writer.run(die))
        await asyncio.sleep(0)
        await asyncio.to_thread(writer._thread.join)
        with pytest.raises(SpoolUntrustedError, match="dead"):
            writer.check()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
