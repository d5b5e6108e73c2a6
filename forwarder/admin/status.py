"""What `status` shows: one JSON document, and a plain view of it for people (`view`). Pure.

The document is a contract: keys are only ever added, and `format` grows when one changes its
meaning. Times are RFC 3339 in UTC with nanoseconds, or null when unknown; sizes are bytes.

    format        1
    generated_at  when the document was made
    daemon        running, pid (null when none runs, or when it is not known)
    spool         id, frames, size_bytes (the database's file), wal_bytes (its write-ahead log),
                  used_bytes (both, without free pages), max_bytes (`spool.max_size`, or null),
                  oldest_frame (when the oldest frame held was received), kept_lines, kept_bytes
                  (held although every sink is past them: tails of streams, and `spool.keep`)
    notes         name, text, since, state_age_s: what is wrong beside the numbers; `discovery` is
                  there while the API does not say which sandboxes there are, `spool` while the
                  spool takes nothing, or when it was found older than what it has delivered
    totals        streams, streams_by_state, lines, bytes, gaps, gaps_filled
    sinks         name, state, detail, since, state_age_s, taken, delivered, filtered,
                  dead_lettered, dropped, pending, pending_bytes
                  (taken = delivered + filtered + dead_lettered + dropped + pending),
                  oldest_pending, oldest_pending_age_s: when the oldest pending line was received,
                  dropped_for (`dropped`, by reason), dead_letters, dead_letter_bytes,
                  dead_letter_max_bytes (null when not known), replaying (of the dead letters,
                  those that are to be sent again), ranges (since, until, sandbox_id, asked_lines,
                  lines, refused, asked_at, ended_at: what the command replay sends again, the
                  first of them first), last_range (the last one that ended, or null)
    streams       sandbox_id, container, display_name, state, detail, since, state_age_s, lines,
                  bytes, last_stamp, gaps, gaps_filled, generation

`gaps` are those in which lines are missing or may be; `gaps_filled` those that were closed again.

While no daemon runs, the states are those in which the last one left things.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from types import MappingProxyType
from typing import TYPE_CHECKING

from forwarder.admin.parts import age_s, rfc3339
from forwarder.admin.view import render_status
from forwarder.model import StreamState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from forwarder.admin.parts import Document
    from forwarder.spool.interface import RangeReplay, SinkOverview, SpoolOverview, StreamOverview

__all__ = ["render_status", "status_document"]

FORMAT = 1


def status_document(
    overview: SpoolOverview,
    *,
    daemon_pid: int | None,
    now_ns: int,
    letter_limits: Mapping[str, int] = MappingProxyType({}),
) -> Document:
    """The document; see the module for its shape.

    Args:
        overview: The spool's numbers.
        daemon_pid: The daemon that holds `state_dir`; 0 when there is one of unknown process id,
            None when none runs.
        now_ns: The wall clock.
        letter_limits: By sink, the most that its dead letters may take, where that is known.
    """
    states = Counter(stream.state for stream in overview.streams)
    return {
        "format": FORMAT,
        "generated_at": rfc3339(now_ns),
        "daemon": {"running": daemon_pid is not None, "pid": daemon_pid or None},
        "spool": {
            "id": overview.spool_id,
            "frames": overview.frames,
            "size_bytes": overview.size_bytes,
            "wal_bytes": overview.wal_bytes,
            "used_bytes": overview.used_bytes,
            "max_bytes": overview.max_bytes,
            "oldest_frame": rfc3339(overview.oldest_frame_ns),
            "kept_lines": overview.kept_lines,
            "kept_bytes": overview.kept_bytes,
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
            "gaps": overview.gaps_unfilled,
            "gaps_filled": sum(stream.gaps_filled for stream in overview.streams),
        },
        "sinks": [_sink(sink, letter_limits.get(sink.name), now_ns) for sink in overview.sinks],
        "streams": [_stream(stream, now_ns) for stream in overview.streams],
    }


def _sink(sink: SinkOverview, max_bytes: int | None, now_ns: int) -> Document:
    known = asdict(sink)
    oldest_ns = known.pop("oldest_pending_ns")
    known["ranges"] = [_range(one) for one in sink.ranges]
    known["last_range"] = None if sink.last_range is None else _range(sink.last_range)
    return {
        "name": known.pop("name"),
        "state": known.pop("state"),
        "detail": known.pop("detail"),
        **_since(known.pop("since_ns"), now_ns),
        **known,
        "dead_letter_max_bytes": max_bytes,
        "oldest_pending": rfc3339(oldest_ns),
        "oldest_pending_age_s": age_s(oldest_ns, now_ns),
    }


def _range(replay: RangeReplay) -> Document:
    return {
        "since": rfc3339(replay.since_ns),
        "until": None if replay.until_ns is None else rfc3339(replay.until_ns),
        "sandbox_id": replay.sandbox_id,
        "asked_lines": replay.asked_lines,
        "lines": replay.lines,
        "refused": replay.refused,
        "asked_at": rfc3339(replay.asked_ns),
        "ended_at": rfc3339(replay.ended_ns),
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
        "last_stamp": rfc3339(stream.last_stamp_ns),
        "gaps": stream.gaps,
        "gaps_filled": stream.gaps_filled,
        "generation": stream.generation,
    }


def _since(since_ns: int, now_ns: int) -> Document:
    """When the state began, and how long ago; a clock that was set back makes no negative age."""
    if not since_ns:
        return {"since": None, "state_age_s": None}
    return {
        "since": rfc3339(since_ns),
        "state_age_s": age_s(since_ns, now_ns),
    }
