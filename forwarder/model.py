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
class ContainerStatus:
    """How one container of a sandbox stands.

    Attributes:
        restart_count: How often its process was started again; 0 when not given.
        exit_code: None when not given; the API may leave out a 0.
    """

    name: str
    state: SandboxState
    restart_count: int = 0
    exit_code: int | None = None


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
    container_statuses: tuple[ContainerStatus, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether no more output can come."""
        return self.state.ended

    def status_of(self, container: str) -> ContainerStatus | None:
        """A container's status; an empty name means the primary container.

        A single status is that of the only container there is, whatever it is called. None when
        the API gave no status, or several and none under this name.
        """
        if not container:
            primary = next((each for each in self.containers if each.primary), None)
            named = primary or next(iter(self.containers), None)
            container = named.name if named is not None else ""
        for status in self.container_statuses:
            if container and status.name == container:
                return status
        return self.container_statuses[0] if len(self.container_statuses) == 1 else None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a stream has been taken. It moves only in the transaction that stores the bytes.

    Attributes:
        generation: Which life of the container the lines come from: how often the platform had
            restarted it. Every restart begins another one, whose lines are counted from 0 again.
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
    generation: int = 0

    @property
    def any_taken(self) -> bool:
        """Whether any line of the stream was taken, in whatever generation."""
        return bool(self.next_line or self.high_stamp_ns)


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


class SinkHealth(enum.StrEnum):
    """How a sink is, as `status` shows it."""

    STARTING = "starting"
    RUNNING = "running"
    RETRYING = "retrying"  # the destination is down; the same batch again and again
    HELD = "held"  # not before somebody mends something; looked at every few seconds


class FrameKind(enum.IntEnum):
    """What a frame holds."""

    LINES = 0  # whole lines; only the very last line of a stream may lack its newline
    PART = 1  # one numbered part of a line longer than `max_line_bytes`
    GAP = 2  # a gap record, as JSON: a range that nobody has any more, or that was found after all
    END = 3  # the stream is over, as JSON: no frame of it follows, unless its sandbox comes back

    @property
    def holds_lines(self) -> bool:
        """Whether it is something that a server sent, and not a record of ours."""
        return self in {FrameKind.LINES, FrameKind.PART}


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
    generation: int = 0


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
    generation: int = 0


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


class GapKind(enum.StrEnum):
    """What is missing."""

    RANGE = "range"  # lines between two that were taken
    TAIL = "tail"  # what came after the last line that was taken
    DROPPED = "dropped"  # lines that were taken, and lost or given up before every sink had them


class GapCause(enum.StrEnum):
    """Why lines are missing, or may be."""

    ANCHOR_LOST = "anchor_lost"  # the re-read no longer holds the last line taken
    REPLAY_GAP = "replay_gap"  # the session no longer had the bytes, and the re-read neither
    MESSAGE_TOO_LARGE = "message_too_large"  # no message that can be read holds them
    TAIL_UNKNOWN = "tail_unknown"  # the sandbox ended and its last lines can no longer be read
    NEVER_FOLLOWED = "never_followed"  # the sandbox ended before anything of it could be read
    RESTARTED = "restarted"  # the container was restarted before its last lines were read
    SPOOL_FULL = "spool_full"  # the oldest were dropped: `when_full: drop_oldest`
    SPOOL_DAMAGED = "spool_damaged"  # the disk gave back something else than was stored


class GapBounds(enum.StrEnum):
    """How well the ends of a gap are known."""

    EXACT = "exact"  # every line in it is missing, and nothing else
    APPROXIMATE = "approximate"  # nothing outside is missing because of it; inside, maybe


@dataclass(frozen=True, slots=True)
class Gap:
    """A range that nobody has any more: never silent.

    Attributes:
        after_line: Number of the last line before the gap, -1 when there is none.
        before_line: Number of the first line after it, in the same generation; None when there is
            none (yet), or when it is of a later generation. What a server no longer had was never
            numbered, so around such a range the numbers follow each other.
        from_stamp_ns: Stamp of the line before, 0 when unknown.
        to_stamp_ns: Stamp of the line after, 0 when unknown or not yet seen.
        from_offset: The API session's offset where the gap begins, None when unknown.
        to_offset: Its offset where the gap ends, None when unknown.
        noticed_ns: When we noticed, by the local clock.
        filled_ns: When the lines were found after all, by the local clock; 0 while they are not.
        generation: That of the line before the gap.
    """

    cause: GapCause
    after_line: int
    from_stamp_ns: int
    to_stamp_ns: int
    noticed_ns: int
    kind: GapKind = GapKind.RANGE
    before_line: int | None = None
    from_offset: int | None = None
    to_offset: int | None = None
    filled_ns: int = 0
    bounds: GapBounds = GapBounds.APPROXIMATE
    generation: int = 0

    @property
    def missing_bytes(self) -> int | None:
        """How many bytes are missing, where the session's offsets tell; else None."""
        if self.from_offset is None or self.to_offset is None:
            return None
        return self.to_offset - self.from_offset

    def record(self) -> dict[str, str | int | None]:
        """The gap as the sinks, the spool and `gaps --json` show it; keys are only ever added."""
        return {
            "kind": str(self.kind),
            "cause": str(self.cause),
            "bounds": str(self.bounds),
            "generation": self.generation,
            "after_line": self.after_line,
            "before_line": self.before_line,
            "from_stamp_ns": self.from_stamp_ns,
            "to_stamp_ns": self.to_stamp_ns,
            "from_offset": self.from_offset,
            "to_offset": self.to_offset,
            "missing_bytes": self.missing_bytes,
            "noticed_ns": self.noticed_ns,
            "filled_ns": self.filled_ns,
        }


#: What a dead letter is taken to need besides its bytes.
_LETTER_BYTES = 512


@dataclass(frozen=True, slots=True)
class DeadLetter:
    r"""Consecutive records of one stream that a sink's destination refused for good.

    Attributes:
        kind: LINES or PART; GAP or END for a record of ours, whose `raw` is its JSON.
        first_line: Line number of the first record, or where a record of ours stands.
        lines: How many lines it holds; 0 for a record of ours.
        raw: The records' bytes, as the server sent them.
        unnamed: When not 0: the destination refused so many of a batch and did not say which.
            Then `raw` is empty and `lines` 0, and the rest tells where the batch began.
        status: The destination's own word for it, such as `400`.
        reason: Why, in its own words.
        maybe_stored: It may have stored some of them, and did not say which.
        noticed_ns: When, by the local clock.
    """

    stream_id: int
    kind: FrameKind
    first_line: int
    lines: int
    first_stamp_ns: int
    received_ns: int
    raw: bytes
    status: str
    reason: str
    noticed_ns: int
    part: int = 0
    generation: int = 0
    unnamed: int = 0
    maybe_stored: bool = False

    @property
    def size_bytes(self) -> int:
        """What it counts against `dead_letters.max_size`."""
        return len(self.raw) + len(self.reason) + _LETTER_BYTES


@dataclass(frozen=True, slots=True)
class HeldLetter:
    """A dead letter as the spool holds it.

    Attributes:
        id: Higher than that of any before it, also of those that are gone.
        attempts: How often it was refused; 1 until it was sent again.
        replay_ns: When somebody asked for it to be sent again; 0 when nobody did.
    """

    id: int
    letter: DeadLetter
    attempts: int = 1
    replay_ns: int = 0
