"""The statements about ranges that are sent to a sink again: asked for, under way, and done.

They stand in what is remembered for the sink, under a key of the engine's own, so that they share
its fate: a renamed sink takes them along, and `--new-spool` carries them over.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from forwarder.spool.interface import RangeReplay

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

#: Under which key of a sink's state its ranges are.
RANGES_KEY = "engine:ranges"

#: What says of a request that it is one for a range.
WISH = "replay range"

#: So many that are done are remembered: a request that is found again is not carried out again.
_DONE_KEPT = 8

_EVERYTHING = 2**63 - 2


@dataclass(frozen=True, slots=True)
class RangeRequest:
    """What an operator asks for: the lines of a range once more.

    Attributes:
        id: Tells it from every other request.
        sink: To which sink.
        since_ns: Lines with this stamp or a later one ...
        until_ns: ... and before this one; None for all of them.
        sandbox_id: Only of this sandbox; of all when empty.
        upto_id: Up to which frame the sink was when it was asked for: the rest comes anyway.
        lines: How many lines it was then.
        asked_ns: When that was.
    """

    id: str
    sink: str
    since_ns: int
    until_ns: int | None
    sandbox_id: str
    upto_id: int
    lines: int
    asked_ns: int

    @property
    def wish(self) -> str:
        """What is asked for, for the log."""
        return WISH

    @property
    def about(self) -> str:
        """What it is about, for the log."""
        return "replay of a range"

    def content(self) -> dict[str, object]:
        """What is written down of it."""
        return {"wish": WISH, **dataclasses.asdict(self)}

    @classmethod
    def read(cls, content: dict[str, Any]) -> RangeRequest:
        """The request of what was written down.

        Raises:
            KeyError, TypeError, ValueError: It is none.
        """
        until_ns = content["until_ns"]
        return cls(
            str(content["id"]),
            str(content["sink"]),
            int(content["since_ns"]),
            None if until_ns is None else int(until_ns),
            str(content["sandbox_id"]),
            int(content["upto_id"]),
            int(content["lines"]),
            int(content["asked_ns"]),
        )


@dataclass(frozen=True, slots=True)
class SinkRanges:
    """Those of one sink.

    Attributes:
        waiting: In the order in which they are sent; the first may be under way.
        done: The newest last.
    """

    waiting: Sequence[RangeReplay] = field(default_factory=tuple)
    done: Sequence[RangeReplay] = field(default_factory=tuple)


def ranges_of(connection: sqlite3.Connection, sink: str) -> SinkRanges:
    """Those of one sink."""
    row = connection.execute(
        "SELECT value FROM sink_state WHERE sink = ? AND key = ?", (sink, RANGES_KEY)
    ).fetchone()
    return _read(row[0]) if row else SinkRanges()


def all_ranges(connection: sqlite3.Connection) -> dict[str, SinkRanges]:
    """Those of every sink that is configured and has any."""
    rows = connection.execute(
        "SELECT name, value FROM sink JOIN sink_state ON sink = name AND key = ?"
        " WHERE retired_ns = 0",
        (RANGES_KEY,),
    )
    return {name: _read(value) for name, value in rows}


def being_replayed(connection: sqlite3.Connection) -> int:
    """The frames behind this one may be needed for a replay."""
    positions = [
        one.after_id for ranges in all_ranges(connection).values() for one in ranges.waiting
    ]
    return min(positions, default=_EVERYTHING)


def take_request(connection: sqlite3.Connection, request: RangeRequest) -> None:
    """Note a range that is to be sent again.

    A request that is known is passed over, and one for a sink that there is not.
    """
    row = connection.execute("SELECT cursor FROM sink WHERE name = ?", (request.sink,)).fetchone()
    ranges = ranges_of(connection, request.sink)
    known = {one.id for one in (*ranges.waiting, *ranges.done)}
    if row is None or request.id in known:
        return
    replay = RangeReplay(
        request.id,
        since_ns=request.since_ns,
        until_ns=request.until_ns,
        sandbox_id=request.sandbox_id,
        # After a restored backup the sink may stand further back, and then more comes anyway.
        upto_id=min(request.upto_id, row[0]),
        asked_lines=request.lines,
        asked_ns=request.asked_ns,
    )
    waiting = sorted([*ranges.waiting, replay], key=lambda one: one.asked_ns)
    _write(connection, request.sink, waiting, ranges.done)


def note_progress(connection: sqlite3.Connection, sink: str, replay: RangeReplay) -> None:
    """Store how far one is; one that has ended is done."""
    ranges = ranges_of(connection, sink)
    done = list(ranges.done)
    waiting = [replay if one.id == replay.id else one for one in ranges.waiting]
    if replay.ended_ns:
        waiting = [one for one in waiting if one.id != replay.id]
        done = [*done, replay][-_DONE_KEPT:]
    _write(connection, sink, waiting, done)


def first_in_range(connection: sqlite3.Connection, replay: RangeReplay) -> int:
    """The first frame that may have something of what is still to be sent; 0 when none has."""
    row = connection.execute(
        "SELECT id FROM frame WHERE id > ?1 AND id <= ?2"
        " AND (high_stamp_ns >= ?3 OR last_stamp_ns >= ?3) AND (?4 = '' OR stream_id IN"
        " (SELECT id FROM stream WHERE sandbox_id = ?4)) ORDER BY id LIMIT 1",
        (replay.after_id, replay.upto_id, replay.since_ns, replay.sandbox_id),
    ).fetchone()
    return int(row[0]) if row else 0


def _read(value: bytes) -> SinkRanges:
    content = orjson.loads(value)
    return SinkRanges(
        tuple(RangeReplay(**one) for one in content["waiting"]),
        tuple(RangeReplay(**one) for one in content["done"]),
    )


def _write(
    connection: sqlite3.Connection,
    sink: str,
    waiting: Sequence[RangeReplay],
    done: Sequence[RangeReplay],
) -> None:
    connection.execute(
        "INSERT INTO sink_state VALUES (?, ?, ?)"
        " ON CONFLICT (sink, key) DO UPDATE SET value = excluded.value",
        (sink, RANGES_KEY, orjson.dumps({"waiting": list(waiting), "done": list(done)})),
    )
