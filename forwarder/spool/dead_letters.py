"""The statements about dead letters: what a destination refused for good, kept for each sink.

A letter is compressed and summed up as a frame is. Where they come from, where they go and what is
counted of it is one transaction, so that the sink's numbers add up at every moment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from forwarder.model import DeadLetter, FrameDraft, FrameKind, HeldLetter
from forwarder.spool.dropped import count_dropped
from forwarder.spool.frames import FrameDamagedError, number, numbered, pack_draft, unpack
from forwarder.spool.interface import DropReason

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence

    from forwarder.spool.interface import Replayed

#: The columns of `dead_letter` that make a `HeldLetter`, in the order `unpack_letter` takes them.
LETTER_COLUMNS = (
    "id, stream_id, kind, first_line, lines, part, generation, first_stamp_ns, received_ns,"
    " unnamed, maybe_stored, status, reason, noticed_ns, attempts, replay_ns, raw_bytes, checksum,"
    " data"
)

LetterRow = tuple[Any, ...]

_INSERT = (
    "INSERT INTO dead_letter (id, sink, stream_id, kind, first_line, lines, part, generation,"  # noqa: S608 - a constant
    " first_stamp_ns, received_ns, unnamed, maybe_stored, status, reason, noticed_ns, attempts,"
    f" size_bytes, raw_bytes, checksum, data) VALUES ({', '.join('?' * 20)})"
)


#: Changed in one transaction: a commit must not wait for long.
_CHUNK_LETTERS = 500


@dataclass(frozen=True, slots=True)
class Choice:
    """Which dead letters of a sink are meant; the same ones whenever it is looked at.

    Attributes:
        upto_id: None newer than this.
        ids: Only these; all when None.
        status: Only those with this status; all when None.
    """

    upto_id: int
    ids: tuple[int, ...] | None = None
    status: str | None = None

    def rows(
        self,
        connection: sqlite3.Connection,
        sink: str,
        *,
        where: str = "TRUE",
        after_id: int = 0,
        limit: int = -1,
    ) -> list[tuple[int, int, int, int]]:
        """Id, lines, size and unnamed of those behind an id, in order; at most `limit` of them."""
        return connection.execute(
            "SELECT id, lines, size_bytes, unnamed FROM dead_letter WHERE sink = ?1 AND id > ?2"  # noqa: S608 - constants
            " AND id <= ?3 AND (?4 IS NULL OR status = ?4)"
            " AND (?5 IS NULL OR id IN (SELECT value FROM json_each(?5)))"
            f" AND {where} ORDER BY id LIMIT ?6",
            (sink, after_id, self.upto_id, self.status, self._ids_text(), limit),
        ).fetchall()

    def _ids_text(self) -> str | None:
        return None if self.ids is None else orjson.dumps(self.ids).decode()


@dataclass(frozen=True, slots=True)
class PackedLetter:
    """A dead letter ready to be stored.

    Attributes:
        checksum: Of its bytes, and of what says which records they are.
    """

    letter: DeadLetter
    checksum: int
    data: bytes


def pack_letters(letters: Iterable[DeadLetter]) -> list[PackedLetter]:
    """Compress and sum up; safe in any thread, and mostly without the interpreter lock."""
    packed = []
    for letter in letters:
        stamp_ns = letter.first_stamp_ns
        draft = FrameDraft(
            letter.kind,
            letter.raw,
            letter.first_line,
            letter.lines,
            letter.part,
            stamp_ns,
            stamp_ns,
            stamp_ns,
            letter.received_ns,
            letter.generation,
        )
        frame = pack_draft(letter.stream_id, draft)
        packed.append(PackedLetter(letter, numbered(frame.checksum, 0, letter.unnamed), frame.data))
    return packed


def unpack_letter(row: LetterRow) -> HeldLetter:
    """The letter of a row of `LETTER_COLUMNS`.

    Raises:
        FrameDamagedError: It is not what was stored.
    """
    letter_id, stream_id, kind, first_line, lines, part, generation, stamp_ns, received_ns = row[:9]
    unnamed, maybe_stored, status, reason, noticed_ns, attempts, replay_ns = row[9:16]
    raw_bytes, checksum, data = row[16:]
    place = (stream_id, kind, raw_bytes, first_line, lines, part)
    stamps = (stamp_ns, stamp_ns, stamp_ns, received_ns)
    try:
        frame = unpack((0, *place, *stamps, unnamed, checksum, data, generation))
    except FrameDamagedError as error:
        raise FrameDamagedError(f"dead letter {letter_id} is not what was stored") from error
    letter = DeadLetter(
        stream_id,
        FrameKind(kind),
        first_line,
        lines,
        stamp_ns,
        received_ns,
        frame.raw,
        status,
        reason,
        noticed_ns,
        part=part,
        generation=generation,
        unnamed=unnamed,
        maybe_stored=bool(maybe_stored),
    )
    return HeldLetter(letter_id, letter, attempts, replay_ns)


def put_letters(
    connection: sqlite3.Connection,
    sink: str,
    letters: Sequence[PackedLetter],
    *,
    attempts: int = 1,
    first_id: int | None = None,
) -> None:
    """Store dead letters of a sink, and count them; the first one may have an id already."""
    ids = [first_id, *[None] * len(letters)]
    connection.executemany(
        _INSERT,
        [(one_id, *_row(sink, one, attempts)) for one_id, one in zip(ids, letters, strict=False)],
    )
    _count(
        connection,
        sink,
        letters=len(letters),
        lines=sum(one.letter.lines for one in letters),
        size_bytes=sum(one.letter.size_bytes for one in letters),
    )


def letter_bytes(connection: sqlite3.Connection, sink: str) -> int:
    """What the sink's dead letters count against `dead_letters.max_size`."""
    row = connection.execute("SELECT letter_bytes FROM sink WHERE name = ?", (sink,)).fetchone()
    return int(row[0]) if row else 0


