"""What is done before a spool is used: new or old, it is looked at, and its files are opened."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from forwarder.errors import SpoolError
from forwarder.spool import checks, statements
from forwarder.spool.files import connect_reader, connect_writer
from forwarder.spool.mark import Mark, MarkFile
from forwarder.spool.renewal import finish_renewal, renew
from forwarder.spool.room import Ballast, SpoolLimits
from forwarder.spool.writer import classify

if TYPE_CHECKING:
    from forwarder.spool.checkpoint import WalCheckpoint
    from forwarder.spool.files import StateDir

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Opened:
    """What is known once a spool's files are open.

    Attributes:
        checkpoint: Of the writer's log.
        mark: How far it has come.
        newest_id: The newest frame held, 0 without any.
        note: What `status` is told of it all the time.
    """

    writer: sqlite3.Connection
    checkpoint: WalCheckpoint
    reader: sqlite3.Connection
    mark: Mark
    mark_file: MarkFile
    ballast: Ballast
    newest_id: int
    note: str


def open_files(
    state: StateDir,
    limits: SpoolLimits,
    factory: type[sqlite3.Connection],
    now_ns: int,
    busy_timeout_s: float,
    *,
    new_spool: bool,
) -> Opened:
    """Open the files of a locked directory; see `open_spool` for the arguments and the errors."""
    if new_spool:
        report = renew(state, now_ns=now_ns)
        _log.warning("a new spool was begun", **report.numbers())
    elif finish_renewal(state, now_ns=now_ns):
        _log.warning("a new spool was begun, as an earlier start that was killed had been told")
    connection = connect_writer(state, busy_timeout_s=busy_timeout_s, factory=factory)
    try:
        checks.check(connection, state)
        checkpoint = statements.begin_writing(
            connection, max_bytes=limits.max_bytes, ballast_bytes=limits.ballast_bytes
        )
        mark, note = statements.guarded(lambda one: checks.catch_up(one, state, now_ns), connection)
        newest_id = checks.newest_frame_id(connection)
        reader = connect_reader(state)
    except SpoolError:
        connection.close()
        raise
    except sqlite3.Error as error:
        connection.close()
        raise classify(error) from error
    ballast = Ballast(state, limits.ballast_bytes)
    ballast.make()
    mark_file = MarkFile(state.mark)
    mark_file.write(mark)
    return Opened(connection, checkpoint, reader, mark, mark_file, ballast, newest_id, note)
