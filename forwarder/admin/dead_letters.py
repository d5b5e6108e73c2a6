"""What the commands `dead-letters` show, as JSON documents and as views. Pure.

The documents are contracts: keys are only ever added, and `format` grows when one changes its
meaning. Times are RFC 3339 in UTC with nanoseconds, or null when unknown; sizes are bytes. What a
sandbox wrote is shown by `show` alone.

    list          format 1, generated_at
      totals      letters, lines, unnamed (refused without saying which), size_bytes, replaying
      sinks       name, configured, letters, lines, size_bytes, max_bytes (`dead_letters.max_size`,
                  or null when the sink is not configured)
      groups      sink, status, reason, letters, lines, unnamed, size_bytes, first_noticed,
                  last_noticed, newest_id, replaying (those that are to be sent again)
    show          format 1, generated_at, id, sink, sandbox_id, container, display_name, kind
                  (lines, part, gap, end, or unnamed), generation, first_line, last_line (null
                  without lines), lines, part, unnamed, first_stamp, received_at, status, reason,
                  maybe_stored, noticed_at, attempts, replay_asked_at, size_bytes, record_ids,
                  text, base64 (instead of `text`, when it is not UTF-8)
    replay, drop  format 1, generated_at, wish, sink, letters, lines, skipped (letters that hold
                  nothing that could be sent), carried_out (false while it waits for the daemon),
                  settled: null, or waiting, delivered, refused (letters; refused counts those of
                  which anything was refused again), delivered_lines, refused_lines
"""

from __future__ import annotations

import base64
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from forwarder.admin.parts import (
    bullets,
    plain_table,
    plural,
    rfc3339,
    second,
    size,
    stream_name,
    thousands,
)
from forwarder.model import FrameKind
from sinks.terminal import line_safe, terminal_safe

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table

    from forwarder.admin.parts import Document
    from forwarder.model import DeadLetter
    from forwarder.spool.letter_overview import LetterEntry, LetterGroup, SinkLetters

    Record = Mapping[str, Any]

FORMAT = 1

#: What a table of groups needs for the reasons to be readable.
_TABLE_COLUMNS = 120

_KINDS = {
    FrameKind.LINES: "lines",
    FrameKind.PART: "part",
    FrameKind.GAP: "gap",
    FrameKind.END: "end",
}


# list ---------------------------------------------------------------------------------------------


def letters_document(
    groups: Sequence[LetterGroup],
    sinks: Sequence[SinkLetters],
    *,
    limits: Mapping[str, int],
    now_ns: int,
) -> Document:
    """The document of every dead letter there is, in groups; see the module for its shape.

    Args:
        groups: Those that were asked for.
        sinks: Those that were asked for.
        limits: By sink, the most that dead letters may take.
        now_ns: The wall clock.
    """
    return {
        "format": FORMAT,
        "generated_at": rfc3339(now_ns),
        "totals": {
            name: sum(getattr(one, name) for one in groups)
            for name in ("letters", "lines", "unnamed", "size_bytes", "replaying")
        },
        "sinks": [{**asdict(sink), "max_bytes": limits.get(sink.name)} for sink in sinks],
        "groups": [_group(one) for one in groups],
    }


def _group(group: LetterGroup) -> Document:
    known = asdict(group)
    first_ns, last_ns = known.pop("first_noticed_ns"), known.pop("last_noticed_ns")
    return {**known, "first_noticed": rfc3339(first_ns), "last_noticed": rfc3339(last_ns)}


def render_letters(document: Record) -> RenderableType:
    """The view of the document of `list`, for `rich.console.Console.print`."""
    if not document["groups"]:
        return Text("No dead letters: no destination has refused anything for good.")
    parts: list[RenderableType] = []
    for sink in document["sinks"]:
        groups = [one for one in document["groups"] if one["sink"] == sink["name"]]
        if groups:
            parts += [_sink_heading(sink), _GroupList(groups), Text()]
    hint = "dead-letters show ID shows one; replay sends them again, drop gives them up"
    return Group(*parts, Text(hint, "dim"))


def _sink_heading(sink: Record) -> Text:
    text = Text().append(terminal_safe(sink["name"]), "bold")
    text.append(f": {plural(sink['letters'], 'dead letter')}, {plural(sink['lines'], 'line')}, ")
    text.append_text(letter_room(sink["size_bytes"], sink["max_bytes"]))
    if not sink["configured"]:
        text.append(" (not in the configuration any more)", "dim")
    return text


