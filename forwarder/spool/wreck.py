"""Reads what can be read of a damaged database: around the pages that cannot.

SQLite stops a query at the first page that it cannot read. But a query that begins behind that
page, or comes from the other end, does not touch it.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from forwarder.spool.frames import COLUMNS

if TYPE_CHECKING:
    from forwarder.spool.frames import FrameRow

#: Behind a page that cannot be read, the search goes on in steps that double up to here.
_FARTHEST = 1 << 20


@dataclass(frozen=True, slots=True)
class FoundFrame:
    """A frame that is there, or was.

    Attributes:
        stream_id: Whose it is; None when nothing tells.
    """

    id: int
    stream_id: int | None

    def read(self, connection: sqlite3.Connection) -> FrameRow | None:
        """Its row of `COLUMNS`, not verified; None when it cannot be read."""
        columns = COLUMNS
        if not _has(connection, "frame", "generation"):
            columns = COLUMNS.replace("generation", "0")
        try:
            row = connection.execute(
                f"SELECT {columns} FROM frame WHERE id = ?",  # noqa: S608 - constants
                (self.id,),
            ).fetchone()
        except sqlite3.Error:
            return None
        return cast("FrameRow | None", row)


def read_rows(connection: sqlite3.Connection, table: str, key: str) -> list[dict[str, Any]]:
    """Every row of a table that can be reached from either end, by its columns' names."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    names = key.split(", ")
    for direction in ("ASC", "DESC"):
        order = ", ".join(f"{name} {direction}" for name in names)
        try:
            rows = connection.execute(f"SELECT * FROM {table} ORDER BY {order}")  # noqa: S608 - constants
            columns = [column[0] for column in rows.description]
            for values in rows:
                row = dict(zip(columns, values, strict=True))
                found[tuple(row[name] for name in names)] = row
        except sqlite3.Error:
            continue
        break
    return list(found.values())


def read_frames_of_wreck(connection: sqlite3.Connection) -> list[FoundFrame]:
    """Every frame that the table or its index tells of, by id."""
    streams = _from_index(connection)
    ids = ids_of_wreck(connection, "frame") | streams.keys()
    return [FoundFrame(one, streams.get(one)) for one in sorted(ids)]


def _from_index(connection: sqlite3.Connection) -> dict[int, int]:
    """Whose each frame is: the index stands on pages of its own."""
    found: dict[int, int] = {}
    for direction in ("ASC", "DESC"):
        try:
            rows = connection.execute(
                "SELECT id, stream_id FROM frame INDEXED BY frame_by_stream"  # noqa: S608 - constants
                f" ORDER BY stream_id {direction}, high_stamp_ns {direction}, id {direction}"
            )
            found.update(rows)
        except sqlite3.Error:
            continue
        break
    return found


def ids_of_wreck(connection: sqlite3.Connection, table: str) -> set[int]:
    """The ids of the rows that can be read: upwards to a bad page, behind it, and back to it."""
    found: set[int] = set()
    after, step = 0, 0
    while step <= _FARTHEST:
        begin = after + step
        ids, broken = _ids(connection, table, "id > ? ORDER BY id ASC", begin)
        if ids and step:
            found.update(_ids(connection, table, "id <= ? ORDER BY id DESC", begin)[0])
        found.update(ids)
        if not broken:
            break
        if ids:
            after, step = ids[-1], 1
        else:
            step = max(1, step * 2)
    return found


def _ids(
    connection: sqlite3.Connection, table: str, where: str, bound: int
) -> tuple[list[int], bool]:
    """Ids up to an error, and whether there was one."""
    found: list[int] = []
    try:
        # The table and not its index, which may be whole where the table is not.
        rows = connection.execute(f"SELECT id FROM {table} NOT INDEXED WHERE {where}", (bound,))  # noqa: S608 - constants
        found.extend(row[0] for row in rows)
    except sqlite3.Error:
        return found, True
    return found, False


def _has(connection: sqlite3.Connection, table: str, column: str) -> bool:
    try:
        return any(row[1] == column for row in connection.execute(f"PRAGMA table_info({table})"))
    except sqlite3.Error:
        return False
