"""What the command `replay` does, as a document; see `forwarder.admin.replay`.

It needs no running daemon. One that runs does what is asked of it; see `forwarder.spool.requests`.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forwarder.admin.replay import replay_document
from forwarder.clock import SystemClock
from forwarder.commands import progress_bar, want_sandbox
from forwarder.errors import UsageError
from forwarder.spool.files import StateDir, is_locked
from forwarder.spool.range_overview import contents_of, sink_cursor
from forwarder.spool.ranges import RangeRequest
from forwarder.spool.requests import ask_for
from sinks.terminal import terminal_safe

if TYPE_CHECKING:
    from forwarder.admin.parts import Document
    from forwarder.config import Settings


@dataclass(frozen=True, slots=True)
class Range:
    """Which lines are meant.

    Attributes:
        since_ns: Those with this stamp or a later one ...
        until_ns: ... and before this one; None for all of them.
        sandbox_id: Only of this sandbox; of all when empty.
    """

    since_ns: int
    until_ns: int | None = None
    sandbox_id: str = ""


def replay_range(settings: Settings, sink: str, wanted: Range) -> Document:
    """Have the lines of a range that are still in the spool sent to a sink again.

    Args:
        settings: The configuration.
        sink: To which sink.
        wanted: Which lines.

    Raises:
        UsageError: There is no such sink or sandbox; or the sink holds each line once; or it has
            not begun.
        SpoolUntrustedError: There is no spool, or it cannot be read; or the request not be written.
    """
    _want_replayable(settings, sink)
    state = StateDir(settings.state_dir)
    want_sandbox(state, wanted.sandbox_id)
    cursor = sink_cursor(state, sink)
    if cursor is None:
        raise UsageError(
            f"sink {sink!r} has not begun yet: it gets everything when the daemon runs"
        )
    with progress_bar("looking at the spool") as progress:
        contents = contents_of(
            state,
            cursor=cursor,
            since_ns=wanted.since_ns,
            until_ns=wanted.until_ns,
            sandbox_id=wanted.sandbox_id,
            progress=progress,
        )
    now_ns = SystemClock().time_ns()
    request = RangeRequest(
        uuid.uuid4().hex,
        sink,
        wanted.since_ns,
        wanted.until_ns,
        wanted.sandbox_id,
        cursor,
        contents.lines,
        now_ns,
    )
    if contents.lines:
        ask_for(state, request, now_ns)
    return replay_document(
        request,
        contents,
        keep_s=settings.spool.keep,
        archives=[name for name, one in settings.sinks.items() if one.type == "s3"],
        asked=contents.lines > 0,
        daemon=is_locked(state) is not None,
        now_ns=now_ns,
    )


def _want_replayable(settings: Settings, sink: str) -> None:
    found = settings.sinks.get(sink)
    if found is None:
        names = ", ".join(terminal_safe(name) for name in settings.sinks)
        raise UsageError(f"sink {sink!r} is not in the configuration; sinks are {names}")
    if found.exactly_once:
        what, how = ("a file", "the lines are in the files")
        if found.type == "s3":
            what, how = ("an archive", "use archive cat to get them back")
        raise UsageError(
            f"{what} holds each line once, so nothing is sent to {sink!r} again; {how}"
        )