def letter_room(size_bytes: int, max_bytes: int | None) -> Text:
    """`12.3 MiB of 256.0 MiB`, as far as the limit is known; red when little is left."""
    if max_bytes is None:
        return Text(size(size_bytes))
    full = size_bytes * 10 >= max_bytes * 9
    return Text(f"{size(size_bytes)} of {size(max_bytes)}", "bold red" if full else "")


class _GroupList:
    """A table where the reasons fit beside the numbers; else a list."""

    def __init__(self, groups: Sequence[Record]) -> None:
        self._groups = groups

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        fits = options.max_width >= _TABLE_COLUMNS
        yield _group_table(self._groups) if fits else bullets(map(_group_block, self._groups))


def _group_block(group: Record) -> tuple[Text, Text]:
    text = Text().append(terminal_safe(group["status"]), "bold").append(": ")
    text.append_text(_group_reason(group))
    noun = "line" if group["lines"] + group["unnamed"] == 1 else "lines"
    text.append(f"\n{plural(group['letters'], 'letter')}, {_lines(group)} {noun}", "dim")
    when = f"{second(group['first_noticed'])} to {second(group['last_noticed'])}"
    return Text("•"), text.append(f", {when}, newest {group['newest_id']}", "dim")


def _lines(group: Record) -> str:
    """How many lines there are, or with a mark how many it is said to have been."""
    return f"{thousands(group['lines'] + group['unnamed'])}{'?' if group['unnamed'] else ''}"


def _group_table(groups: Sequence[Record]) -> Table:
    table = plain_table("STATUS")
    for title in ("LETTERS", "LINES"):
        table.add_column(title, justify="right", no_wrap=True)
    for title in ("FIRST", "LAST"):
        table.add_column(title, no_wrap=True)
    table.add_column("NEWEST ID", justify="right", no_wrap=True)
    table.add_column("REASON", overflow="fold")
    for group in groups:
        table.add_row(
            Text(terminal_safe(group["status"])),
            thousands(group["letters"]),
            _lines(group),
            second(group["first_noticed"]),
            second(group["last_noticed"]),
            str(group["newest_id"]),
            _group_reason(group),
        )
    return table


def _group_reason(group: Record) -> Text:
    text = Text(terminal_safe(group["reason"]))
    if group["unnamed"]:
        text.append(" (the destination did not say which lines)", "dim")
    if group["replaying"]:
        text.append(f" ({thousands(group['replaying'])} to be sent again)", "yellow")
    return text


# show ---------------------------------------------------------------------------------------------


def letter_document(entry: LetterEntry, *, record_ids: Sequence[str], now_ns: int) -> Document:
    """The document of one dead letter; see the module for its shape."""
    held, letter = entry.held, entry.held.letter
    text = _utf8(letter.raw)
    return {
        "format": FORMAT,
        "generated_at": rfc3339(now_ns),
        "id": held.id,
        "sink": entry.sink,
        "sandbox_id": entry.stream.key.sandbox_id,
        "container": entry.stream.key.container,
        "display_name": entry.stream.display_name,
        "kind": "unnamed" if letter.unnamed else _KINDS[letter.kind],
        "generation": letter.generation,
        "first_line": letter.first_line,
        "last_line": letter.first_line + letter.lines - 1 if letter.lines else None,
        **_numbers(letter),
        "first_stamp": rfc3339(letter.first_stamp_ns),
        "received_at": rfc3339(letter.received_ns),
        "status": letter.status,
        "reason": letter.reason,
        "maybe_stored": letter.maybe_stored,
        "noticed_at": rfc3339(letter.noticed_ns),
        "attempts": held.attempts,
        "replay_asked_at": rfc3339(held.replay_ns),
        "size_bytes": letter.size_bytes,
        "record_ids": list(record_ids),
        "text": text,
        "base64": base64.b64encode(letter.raw).decode("ascii") if text is None else None,
    }


def _numbers(letter: DeadLetter) -> Document:
    return {"lines": letter.lines, "part": letter.part, "unnamed": letter.unnamed}


def _utf8(raw: bytes) -> str | None:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


