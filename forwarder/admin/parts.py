"""What every document and every view is made of: times, sizes, names, tables. Pure.

Ids, names and details come from the API and from destinations, so a view escapes them, and they
are never read as markup.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from sinks.terminal import terminal_safe

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Document = dict[str, Any]

SECOND_NS = 1_000_000_000

#: How a state of a stream or of a sink looks.
COLOURS = {
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

_KIBI = 1024
_UNITS = ("KiB", "MiB", "GiB", "TiB")


# Documents ----------------------------------------------------------------------------------------


def document_json(document: Document, *, indent: int | None = None) -> bytes:
    """A document as JSON in printable ASCII, which is safe to show in any terminal."""
    separators = (",", ":" if indent is None else ": ")
    return json.dumps(document, indent=indent, separators=separators).encode("ascii") + b"\n"


def rfc3339(stamp_ns: int) -> str | None:
    """A time in UTC with its nanoseconds; None for 0, which is "unknown", and past year 9999."""
    if not stamp_ns:
        return None
    seconds, fraction_ns = divmod(stamp_ns, SECOND_NS)
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):  # a server may stamp the year 10000
        return None
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{fraction_ns:09d}Z"


def age_s(since_ns: int, now_ns: int) -> int | None:
    """How long ago a time was; None for 0. A clock that was set back makes no negative age."""
    return max(0, now_ns - since_ns) // SECOND_NS if since_ns else None


# Views --------------------------------------------------------------------------------------------


def heading(daemon: Mapping[str, Any]) -> Text:
    """Whether what is shown is now or the past."""
    text = Text()
    if daemon["running"]:
        pid = daemon["pid"]
        text.append("● ", "green")
        return text.append("daemon running" + (f" (process {pid})" if pid else ""), "bold")
    text.append("○ ", "yellow").append("no daemon running", "bold")
    return text.append(": this is how the last one left things")


def plain_table(first: str, *others: str) -> Table:
    """A plain table; the columns after the first are never broken."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    made.add_column(first, overflow="fold")
    for title in others:
        made.add_column(title, no_wrap=True)
    return made


def bullets(items: Iterable[tuple[Text, Text]]) -> Table:
    """A list of marks and texts; what is broken goes on below the text, not below the mark."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column()
    grid.add_column(overflow="fold")
    for mark, text in items:
        grid.add_row(mark, text)
    return grid


def stream_name(stream: Mapping[str, Any]) -> str:
    """`sandbox/container (name)`, as far as there is one."""
    names = [stream["sandbox_id"], stream["container"]]
    name = "/".join(terminal_safe(one) for one in names if one)
    return f"{name} ({terminal_safe(stream['display_name'])})" if stream["display_name"] else name


def state_text(state: str) -> Text:
    """A state in its colour."""
    return Text(terminal_safe(state).replace("_", " "), COLOURS.get(state, ""))


def thousands(number: int) -> str:
    """1,234."""
    return f"{number:,}"


def plural(number: int, noun: str) -> str:
    """`1 line`, `2 lines`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def size(size_bytes: int) -> str:
    """`12.3 MiB`."""
    if size_bytes < _KIBI:
        return f"{size_bytes} B"
    amount = size_bytes / _KIBI
    for unit in _UNITS[:-1]:
        if amount < _KIBI:
            return f"{amount:.1f} {unit}"
        amount /= _KIBI
    return f"{amount:,.1f} {_UNITS[-1]}"


def duration(seconds: int | None) -> str:
    """The two largest units: `3h 12m`; empty for None."""
    if seconds is None:
        return ""
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes}m"
    return f"{minutes}m {seconds}s" if minutes else f"{seconds}s"


def second(stamp: str | None) -> str:
    """A time to the second, as a person reads it; empty for None."""
    return "" if stamp is None else stamp[:19].replace("T", " ") + "Z"
