"""What the engine asks of the spool, and what it may rely on.

A method that stores something returns when it is durable: in the database, fsynced. What several
callers store at the same time is committed in one transaction. When the storage itself fails
(`SpoolUntrustedError`) every later call fails too: after a failed fsync nothing may be believed
(USENIX ATC '20, "Can applications recover from fsync failures?").
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from forwarder.model import (
        Checkpoint,
        DeadLetter,
        Frame,
        FrameDraft,
        Gap,
        HeldLetter,
        StreamInfo,
        StreamKey,
        StreamState,
    )
    from forwarder.source.overlap import Taken


@dataclass(frozen=True, slots=True)
class StreamRecord:
    """A stream as the spool knows it.

    Attributes:
        key: Its identity; of a primary container whose name was not known at first, without one.
        tail_missing: Whether its end was declared missing, and was not found since.
    """

    id: int
    key: StreamKey
    checkpoint: Checkpoint
    state: StreamState
    tail_missing: bool = False


@dataclass(frozen=True, slots=True)
class StreamCommit:
    """What one stream adds to a transaction: its frames, and the position after them.

    Attributes:
        gaps: Noticed since the last commit, to be stored as records of their own; as frames they
            are among `frames` already.
        state: The stream's new state, when it changed.
        detail: Why, for people.
        filled_ns: When not 0, the stream's end was found after all: gaps of kind `tail` that were
            declared before are filled at this time, by the local clock.
    """

    stream_id: int
    frames: Sequence[FrameDraft]
    checkpoint: Checkpoint
    gaps: Sequence[Gap] = ()
    state: StreamState | None = None
    detail: str = ""
    filled_ns: int = 0

    @property
    def lines(self) -> int:
        """Records in the frames."""
        return sum(frame.lines for frame in self.frames)

    @property
    def raw_bytes(self) -> int:
        """Bytes in the frames, as the server sent them; records of ours are none of them."""
        return sum(len(frame.raw) for frame in self.frames if frame.kind.holds_lines)


@dataclass(frozen=True, slots=True)
class Tail:
    """The newest records of a stream, for comparison with a re-read.

    Attributes:
        from_ns: The first stamp in it when it was cut short, else 0; also 0 without stamps.
        holes: Between which stamps lines were declared missing in it.
        cut_short: Whether more was taken than it holds; always true when `from_ns` is not 0.
    """

    frames: Sequence[Taken]
    from_ns: int = 0
    holes: Sequence[tuple[int, int]] = ()
    cut_short: bool = False

    def __post_init__(self) -> None:
        """See that what says where it begins also says that it does."""
        object.__setattr__(self, "cut_short", self.cut_short or self.from_ns != 0)


@dataclass(frozen=True, slots=True)
class SinkRecord:
    """A sink as the spool knows it.

    Attributes:
        cursor: The id of the last frame that the sink has; the next frame wanted is after it.
        state: What the sink remembers.
        missed: Records that were deleted while the sink was not configured; they are lost to it.
    """

    name: str
    cursor: int
    state: Mapping[str, bytes] = field(default_factory=dict)
    missed: int = 0


@dataclass(frozen=True, slots=True)
class Delivery:
    """What moving a sink's cursor adds to its counters, in lines.

    Attributes:
        dropped: Refused by the destination without saying which they were.
    """

    delivered: int = 0
    filtered: int = 0
    dead_lettered: int = 0
    dropped: int = 0

    def __add__(self, other: Delivery) -> Delivery:
        """Both together."""
        return Delivery(
            self.delivered + other.delivered,
            self.filtered + other.filtered,
            self.dead_lettered + other.dead_lettered,
            self.dropped + other.dropped,
        )


class DropReason(enum.StrEnum):
    """Why lines were dropped for a sink."""

    NOT_CONFIGURED = "not_configured"  # deleted while the sink was not in the configuration
    DAMAGED = "damaged"  # the disk gave back something else than was stored
    SPOOL_FULL = "spool_full"  # the oldest were given up: `when_full: drop_oldest`
    REFUSED_UNNAMED = "refused_unnamed"  # the destination refused so many and did not say which
    DEAD_LETTERS_DROPPED = "dead_letters_dropped"  # the operator dropped dead letters
    UNRECORDED = "unrecorded"  # counted by an earlier version, which did not keep why


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of a dead letter that was sent again.

    Attributes:
        again: What of it was refused again, if anything; the rest was delivered.
        dropped: Lines of it that were refused without saying which.
    """

    again: Sequence[DeadLetter] = ()
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class Survey:
    """Some consecutive frames, from the outside.

    Attributes:
        last_id: The last of them; where the survey began, when there is none.
        stored_bytes: What they take in the database.
        raw_bytes: What they are, as the server sent them.
        full: Whether they are what was asked for: so much, or all up to an end.
    """

    last_id: int
    stored_bytes: int = 0
    raw_bytes: int = 0
    full: bool = False


