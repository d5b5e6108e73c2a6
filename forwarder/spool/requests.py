"""What an operator asks for while a daemon runs: a file in `state_dir` each.

Nobody but the daemon writes the database: where one connection writes and another one copies the
log back, SQLite can lose commits (sqlite.org/wal.html, the WAL-reset bug of 3.7.0 to 3.51.2). A
request is deleted once it is carried out, and does no harm when it is carried out again.
"""

from __future__ import annotations

import enum
import os
import sqlite3
import uuid
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from forwarder.errors import SpoolLockedError, SpoolUntrustedError
from forwarder.spool.dead_letters import Choice, ask_for_replay, drop_letters
from forwarder.spool.files import connect_writer, locked, sync_directory
from forwarder.spool.ranges import WISH as RANGE_WISH
from forwarder.spool.ranges import RangeRequest, take_request
from forwarder.spool.writer import classify

if TYPE_CHECKING:
    from pathlib import Path

    from forwarder.spool.directory import StateDir


class Wish(enum.StrEnum):
    """What is to become of dead letters."""

    REPLAY = "replay"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class LetterRequest:
    """What an operator asks for.

    Attributes:
        sink: Whose dead letters.
        chosen: Which of them.
    """

    wish: Wish
    sink: str
    chosen: Choice

    @property
    def about(self) -> str:
        """What it is about, for the log."""
        return "dead letters"

    def content(self) -> dict[str, object]:
        """What is written down of it."""
        chosen = self.chosen
        return {
            "wish": self.wish,
            "sink": self.sink,
            "upto_id": chosen.upto_id,
            "ids": chosen.ids,
            "status": chosen.status,
        }

    @classmethod
    def read(cls, content: dict[str, Any]) -> LetterRequest:
        """The request of what was written down.

        Raises:
            KeyError, TypeError, ValueError: It is none.
        """
        ids = content["ids"]
        chosen = Choice(
            int(content["upto_id"]),
            None if ids is None else tuple(map(int, ids)),
            None if content["status"] is None else str(content["status"]),
        )
        return cls(Wish(content["wish"]), str(content["sink"]), chosen)


#: What there is to be asked for.
Request = LetterRequest | RangeRequest


def put_request(state: StateDir, request: Request) -> Path:
    """Leave a request for the daemon, durably; returns its file, which the daemon deletes.

    Raises:
        OSError: It cannot be written.
    """
    content = orjson.dumps(request.content())
    name = uuid.uuid4().hex
    partial = state.path / f"request-{name}.partial"
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        _give_away(descriptor, state)
        os.write(descriptor, content)
        os.fsync(descriptor)
        path = partial.with_suffix(".json")
        partial.rename(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    sync_directory(state.path)
    return path


def _give_away(descriptor: int, state: StateDir) -> None:
    """What root asks for, the daemon's user must be able to read."""
    if os.geteuid() == 0:
        owner = state.path.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def requests_in(state: StateDir) -> list[Path]:
    """The requests that are waiting."""
    return sorted(state.path.glob("request-*.json"))


def read_request(path: Path) -> Request:
    """A request that is waiting.

    Raises:
        OSError: It cannot be read.
        ValueError: It is none.
    """
    content = orjson.loads(path.read_bytes())
    try:
        kind = RangeRequest if content["wish"] == RANGE_WISH else LetterRequest
        return kind.read(content)
    except (KeyError, TypeError) as error:
        raise ValueError("no request") from error


def carry_out(
    connection: sqlite3.Connection, request: Request, now_ns: int, *, after_id: int
) -> int:
    """Do some of what is asked for, in a transaction; returns where to go on, 0 at the end."""
    if isinstance(request, RangeRequest):
        take_request(connection, request)
        return 0
    if request.wish is Wish.REPLAY:
        return ask_for_replay(connection, request.sink, request.chosen, now_ns, after_id=after_id)
    return drop_letters(connection, request.sink, request.chosen, after_id=after_id)


# For commands -------------------------------------------------------------------------------------


def ask_for(state: StateDir, request: Request, now_ns: int) -> Path | None:
    """Have a request carried out: here and now when no daemon runs, else by the daemon.

    Returns:
        The request's file, which is gone once the daemon has carried it out; None when it is
        carried out.

    Raises:
        SpoolUntrustedError: The spool, or the request, cannot be written.
    """
    try:
        with locked(state):
            _carry_out_here(state, request, now_ns)
    except SpoolLockedError:
        try:
            return put_request(state, request)
        except OSError as error:
            raise SpoolUntrustedError(f"{state.path} cannot be written: {error}") from error
    return None


def _carry_out_here(state: StateDir, request: Request, now_ns: int) -> None:
    """In the place of a daemon; nobody else writes while the directory is locked."""
    with closing(connect_writer(state)) as connection:
        after_id = 0
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
                after_id = carry_out(connection, request, now_ns, after_id=after_id)
                connection.execute("COMMIT")
            except sqlite3.Error as error:
                raise classify(error) from error
            if not after_id:
                return
