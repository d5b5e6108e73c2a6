"""What `spool` shows: how full the spool is and for whom, as a JSON document and as a view. Pure.

The document is a contract: keys are only ever added, and `format` grows when one changes its
meaning. Times are RFC 3339 in UTC with nanoseconds, or null when there is none; sizes are bytes.

    format        1
    generated_at  when the document was made
    daemon        running, pid (null when none runs, or when it is not known)
    spool         as in `forwarder.admin.status`, and: path, when_full, oldest_frame_age_s
    notes         name, text, since, state_age_s: what is wrong with the spool
    sinks         name, state, pending, pending_bytes, oldest_pending, oldest_pending_age_s,
                  dead_letters, dead_letter_bytes, dead_letter_max_bytes
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from forwarder.admin.dead_letters import letter_room
from forwarder.admin.parts import (
    age_s,
    duration,
    heading,
    plain_table,
    plural,
    second,
    size,
    state_text,
    thousands,
)
from forwarder.admin.status import status_document
from forwarder.admin.view import note_text
from sinks.terminal import terminal_safe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from rich.console import RenderableType

    from forwarder.admin.parts import Document
    from forwarder.spool.interface import SpoolOverview

    Record = Mapping[str, Any]

FORMAT = 1

_SINK_KEYS = (
    "name",
    "state",
    "pending",
    "pending_bytes",
    "oldest_pending",
    "oldest_pending_age_s",
    "dead_letters",
    "dead_letter_bytes",
    "dead_letter_max_bytes",
)


def spool_document(
    overview: SpoolOverview,
    *,
    path: Path,
    when_full: str,
    daemon_pid: int | None,
    now_ns: int,
    letter_limits: Mapping[str, int] = MappingProxyType({}),
) -> Document:
    """The document; see the module for its shape.

    Args:
        overview: The spool's numbers.
        path: The database.
        when_full: What happens when it has reached its limit.
        daemon_pid: As for `status_document`.
        now_ns: The wall clock.
        letter_limits: As for `status_document`.
    """
    status = status_document(
        overview, daemon_pid=daemon_pid, now_ns=now_ns, letter_limits=letter_limits
    )
    return {
        "format": FORMAT,
        "generated_at": status["generated_at"],
        "daemon": status["daemon"],
        "spool": {
            "path": str(path),
            **status["spool"],
            "oldest_frame_age_s": age_s(overview.oldest_frame_ns, now_ns),
            "when_full": when_full,
        },
        "notes": [note for note in status["notes"] if note["name"] == "spool"],
        "sinks": [{key: sink[key] for key in _SINK_KEYS} for sink in status["sinks"]],
    }


def render_spool(document: Record) -> RenderableType:
    """The view of a document, for `rich.console.Console.print`."""
    spool = document["spool"]
    return Group(
        heading(document["daemon"]),
        Text(f"  {terminal_safe(spool['path'])}", "dim"),
        *[note_text(note) for note in document["notes"]],
        Text(),
        _sizes(spool),
        Text(),
        _backlogs(document["sinks"]),
    )


def _sizes(spool: Record) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(style="dim", overflow="fold")
    grid.add_row("file", size(spool["size_bytes"]), "pages that are free in it are used again")
    grid.add_row("WAL", size(spool["wal_bytes"]), "the newest commits, not yet in the file")
    grid.add_row("in use", size(spool["used_bytes"]), _limit(spool))
    grid.add_row("frames", thousands(spool["frames"]), _oldest(spool))
    if spool["kept_lines"]:
        lines = f"{plural(spool['kept_lines'], 'line')} that every sink has, before compression"
        grid.add_row("kept", size(spool["kept_bytes"]), f"{lines}: tails of streams, spool.keep")
    return grid


def _limit(spool: Record) -> str:
    max_bytes = spool["max_bytes"]
    if max_bytes is None:
        return "both, without free pages; no limit but the disk (spool.max_size)"
    percent = 100 * spool["used_bytes"] // max_bytes
    limit = f"{percent} % of spool.max_size, {size(max_bytes)}"
    return f"both, without free pages: {limit}; when full: {spool['when_full']}"


def _oldest(spool: Record) -> str:
    if spool["oldest_frame"] is None:
        return ""
    age = duration(spool["oldest_frame_age_s"])
    return f"the oldest was received {age} ago, at {second(spool['oldest_frame'])}"


def _backlogs(sinks: Sequence[Record]) -> RenderableType:
    if not sinks:
        return Text("No sink has been opened yet.", "dim")
    table = plain_table("SINK", "STATE")
    for title in ("BACKLOG", "BYTES", "OLDEST LINE", "DEAD LETTERS"):
        table.add_column(title, justify="right", no_wrap=True)
    for sink in sinks:
        pending = sink["pending"]
        age = duration(sink["oldest_pending_age_s"])
        table.add_row(
            Text(terminal_safe(sink["name"])),
            state_text(sink["state"]),
            plural(pending, "line") if pending else Text("none", "dim"),
            size(sink["pending_bytes"]) if pending else "",
            f"{age} ago" if age else "",
            _dead_letters(sink),
        )
    return table


def _dead_letters(sink: Record) -> Text:
    """`12, 1.2 MiB of 256.0 MiB`: they are in the spool, too, until somebody takes them out."""
    if not sink["dead_letters"]:
        return Text()
    room = letter_room(sink["dead_letter_bytes"], sink["dead_letter_max_bytes"])
    return Text(f"{thousands(sink['dead_letters'])}, ").append_text(room)