@dataclass(frozen=True, slots=True)
class HandedOut:
    """What a sink was promised.

    Attributes:
        lines: Lines, and parts of lines, that are there now.
        last_id: The last frame there is, where a cursor can stand; 0 when all are gone: they were
            given up, and the record of that stands behind them.
    """

    lines: int
    last_id: int


@dataclass(frozen=True, slots=True)
class RangeReplay:
    """A range of lines that is sent to a sink again, and how far that is.

    Attributes:
        id: That of the request.
        since_ns: Lines with this stamp or a later one ...
        until_ns: ... and before this one; None for all of them.
        sandbox_id: Only of this sandbox; of all when empty.
        upto_id: What the sink was past when it was asked for: the frames behind come anyway.
        after_id: The frames up to this one are done.
        asked_lines: How many lines it was when it was asked for.
        lines: So many were delivered so far ...
        refused: ... and so many records were refused.
        asked_ns: When it was asked for, by the local clock.
        ended_ns: When the last of it was done; 0 before.
    """

    id: str
    since_ns: int
    until_ns: int | None
    sandbox_id: str
    upto_id: int
    after_id: int = 0
    asked_lines: int = 0
    lines: int = 0
    refused: int = 0
    asked_ns: int = 0
    ended_ns: int = 0


@dataclass(frozen=True, slots=True)
class SinkOverview:
    """One sink's numbers: taken = delivered + filtered + dead_lettered + dropped + pending.

    `dead_lettered` is what is among the dead letters now: what was delivered from there, or dropped
    by the operator, counts as that.

    Attributes:
        oldest_pending_ns: When the first frame that it has not got was received; 0 without one.
        dropped_for: `dropped`, by reason.
        dead_letters: How many there are; each holds one or more records.
        dead_letter_bytes: What they count against `dead_letters.max_size`.
        replaying: Of the dead letters, those that are to be sent again.
        ranges: What is to be sent again on request; the first may be under way.
        last_range: The last of these that was done.
    """

    name: str
    state: str
    detail: str
    since_ns: int
    taken: int
    delivered: int
    filtered: int
    dead_lettered: int
    dropped: int
    pending: int
    pending_bytes: int
    oldest_pending_ns: int = 0
    dropped_for: Mapping[str, int] = field(default_factory=dict)
    dead_letters: int = 0
    dead_letter_bytes: int = 0
    replaying: int = 0
    ranges: Sequence[RangeReplay] = ()
    last_range: RangeReplay | None = None


@dataclass(frozen=True, slots=True)
class StreamOverview:
    """One stream's numbers.

    Attributes:
        lines: Records taken, in all generations.
        gaps: Those whose lines were not found.
        gaps_filled: Those whose lines were found after all.
    """

    key: StreamKey
    display_name: str
    state: StreamState
    detail: str
    since_ns: int
    lines: int
    bytes: int
    last_stamp_ns: int
    gaps: int
    gaps_filled: int = 0
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Note:
    """Something that `status` should show besides the numbers, such as why discovery fails."""

    name: str
    text: str
    since_ns: int


