"""What a sink remembers, for commands beside the daemon that runs, or without one."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from forwarder.errors import SpoolUntrustedError
from forwarder.spool.overview import ask

if TYPE_CHECKING:
    import sqlite3

    from forwarder.spool.files import StateDir


def sink_state(state: StateDir, sink: str) -> dict[str, bytes] | None:
    """Everything that a sink remembers, as committed, by key; empty for one that never ran.

    What the engine remembers for it is among it. None when there never was a spool. Nothing is
    written, and no lock is taken.

    Raises:
        SpoolUntrustedError: There is a spool, and it cannot be read.
    """
    try:
        if not (state.database.exists() or state.marker.exists()):
            return None
    except OSError as error:
        raise SpoolUntrustedError(f"{state.database} cannot be read: {error}") from error
    return ask(state, partial(_remembered, sink=sink))


def _remembered(connection: sqlite3.Connection, *, sink: str) -> dict[str, bytes]:
    rows = connection.execute("SELECT key, value FROM sink_state WHERE sink = ?", (sink,))
    return dict(rows.fetchall())