def raw_content(document: Record) -> bytes:
    """What the letter of a document of `show` holds, byte for byte."""
    if document["text"] is None:
        return base64.b64decode(document["base64"])
    return str(document["text"]).encode()


def render_letter(document: Record) -> RenderableType:
    """The view of the document of `show`; the content is written out safely for a terminal."""
    table = plain_table("")
    table.show_header = False
    table.add_column(overflow="fold")
    for name, value in _facts(document):
        table.add_row(Text(name, "bold"), value)
    content = [Text(line_safe(one)) for one in raw_content(document).splitlines()]
    return Group(table, *([Text(), *content] if content else []))


def _facts(document: Record) -> Iterator[tuple[str, Text]]:
    yield "dead letter", Text(f"{document['id']} of sink {terminal_safe(document['sink'])}")
    yield "stream", Text(stream_name(document))
    yield "holds", Text(_holds(document))
    if document["generation"]:
        yield "generation", Text(str(document["generation"]))
    yield "first stamp", Text(second(document["first_stamp"]))
    yield "status", Text(terminal_safe(document["status"]))
    yield "reason", Text(terminal_safe(document["reason"]))
    yield "refused", Text(_refused(document))
    if document["maybe_stored"]:
        yield "maybe stored", Text("the destination may have stored some, and did not say which")
    if document["replay_asked_at"]:
        yield "to be sent again", Text(f"asked {second(document['replay_asked_at'])}")
    if ids := document["record_ids"]:
        yield "record id", Text(ids[0] if len(ids) == 1 else f"{ids[0]} to {ids[-1]}")


def _holds(document: Record) -> str:
    first, last = document["first_line"], document["last_line"]
    match document["kind"]:
        case "unnamed":
            lines = plural(document["unnamed"], "line")
            return f"nothing: {lines} from about line {thousands(first)} on, it is not known which"
        case "part":
            return f"part {document['part']} of line {thousands(first)}"
        case "lines":
            if first == last:
                return f"line {thousands(first)}"
            return f"lines {thousands(first)} to {thousands(last)}"
        case kind:
            return f"the {kind} record at line {thousands(first)}"


def _refused(document: Record) -> str:
    last = f"last {second(document['noticed_at'])}"
    return last if document["attempts"] == 1 else f"{document['attempts']} times, {last}"


# replay, drop -------------------------------------------------------------------------------------


def render_asked(document: Record) -> RenderableType:
    """The view of the document of `replay` or `drop`, for `rich.console.Console.print`."""
    letters = f"{plural(document['letters'], 'dead letter')} of {terminal_safe(document['sink'])}"
    what = f"{letters} ({plural(document['lines'], 'line')})"
    if not document["letters"]:
        text = Text(f"Nothing to do: {terminal_safe(document['sink'])} has no such dead letters")
    elif document["wish"] == "drop":
        done = document["carried_out"]
        text = Text(f"{what} dropped" if done else f"{what}: the daemon was asked to drop them")
    elif document["settled"] is not None:
        text = _settled(document["settled"])
    else:
        when = "when a daemon runs" if document["carried_out"] else "by the daemon that runs"
        text = Text(f"{what} will be sent again {when}")
    if skipped := document["skipped"]:
        told = f"\n{plural(skipped, 'letter')} left out: only a count, nothing that could be sent"
        text.append(told, "dim")
    return text


def _settled(settled: Record) -> Text:
    text = Text().append(
        f"{thousands(settled['delivered'])} delivered"
        f" ({plural(settled['delivered_lines'], 'line')})",
        "green" if settled["delivered"] else "",
    )
    if settled["refused"]:
        lines = plural(settled["refused_lines"], "line")
        text.append(f", {thousands(settled['refused'])} refused again ({lines})", "bold red")
    if settled["waiting"]:
        text.append(f", {thousands(settled['waiting'])} still to be sent by the daemon", "yellow")
    return text


def asked_document(
    *,
    wish: str,
    sink: str,
    letters: int,
    lines: int,
    skipped: int,
    carried_out: bool,
    now_ns: int,
    settled: Document | None = None,
) -> Document:
    """The document of what was asked; see the module for its shape."""
    return {
        "format": FORMAT,
        "generated_at": rfc3339(now_ns),
        "wish": wish,
        "sink": sink,
        "letters": letters,
        "lines": lines,
        "skipped": skipped,
        "carried_out": carried_out,
        "settled": settled,
    }
