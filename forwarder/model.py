"""The words of the engine: plain values that every layer shares.

Nothing here does I/O or reads a clock. Times are integer nanoseconds since the Unix epoch, UTC,
and end in `_ns`; sizes are bytes and end in `_bytes`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, order=True)
class StreamKey:
    """A stream's identity: one container of one sandbox, and nothing else.

    Tags, state and runner are attributes: they may change without touching the stream
    (grafana/alloy#2211 restarted tails on a label change).
    """

    sandbox_id: str
    container: str

    def __str__(self) -> str:
        return f"{self.sandbox_id}/{self.container}" if self.container else self.sandbox_id


class SandboxState(enum.IntEnum):
    """The states of `coreweave.sandbox.v1.State`; a state we do not know reads as UNSPECIFIED."""

    UNSPECIFIED = 0
    CREATING = 1
    RUNNING = 2
    COMPLETED = 3
    FAILED = 4
    TERMINATING = 5
    TERMINATED = 6
    PENDING = 7
    PAUSED = 8
    PREPARING = 9

    @property
    def ended(self) -> bool:
        """Whether the main process is over; an unknown state is "not ended"."""
        return self in {SandboxState.COMPLETED, SandboxState.FAILED, SandboxState.TERMINATED}


@dataclass(frozen=True, slots=True)
class Container:
    """One container of a sandbox's specification."""

    name: str
    image: str = ""
    primary: bool = False


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What the API says of a sandbox, as far as log forwarding needs it."""

    id: str
    state: SandboxState
    display_name: str = ""
    containers: tuple[Container, ...] = ()
    tags: tuple[str, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    create_time_ns: int | None = None
    start_time_ns: int | None = None
    end_time_ns: int | None = None
    exit_code: int | None = None
    runner_id: str = ""

    @property
    def ended(self) -> bool:
        """Whether no more output can come."""
        return self.state.ended


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a stream has been taken. It moves only in the transaction that stores the bytes.

    Attributes:
        next_line: The line number that the next new line will get; lines count from 0.
        open_part: Parts already stored of a line that is longer than `max_line_bytes` and not yet
            ended; 0 when the position is at a line's beginning.
        last_stamp_ns: The stamp of the last line taken; a line without a readable stamp takes it.
        high_stamp_ns: The highest stamp known to be taken: what `since_time` is counted back from.
        session_id: The API's log session, empty when there is none to resume.
        session_offset: The offset, in that session, of the next byte wanted.
    """

    next_line: int = 0
    open_part: int = 0
    last_stamp_ns: int = 0
    high_stamp_ns: int = 0
    session_id: str = ""
    session_offset: int = 0


class StreamState(enum.StrEnum):
    """Where a stream stands, as `status` shows it."""

    WAITING = "waiting"  # wanted, not yet read: the sandbox is not running, or we just started
    FOLLOWING = "following"  # a stream is open
    RECONNECTING = "reconnecting"  # the stream broke; it is being opened again
    HELD = "held"  # the API refuses our credentials; retried slowly, for ever
    COMPLETE = "complete"  # the sandbox ended and was read to its end
    NOT_FOUND = "not_found"  # the API does not know this sandbox

    @property
    def final(self) -> bool:
        """Whether the stream will never be opened again."""
        return self in {StreamState.COMPLETE, StreamState.NOT_FOUND}


class FrameKind(enum.IntEnum):
    """What a frame holds."""

    LINES = 0  # whole lines; only the very last line of a stream may lack its newline
    PART = 1  # one numbered part of a line longer than `max_line_bytes`
    GAP = 2  # a gap record, as JSON: a range that the platform no longer has


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive bytes of one stream, cut where records begin and end.

    Attributes:
        kind: LINES or PART.
        raw: Exactly the bytes the server sent.
        lines: Number of records: lines, or 1 for a part.
        part: For PART, the part's number, from 1; else 0.
        first_stamp_ns: The first line's stamp.
        last_stamp_ns: The last line's stamp.
    """

    kind: FrameKind
    raw: bytes
    lines: int
    part: int
    first_stamp_ns: int
    last_stamp_ns: int


@dataclass(frozen=True, slots=True)
class FrameDraft:
    """A frame on its way into the spool: a block with its place in the stream.

    Attributes:
        high_stamp_ns: The stream's highest stamp known up to the end of this frame. Unlike the
            lines' own stamps it never goes back, so a stream's tail can be cut by it.
    """

    kind: FrameKind
    raw: bytes
    first_line: int
    lines: int
    part: int
    first_stamp_ns: int
    last_stamp_ns: int
    high_stamp_ns: int
    received_ns: int


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame as the spool holds it, decompressed and with its checksum verified.

    Attributes:
        id: Grows for ever, never repeats, also after the spool was empty.
        stream_id: The spool's short name of the stream.
        total_lines: Lines in the spool's whole history up to and including this frame.
    """

    id: int
    stream_id: int
    kind: FrameKind
    raw: bytes
    first_line: int
    lines: int
    part: int
    first_stamp_ns: int
    last_stamp_ns: int
    received_ns: int
    total_lines: int


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What is known of a stream besides its position; it may change at any time.

    Attributes:
        attributes: The operator's own, from the configuration.
    """

    key: StreamKey
    display_name: str = ""
    tags: tuple[str, ...] = ()
    image: str = ""
    runner_id: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)


class GapCause(enum.StrEnum):
    """Why lines are missing, or may be."""

    ANCHOR_LOST = "anchor_lost"  # the re-read no longer holds the last line taken
    TAIL_UNKNOWN = "tail_unknown"  # the sandbox ended and its last lines can no longer be read


@dataclass(frozen=True, slots=True)
class Gap:
    """A range that the platform no longer has: never silent.

    Attributes:
        after_line: Number of the last line taken before the gap, -1 when there is none.
        from_stamp_ns: Stamp of that line, 0 when unknown.
        to_stamp_ns: Stamp of the first line after the gap, 0 when unknown or not yet seen.
        noticed_ns: When we noticed, by the local clock.
        missing_bytes: How many bytes, where the session's offsets tell; else None.
    """

    cause: GapCause
    after_line: int
    from_stamp_ns: int
    to_stamp_ns: int
    noticed_ns: int
    missing_bytes: int | None = None
