"""Copying the log back: bounded, never waiting for a reader, and no error of it goes unheard."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from forwarder.errors import SpoolUntrustedError
from forwarder.spool.checkpoint import WalCheckpoint, copy_back, cut_off
from forwarder.spool.files import connect_writer
from forwarder.spool.room import SpoolLimits
from tests.unit.spool.builders import INFO, commit, frame
from tests.unit.spool.faults import Faults

if TYPE_CHECKING:
    from forwarder.spool.files import StateDir
    from forwarder.spool.sqlite import SqliteSpool
    from tests.unit.spool.conftest import Opener

COPY = "PRAGMA wal_checkpoint(PASSIVE)"

#: A log of 1 MiB: 64 pages, of which a line takes about eleven.
LIMITS = SpoolLimits(ballast_bytes=1_400_000)
LIMIT_BYTES = 1 << 20
LINE_BYTES = 100_000


async def store(spool: SqliteSpool, count: int, *, begin: int = 0) -> None:
    """Lines in transactions of their own; returns when the log was looked at after the last one."""
    stream = await spool.open_stream(INFO)
    for line in range(begin, begin + count):
        raw = os.urandom(LINE_BYTES)
        await spool.commit([commit(stream.id, frame(raw, line=line, at_ns=100 + line))])
    await spool.note("looked", str(begin))


async def test_the_log_is_copied_back_when_it_has_grown_and_not_before(
    start: Opener, state: StateDir
) -> None:
    faults = Faults()
    spool = await start(faults, limits=LIMITS)
    await store(spool, 3)
    assert faults.statements.count(COPY) == 0
    await store(spool, 47, begin=3)
    assert 5 <= faults.statements.count(COPY) <= 10, "once for about six lines"
    assert state.wal.stat().st_size < LIMIT_BYTES + 4 * LINE_BYTES


async def test_sqlite_itself_copies_nothing_back(spool: SqliteSpool) -> None:
    """It would do so in COMMIT, and keep its errors to itself."""
    answer = await spool._writer.run(
        lambda one: one.execute("PRAGMA wal_autocheckpoint").fetchone()[0]
    )
    assert answer == 0


@pytest.mark.parametrize("name", ["SQLITE_IOERR_FSYNC", "SQLITE_IOERR_WRITE", "SQLITE_CORRUPT"])
async def test_an_error_of_the_storage_ends_trust_but_takes_no_commit_back(
    start: Opener, name: str
) -> None:
    faults = Faults()
    spool = await start(faults, limits=LIMITS)
    faults.fail(COPY, name)
    with pytest.raises(SpoolUntrustedError, match=name):
        await store(spool, 50)
    acknowledged = spool.last_frame_id
    with pytest.raises(SpoolUntrustedError, match=name):
        await spool.commit([])
    assert faults.statements.count(COPY) == 1, "a second one might succeed, and mean nothing"
    await spool.close()
    assert (await (await start()).overview()).frames == acknowledged


@pytest.mark.parametrize("name", ["SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_FULL"])
async def test_what_passes_is_tried_again_after_the_next_commit(
    start: Opener, state: StateDir, name: str
) -> None:
    faults = Faults()
    spool = await start(faults, limits=LIMITS)
    faults.fail(COPY, name, name)
    await store(spool, 50)
    assert faults.errors == []
    assert state.wal.stat().st_size < LIMIT_BYTES + 8 * LINE_BYTES


async def test_a_reader_in_the_way_lets_the_log_grow_and_is_no_error(
    start: Opener, state: StateDir
) -> None:
    spool = await start(limits=LIMITS)
    await store(spool, 1)
    with closing(sqlite3.connect(state.database, isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM frame").fetchone()
        await store(spool, 30, begin=1)
        grown = state.wal.stat().st_size
        assert grown > 2 * LIMIT_BYTES
    await store(spool, 30, begin=31)
    assert state.wal.stat().st_size < grown + LIMIT_BYTES, "it is written from its beginning"


async def test_a_log_that_cannot_be_looked_at_ends_trust(start: Opener, state: StateDir) -> None:
    spool = await start()
    await spool.note("name", "text")
    spool._writer._checkpoint._path = str(state.path / "file" / "spool.db-wal")
    (state.path / "file").touch()
    with pytest.raises(SpoolUntrustedError, match="Not a directory"):
        await store(spool, 3)


def test_a_log_that_is_written_from_its_beginning_again_has_not_grown(state: StateDir) -> None:
    with closing(connect_writer(state)) as connection:
        checkpoint = WalCheckpoint(connection, pages=10)
        assert not checkpoint.due()

        def write(number: int) -> None:
            text = "x" * (16384 * 9)
            connection.execute("INSERT INTO note VALUES (?, ?, 1)", (f"name {number}", text))

        write(1)
        assert checkpoint.due()
        copy_back(connection)
        size = state.wal.stat().st_size
        connection.execute("INSERT INTO note VALUES ('short', '', 1)")
        assert state.wal.stat().st_size == size
        assert not checkpoint.due(), "its size is the same, but all but a page is old"
        write(2)
        assert checkpoint.due()
        cut_off(connection)
        assert state.wal.stat().st_size == 0
        assert not checkpoint.due()
