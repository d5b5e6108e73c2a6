"""The status document for people: what is wrong first, thousands of streams on one screen. Pure.

Ids, names and details come from the API and from destinations, so they are escaped, and they are
never read as markup.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.cells import cell_len
from rich.console import Group
from rich.table import Table
from rich.text import Text

from forwarder.terminal import terminal_safe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

    Record = Mapping[str, Any]

#: Streams shown, the ones in trouble first.
STREAMS_SHOWN = 20

_COLOURS = {
    "running": "green",
    "following": "green",
    "complete": "dim",
    "waiting": "cyan",
    "starting": "cyan",
    "retrying": "yellow",
    "reconnecting": "yellow",
    "held": "bold red",
    "not_found": "red",
}

#: What needs a person comes first.
_TROUBLE = ("held", "not_found", "reconnecting")
_CALM = ("following", "waiting", "complete")

#: What a table of streams needs beside the ids, for reasons to be readable.
_OTHER_COLUMNS = 76

_KIBI = 1024
_UNITS = ("KiB", "MiB", "GiB", "TiB")


def render_status(document: Record, *, streams_shown: int = STREAMS_SHOWN) -> RenderableType:
    """The view of a status document, for `rich.console.Console.print`.

    Args:
        document: From `status_document`.
        streams_shown: At most so many streams; the rest is counted.
    """
    return Group(
        _heading(document),
        *[_note(note) for note in document["notes"]],
        Text(),
        _sinks(document["sinks"]),
        Text(),
        _summary(document["totals"]),
        *_streams(document["streams"], streams_shown),
    )


def _heading(document: Record) -> Text:
    daemon, spool = document["daemon"], document["spool"]
    heading = Text()
    if daemon["running"]:
        heading.append("● ", "green")
        pid = daemon["pid"]
        heading.append("daemon running" + (f" (process {pid})" if pid else ""), "bold")
    else:
        heading.append("○ ", "yellow")
        heading.append("no daemon running", "bold")
        heading.append(": this is how the last one left things")
    heading.append(
        f"\n  spool {_size(spool['size_bytes'])}, {_count(spool['frames'])} frames", "dim"
    )
    return heading


def _note(note: Record) -> Text:
    """Trouble that no stream and no sink shows."""
    text = terminal_safe(note["text"])
    if note["name"] != "discovery":
        return Text(f"✗ {terminal_safe(note['name'])}: {text}", "bold red")
    age = _age(note["state_age_s"])
    for_so_long = f" for {age}" if age else ""
    return Text(f"✗ discovery failing{for_so_long}: {text}; new sandboxes are not seen", "bold red")


def _sinks(sinks: Sequence[Record]) -> RenderableType:
    if not sinks:
        return Text("No sink has been opened yet.", "dim")
    table = _table("SINK", "STATE", "FOR")
    for title in ("DELIVERED", "PENDING", ""):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("REASON", overflow="fold")
    for sink in sinks:
        table.add_row(
            Text(terminal_safe(sink["name"])),
            _state(sink["state"]),
            _age(sink["state_age_s"]),
            _count(sink["delivered"]),
            _count(sink["pending"]),
            _size(sink["pending_bytes"]) if sink["pending"] else "",
            Text(" ".join(filter(None, (terminal_safe(sink["detail"]), _set_aside(sink))))),
        )
    return table


def _set_aside(sink: Record) -> str:
    """Lines that took another way than to the destination, when there are any."""
    counts = ((name, sink[name]) for name in ("filtered", "dead_lettered", "dropped"))
    told = ", ".join(f"{_count(count)} {name.replace('_', '-')}" for name, count in counts if count)
    return f"({told})" if told else ""


def _summary(totals: Record) -> Text:
    summary = Text()
    summary.append(_plural(totals["streams"], "stream"), "bold")
    for state in (*_TROUBLE, *_CALM):
        if count := totals["streams_by_state"].get(state, 0):
            summary.append(" · ")
            summary.append(f"{_count(count)} {state.replace('_', ' ')}", _COLOURS[state])
    summary.append(f"\n{_plural(totals['lines'], 'line')}, {_size(totals['bytes'])} taken", "dim")
    if totals["gaps"]:
        summary.append(" · ", "dim")
        summary.append(f"{_plural(totals['gaps'], 'gap')}: lines are missing", "bold red")
    return summary


def _streams(streams: Sequence[Record], shown: int) -> list[RenderableType]:
    if not streams:
        return []
    seen = sorted(streams, key=_rank)[:shown]
    rest = len(streams) - shown
    more = [Text(f"… and {_count(rest)} more; --json shows all", "dim")] if rest > 0 else []
    return [Text(), _StreamList(seen), *more]


class _StreamList:
    """A table where it fits; else a list, so that every id stays whole and can be copied."""

    def __init__(self, streams: Sequence[Record]) -> None:
        self._streams = streams

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        longest = max(cell_len(_name(stream)) for stream in self._streams)
        fits = longest + _OTHER_COLUMNS <= options.max_width
        yield _stream_table(self._streams) if fits else _stream_list(self._streams)


def _stream_table(streams: Sequence[Record]) -> Table:
    table = _table("STREAM", "STATE", "FOR")
    table.columns[0].no_wrap = True
    table.add_column("LINES", justify="right", no_wrap=True)
    table.add_column("GAPS", justify="right", no_wrap=True)
    table.add_column("LAST LINE")
    table.add_column("REASON", overflow="fold")
    for stream in streams:
        table.add_row(
            Text(_name(stream)),
            _state(stream["state"]),
            _age(stream["state_age_s"]),
            _count(stream["lines"]),
            Text(_count(stream["gaps"]), "bold red") if stream["gaps"] else "",
            _second(stream["last_stamp"]),
            Text(terminal_safe(stream["detail"])),
        )
    return table


def _stream_list(streams: Sequence[Record]) -> Table:
    grid = Table.grid(padding=(0, 1))
    grid.add_column()
    grid.add_column(overflow="fold")
    for stream in streams:
        colour = _COLOURS.get(stream["state"], "")
        grid.add_row(Text("•", colour), _stream_words(stream))
    return grid


def _stream_words(stream: Record) -> Text:
    words = Text().append(_name(stream), "bold")
    state = _state(stream["state"])
    for part in (
        state.append(f" {_age(stream['state_age_s'])}"),
        Text(_plural(stream["lines"], "line")),
        Text(_plural(stream["gaps"], "gap") if stream["gaps"] else "", "bold red"),
        Text(f"last {_second(stream['last_stamp'])}" if stream["last_stamp"] else ""),
        Text(terminal_safe(stream["detail"])),
    ):
        if part:
            words.append(" · ").append_text(part)
    return words


def _rank(stream: Record) -> tuple[int, str, str]:
    """Trouble first, then gaps, then what is going on, then what is over."""
    state = stream["state"]
    if state in _TROUBLE:
        rank = _TROUBLE.index(state)
    elif stream["gaps"]:
        rank = len(_TROUBLE)
    else:
        rank = len(_TROUBLE) + 1 + (_CALM.index(state) if state in _CALM else 0)
    return rank, stream["sandbox_id"], stream["container"]


def _name(stream: Record) -> str:
    names = [stream["sandbox_id"], stream["container"]]
    name = "/".join(terminal_safe(one) for one in names if one)
    return f"{name} ({terminal_safe(stream['display_name'])})" if stream["display_name"] else name


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    table.add_column(first, overflow="fold")
    for title in others:
        table.add_column(title, no_wrap=True)
    return table


def _state(state: str) -> Text:
    return Text(terminal_safe(state).replace("_", " "), _COLOURS.get(state, ""))


def _count(number: int) -> str:
    return f"{number:,}"


def _plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _size(size_bytes: int) -> str:
    if size_bytes < _KIBI:
        return f"{size_bytes} B"
    size = size_bytes / _KIBI
    for unit in _UNITS[:-1]:
        if size < _KIBI:
            return f"{size:.1f} {unit}"
        size /= _KIBI
    return f"{size:,.1f} {_UNITS[-1]}"


def _age(age_s: int | None) -> str:
    """The two largest units of a duration."""
    if age_s is None:
        return ""
    minutes, seconds = divmod(age_s, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes}m"
    return f"{minutes}m {seconds}s" if minutes else f"{seconds}s"


def _second(stamp: str | None) -> str:
    """A time to the second, as a person reads it."""
    return "" if stamp is None else stamp[:19].replace("T", " ") + "Z"