@dataclass(frozen=True, slots=True)
class SpoolOverview:
    """What the spool knows, for `status` and metrics.

    Attributes:
        frames: Held now, for sinks and for comparison with a re-read.
        size_bytes: Of the database's file, free pages inside it included.
        wal_bytes: Of its write-ahead log: commits that are not copied into the file yet.
        used_bytes: Both, without the free pages: what `spool.max_size` limits.
        max_bytes: That limit, where it is known; None without one.
        oldest_frame_ns: When the oldest frame held was received; 0 without one.
        gaps_unfilled: Over all streams.
        kept_lines: Held although every sink is past them: the tails of streams, and what
            `spool.keep` keeps.
        kept_bytes: Of these, as the server sent them.
    """

    spool_id: str
    frames: int
    size_bytes: int
    streams: Sequence[StreamOverview]
    sinks: Sequence[SinkOverview]
    notes: Sequence[Note] = ()
    wal_bytes: int = 0
    used_bytes: int = 0
    max_bytes: int | None = None
    oldest_frame_ns: int = 0
    gaps_unfilled: int = 0
    kept_lines: int = 0
    kept_bytes: int = 0


class StreamStore(Protocol):
    """Where followers put what they take: all of the spool that following needs."""

    async def open_stream(self, info: StreamInfo, *, primary: bool = False) -> StreamRecord:
        """The stream of this identity, made when new; its attributes become `info`'s.

        A primary container that was followed before its name was known stays the stream that it
        was; nothing of it comes twice.
        """
        ...

    async def commit(self, commits: Sequence[StreamCommit]) -> None:
        """Store frames and positions, all or nothing.

        Raises:
            SpoolUnavailableError: Nothing was stored; try the same commits again.
            SpoolUntrustedError: Nothing may be acknowledged any more; stop.
        """
        ...

    async def tail(self, stream_id: int, *, from_ns: int, max_bytes: int) -> Tail:
        """The frames of lines that reach to `from_ns` or beyond, and at least the newest one.

        At most about `max_bytes` of lines, and none before one that was damaged or dropped; then
        `Tail.cut_short` says so, and `Tail.from_ns` where it begins.
        """
        ...


