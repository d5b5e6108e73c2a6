"""Which frames a sink was handed, as far as the next start has to know it.

What a sink began to write must come again as it was, also after a crash. So it must not be dropped
before the sink is there to say so. The note stands in what is remembered for the sink, so that it
is written in one transaction with what the sink is going to be handed, and a renamed sink takes it
along.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3

#: Under which key of a sink's state it stands.
HANDED_KEY = "engine:handed"


def handed_note(frame_id: int) -> dict[str, bytes]:
    """What to remember for a sink that is about to be handed everything up to this frame."""
    return {HANDED_KEY: b"%d" % frame_id}


def handed_before(connection: sqlite3.Connection) -> dict[str, int]:
    """By sink, the newest frame of what was noted."""
    rows = connection.execute("SELECT sink, value FROM sink_state WHERE key = ?", (HANDED_KEY,))
    return {sink: int(value) for sink, value in rows}
