"""What the command `replay` shows, as a JSON document and as a view. Pure.

The document is a contract: keys are only ever added, and `format` grows when one changes its
meaning. Times are RFC 3339 in UTC with nanoseconds, or null when there is none.

    format        1
    generated_at  when the document was made
    sink, since, until (null without an end), sandbox_id (empty for all)
    lines         that are sent again, and the `streams` that they are of
    pending_lines lines of the range that the sink has not had yet, and gets anyway
    spool         gone_before: of lines with an older stamp some are not in the spool any more, or
                  null when all are; oldest, newest: from which stamp to which it reaches
    damaged       frames of the range that cannot be read
    keep_s        `spool.keep`
    archives      the sinks that have what is older
    asked         whether anything was asked for: not when there is nothing to send
    daemon        whether one runs, which begins within seconds; else the next one does
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from forwarder.admin.parts import duration, plural, rfc3339, second
from sinks.terminal import terminal_safe

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from rich.console import RenderableType

    from forwarder.admin.parts import Document
    from forwarder.spool.range_overview import RangeContents
    from forwarder.spool.ranges import RangeRequest

    Record = Mapping[str, Any]

FORMAT = 1


def replay_document(
    request: RangeRequest,
    contents: RangeContents,
    *,
    keep_s: float,
    archives: Sequence[str],
    asked: bool,
    daemon: bool,
    now_ns: int,
) -> Document:
    """The document; see the module for its shape."""
    return {
        "format": FORMAT,
        "generated_at": rfc3339(now_ns),
        "sink": request.sink,
        "since": rfc3339(request.since_ns) if request.since_ns else None,
        "until": None if request.until_ns is None else rfc3339(request.until_ns),
        "sandbox_id": request.sandbox_id,
        "lines": contents.lines,
        "streams": contents.streams,
        "pending_lines": contents.pending_lines,
        "spool": {
            "gone_before": rfc3339(contents.gone_before_ns),
            "oldest": rfc3339(contents.oldest_ns),
            "newest": rfc3339(contents.newest_ns),
        },
        "damaged": contents.damaged,
        "keep_s": keep_s,
        "archives": list(archives),
        "asked": asked,
        "daemon": daemon,
    }


def render_replay(document: Record) -> RenderableType:
    """The view of a document, for `rich.console.Console.print`."""
    parts = [_what(document), *(Text(one, "dim") for one in _remarks(document))]
    return Group(*parts)


def _what(document: Record) -> Text:
    sink = terminal_safe(document["sink"])
    if not document["asked"]:
        return Text(f"Nothing to send: {sink} has had no line of that range that is still here")
    text = f"{plural(document['lines'], 'line')} of {plural(document['streams'], 'stream')}"
    if document["daemon"]:
        return Text(f"{text} will be sent to {sink} again by the daemon that runs; see status")
    return Text(f"{text} will be sent to {sink} again when a daemon runs")


def _remarks(document: Record) -> Iterator[str]:
    if pending := document["pending_lines"]:
        yield f"{plural(pending, 'line')} of that range are yet to be sent for the first time"
    yield from _reach(document)
    if damaged := document["damaged"]:
        yield f"{plural(damaged, 'frame')} cannot be read: see spool verify"


def _reach(document: Record) -> Iterator[str]:
    spool = document["spool"]
    if spool["newest"] is None:
        yield "the spool has no lines"
        return
    gone, newest = spool["gone_before"], spool["newest"]
    if gone is None:
        yield f"the spool reaches from {second(spool['oldest'])} to {second(newest)}"
        return
    if gone <= newest:
        yield f"the spool reaches from {second(gone)} to {second(newest)}"
    yield f"what is older than {second(gone)} is not in the spool any more, or not all of it"
    if document["archives"]:
        names = ", ".join(terminal_safe(one) for one in document["archives"])
        yield f"the archive has it ({names}): see archive cat"
    keep_s = document["keep_s"]
    kept = f"is {duration(int(keep_s))}" if keep_s else "is not set"
    yield f"spool.keep {kept}: so long lines stay after every sink has them"
