"""The status document for people: what is wrong first, thousands of streams on one screen. Pure.

Ids, names and details come from the API and from destinations, so they are escaped, and they are
never read as markup.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Group
from rich.text import Text

from forwarder.admin.dead_letters import letter_room
from forwarder.admin.parts import (
    COLOURS,
    bullets,
    duration,
    heading,
    plain_table,
    plural,
    second,
    size,
    state_text,
    stream_name,
    thousands,
)
from sinks.terminal import terminal_safe

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table

    Record = Mapping[str, Any]

#: Streams shown, the ones in trouble first.
STREAMS_SHOWN = 20

#: What needs a person comes first.
_TROUBLE = ("held", "not_found", "reconnecting")
_CALM = ("following", "waiting", "complete")

#: What a table of streams needs beside the ids, for reasons to be readable.
_OTHER_COLUMNS = 86


def render_status(document: Record, *, streams_shown: int = STREAMS_SHOWN) -> RenderableType:
    """The view of a status document, for `rich.console.Console.print`.

    Args:
        document: From `status_document`.
        streams_shown: At most so many streams; the rest is counted.
    """
    return Group(
        _heading(document),
        *[note_text(note) for note in sorted(document["notes"], key=_urgency)],
        Text(),
        _sinks(document["sinks"]),
        Text(),
        _summary(document["totals"]),
        *_streams(document["streams"], streams_shown),
    )


def _heading(document: Record) -> Text:
    spool = document["spool"]
    text = heading(document["daemon"])
    return text.append(
        f"\n  spool {size(spool['size_bytes'])}, {thousands(spool['frames'])} frames{_kept(spool)}",
        "dim",
    )


def _kept(spool: Record) -> str:
    """Of what is held, what every sink has."""
    kept = spool["kept_lines"]
    return f"; {plural(kept, 'line')} kept, {size(spool['kept_bytes'])}" if kept else ""


def _urgency(note: Record) -> bool:
    """What is wrong with the spool concerns every stream and every sink."""
    return bool(note["name"] != "spool")


def note_text(note: Record) -> Text:
    """Trouble that no stream and no sink shows."""
    text = terminal_safe(note["text"])
    age = duration(note["state_age_s"])
    if note["name"] == "discovery":
        for_so_long = f" for {age}" if age else ""
        text = f"discovery failing{for_so_long}: {text}; new sandboxes are not seen"
    else:
        since = f" (since {second(note['since'])}, {age})" if age else ""
        text = f"{terminal_safe(note['name'])}: {text}{since}"
    return Text(f"✗ {text}", "bold red")


def _sinks(sinks: Sequence[Record]) -> RenderableType:
    if not sinks:
        return Text("No sink has been opened yet.", "dim")
    table = plain_table("SINK", "STATE", "FOR")
    for title in ("DELIVERED", "PENDING", "", "OLDEST"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("REASON", overflow="fold")
    for sink in sinks:
        table.add_row(
            Text(terminal_safe(sink["name"])),
            state_text(sink["state"]),
            duration(sink["state_age_s"]),
            thousands(sink["delivered"]),
            thousands(sink["pending"]),
            size(sink["pending_bytes"]) if sink["pending"] else "",
            duration(sink["oldest_pending_age_s"]),
            Text(" ".join(filter(None, (_reason(sink), _set_aside(sink))))),
        )
    return Group(table, *_promises(sinks))


def _reason(sink: Record) -> str:
    """Why a sink is not running."""
    return "" if sink["state"] == "running" else terminal_safe(sink["detail"])


def _promises(sinks: Sequence[Record]) -> Iterator[Text]:
    """What running sinks say of themselves: that is no trouble, and too long for a column."""
    told = [sink for sink in sinks if sink["state"] == "running" and sink["detail"]]
    if told:
        yield Text()
    for sink in told:
        yield Text(f"{terminal_safe(sink['name'])}: {terminal_safe(sink['detail'])}", "dim")


def _set_aside(sink: Record) -> str:
    """Lines that took another way than to the destination, when there are any."""
    ways = (_filtered(sink), _dead_letters(sink), _dropped(sink), _replay(sink))
    told = ", ".join(filter(None, ways))
    return f"({told})" if told else ""


def _filtered(sink: Record) -> str:
    return f"{thousands(sink['filtered'])} filtered" if sink["filtered"] else ""


def _dead_letters(sink: Record) -> str:
    """`12 dead letters with 340 lines, 1.2 MiB of 256.0 MiB, 3 to be sent again`."""
    if not sink["dead_letters"]:
        return ""
    letters = plural(sink["dead_letters"], "dead letter")
    room = letter_room(sink["dead_letter_bytes"], sink["dead_letter_max_bytes"]).plain
    again = f", {thousands(sink['replaying'])} to be sent again" if sink["replaying"] else ""
    return f"{letters} with {plural(sink['dead_lettered'], 'line')}, {room}{again}"


def _dropped(sink: Record) -> str:
    """`3 dropped: 2 spool full, 1 damaged`."""
    if not sink["dropped"]:
        return ""
    reasons = ", ".join(
        f"{thousands(lines)} {terminal_safe(reason).replace('_', ' ')}"
        for reason, lines in sink["dropped_for"].items()
    )
    return f"{thousands(sink['dropped'])} dropped" + (f": {reasons}" if reasons else "")


def _replay(sink: Record) -> str:
    """`replay: 1,200 of 5,000 lines, 3 refused`, of the ranges that are sent again."""
    if not sink["ranges"]:
        return ""
    done, asked, refused = (
        sum(one[key] for one in sink["ranges"]) for key in ("lines", "asked_lines", "refused")
    )
    again = f", {thousands(refused)} refused" if refused else ""
    return f"replay: {thousands(done)} of {plural(asked, 'line')}{again}"


def _summary(totals: Record) -> Text:
    summary = Text()
    summary.append(plural(totals["streams"], "stream"), "bold")
    for state in (*_TROUBLE, *_CALM):
        if count := totals["streams_by_state"].get(state, 0):
            summary.append(" · ")
            summary.append(f"{thousands(count)} {state.replace('_', ' ')}", COLOURS[state])
    summary.append(f"\n{plural(totals['lines'], 'line')}, {size(totals['bytes'])} taken", "dim")
    if totals["gaps"]:
        summary.append(" · ", "dim")
        words = f"{plural(totals['gaps'], 'gap')}: lines are missing, or may be"
        summary.append(f"{words}; the command gaps says which", "bold red")
    if totals["gaps_filled"]:
        summary.append(" · ", "dim").append(f"{plural(totals['gaps_filled'], 'gap')} filled", "dim")
    return summary


def _streams(streams: Sequence[Record], shown: int) -> list[RenderableType]:
    if not streams:
        return []
    seen = sorted(streams, key=_rank)[:shown]
    rest = len(streams) - shown
    more = [Text(f"… and {thousands(rest)} more; --json shows all", "dim")] if rest > 0 else []
    return [Text(), _StreamList(seen), *more]


class _StreamList:
    """A table where it fits; else a list, so that every id stays whole and can be copied."""

    def __init__(self, streams: Sequence[Record]) -> None:
        self._streams = streams

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        longest = max(cell_len(stream_name(stream)) for stream in self._streams)
        fits = longest + _OTHER_COLUMNS <= options.max_width
        yield _stream_table(self._streams) if fits else _stream_list(self._streams)


def _stream_table(streams: Sequence[Record]) -> Table:
    table = plain_table("STREAM", "STATE", "FOR")
    table.columns[0].no_wrap = True
    table.add_column("LINES", justify="right", no_wrap=True)
    table.add_column("GAPS", justify="right", no_wrap=True)
    table.add_column("LAST LINE")
    table.add_column("REASON", overflow="fold")
    for stream in streams:
        table.add_row(
            Text(stream_name(stream)),
            state_text(stream["state"]),
            duration(stream["state_age_s"]),
            thousands(stream["lines"]),
            _gap_counts(stream, ""),
            second(stream["last_stamp"]),
            Text(", ".join(filter(None, (_generation(stream), terminal_safe(stream["detail"]))))),
        )
    return table


def _stream_list(streams: Sequence[Record]) -> Table:
    return bullets(
        (Text("•", COLOURS.get(stream["state"], "")), _stream_words(stream)) for stream in streams
    )


def _stream_words(stream: Record) -> Text:
    words = Text().append(stream_name(stream), "bold")
    state = state_text(stream["state"])
    for part in (
        state.append(f" {duration(stream['state_age_s'])}"),
        Text(plural(stream["lines"], "line")),
        _gap_counts(stream, "gap"),
        Text(_generation(stream)),
        Text(f"last {second(stream['last_stamp'])}" if stream["last_stamp"] else ""),
        Text(terminal_safe(stream["detail"])),
    ):
        if part:
            words.append(" · ").append_text(part)
    return words


def _gap_counts(stream: Record, noun: str) -> Text:
    """`2 gaps, 1 filled`, as far as there are any; without a noun `2, 1 filled`."""
    parts = []
    if gaps := stream["gaps"]:
        parts.append(Text(plural(gaps, noun) if noun else thousands(gaps), "bold red"))
    if filled := stream["gaps_filled"]:
        parts.append(
            Text(
                f"{thousands(filled)} filled"
                if gaps or not noun
                else f"{plural(filled, noun)} filled",
                "dim",
            )
        )
    return Text(", ").join(parts)


def _generation(stream: Record) -> str:
    """Which life of the container is read; most have only one."""
    return f"generation {stream['generation']}" if stream["generation"] else ""


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
