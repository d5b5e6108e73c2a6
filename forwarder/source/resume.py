"""The arithmetic of resuming. Pure: no I/O, no clock.

A stream that broke is continued in one of two ways. The session is resumed at its offset, and then
only bytes count (`SessionPosition`). Or, when the session is gone, a new stream is opened from
`since_time`, some seconds before the checkpoint, and what had been taken already is taken out of
the re-read (`Overlap`). Which of the two, and when neither, is said in one table (`next_step`).

Nothing here decides by a stamp alone: stamps are neither unique nor sorted, and whether since_time
is inclusive, and whether it counts whole seconds, is unknown (API reference, StreamLogs).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forwarder.errors import (
    CredentialsRefusedError,
    InvalidRequestError,
    LogStreamError,
    SandboxNotFoundError,
    SandboxNotRunningError,
    SourceError,
)
from forwarder.model import Block, Checkpoint, FrameKind
from forwarder.stamps import parse_stamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from forwarder.source.interface import LogEntry

SECOND_NS = 1_000_000_000


class Step(enum.Enum):
    """What to do about a stream that ended."""

    RESUME = "resume"  # continue the session at its offset
    REOPEN = "reopen"  # the session is gone: a new stream from the checkpoint less an overlap
    HOLD = "hold"  # credentials: try again slowly, loudly, for ever
    ASK = "ask"  # GetSandbox knows whether the sandbox ended, runs, or never was


#: In-band codes by which the session says that it lives on; every other code has lost it.
_SESSION_LIVES = frozenset({"STREAM_INTERRUPTED"})


def next_step(error: SourceError | None) -> Step:
    """What follows an error, or a clean end (None), of a log stream; decided by code alone.

    Source: API reference, table of `error.code`. `PERMISSION_DENIED` holds instead of ending the
    follow: a rotated key must not turn into lost logs.
    """
    match error:
        case None | SandboxNotFoundError() | SandboxNotRunningError():
            return Step.ASK
        case LogStreamError(code="SANDBOX_NOT_FOUND"):
            return Step.ASK
        case CredentialsRefusedError() | LogStreamError(code="PERMISSION_DENIED"):
            return Step.HOLD
        case LogStreamError():
            return Step.RESUME if error.code in _SESSION_LIVES else Step.REOPEN
        case InvalidRequestError():
            return Step.REOPEN
        case _:
            return Step.RESUME


def since_ns(checkpoint: Checkpoint, overlap_ns: int, *, tail_from_ns: int = 0) -> int | None:
    """Where a new stream begins: the checkpoint less an overlap; None for the very beginning.

    Args:
        checkpoint: How far the stream has been taken.
        overlap_ns: Covers whole-second granularity and lines that are stamped out of order.
        tail_from_ns: The first stamp of what was kept for comparison, when that was cut short by
            its size: a re-read must not begin before it, so it begins a second after it, because
            the server may count whole seconds.
    """
    if not checkpoint.next_line:
        return None
    since = max(checkpoint.high_stamp_ns - overlap_ns, 0)
    if tail_from_ns:
        since = max(since, min(tail_from_ns + SECOND_NS, checkpoint.high_stamp_ns))
    return since


class SessionLostError(LogStreamError):
    """The session's own accounting does not add up; what comes from it is not taken."""


class SessionPosition:
    """Which bytes of a session have been received, and so which of an entry's bytes are new.

    `next_log_offset` counts the session's bytes up to and including an entry's (measured: 100 bytes
    at 500 give 600). A resumed session may replay more than it was asked for: those bytes are cut
    off, but only until the asked offset is reached. Any other disagreement means that offsets or
    session are not what we think, and then no byte is guessed at: the caller opens a new stream and
    compares lines.

    Attributes:
        session_id: Empty when the server gives none; such a stream cannot be resumed.
        offset: The next byte wanted.
    """

    def __init__(self, session_id: str = "", offset: int = 0, *, trusting: bool = True) -> None:
        """Begin at an offset of a session, or (without one) wherever the first entry says.

        Args:
            session_id: The session to continue, empty for a new stream.
            offset: The first byte wanted of it.
            trusting: False for a server whose offsets proved wrong again and again: they are not
                looked at, every byte is taken as it comes, and the session is never resumed.
        """
        self.session_id = session_id
        self.offset = offset
        self._trusting = trusting
        self._replaying = bool(session_id)
        self._started = bool(session_id)

    def accept(self, entry: LogEntry) -> bytes:
        """The new bytes of the next entry.

        Raises:
            SessionLostError: The session changed, skipped bytes, or went back.
        """
        data = entry.data
        if not self._trusting:
            return data
        end = entry.next_log_offset
        session_id = entry.log_session_id
        if session_id and session_id != self.session_id:
            self._meet(session_id)
        if not self.session_id or not end:
            # Without an offset of its own the entry is simply what follows.
            self.offset += len(data)
            return data
        begin = end - len(data)
        if not self._started:
            self._started = True
            self.offset = begin
        if begin == self.offset:
            self._replaying = False
            self.offset = end
            return data
        if self._replaying and begin < self.offset:
            return self._cut_replay(data, end)
        raise SessionLostError(
            f"the session's offsets do not follow: byte {begin} where {self.offset} was next",
            code="OFFSET_MISMATCH",
        )

    def _meet(self, session_id: str) -> None:
        """A session's name, for the first time; a session never changes under a stream."""
        if self._started:
            raise SessionLostError("the session changed under the stream", code="SESSION_CHANGED")
        self.session_id = session_id

    def _cut_replay(self, data: bytes, end: int) -> bytes:
        """What a replayed entry holds beyond the offset that was asked for."""
        if end <= self.offset:
            return b""
        fresh = data[len(data) - (end - self.offset) :]
        self._replaying = False
        self.offset = end
        return fresh


