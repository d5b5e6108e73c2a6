"""What `status` shows: one JSON document, and a plain view of it for people (`view`). Pure.

The document is a contract: keys are only ever added, and `format` grows when one changes its
meaning. Times are RFC 3339 in UTC with nanoseconds, or null when unknown; sizes are bytes.

    format        1
    generated_at  when the document was made
    daemon        running, pid (null when none runs, or when it is not known)
    spool         id, frames, size_bytes
    notes         name, text, since, state_age_s: what is wrong beside the numbers; `discovery` is
                  there while the API does not say which sandboxes there are
    totals        streams, streams_by_state, lines, bytes, gaps
    sinks         name, state, detail, since, state_age_s, taken, delivered, filtered,
                  dead_lettered, dropped, pending, pending_bytes
                  (taken = delivered + filtered + dead_lettered + dropped + pending)
    streams       sandbox_id, container, display_name, state, detail, since, state_age_s, lines,
                  bytes, last_stamp, gaps

While no daemon runs, the states are those in which the last one left things.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from forwarder.admin.view import render_status
from forwarder.model import StreamState

if TYPE_CHECKING:
    from forwarder.spool.interface import SinkOverview, SpoolOverview, StreamOverview

__all__ = ["Document", "render_status", "status_document", "status_json"]

Document = dict[str, Any]

FORMAT = 1
_SECOND_NS = 1_000_000_000


def status_document(overview: SpoolOverview, *, daemon_pid: int | None, now_ns: int) -> Document:
    """The document; see the module for its shape.

    Args:
        overview: The spool's numbers.
        daemon_pid: The daemon that holds `state_dir`; 0 when there is one of unknown process id,
            None when none runs.
        now_ns: The wall clock.
    """
    states = Counter(stream.state for stream in overview.streams)
    return {
        "format": FORMAT,
        "generated_at": _time(now_ns),
        "daemon": {"running": daemon_pid is not None, "pid": daemon_pid or None},
        "spool": {
            "id": overview.spool_id,
            "frames": overview.frames,
            "size_bytes": overview.size_bytes,
        },
        "notes": [
            {"name": note.name, "text": note.text, **_since(note.since_ns, now_ns)}
            for note in overview.notes
        ],
        "totals": {
            "streams": len(overview.streams),
            "streams_by_state": {str(state): states[state] for state in StreamState},
            "lines": sum(stream.lines for stream in overview.streams),
            "bytes": sum(stream.bytes for stream in overview.streams),
            "gaps": sum(stream.gaps for stream in overview.streams),
        },
        "sinks": [_sink(sink, now_ns) for sink in overview.sinks],
        "streams": [_stream(stream, now_ns) for stream in overview.streams],
    }


def status_json(document: Document, *, indent: int | None = None) -> bytes:
    """The document as JSON in printable ASCII, which is safe to show in any terminal."""
    separators = (",", ":" if indent is None else ": ")
    return json.dumps(document, indent=indent, separators=separators).encode("ascii") + b"\n"


def _sink(sink: SinkOverview, now_ns: int) -> Document:
    known = asdict(sink)
    return {
        "name": known.pop("name"),
        "state": known.pop("state"),
        "detail": known.pop("detail"),
        **_since(known.pop("since_ns"), now_ns),
        **known,
    }


def _stream(stream: StreamOverview, now_ns: int) -> Document:
    return {
        "sandbox_id": stream.key.sandbox_id,
        "container": stream.key.container,
        "display_name": stream.display_name,
        "state": str(stream.state),
        "detail": stream.detail,
        **_since(stream.since_ns, now_ns),
        "lines": stream.lines,
        "bytes": stream.bytes,
        "last_stamp": _time(stream.last_stamp_ns),
        "gaps": stream.gaps,
    }


def _since(since_ns: int, now_ns: int) -> Document:
    """When the state began, and how long ago; a clock that was set back makes no negative age."""
    if not since_ns:
        return {"since": None, "state_age_s": None}
    return {
        "since": _time(since_ns),
        "state_age_s": max(0, now_ns - since_ns) // _SECOND_NS,
    }


def _time(stamp_ns: int) -> str | None:
    if not stamp_ns:
        return None
    seconds, fraction_ns = divmod(stamp_ns, _SECOND_NS)
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):  # a server may stamp the year 10000
        return None
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{fraction_ns:09d}Z"
