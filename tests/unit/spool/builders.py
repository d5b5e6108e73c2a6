"""Short words for what the spool's tests store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forwarder.model import (
    Checkpoint,
    DeadLetter,
    FrameDraft,
    FrameKind,
    StreamInfo,
    StreamKey,
)
from forwarder.spool.interface import StreamCommit

if TYPE_CHECKING:
    from forwarder.model import StreamState

KEY = StreamKey("sbx-1", "main")
INFO = StreamInfo(KEY, display_name="one", tags=("prod",), attributes={"a": "b"})
OTHER = StreamInfo(StreamKey("sbx-2", "main"))


def frame(
    raw: bytes = b"text\n",
    *,
    line: int = 0,
    lines: int = 1,
    at_ns: int = 100,
    kind: FrameKind = FrameKind.LINES,
    generation: int = 0,
) -> FrameDraft:
    """A frame whose lines all have one stamp."""
    count = lines if kind.holds_lines else 0
    part = 1 if kind is FrameKind.PART else 0
    return FrameDraft(kind, raw, line, count, part, at_ns, at_ns, at_ns, 7, generation)


def commit(
    stream_id: int,
    *frames: FrameDraft,
    state: StreamState | None = None,
    session: tuple[str, int] = ("", 0),
) -> StreamCommit:
    """What a follower hands over, with the checkpoint that follows from its frames."""
    at = Checkpoint(session_id=session[0], session_offset=session[1])
    if frames:
        last = frames[-1]
        next_line = last.first_line + last.lines
        at = Checkpoint(
            next_line, 0, last.last_stamp_ns, last.high_stamp_ns, *session, last.generation
        )
    return StreamCommit(stream_id, frames, at, state=state)


def letter(
    raw: bytes = b"text\n",
    *,
    stream_id: int = 1,
    line: int = 0,
    lines: int = 1,
    status: str = "400",
    reason: str = "too old",
    unnamed: int = 0,
    maybe_stored: bool = False,
) -> DeadLetter:
    """What a destination refused for good."""
    return DeadLetter(
        stream_id,
        FrameKind.LINES,
        line,
        lines,
        100,
        7,
        raw,
        status,
        reason,
        9,
        generation=2,
        unnamed=unnamed,
        maybe_stored=maybe_stored,
    )
