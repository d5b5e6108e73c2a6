"""The status document for people: what is wrong first, thousands of streams on one screen. Pure.

Ids, names and details come from the API and from destinations, so they are escaped, and they are
never read as markup.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from forwarder.terminal import terminal_safe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from rich.console import RenderableType

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
    table = _table("STREAM", "STATE", "FOR")
    table.add_column("LINES", justify="right", no_wrap=True)
    table.add_column("GAPS", justify="right", no_wrap=True)
    table.add_column("LAST LINE")
    table.add_column("REASON", overflow="fold")
    for stream in sorted(streams, key=_rank)[:shown]:
        table.add_row(
            Text(_name(stream)),
            _state(stream["state"]),
            _age(stream["state_age_s"]),
            _count(stream["lines"]),
            Text(_count(stream["gaps"]), "bold red") if stream["gaps"] else "",
            _second(stream["last_stamp"]),
            Text(terminal_safe(stream["detail"])),
        )
    rest = len(streams) - shown
    more = [Text(f"… and {_count(rest)} more; --json shows all", "dim")] if rest > 0 else []
    return [Text(), table, *more]


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
