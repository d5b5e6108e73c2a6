"""What `checkpoints` shows: where each stream stands, as a JSON document and as a view. Pure.

The document is a contract: keys are only ever added, and `format` grows when one changes its
meaning. Stamps are shown twice, as RFC 3339 in UTC (null when unknown) and in nanoseconds.

    format        1
    generated_at  when the document was made
    streams       sandbox_id, container, display_name, state, bytes; and the position, see
                  `forwarder.model.Checkpoint`: generation, next_line, open_part, last_stamp,
                  last_stamp_ns, high_stamp, high_stamp_ns, session_id, session_offset
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Group
from rich.text import Text

from forwarder.admin.parts import (
    COLOURS,
    bullets,
    plain_table,
    plural,
    rfc3339,
    second,
    size,
    state_text,
    stream_name,
    thousands,
)
from sinks.terminal import terminal_safe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table

    from forwarder.admin.parts import Document
    from forwarder.spool.overview import StreamPosition

    Record = Mapping[str, Any]

FORMAT = 1

#: What a table needs beside the streams' names and sessions.
_OTHER_COLUMNS = 76


def checkpoints_document(positions: Sequence[StreamPosition], *, now_ns: int) -> Document:
    """The document; see the module for its shape."""
    return {
        "format": FORMAT,
        "generated_at": rfc3339(now_ns),
        "streams": [_stream(one) for one in positions],
    }


def _stream(position: StreamPosition) -> Document:
    at = position.checkpoint
    return {
        "sandbox_id": position.key.sandbox_id,
        "container": position.key.container,
        "display_name": position.display_name,
        "state": str(position.state),
        "bytes": position.bytes,
        **asdict(at),
        "last_stamp": rfc3339(at.last_stamp_ns),
        "high_stamp": rfc3339(at.high_stamp_ns),
    }


def render_checkpoints(document: Record) -> RenderableType:
    """The view of a document, for `rich.console.Console.print`: every stream there is."""
    streams: Sequence[Record] = document["streams"]
    if not streams:
        return Text("No stream was ever followed.")
    total = size(sum(stream["bytes"] for stream in streams))
    return Group(
        _StreamList(streams),
        Text(),
        Text().append(plural(len(streams), "stream"), "bold").append(f", {total} taken"),
    )


class _StreamList:
    """A table where it fits; else a list, so that every id stays whole and can be copied."""

    def __init__(self, streams: Sequence[Record]) -> None:
        self._streams = streams

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        names = max(cell_len(stream_name(stream)) for stream in self._streams)
        sessions = max(cell_len(terminal_safe(stream["session_id"])) for stream in self._streams)
        fits = names + sessions + _OTHER_COLUMNS <= options.max_width
        yield _stream_table(self._streams) if fits else bullets(map(_stream_block, self._streams))


def _stream_table(streams: Sequence[Record]) -> Table:
    table = plain_table("STREAM", "STATE")
    table.columns[0].no_wrap = True
    for title in ("GENERATION", "NEXT LINE"):
        table.add_column(title, justify="right", no_wrap=True)
    for title in ("LAST STAMP", "SESSION"):
        table.add_column(title, no_wrap=True)
    table.add_column("OFFSET", justify="right", no_wrap=True)
    for stream in streams:
        session = terminal_safe(stream["session_id"])
        table.add_row(
            Text(stream_name(stream)),
            state_text(stream["state"]),
            thousands(stream["generation"]),
            _next_line(stream),
            second(stream["last_stamp"]),
            Text(session),
            thousands(stream["session_offset"]) if session else "",
        )
    return table


def _stream_block(stream: Record) -> tuple[Text, Text]:
    text = Text().append(stream_name(stream), "bold").append(" · ", "dim")
    text.append_text(state_text(stream["state"]))
    generation = f"generation {thousands(stream['generation'])}, " if stream["generation"] else ""
    text.append(f"\n{generation}next line {_next_line(stream)}")
    if stream["last_stamp"]:
        text.append(f", last stamp {second(stream['last_stamp'])}")
    if session := terminal_safe(stream["session_id"]):
        offset = thousands(stream["session_offset"])
        text.append(f"\nsession {session} at offset {offset}", "dim")
    return Text("•", COLOURS.get(stream["state"], "")), text


def _next_line(stream: Record) -> str:
    """The number of the next line; of a long line that is not ended, also the parts stored."""
    parts = stream["open_part"]
    more = f" (+ {plural(parts, 'part')} of it)" if parts else ""
    return thousands(stream["next_line"]) + more
