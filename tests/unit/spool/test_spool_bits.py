"""Bits that flip where SQLite keeps its own: what it reads then is of another type, or place."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from forwarder.errors import SpoolUntrustedError
from forwarder.model import FrameKind
from forwarder.spool.interface import Delivery
from forwarder.spool.room import SpoolLimits
from forwarder.spool.schema import PAGE_BYTES
from forwarder.spool.verify import verify
from tests.unit.spool.builders import INFO, commit, frame
from tests.unit.spool.faults import Faults

if TYPE_CHECKING:
    from forwarder.spool.files import StateDir
    from forwarder.spool.sqlite import SqliteSpool
    from tests.unit.spool.conftest import Opener

COLUMNS = [
    "kind",
    "first_line",
    "lines",
    "part",
    "first_stamp_ns",
    "last_stamp_ns",
    "high_stamp_ns",
    "received_ns",
    "raw_bytes",
    "total_lines",
    "checksum",
    "generation",
]
VALUES = ["NULL", "x'00'", "'text'", "9223372036854775807", "-9223372036854775808"]


async def filled(start: Opener) -> None:
    spool = await start()
    stream = await spool.open_stream(INFO)
    await spool.open_sink("archive", from_oldest=True)
    for line in range(4):
        await spool.commit([commit(stream.id, frame(b"%d\n" % line, line=line, at_ns=100 + line))])
    await spool.close()


def become(state: StateDir, column: str, value: str) -> None:
    """Let a column of frame 2 be what its type forbids, as a flipped bit of its header does."""
    with closing(sqlite3.connect(state.database, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        (schema,) = connection.execute(
            "SELECT sql FROM sqlite_schema WHERE name = 'frame'"
        ).fetchone()
        loose = schema.replace("STRICT", "").replace("NOT NULL", "")
        _set_schema(connection, loose)
    with closing(sqlite3.connect(state.database, isolation_level=None)) as connection:
        connection.execute(f"UPDATE frame SET {column} = {value} WHERE id = 2")
        connection.execute("PRAGMA writable_schema = ON")
        _set_schema(connection, schema)


def _set_schema(connection: sqlite3.Connection, schema: str) -> None:
    connection.execute("UPDATE sqlite_schema SET sql = ? WHERE name = 'frame'", (schema,))
    version = connection.execute("PRAGMA schema_version").fetchone()[0]
    connection.execute(f"PRAGMA schema_version = {version + 1}")


async def read_all(spool: SqliteSpool) -> list[FrameKind]:
    """Deliver everything; the kinds of the frames."""
    kinds: list[FrameKind] = []
    cursor = 0
    async with asyncio.timeout(10):
        while frames := await spool.read(cursor, max_bytes=1 << 20, sink="archive"):
            cursor = frames[-1].id
            kinds += [one.kind for one in frames]
            delivered = Delivery(delivered=sum(one.lines for one in frames))
            await spool.advance("archive", cursor, {}, delivered)
    return kinds


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("column", COLUMNS)
async def test_a_number_that_has_become_something_else_costs_its_frame_only(
    start: Opener, state: StateDir, column: str, value: str
) -> None:
    await filled(start)
    become(state, column, value)
    spool = await start()
    lines, gap = FrameKind.LINES, FrameKind.GAP
    assert await read_all(spool) == [lines, gap, lines, lines]
    (sink,) = (await spool.overview()).sinks
    assert sink.taken == 4 == sink.delivered + sink.dropped + sink.pending
    await spool.tail(1, from_ns=0, max_bytes=1 << 20)
    await spool.prune(keep_tail_ns=0)
    await spool.close()
    assert verify(state).problems == []


@pytest.mark.parametrize("value", VALUES[:3])
@pytest.mark.parametrize("column", COLUMNS)
async def test_what_is_deleted_or_compared_may_be_damaged_and_was_never_read(
    start: Opener, state: StateDir, column: str, value: str
) -> None:
    await filled(start)
    become(state, column, value)
    spool = await start()
    await spool.tail(1, from_ns=0, max_bytes=1 << 20)
    await spool.advance("archive", 4, {}, Delivery(delivered=4))
    await spool.prune(keep_tail_ns=0)


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("column", COLUMNS)
async def test_damaged_frames_do_not_stop_a_drop(
    start: Opener, state: StateDir, column: str, value: str
) -> None:
    await filled(start)
    become(state, column, value)
    limits = SpoolLimits(max_bytes=PAGE_BYTES, drop_oldest=True)
    spool = await start(limits=limits)
    await spool.prune(keep_tail_ns=0)
    assert FrameKind.LINES not in await read_all(spool)


@pytest.mark.parametrize("value", VALUES[:4])
async def test_a_frame_of_nobody_is_refused_with_what_to_do(
    start: Opener, state: StateDir, value: str
) -> None:
    await filled(start)
    become(state, "stream_id", value)
    spool = await start()
    with pytest.raises(SpoolUntrustedError, match="--new-spool"):
        await read_all(spool)
    await spool.close()
    spool = await start(new_spool=True)
    assert FrameKind.GAP in await read_all(spool)


async def test_a_payload_that_has_become_a_text_is_refused_with_what_to_do(
    start: Opener, state: StateDir
) -> None:
    await filled(start)
    become(state, "data", "CAST(data AS TEXT)")
    spool = await start()
    with pytest.raises(SpoolUntrustedError, match="--new-spool"):
        await read_all(spool)
    await spool.close()
    assert FrameKind.GAP in await read_all(await start(new_spool=True))


@pytest.mark.parametrize("bit", [3, 4, 5, 6])
@pytest.mark.parametrize("cell", [0, 1, 3])
async def test_an_id_that_has_become_another_one_is_refused_with_what_to_do(
    start: Opener, state: StateDir, cell: int, bit: int
) -> None:
    """The frame is met on the way, and not found where it should be: nothing can replace it."""
    await filled(start)
    with closing(sqlite3.connect(state.database)) as connection:
        (root,) = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'frame'"
        ).fetchone()
    data = bytearray(state.database.read_bytes())
    # A leaf of a table, whose cells' sizes take one byte: see "B-tree pages" in SQLite's format.
    page = (root - 1) * PAGE_BYTES
    assert data[page] == 13
    pointer = page + 8 + 2 * cell
    at = page + int.from_bytes(data[pointer : pointer + 2], "big") + 1
    assert data[at] == cell + 1
    data[at] ^= 1 << bit
    state.database.write_bytes(data)
    faults = Faults()
    try:
        spool = await start(faults)
    except SpoolUntrustedError as error:
        assert "--new-spool" in str(error)  # noqa: PT017 - it may be noticed now, or when it is read
        return
    with pytest.raises(SpoolUntrustedError, match="--new-spool"):
        await read_all(spool)
    assert faults.commits < 20


async def test_lines_that_cannot_be_counted_are_refused_with_what_to_do(
    start: Opener, state: StateDir
) -> None:
    await filled(start)
    become(state, "lines", VALUES[3])
    spool = await start()
    with pytest.raises(SpoolUntrustedError, match=r"integer overflow.*--new-spool"):
        await spool.advance("archive", 4, {}, Delivery(delivered=4))


@pytest.mark.parametrize("name", ["SQLITE_CORRUPT", "SQLITE_CORRUPT_INDEX", "SQLITE_NOTADB"])
async def test_damage_that_sqlite_finds_at_work_is_told_with_what_to_do(
    start: Opener, name: str
) -> None:
    faults = Faults()
    spool = await start(faults)
    faults.fail("BEGIN", name)
    with pytest.raises(SpoolUntrustedError, match="--new-spool"):
        await spool.note("name", "text")


async def test_a_broken_disk_needs_no_new_spool(start: Opener) -> None:
    faults = Faults()
    spool = await start(faults)
    faults.fail("COMMIT", "SQLITE_IOERR_FSYNC")
    with pytest.raises(SpoolUntrustedError) as caught:
        await spool.note("name", "text")
    assert "--new-spool" not in str(caught.value)