@dataclass(frozen=True, slots=True)
class Taken:
    """A frame of what was already taken: as much of it as the comparison needs."""

    kind: FrameKind
    part: int
    raw: bytes


#: A record, for comparison: its exact bytes without the newline, and its part number.
_Record = tuple[int, bytes]


class Overlap:
    """Takes out of a re-read what was taken before, by counted occurrence of the exact bytes.

    Ten thousand equal lines on one stamp are ten thousand lines: each removal uses one occurrence
    up. That is exact for any order of lines and any since_time rule that goes by the stamp, since
    all lines of one stamp and text are then either in the re-read or not.

    Attributes:
        removed: Records taken out so far.
        lost: Whether the re-read brought a new line before any that was taken: what lies between
            the two is gone. Known as soon as it happens, never changed later.
    """

    def __init__(self, taken: Iterable[Taken], *, until_ns: int) -> None:
        """Compare with `taken`, in stream order, until the re-read's stamps pass `until_ns`."""
        self._taken: Iterator[_Record] | None = _records(taken)
        self._ahead: dict[_Record, int] = {}
        self._until_ns = until_ns
        self._any_taken = False
        self.removed = 0
        self.lost = False

    @property
    def done(self) -> bool:
        """Whether nothing more can be removed: every line from here on is new."""
        return self._taken is None and not self._ahead

    def remove(self, block: Block) -> Block | None:
        """What of the block is new, in its order; None when nothing is."""
        if not self.done and block.first_stamp_ns > self._until_ns:
            self._load_all_if_unseen()
            self._taken = None
            self._ahead.clear()
        if self.done:
            self._note_new()
            return block
        if block.kind is FrameKind.PART:
            return None if self._use_up((block.part, block.raw.removesuffix(b"\n"))) else block
        lines = block.raw.split(b"\n")
        ended = not lines[-1]
        if ended:
            lines.pop()
        fresh = [line for line in lines if not self._use_up((0, line))]
        if not fresh:
            return None
        if len(fresh) == len(lines):
            return block
        return _block(fresh, block, ended=ended)

    def _use_up(self, record: _Record) -> bool:
        """Whether the record was taken before; uses up one occurrence of it."""
        count = self._ahead.get(record, 0) or self._look_ahead(record)
        if not count:
            self._note_new()
            return False
        if count == 1:
            del self._ahead[record]
        else:
            self._ahead[record] = count - 1
        self.removed += 1
        return True

    def _look_ahead(self, record: _Record) -> int:
        """Count what was taken, from where we stopped, until the record is met or all is counted.

        Re-read and taken lines come in nearly the same order, so little is held at a time.
        """
        if self._taken is None:
            return 0
        ahead = self._ahead
        for known in self._taken:
            self._any_taken = True
            count = ahead.get(known, 0) + 1
            ahead[known] = count
            if known == record:
                return count
        self._taken = None
        return 0

    def _load_all_if_unseen(self) -> None:
        """Learn whether anything had been taken, when the re-read begins beyond all of it."""
        if self._taken is not None and not self._any_taken:
            self._any_taken = next(self._taken, None) is not None

    def _note_new(self) -> None:
        if self._any_taken and not self.removed:
            self.lost = True


def _records(taken: Iterable[Taken]) -> Iterator[_Record]:
    """Each record of the frames, in order."""
    for frame in taken:
        if frame.kind is FrameKind.PART:
            yield (frame.part, frame.raw.removesuffix(b"\n"))
        elif frame.kind is FrameKind.LINES:
            lines = frame.raw.split(b"\n")
            if not lines[-1]:
                lines.pop()
            for line in lines:
                yield (0, line)


def _block(lines: list[bytes], block: Block, *, ended: bool) -> Block:
    """The block again, with only these of its lines."""
    raw = b"\n".join(lines) + (b"\n" if ended else b"")
    first = parse_stamp(lines[0])
    last = parse_stamp(lines[-1])
    return Block(
        FrameKind.LINES,
        raw,
        len(lines),
        0,
        first[0] if first else block.first_stamp_ns,
        last[0] if last else block.last_stamp_ns,
    )
