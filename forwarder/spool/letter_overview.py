"""What there is of dead letters, for commands beside the daemon: in groups, and one in full."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from forwarder.spool.dead_letters import LETTER_COLUMNS, unpack_letter
from forwarder.spool.overview import ask
from forwarder.spool.statements import stream_info

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Sequence

    from forwarder.model import HeldLetter, StreamInfo
    from forwarder.spool.dead_letters import Choice
    from forwarder.spool.files import StateDir


@dataclass(frozen=True, slots=True)
class LetterGroup:
    """Dead letters of one sink that were refused for the same reason.

    Attributes:
        letters: How many there are.
        lines: In them.
        unnamed: Lines that were refused without saying which; no letter holds these.
        size_bytes: What they count against `dead_letters.max_size`.
        replaying: Of the letters, those that are to be sent again.
    """

    sink: str
    status: str
    reason: str
    letters: int
    lines: int
    unnamed: int
    size_bytes: int
    first_noticed_ns: int
    last_noticed_ns: int
    newest_id: int
    replaying: int


@dataclass(frozen=True, slots=True)
class LetterEntry:
    """A dead letter with its sink and its stream."""

    sink: str
    stream: StreamInfo
    held: HeldLetter


@dataclass(frozen=True, slots=True)
class SinkLetters:
    """All of a sink's dead letters.

    Attributes:
        configured: Whether the sink is in the configuration of the daemon that ran last.
    """

    name: str
    configured: bool
    letters: int
    lines: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ChosenLetter:
    """A letter that somebody chose, without what it holds.

    Attributes:
        can_replay: Whether it holds anything that can be sent.
    """

    id: int
    lines: int
    can_replay: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the sending of chosen letters has come.

    Attributes:
        waiting: Of them, those that are still to be sent.
        refused: Of them, those that are still there though they were sent.
        refused_lines: In these, and in further pieces of them.
    """

    waiting: int
    waiting_lines: int
    refused: int
    refused_lines: int


def letter_groups_of(state: StateDir, *, sink: str = "", sandbox_id: str = "") -> list[LetterGroup]:
    """Every group, by sink; those that were noticed last come first.

    Args:
        state: Where the spool is.
        sink: Only this one's; of all sinks when empty.
        sandbox_id: Only letters of this sandbox; of all when empty.

    Raises:
        SpoolUntrustedError: There is no spool, or it cannot be read. So say all of these.
    """
    return ask(state, partial(_groups, sink=sink, sandbox_id=sandbox_id))


def sinks_with_letters(state: StateDir) -> list[SinkLetters]:
    """Every sink that the spool knows, by name."""
    return ask(state, _sinks)


def letter_of(state: StateDir, letter_id: int) -> LetterEntry | None:
    """One letter in full; None when there is none of this id.

    Raises:
        SpoolUntrustedError: See above; or it is damaged (`FrameDamagedError`).
    """
    return ask(state, partial(_letter, letter_id=letter_id))


def newest_letter_of(state: StateDir) -> int:
    """The highest id of a letter; 0 without any."""
    return ask(state, _newest)


def chosen_letters(state: StateDir, sink: str, chosen: Choice) -> list[ChosenLetter]:
    """The letters that are meant, by id."""
    return ask(state, partial(_chosen, sink=sink, chosen=chosen))


def replay_progress(state: StateDir, sink: str, ids: Collection[int], *, upto_id: int) -> Progress:
    """How far letters are, of which these ids were to be sent again.

    Args:
        state: Where the spool is.
        sink: Whose letters.
        ids: Of the letters.
        upto_id: The newest letter when they were chosen: pieces of them have higher ids.
    """
    return ask(state, partial(_progress, sink=sink, ids=ids, upto_id=upto_id))


def _groups(connection: sqlite3.Connection, *, sink: str, sandbox_id: str) -> list[LetterGroup]:
    rows = connection.execute(
        "SELECT sink, status, reason, count(*), sum(dead_letter.lines), sum(unnamed),"
        " sum(size_bytes), min(noticed_ns), max(noticed_ns), max(dead_letter.id),"
        " sum(replay_ns <> 0) FROM dead_letter JOIN stream ON stream.id = stream_id"
        " WHERE ?1 IN ('', sink) AND ?2 IN ('', sandbox_id)"
        " GROUP BY sink, status, reason ORDER BY sink, max(noticed_ns) DESC, status, reason",
        (sink, sandbox_id),
    )
    return [LetterGroup(*row) for row in rows]


def _sinks(connection: sqlite3.Connection) -> list[SinkLetters]:
    rows = connection.execute(
        "SELECT name, retired_ns = 0, letters, dead_lettered, letter_bytes FROM sink ORDER BY name"
    )
    return [SinkLetters(row[0], bool(row[1]), *row[2:]) for row in rows]


def _letter(connection: sqlite3.Connection, *, letter_id: int) -> LetterEntry | None:
    row = connection.execute(
        f"SELECT {LETTER_COLUMNS}, sink FROM dead_letter WHERE id = ?",  # noqa: S608 - a constant
        (letter_id,),
    ).fetchone()
    if row is None:
        return None
    held = unpack_letter(row[:-1])
    return LetterEntry(row[-1], stream_info(connection, held.letter.stream_id), held)


def _newest(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT coalesce(max(id), 0) FROM dead_letter").fetchone()[0])


def _chosen(connection: sqlite3.Connection, *, sink: str, chosen: Choice) -> list[ChosenLetter]:
    rows: Sequence[tuple[int, int, int, int]] = chosen.rows(connection, sink)
    return [ChosenLetter(row[0], row[1], not row[3]) for row in rows]


def _progress(
    connection: sqlite3.Connection, *, sink: str, ids: Collection[int], upto_id: int
) -> Progress:
    waiting = waiting_lines = refused = refused_lines = 0
    rows = connection.execute(
        "SELECT id, lines, replay_ns, attempts FROM dead_letter WHERE sink = ?", (sink,)
    )
    for letter_id, lines, replay_ns, attempts in rows:
        if letter_id in ids and replay_ns:
            waiting += 1
            waiting_lines += lines
        elif letter_id in ids:
            refused += 1
            refused_lines += lines
        elif letter_id > upto_id and attempts > 1:
            refused_lines += lines
    return Progress(waiting, waiting_lines, refused, refused_lines)
