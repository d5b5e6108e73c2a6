"""The spool's tables. An operator can open them with the sqlite3 shell.

Invariants:
- A frame and the checkpoint that says it was taken are written in one transaction.
- Frame ids are consecutive and never repeat, also after every frame was deleted (AUTOINCREMENT and
  `counter`): a frame below a sink's cursor would never be sent.
- `counter` counts over the spool's whole life (`total_`) and what is in `frame` now (`held_`).
- A sink's `cursor_lines` is what it is past of `total_lines`; what was deleted before the sink was
  made, or was dropped before it got there, counts as past. So a backlog is a subtraction.
- A frame that was damaged or dropped leaves a gap record in its place, under its id.
- A sink's `dropped` is the sum of its `dropped_lines`; its `dead_lettered`, `letters` and
  `letter_bytes` are the sums over its rows of `dead_letter`. All move in one transaction.
"""

from __future__ import annotations

#: "sbfw": tells our database from any other.
APPLICATION_ID = 0x73626677
SCHEMA_VERSION = 3

PAGE_BYTES = 16384

#: Before the first table; auto_vacuum lets space be given back after a long outage of a sink.
CREATE_PRAGMAS = (
    f"PRAGMA page_size = {PAGE_BYTES}",
    "PRAGMA auto_vacuum = INCREMENTAL",
    f"PRAGMA application_id = {APPLICATION_ID}",
)

TABLES = f"""
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
    -- Text: the API's offsets are unsigned 64-bit, SQLite's integers are signed.
    session_offset TEXT NOT NULL DEFAULT '0',
    -- Which life of the container the lines come from.
    generation INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0,
    -- Of all generations; next_line counts only the newest.
    lines INTEGER NOT NULL DEFAULT 0,
    -- The highest high_stamp_ns of a frame that is gone: below it the tail is not complete.
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
    data BLOB NOT NULL,
    generation INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE INDEX frame_by_stream ON frame (stream_id, high_stamp_ns, id);

CREATE TABLE gap (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    stream_id INTEGER NOT NULL,
    kind TEXT NOT NULL,
    cause TEXT NOT NULL,
    bounds TEXT NOT NULL,
    generation INTEGER NOT NULL,
    after_line INTEGER NOT NULL,
    before_line INTEGER,
    from_stamp_ns INTEGER NOT NULL,
    to_stamp_ns INTEGER NOT NULL,
    -- Text: the API's offsets are unsigned 64-bit, SQLite's integers are signed.
    from_offset TEXT,
    to_offset TEXT,
    noticed_ns INTEGER NOT NULL,
    -- 0 while the lines are not found.
    filled_ns INTEGER NOT NULL DEFAULT 0
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
    letters INTEGER NOT NULL DEFAULT 0,
    letter_bytes INTEGER NOT NULL DEFAULT 0,
    -- Where it writes, as its settings say; a renamed sink is found again by it.
    destination TEXT NOT NULL DEFAULT '',
    -- When it was taken out of the configuration; 0 while it is in it.
    retired_ns INTEGER NOT NULL DEFAULT 0,
    state TEXT NOT NULL DEFAULT 'starting',
    detail TEXT NOT NULL DEFAULT '',
    since_ns INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- Why lines were dropped: `forwarder.spool.interface.DropReason`.
CREATE TABLE dropped_lines (
    sink TEXT NOT NULL,
    reason TEXT NOT NULL,
    lines INTEGER NOT NULL,
    PRIMARY KEY (sink, reason)
) STRICT, WITHOUT ROWID;

-- What destinations refused for good: `forwarder.model.DeadLetter`. `data` as in `frame`.
CREATE TABLE dead_letter (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    sink TEXT NOT NULL,
    stream_id INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    first_line INTEGER NOT NULL,
    lines INTEGER NOT NULL,
    part INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    first_stamp_ns INTEGER NOT NULL,
    received_ns INTEGER NOT NULL,
    unnamed INTEGER NOT NULL,
    maybe_stored INTEGER NOT NULL,
    status TEXT NOT NULL,
    reason TEXT NOT NULL,
    noticed_ns INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    -- 0 while nobody asked for it to be sent again.
    replay_ns INTEGER NOT NULL DEFAULT 0,
    size_bytes INTEGER NOT NULL,
    raw_bytes INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    data BLOB NOT NULL
) STRICT;

CREATE INDEX dead_letter_by_sink ON dead_letter (sink, status);
CREATE INDEX dead_letter_to_replay ON dead_letter (sink) WHERE replay_ns <> 0;

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

PRAGMA user_version = {SCHEMA_VERSION};
"""