class Spool(StreamStore, Protocol):
    """The storage of the daemon. All methods are safe to call from one event loop."""

    @property
    def spool_id(self) -> str:
        """Which spool it is: no other one has this name, and frames are numbered within it."""
        ...

    @property
    def last_frame_id(self) -> int:
        """The id of the newest frame committed since the start, or held then; 0 without one."""
        ...

    async def wait_beyond(self, frame_id: int) -> None:
        """Return once a frame with a higher id is committed."""
        ...

    def stream_info(self, stream_id: int) -> StreamInfo:
        """What is known of a stream, from memory."""
        ...

    async def open_sink(self, name: str, *, from_oldest: bool) -> SinkRecord:
        """The sink of this name; a new one begins at the oldest frame held, or at the newest."""
        ...

    async def read(
        self, after_id: int, *, max_bytes: int, sink: str = "", upto_id: int | None = None
    ) -> Sequence[Frame]:
        """The frames after this one, in order, about `max_bytes` of lines; at least one if any.

        A frame that does not match its checksum is replaced by a gap record first.

        Args:
            after_id: A frame that was read, or where a sink's cursor stands.
            max_bytes: How much.
            sink: Who reads: what it was handed is not dropped until its cursor is past it.
            upto_id: None behind this one, where it matters what stands at this place: damage
                behind it is not looked at.

        Raises:
            SpoolUnavailableError: A damaged frame cannot be replaced now; try again.
            SpoolUntrustedError: The database itself is damaged.
        """
        ...

    async def survey(
        self, after_id: int, *, max_stored_bytes: int, max_raw_bytes: int, to_end: bool = False
    ) -> Survey:
        """How far the frames after this one reach until they have a size, by either measure.

        Their lines are not read, and nothing is handed out. Some thousand frames at a time.

        Args:
            after_id: Where to begin.
            max_stored_bytes: What they may take in the database.
            max_raw_bytes: What they may be, as the server sent them.
            to_end: The first frame that is the end of a stream ends them, too.
        """
        ...

    async def hand_out(self, sink: str, after_id: int, through_id: int) -> HandedOut:
        """Promise a sink these frames: none of them is dropped until its cursor is past it."""
        ...

    async def advance(
        self,
        sink: str,
        cursor: int,
        changes: Mapping[str, bytes | None],
        delivery: Delivery,
        dead_letters: Sequence[DeadLetter] = (),
    ) -> None:
        """Move a sink's cursor forward to a frame that was read, with what it remembers and counts.

        In the same transaction dead letters are put where they stay until somebody takes them out:
        `delivery.dead_lettered` is their number of lines.

        Raises:
            SpoolUnavailableError: Nothing was stored; try the same again.
            SpoolUntrustedError: The cursor cannot stand there, or see above.
        """
        ...

    async def dead_letter_bytes(self, sink: str) -> int:
        """What the sink's dead letters count against `dead_letters.max_size` now."""
        ...

    async def letters_to_replay(self, sink: str, *, max_bytes: int) -> Sequence[HeldLetter]:
        """The sink's dead letters that are to be sent again, in order, about `max_bytes` of them.

        At least one, if there is any. One whose bytes are damaged is skipped, and said so. What
        operators ask of dead letters is carried out first; see `forwarder.spool.requests`.
        """
        ...

    async def settle_replay(self, sink: str, outcome: Mapping[int, Replayed]) -> None:
        """Take out dead letters that were sent again, by id, and put back what is refused again.

        What was delivered of them counts so from now on, in the same transaction. A dead letter
        that somebody took out meanwhile is passed over: it was counted then.

        Raises:
            SpoolUnavailableError: Nothing was stored; try the same again.
        """
        ...

    async def next_range(self, sink: str) -> RangeReplay | None:
        """The range that is to be sent to the sink again first; None when there is none.

        What operators ask for is carried out first; see `forwarder.spool.requests`.
        """
        ...

    async def read_range(
        self, sink: str, replay: RangeReplay, *, max_bytes: int
    ) -> Sequence[Frame]:
        """The next frames that may have something of a range, in order, about `max_bytes` of lines.

        Nothing when the rest of it is done, or is not there any more. Others may be among them.
        What is known of their streams is there until the next call.

        Raises:
            SpoolUnavailableError: See `read`.
        """
        ...

    async def settle_range(self, sink: str, replay: RangeReplay) -> None:
        """Store how far a range is; until it has ended its frames stay, as far as there is room.

        Raises:
            SpoolUnavailableError: Nothing was stored; try the same again.
        """
        ...

    async def remember(self, sink: str, changes: Mapping[str, bytes | None]) -> None:
        """Store what a sink must know before its cursor moves."""
        ...

    async def note_sink(self, sink: str, state: str, detail: str) -> None:
        """Say how a sink is, for `status`."""
        ...

    async def configure_sinks(self, destinations: Mapping[str, str]) -> Mapping[str, int]:
        """Say which sinks there are, and where each writes (empty: not to be compared).

        Others hold no frames back any more; their pending records are returned, by name. Their
        cursors stay, and one that was renamed is known again by its destination. What a sink noted
        that it is handed (`forwarder.spool.handed`) is not dropped from now on.
        """
        ...

    async def unfinished_streams(self) -> Sequence[StreamInfo]:
        """Every stream that was not read to its end, as it was last known."""
        ...

    async def note(self, name: str, text: str) -> None:
        """Write a note down for `status`, or take it away with an empty text."""
        ...

    async def prune(self, *, keep_tail_ns: int) -> int:
        """Delete frames that every sink is past, save each live stream's tail; returns how many.

        Those that were taken less than `spool.keep` ago stay, as long as there is room for others.
        On a full disk it does what it can; the rest is left to the next call. What operators ask
        for is carried out, too.
        """
        ...

    async def overview(self) -> SpoolOverview:
        """The numbers, from one consistent view."""
        ...

    async def close(self) -> None:
        """Finish what is under way and close the database."""
        ...
