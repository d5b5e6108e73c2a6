"""A spool that an earlier version wrote goes on with this one."""

from __future__ import annotations

import os
import sqlite3
import uuid
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from forwarder.errors import SpoolUntrustedError
from forwarder.model import (
    Checkpoint,
    Gap,
    GapBounds,
    GapCause,
    GapKind,
    StreamState,
)
from forwarder.spool import files
from forwarder.spool.files import connect_reader, connect_writer, make_database
from forwarder.spool.frames import pack
from forwarder.spool.interface import Delivery, DropReason
from forwarder.spool.migrations import STEPS, can_migrate
from forwarder.spool.overview import gaps_of
from forwarder.spool.schema import CREATE_PRAGMAS, SCHEMA_VERSION
from forwarder.spool.statements import INSERT_FRAME, frame_row
from forwarder.spool.verify import verify
from tests.unit.spool.builders import INFO, commit, frame, letter
from tests.unit.spool.faults import Faults

if TYPE_CHECKING:
    from forwarder.spool.files import StateDir
    from tests.unit.spool.conftest import Opener

#: The tables of schema 1, as that version made them.
SCHEMA_1 = """
CREATE TABLE counter (
    spool_id TEXT NOT NULL,
    last_frame_id INTEGER NOT NULL DEFAULT 0,
    total_lines INTEGER NOT NULL DEFAULT 0,
    total_bytes INTEGER NOT NULL DEFAULT 0,
    held_frames INTEGER NOT NULL DEFAULT 0,
    held_lines INTEGER NOT NULL DEFAULT 0,
    held_bytes INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE stream (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    sandbox_id TEXT NOT NULL,
    container TEXT NOT NULL,
    info TEXT NOT NULL,
    next_line INTEGER NOT NULL DEFAULT 0,
    open_part INTEGER NOT NULL DEFAULT 0,
    last_stamp_ns INTEGER NOT NULL DEFAULT 0,
    high_stamp_ns INTEGER NOT NULL DEFAULT 0,
    session_id TEXT NOT NULL DEFAULT '',
    session_offset TEXT NOT NULL DEFAULT '0',
    bytes INTEGER NOT NULL DEFAULT 0,
    pruned_ns INTEGER NOT NULL DEFAULT -1,
    state TEXT NOT NULL DEFAULT 'waiting',
    detail TEXT NOT NULL DEFAULT '',
    since_ns INTEGER NOT NULL DEFAULT 0,
    UNIQUE (sandbox_id, container)
) STRICT;

CREATE TABLE frame (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    stream_id INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    first_line INTEGER NOT NULL,
    lines INTEGER NOT NULL,
    part INTEGER NOT NULL,
    first_stamp_ns INTEGER NOT NULL,
    last_stamp_ns INTEGER NOT NULL,
    high_stamp_ns INTEGER NOT NULL,
    received_ns INTEGER NOT NULL,
    raw_bytes INTEGER NOT NULL,
    total_lines INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    data BLOB NOT NULL
) STRICT;

CREATE INDEX frame_by_stream ON frame (stream_id, high_stamp_ns, id);

CREATE TABLE gap (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    stream_id INTEGER NOT NULL,
    cause TEXT NOT NULL,
    after_line INTEGER NOT NULL,
    from_stamp_ns INTEGER NOT NULL,
    to_stamp_ns INTEGER NOT NULL,
    noticed_ns INTEGER NOT NULL,
    missing_bytes INTEGER
) STRICT;

CREATE INDEX gap_by_stream ON gap (stream_id);

CREATE TABLE sink (
    name TEXT PRIMARY KEY,
    cursor INTEGER NOT NULL,
    base_lines INTEGER NOT NULL,
    cursor_lines INTEGER NOT NULL,
    cursor_bytes INTEGER NOT NULL,
    delivered INTEGER NOT NULL DEFAULT 0,
    filtered INTEGER NOT NULL DEFAULT 0,
    dead_lettered INTEGER NOT NULL DEFAULT 0,
    dropped INTEGER NOT NULL DEFAULT 0,
    destination TEXT NOT NULL DEFAULT '',
    retired_ns INTEGER NOT NULL DEFAULT 0,
    state TEXT NOT NULL DEFAULT 'starting',
    detail TEXT NOT NULL DEFAULT '',
    since_ns INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE TABLE note (
    name TEXT PRIMARY KEY,
    text TEXT NOT NULL,
    since_ns INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE sink_state (
    sink TEXT NOT NULL,
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (sink, key)
) STRICT, WITHOUT ROWID;
PRAGMA user_version = 1;
"""


