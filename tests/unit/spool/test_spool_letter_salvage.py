"""Dead letters in a copy of the spool, and in what `--new-spool` makes of a damaged one."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from forwarder.model import StreamState
from forwarder.spool.backup import backup
from forwarder.spool.files import StateDir
from forwarder.spool.interface import Delivery, DropReason, Replayed
from forwarder.spool.letter_overview import letter_of
from forwarder.spool.renewal import renew
from forwarder.spool.verify import verify
from tests.unit.spool.builders import OTHER, commit, frame, letter
from tests.unit.spool.test_spool_letters import SINK, ask_again, filled, numbers, refuse, waiting

if TYPE_CHECKING:
    from pathlib import Path

    from forwarder.spool.sqlite import SqliteSpool
    from tests.unit.spool.conftest import Opener


async def with_letters(spool: SqliteSpool) -> None:
    """Four letters of a stream that is over; the newest is gone, the second is to be sent again."""
    stream_id = await filled(spool)
    await refuse(
        spool,
        *[letter(b"x" * 9 + b"\n", line=2 * one, lines=2) for one in range(3)],
        letter(b"", lines=0, unnamed=1, status="200"),
        letter(line=9),
    )
    await spool.settle_replay(SINK, {5: Replayed()})
    await ask_again(spool, 2)
    await spool.commit([commit(stream_id, state=StreamState.COMPLETE)])
    await spool.prune(keep_tail_ns=0)


def change(state: StateDir, statement: str) -> None:
    with closing(sqlite3.connect(state.database, isolation_level=None)) as connection:
        connection.execute(statement)


async def test_a_copy_has_them_all(spool: SqliteSpool, state: StateDir, tmp_path: Path) -> None:
    await with_letters(spool)
    report = await asyncio.to_thread(backup, state, tmp_path / "copy")
    copy = StateDir(report.path)
    assert [letter_of(copy, one) for one in range(1, 6)] == [
        letter_of(state, one) for one in range(1, 6)
    ]
    assert verify(copy).ok


async def test_a_new_spool_has_every_letter_that_can_be_read(
    start: Opener, spool: SqliteSpool, state: StateDir
) -> None:
    await with_letters(spool)
    before = (await numbers(spool), [letter_of(state, one) for one in range(1, 6)])
    await spool.close()
    report = renew(state, now_ns=1)
    assert (report.dead_letters, report.lost_letter_lines) == (4, 0)
    spool = await start()
    assert (await numbers(spool), [letter_of(state, one) for one in range(1, 6)]) == before
    assert [one.id for one in await waiting(spool)] == [2]
    assert verify(state).ok
    stream = await spool.open_stream(OTHER)
    await spool.commit([commit(stream.id, frame())])
    await refuse(spool, letter(stream_id=stream.id), lines=1)
    assert letter_of(state, 5) is None, "its number was another letter's"
    assert letter_of(state, 6) is not None


async def test_what_cannot_be_read_of_them_counts_as_dropped(
    start: Opener, spool: SqliteSpool, state: StateDir
) -> None:
    await with_letters(spool)
    await spool.close()
    change(state, "UPDATE dead_letter SET data = x'00' WHERE id IN (1, 3)")
    report = renew(state, now_ns=1)
    assert (report.dead_letters, report.lost_letter_lines) == (2, 4)
    spool = await start()
    sink = await numbers(spool)
    assert (sink.dead_letters, sink.dead_lettered) == (2, 2)
    assert sink.dropped_for == {DropReason.DAMAGED: 4, DropReason.REFUSED_UNNAMED: 1}
    assert verify(state).ok


async def test_letters_of_a_stream_that_is_lost_go_with_it(
    start: Opener, spool: SqliteSpool, state: StateDir
) -> None:
    """Nobody could say any more whose lines they are."""
    await with_letters(spool)
    await spool.close()
    change(state, "DELETE FROM stream")
    assert renew(state, now_ns=1).lost_letter_lines == 6
    spool = await start()
    assert (await numbers(spool)).dropped_for[DropReason.DAMAGED] == 6
    assert verify(state).ok


async def test_a_spool_without_the_tables_is_carried_over_all_the_same(
    start: Opener, spool: SqliteSpool, state: StateDir
) -> None:
    await filled(spool)
    await spool.advance(SINK, 1, {}, Delivery(7, 0, 0, 3))
    await spool.close()
    change(state, "DROP TABLE dead_letter")
    change(state, "DROP TABLE dropped_lines")
    assert renew(state, now_ns=1).dead_letters == 0
    spool = await start()
    assert (await numbers(spool)).dropped_for == {DropReason.UNRECORDED: 3}
    assert verify(state).ok
