"""`--new-spool`: the spool that is there is set aside, and a new one takes its place.

A kill at any step leaves the old spool in its place, or a new one that is complete and that the
next start, told so or not, puts there. At no step does the directory look as if it had never had a
spool: the marker is not moved, but made to name the new one.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from forwarder.errors import SpoolUntrustedError
from forwarder.spool.files import make_database, spool_id, sync_directory, write_marker
from forwarder.spool.salvage import SalvageReport, carry_over

if TYPE_CHECKING:
    from pathlib import Path

    from forwarder.spool.files import StateDir

_ASIDE = "spool.set-aside-"


def renew(state: StateDir, *, now_ns: int) -> SalvageReport:
    """Set the spool of a locked directory aside, and put a new one in its place.

    Raises:
        SpoolUntrustedError: The directory itself cannot be written.
    """
    try:
        report = SalvageReport()
        if not _is_begun(state):
            _make(state, report, now_ns)
        report.set_aside = _exchange(state, now_ns)
    except (OSError, sqlite3.Error) as error:
        raise SpoolUntrustedError(f"no new spool can be made in {state.path}: {error}") from error
    return report


def finish_renewal(state: StateDir, *, now_ns: int) -> bool:
    """Go on where a kill came between; whether there was anything to go on with.

    A new spool beside an old one that was not touched yet is deleted: it is a copy, and the old one
    goes on.

    Raises:
        SpoolUntrustedError: The directory itself cannot be written.
    """
    try:
        if _is_begun(state):
            _exchange(state, now_ns)
            return True
        state.renewed.unlink(missing_ok=True)
    except (OSError, sqlite3.Error) as error:
        raise SpoolUntrustedError(f"no new spool can be made in {state.path}: {error}") from error
    return False


def _is_begun(state: StateDir) -> bool:
    """Whether the old database is out of the way already, and the new one is complete."""
    return state.renewed.exists() and not os.path.lexists(state.database)


def _make(state: StateDir, report: SalvageReport, now_ns: int) -> None:
    """Make the new spool beside the old one; it has its name once it is complete."""
    partial = state.path / "spool.partial"
    make_database(partial)
    with closing(sqlite3.connect(partial, isolation_level=None)) as new:
        new.execute("PRAGMA synchronous = FULL")
        new.execute("BEGIN")
        carry_over(state, new, report, now_ns)
        new.execute("COMMIT")
    partial.replace(state.renewed)
    sync_directory(state.path)


def _exchange(state: StateDir, now_ns: int) -> str:
    """Put the new spool in the place of the old one; where that is now, empty if there was none."""
    with closing(sqlite3.connect(state.renewed, isolation_level=None)) as new:
        own_id = spool_id(new, state)
    marked = _read(state.marker)
    aside = _set_aside(state, "" if marked == own_id else marked, now_ns)
    write_marker(state, own_id)
    state.renewed.replace(state.database)
    sync_directory(state.path)
    return aside


def _set_aside(state: StateDir, marked: str, now_ns: int) -> str:
    """Move what there is of the old spool, the database first, and copy its marker last."""
    shared = state.path / "spool.db-shm"
    files = [state.database, state.wal, shared, state.mark]
    there = [path for path in files if os.path.lexists(path)]
    if not there and not marked:
        return ""
    aside = _begun_aside(state, marked) or _new_aside(state, now_ns)
    for path in there:
        path.rename(aside / path.name)
    if marked:
        partial = aside / "spool.id.partial"
        shutil.copy2(state.marker, partial)
        partial.replace(aside / state.marker.name)
    sync_directory(aside)
    sync_directory(state.path)
    return str(aside)


def _read(marker: Path) -> str:
    """What the marker says; empty without one."""
    try:
        return marker.read_text("ascii", "replace").strip()
    except FileNotFoundError:
        return ""


def _begun_aside(state: StateDir, marked: str) -> Path | None:
    """Where a killed renewal has put a part of this spool already: it stays together."""
    if os.path.lexists(state.database):
        return None
    for aside in state.path.glob(f"{_ASIDE}*"):
        if os.path.lexists(aside / state.database.name) and _read(aside / state.marker.name) in (
            "",
            marked,
        ):
            return aside
    return None


def _new_aside(state: StateDir, now_ns: int) -> Path:
    when = datetime.fromtimestamp(now_ns / 1e9, UTC).strftime("%Y%m%dT%H%M%SZ")
    number = 1
    aside = state.path / f"{_ASIDE}{when}"
    while os.path.lexists(aside):
        number += 1
        aside = state.path / f"{_ASIDE}{when}-{number}"
    aside.mkdir(mode=0o700)
    return aside