def make_old(state: StateDir) -> None:
    """A spool of schema 1 with a stream, a frame, a sink and two gaps."""
    os.close(os.open(state.database, os.O_CREAT, 0o600))
    with closing(sqlite3.connect(state.database, isolation_level=None)) as connection:
        for pragma in CREATE_PRAGMAS:
            connection.execute(pragma)
        connection.executescript(SCHEMA_1)
        spool_id = str(uuid.uuid4())
        connection.execute(
            "INSERT INTO counter VALUES (?, 1, 1, 5, 1, 1, 5)",
            (spool_id,),
        )
        connection.execute(
            "INSERT INTO stream (sandbox_id, container, info, next_line, last_stamp_ns,"
            " high_stamp_ns, session_id, session_offset, bytes, state) VALUES"
            " (?, ?, '{\"display_name\":\"one\",\"tags\":[]}', 1, 100, 100, 's', '7', 5, 'held')",
            (INFO.key.sandbox_id, INFO.key.container),
        )
        (packed,) = pack(commit(1, frame()))
        connection.execute(
            INSERT_FRAME.replace(", generation", "").replace("?, ", "", 1),
            frame_row(1, packed, 1)[:-1],
        )
        connection.execute(
            "INSERT INTO sink (name, cursor, base_lines, cursor_lines, cursor_bytes)"
            " VALUES ('archive', 0, 0, 0, 0)"
        )
        connection.executemany(
            "INSERT INTO gap VALUES (?, 1, ?, 3, 5, 6, 7, ?)",
            [(1, "anchor_lost", None), (4, "tail_unknown", 2**63 - 1)],
        )
    state.marker.write_text(f"{spool_id}\n")


def layout(connection: sqlite3.Connection) -> dict[str, set[tuple[str, str, int, str | None, int]]]:
    """Every table's columns, whatever their order, and every index."""
    names = connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    ).fetchall()
    found = {
        name: {tuple(row[1:]) for row in connection.execute(f"PRAGMA table_info({name})")}
        for (name,) in names
    }
    found["indexes"] = set(
        connection.execute(
            "SELECT name, tbl_name FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL"
        ).fetchall()
    )
    return found


def test_a_migrated_spool_has_the_same_tables_as_a_new_one(state: StateDir) -> None:
    make_old(state)
    make_database(state.path / "new")
    with (
        closing(connect_writer(state)) as old,
        closing(sqlite3.connect(state.path / "new")) as new,
    ):
        assert layout(old) == layout(new)
        assert old.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)


async def test_everything_that_was_in_it_is_still_there(start: Opener, state: StateDir) -> None:
    make_old(state)
    spool = await start()
    stream = await spool.open_stream(INFO)
    assert stream.checkpoint == Checkpoint(1, 0, 100, 100, "s", 7)
    assert stream.state is StreamState.HELD
    (held,) = await spool.read(0, max_bytes=100)
    assert (held.raw, held.generation) == (b"text\n", 0)
    lost = Gap(GapCause.ANCHOR_LOST, 3, 5, 6, 7, kind=GapKind.RANGE, before_line=4)
    tail = Gap(GapCause.TAIL_UNKNOWN, 3, 5, 6, 7, kind=GapKind.TAIL)
    assert [(one.id, one.gap) for one in gaps_of(state)] == [(1, lost), (4, tail)]
    assert {one.gap.bounds for one in gaps_of(state)} == {GapBounds.APPROXIMATE}
    await spool.commit([commit(stream.id, frame(b"more\n", line=1, generation=1))])
    assert [one.generation for one in await spool.read(0, max_bytes=100)] == [0, 1]


async def test_what_an_earlier_version_dropped_has_no_reason_and_adds_up(
    start: Opener, state: StateDir
) -> None:
    make_old(state)
    with closing(sqlite3.connect(state.database)) as connection, connection:
        connection.execute("UPDATE sink SET dropped = 4, dead_lettered = 3, base_lines = -7")
    spool = await start()
    (sink,) = (await spool.overview()).sinks
    assert (sink.dropped, sink.dead_lettered) == (7, 0)
    assert sink.dropped_for == {DropReason.UNRECORDED: 7}
    assert verify(state).ok
    await spool.open_stream(INFO)
    held = letter()
    await spool.advance("archive", 1, {}, Delivery(0, 0, 1), [held])
    assert await spool.dead_letter_bytes("archive") == held.size_bytes


@pytest.mark.parametrize(
    "statement",
    [*(statement for steps in STEPS.values() for statement in steps), "COMMIT"],
    ids=lambda statement: " ".join(statement.split()[:4]),
)
async def test_a_kill_at_any_step_leaves_the_old_spool_for_the_next_start(
    start: Opener, state: StateDir, statement: str
) -> None:
    make_old(state)
    faults = Faults()
    faults.fail(statement, "SQLITE_FULL")
    with pytest.raises(SpoolUntrustedError, match="as told"):
        connect_writer(state, factory=faults.connection())
    with closing(sqlite3.connect(state.database)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    spool = await start()
    assert len(await spool.read(0, max_bytes=100)) == 1


def test_an_earlier_version_refuses_the_new_schema(
    state: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect_writer(state).close()
    monkeypatch.setattr(files, "SCHEMA_VERSION", 1)
    monkeypatch.setattr(files, "can_migrate", lambda _: False)
    with pytest.raises(SpoolUntrustedError, match=f"has schema {SCHEMA_VERSION}; this version"):
        connect_writer(state)


def test_a_command_that_only_reads_does_not_migrate(state: StateDir) -> None:
    make_old(state)
    with pytest.raises(
        SpoolUntrustedError, match=f"it has schema 1, this version {SCHEMA_VERSION}"
    ):
        connect_reader(state)


def test_there_is_a_way_from_every_earlier_version() -> None:
    assert [can_migrate(version) for version in range(1, SCHEMA_VERSION)] == [True] * (
        SCHEMA_VERSION - 1
    )
    assert not can_migrate(SCHEMA_VERSION)
