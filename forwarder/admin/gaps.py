"""What `gaps` shows: one JSON document, and a view of it in plain words. Pure.

The document is a contract: keys are only ever added, and `format` grows when one changes its
meaning.

    format        1
    generated_at  when the document was made
    totals        gaps, unfilled, filled: of the sandboxes asked for, listed below or not
    gaps          in the order in which they were noticed: id, sandbox_id, container, display_name;
                  every key of `forwarder.model.Gap.record`; and its times once more as RFC 3339 in
                  UTC, or null when unknown: from_stamp, to_stamp, noticed_at, filled_at
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Group
from rich.text import Text

from forwarder.admin.parts import (
    SECOND_NS,
    bullets,
    duration,
    plain_table,
    plural,
    rfc3339,
    second,
    size,
    stream_name,
    thousands,
)
from forwarder.model import GapBounds, GapCause, GapKind
from sinks.terminal import terminal_safe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table

    from forwarder.admin.parts import Document
    from forwarder.spool.overview import GapEntry

    Record = Mapping[str, Any]

FORMAT = 1

#: Gaps shown, the newest ones: they stand last, where the eye is.
GAPS_SHOWN = 50

#: Why lines are missing, in words for a person who has not read the code.
CAUSES: Mapping[str, str] = {
    GapCause.ANCHOR_LOST: "the log session was lost, and the log read anew no longer reached back"
    " to the last line taken",
    GapCause.REPLAY_GAP: "the platform no longer had the bytes at which reading was to go on",
    GapCause.MESSAGE_TOO_LARGE: "the platform sent these lines in a message too large to be read",
    GapCause.TAIL_UNKNOWN: "the sandbox ended, and its last lines could no longer be read",
    GapCause.NEVER_FOLLOWED: "the sandbox ended before anything of it could be read",
    GapCause.RESTARTED: "the container was restarted before its last lines were read",
    GapCause.SPOOL_FULL: "the spool was at spool.max_size, and the oldest lines were dropped, as"
    " spool.when_full says",
    GapCause.SPOOL_DAMAGED: "the disk of state_dir gave back something else than was stored",
}

#: What a table needs beside the streams' names, for the words to be readable.
_OTHER_COLUMNS = 110


def gaps_document(
    entries: Sequence[GapEntry], *, now_ns: int, sandbox_id: str = "", open_only: bool = False
) -> Document:
    """The document; see the module for its shape.

    Args:
        entries: Every gap of the spool.
        now_ns: The wall clock.
        sandbox_id: Only this sandbox's gaps; of all sandboxes when empty.
        open_only: List only gaps that are not filled; they are counted all the same.
    """
    asked = [one for one in entries if sandbox_id in {"", one.key.sandbox_id}]
    filled = sum(1 for one in asked if one.gap.filled_ns)
    return {
        "format": FORMAT,
        "generated_at": rfc3339(now_ns),
        "totals": {"gaps": len(asked), "unfilled": len(asked) - filled, "filled": filled},
        "gaps": [_gap(one) for one in asked if not (open_only and one.gap.filled_ns)],
    }


def _gap(entry: GapEntry) -> Document:
    gap = entry.gap
    return {
        "id": entry.id,
        "sandbox_id": entry.key.sandbox_id,
        "container": entry.key.container,
        "display_name": entry.display_name,
        **gap.record(),
        "from_stamp": rfc3339(gap.from_stamp_ns),
        "to_stamp": rfc3339(gap.to_stamp_ns),
        "noticed_at": rfc3339(gap.noticed_ns),
        "filled_at": rfc3339(gap.filled_ns),
    }


def render_gaps(document: Record, *, gaps_shown: int = GAPS_SHOWN) -> RenderableType:
    """The view of a document, for `rich.console.Console.print`.

    Args:
        document: From `gaps_document`.
        gaps_shown: At most so many gaps, the newest; those before them are counted.
    """
    gaps: Sequence[Record] = document["gaps"]
    if not gaps:
        return _summary(document["totals"])
    earlier = len(gaps) - gaps_shown
    more = [Text(f"… {thousands(earlier)} earlier; --json shows all", "dim"), Text()]
    return Group(
        *(more if earlier > 0 else ()),
        _GapList(gaps[-gaps_shown:]),
        Text(),
        _summary(document["totals"]),
    )


def _summary(totals: Record) -> Text:
    """The last line: all that somebody in a hurry reads."""
    if not totals["gaps"]:
        return Text("No gaps: no line is known to be missing.")
    parts = []
    if totals["unfilled"]:
        words = f"{thousands(totals['unfilled'])} open, where lines are missing or may be"
        parts.append(Text(words, "bold red"))
    if totals["filled"]:
        words = f"{thousands(totals['filled'])} filled: the lines were found after all"
        parts.append(Text(words, "green"))
    text = Text().append(plural(totals["gaps"], "gap"), "bold").append(": ")
    return text.append_text(Text("; ").join(parts)).append(".")


class _GapList:
    """A table where it fits; else blocks, so that every id stays whole and can be copied."""

    def __init__(self, gaps: Sequence[Record]) -> None:
        self._gaps = gaps

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        longest = max(cell_len(stream_name(gap)) for gap in self._gaps)
        fits = longest + _OTHER_COLUMNS <= options.max_width
        yield _gap_table(self._gaps) if fits else bullets(map(_gap_block, self._gaps))


def _gap_table(gaps: Sequence[Record]) -> Table:
    table = plain_table("NOTICED", "STREAM", "STATE")
    table.columns[0].no_wrap = True
    for title in ("MISSING", "BECAUSE"):
        table.add_column(title, overflow="fold")
    for gap in gaps:
        table.add_row(
            second(gap["noticed_at"]), Text(stream_name(gap)), _state(gap), missing(gap), cause(gap)
        )
    return table


def _gap_block(gap: Record) -> tuple[Text, Text]:
    mark = Text("✓", "green") if gap["filled_ns"] else Text("✗", "red")
    text = Text(second(gap["noticed_at"])).append(" · ", "dim").append(stream_name(gap), "bold")
    text.append(" · ", "dim").append_text(_state(gap))
    text.append(f"\n{'was missing' if gap['filled_ns'] else 'missing'} {missing(gap)}")
    return mark, text.append(f"\nbecause {cause(gap)}", "dim")


def _state(gap: Record) -> Text:
    if not gap["filled_ns"]:
        return Text("open", "bold red")
    return Text(f"filled {second(gap['filled_at'])}".rstrip(), "green")


def cause(gap: Record) -> str:
    """Why the lines are missing; a cause that a newer version wrote is shown as it is."""
    return CAUSES.get(gap["cause"], terminal_safe(gap["cause"]))


def missing(gap: Record) -> str:
    """What is missing: how sure that is, which lines, how much, from when to when."""
    sure = "exactly" if gap["bounds"] == GapBounds.EXACT else "at most"
    known_bytes = gap["missing_bytes"]
    parts = (
        f"{sure} {_which(gap)}",
        f"generation {gap['generation']}" if gap["generation"] else "",
        size(known_bytes) if known_bytes is not None else "",
        _when(gap),
    )
    return ", ".join(filter(None, parts))


def _which(gap: Record) -> str:
    match gap["kind"]:
        case GapKind.TAIL:
            return _after(gap) if gap["after_line"] >= 0 else "the whole log"
        case GapKind.DROPPED:
            return _dropped(gap)
        case _:
            return _between(gap)


def _after(gap: Record) -> str:
    return f"everything after line {thousands(gap['after_line'])}"


def _dropped(gap: Record) -> str:
    """Lines that have numbers, since they were taken."""
    first, before = gap["after_line"] + 1, gap["before_line"]
    if before is None:
        return f"lines from {thousands(first)} on"
    lines = before - first
    if lines == 1:
        return f"line {thousands(first)}"
    return f"lines {thousands(first)} to {thousands(before - 1)} ({plural(lines, 'line')})"


def _between(gap: Record) -> str:
    """Lines that never had numbers: only their neighbours do."""
    after, before = gap["after_line"], gap["before_line"]
    if after < 0:
        return "the beginning" if before is None else f"what was before line {thousands(before)}"
    if before is None:
        return f"what followed line {thousands(after)}"
    return f"what was between line {thousands(after)} and line {thousands(before)}"


def _when(gap: Record) -> str:
    """By the server's stamps around the gap; one second or day is not told twice."""
    first, last = second(gap["from_stamp"]), second(gap["to_stamp"])
    if not (first and last):
        return f"from {first} on" if first else f"up to {last}" if last else ""
    if first == last:
        return f"within {first}"
    day, time = last.split(" ")
    shown = time if first.startswith(day) else last
    length_s = (gap["to_stamp_ns"] - gap["from_stamp_ns"]) // SECOND_NS
    return f"from {first} to {shown}" + (f" ({duration(length_s)})" if length_s > 0 else "")
