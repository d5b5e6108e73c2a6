"""Overviews for tests: as much as a test says, and sensible values for the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forwarder.model import StreamKey, StreamState
from forwarder.spool.interface import Note, SinkOverview, SpoolOverview, StreamOverview

if TYPE_CHECKING:
    from collections.abc import Sequence

S = 1_000_000_000
#: 2026-01-02T03:04:05Z
NOW_NS = 1_767_323_045 * S


def sink(
    name: str = "archive",
    state: str = "running",
    *,
    detail: str = "",
    since_ns: int = NOW_NS - 60 * S,
    delivered: int = 50,
    filtered: int = 1,
    dead_lettered: int = 2,
    dropped: int = 3,
    pending: int = 44,
    oldest_pending_ns: int = NOW_NS - 5 * S,
    dead_letters: int = 1,
    replaying: int = 0,
) -> SinkOverview:
    taken = delivered + filtered + dead_lettered + dropped + pending
    counts = (delivered, filtered, dead_lettered, dropped, pending, pending * 100)
    return SinkOverview(
        name,
        state,
        detail,
        since_ns,
        taken,
        *counts,
        oldest_pending_ns=oldest_pending_ns,
        dropped_for={"spool_full": dropped} if dropped else {},
        dead_letters=dead_letters if dead_lettered else 0,
        dead_letter_bytes=dead_lettered * 1000,
        replaying=replaying,
    )


def stream(
    sandbox_id: str = "sbx-1",
    state: StreamState = StreamState.FOLLOWING,
    *,
    container: str = "main",
    display_name: str = "",
    detail: str = "",
    lines: int = 10,
    last_stamp_ns: int = NOW_NS - S,
    gaps: int = 0,
    gaps_filled: int = 0,
    generation: int = 0,
) -> StreamOverview:
    return StreamOverview(
        StreamKey(sandbox_id, container),
        display_name,
        state,
        detail,
        since_ns=NOW_NS - 90 * S,
        lines=lines,
        bytes=lines * 100,
        last_stamp_ns=last_stamp_ns,
        gaps=gaps,
        gaps_filled=gaps_filled,
        generation=generation,
    )


def note(text: str, name: str = "discovery", *, since_ns: int = NOW_NS - 185 * S) -> Note:
    return Note(name, text, since_ns)


def overview(
    *,
    sinks: Sequence[SinkOverview] = (),
    streams: Sequence[StreamOverview] = (),
    notes: Sequence[Note] = (),
    oldest_frame_ns: int = NOW_NS - 3600 * S,
    max_bytes: int | None = None,
) -> SpoolOverview:
    return SpoolOverview(
        "spool-1",
        frames=7,
        size_bytes=64 << 20,
        streams=list(streams),
        sinks=list(sinks),
        notes=list(notes),
        wal_bytes=4 << 20,
        used_bytes=16 << 20,
        max_bytes=max_bytes,
        oldest_frame_ns=oldest_frame_ns,
        gaps_unfilled=sum(stream.gaps for stream in streams),
    )