def all_letter_bytes(connection: sqlite3.Connection) -> int:
    """What dead letters take, of all sinks there ever were."""
    row = connection.execute("SELECT coalesce(sum(letter_bytes), 0) FROM sink").fetchone()
    return int(row[0])


def letters_to_replay(
    connection: sqlite3.Connection, sink: str, *, max_bytes: int
) -> tuple[list[HeldLetter], list[int]]:
    """About `max_bytes` of what is to be sent again, in order; and the ids of damaged ones."""
    rows = connection.execute(
        f"SELECT {LETTER_COLUMNS} FROM dead_letter"  # noqa: S608 - a constant
        " WHERE sink = ? AND replay_ns <> 0 ORDER BY id",
        (sink,),
    )
    held: list[HeldLetter] = []
    damaged: list[int] = []
    size = 0
    for row in rows:
        size += number(row[16])
        if held and size > max_bytes:
            break
        try:
            held.append(unpack_letter(row))
        except FrameDamagedError:
            damaged.append(row[0])
    return held, damaged


@dataclass(frozen=True, slots=True)
class Settlement:
    """What became of one letter, ready to be stored; see `Replayed`."""

    letter_id: int
    again: Sequence[PackedLetter]
    dropped: int


def pack_settlements(outcome: Mapping[int, Replayed]) -> list[Settlement]:
    """Compress what is refused again; safe in any thread."""
    return [
        Settlement(letter_id, pack_letters(one.again), one.dropped)
        for letter_id, one in outcome.items()
    ]


def settle(connection: sqlite3.Connection, sink: str, settlements: Sequence[Settlement]) -> None:
    """Take letters out that were sent again, put back what was refused again, and count."""
    for one in settlements:
        known = connection.execute(
            "SELECT lines, size_bytes, attempts FROM dead_letter WHERE id = ? AND sink = ?",
            (one.letter_id, sink),
        ).fetchone()
        if known is not None:
            _settle(connection, sink, one, known)


def _settle(
    connection: sqlite3.Connection, sink: str, one: Settlement, known: tuple[int, int, int]
) -> None:
    lines, size_bytes, attempts = known
    again = sum(packed.letter.lines for packed in one.again)
    connection.execute("DELETE FROM dead_letter WHERE id = ?", (one.letter_id,))
    _count(connection, sink, letters=-1, lines=-lines, size_bytes=-size_bytes)
    # What is left keeps the number that people know it by; only further pieces get new ones.
    put_letters(connection, sink, one.again, attempts=attempts + 1, first_id=one.letter_id)
    count_dropped(connection, sink, DropReason.REFUSED_UNNAMED, one.dropped)
    connection.execute(
        "UPDATE sink SET delivered = delivered + ? WHERE name = ?",
        (lines - again - one.dropped, sink),
    )


def ask_for_replay(
    connection: sqlite3.Connection, sink: str, chosen: Choice, now_ns: int, *, after_id: int
) -> int:
    """Mark some of the chosen letters to be sent again; returns the last id, 0 when all are.

    One that holds no bytes cannot be sent, and one that is waiting already only goes on waiting.
    """
    rows = chosen.rows(
        connection,
        sink,
        where="unnamed = 0 AND replay_ns = 0",
        after_id=after_id,
        limit=_CHUNK_LETTERS,
    )
    connection.executemany(
        "UPDATE dead_letter SET replay_ns = ? WHERE id = ?", [(now_ns, row[0]) for row in rows]
    )
    return rows[-1][0] if rows else 0


def drop_letters(
    connection: sqlite3.Connection, sink: str, chosen: Choice, *, after_id: int
) -> int:
    """Delete some of the chosen letters, and count them; returns the last id, 0 when all are."""
    rows = chosen.rows(connection, sink, after_id=after_id, limit=_CHUNK_LETTERS)
    connection.executemany("DELETE FROM dead_letter WHERE id = ?", [(row[0],) for row in rows])
    lines = sum(row[1] for row in rows)
    size_bytes = sum(row[2] for row in rows)
    _count(connection, sink, letters=-len(rows), lines=-lines, size_bytes=-size_bytes)
    count_dropped(connection, sink, DropReason.DEAD_LETTERS_DROPPED, lines)
    return rows[-1][0] if rows else 0


def _count(
    connection: sqlite3.Connection, sink: str, *, letters: int, lines: int, size_bytes: int
) -> None:
    if letters:
        connection.execute(
            "UPDATE sink SET letters = letters + ?, dead_lettered = dead_lettered + ?,"
            " letter_bytes = letter_bytes + ? WHERE name = ?",
            (letters, lines, size_bytes, sink),
        )


def _row(sink: str, packed: PackedLetter, attempts: int) -> tuple[int | str | bytes, ...]:
    letter = packed.letter
    return (
        sink,
        letter.stream_id,
        letter.kind,
        letter.first_line,
        letter.lines,
        letter.part,
        letter.generation,
        letter.first_stamp_ns,
        letter.received_ns,
        letter.unnamed,
        letter.maybe_stored,
        letter.status,
        letter.reason,
        letter.noticed_ns,
        attempts,
        letter.size_bytes,
        len(letter.raw),
        packed.checksum,
        packed.data,
    )
