"""The arithmetic of resuming. Pure: no I/O, no clock.

A stream that broke is continued in one of two ways. The session is resumed at its offset, and then
only bytes count (`SessionPosition`). Or, when the session is gone, a new stream is opened from
`since_time`, some seconds before the checkpoint, and what had been taken already is taken out of
the re-read (`Overlap`). Which of the two, and when neither, is said in one table (`next_step`).

Nothing here decides by a stamp alone, see `overlap`.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from forwarder.errors import (
    CredentialsRefusedError,
    InvalidRequestError,
    LogStreamError,
    SandboxNotFoundError,
    SandboxNotRunningError,
    SourceError,
)

if TYPE_CHECKING:
    from forwarder.model import Checkpoint
    from forwarder.source.interface import LogEntry

SECOND_NS = 1_000_000_000

#: So many of the last bytes received are kept to recognise a replay by.
SEEN_BYTES = 1024

#: A replay is recognised by so many bytes, twice a stamp, with a line's end among them: the inside
#: of a line may look the same everywhere.
RECOGNISED_BYTES = 64


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


def since_ns(checkpoint: Checkpoint, overlap_ns: int) -> int | None:
    """Where a new stream begins: the checkpoint less an overlap; None for the very beginning.

    A second earlier than the overlap, because the server may leave out the lines of the very time,
    or of the very second, that it is asked for.
    """
    if not checkpoint.any_taken:
        return None
    from_ns = checkpoint.high_stamp_ns
    if stepped_back(checkpoint, overlap_ns):
        from_ns = checkpoint.last_stamp_ns
    return max(from_ns - overlap_ns - SECOND_NS, 0)


def stepped_back(checkpoint: Checkpoint, overlap_ns: int) -> bool:
    """Whether the stamps have gone back by more than lines are out of order: a clock was set.

    Counted from the highest stamp, every line until the clock is there again would be left out.
    """
    return checkpoint.last_stamp_ns < checkpoint.high_stamp_ns - overlap_ns


def tail_ns(overlap_ns: int) -> int:
    """How far below the highest stamp everything taken has to be kept, to be compared with.

    A re-read begins an overlap and a second earlier, or up to a second before that where the server
    counts whole seconds. And a frame is found by its first and its last line's stamps: a line
    between them may be stamped higher, by as much as lines are out of order, which is an overlap.
    """
    return 2 * overlap_ns + 2 * SECOND_NS


class SessionLostError(LogStreamError):
    """The session's own accounting does not add up; what comes from it is not taken.

    Attributes:
        skipped_to: Where the session goes on when it left bytes out, else None.
    """

    def __init__(self, message: str, *, code: str, skipped_to: int | None = None) -> None:
        super().__init__(message, code=code)
        self.skipped_to = skipped_to


class SessionPosition:
    """Which bytes of a session have been received, and so which of an entry's bytes are new.

    `next_log_offset` counts the session's bytes up to and including an entry's (measured: 100 bytes
    at 500 give 600). A resumed session may replay more than it was asked for; those bytes are cut
    off, but only where they are seen to be the ones that were received. Any disagreement means that
    offsets or session are not what we think, and then no byte is guessed at: the caller opens a new
    stream and compares lines.

    Attributes:
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
        self.offset = offset
        self._named = session_id
        self._trusting = trusting
        self._seen = b""
        self._first = self._next = offset
        self._asked = bool(session_id)
        self._placed = self._agreed = False

    @property
    def session_id(self) -> str:
        """The session to resume; empty while there is none whose offsets can be believed.

        A session whose first byte is not at 0 is believed when a second offset agrees.
        """
        return self._named if self._agreed or self._asked else ""

    def covers(self, offset: int) -> bool:
        """Whether the session can be asked for this byte: whether it was ever in it."""
        return bool(self.session_id) and offset >= self._first

    def resumed(self, seen: bytes) -> SessionPosition:
        """The position for the session's next connection.

        Args:
            seen: The last bytes received, up to the offset; a replay is compared with them.
        """
        again = SessionPosition(self.session_id, self.offset)
        again._first = self._first
        again._seen = seen
        return again

    def accept(self, entry: LogEntry) -> bytes:
        """The new bytes of the next entry.

        Raises:
            SessionLostError: The session changed, skipped bytes, or went back.
        """
        data = entry.data
        if not self._trusting:
            return data
        session_id = entry.log_session_id
        if session_id and session_id != self._named:
            self._meet(session_id)
        begin = self._locate(len(data), entry.next_log_offset)
        self._next = begin + len(data)
        if begin == self.offset:
            self.offset = self._next
            return data
        return self._cut_replay(data, begin)

    def _meet(self, session_id: str) -> None:
        """A session's name, for the first time; a session never changes under a stream."""
        if self._named:
            raise SessionLostError("the session changed under the stream", code="SESSION_CHANGED")
        self._named = session_id
        if not self._placed:
            # What came before the name, without an offset, may be in no session.
            self._first = self.offset

    def _locate(self, size: int, end: int) -> int:
        """Where in the session an entry begins; entries follow each other without a hole."""
        begin = end - size if end else self._next
        if begin == self._next:
            if not end and self._asked and not self._placed and size:
                raise _mismatch("the resumed session does not say where it goes on")
            self._agreed |= end > 0
        elif self._placed or begin < 0 or (begin > self._next and (self._next or self._asked)):
            message = f"the session goes on at byte {begin} where {self._next} was next"
            raise _mismatch(message, skipped_to=begin if begin > self._next else None)
        elif not self._asked:
            self._first = self.offset = begin
        self._placed |= end > 0
        return begin

    def _cut_replay(self, data: bytes, begin: int) -> bytes:
        """What an entry that begins before the offset holds beyond it."""
        known = data[: self.offset - begin]
        seen = self._seen[: len(self._seen) - (self.offset - begin - len(known))]
        size = min(len(known), len(seen))
        if known[len(known) - size :] != seen[len(seen) - size :]:
            raise _mismatch("the replay differs from what was read")
        fresh = data[len(known) :]
        recognised = size >= RECOGNISED_BYTES and b"\n" in known[-size:]
        if fresh and not (self._agreed or recognised):
            raise _mismatch("too little of the replay is known to recognise it")
        self.offset += len(fresh)
        return fresh


def _mismatch(message: str, *, skipped_to: int | None = None) -> SessionLostError:
    return SessionLostError(message, code="OFFSET_MISMATCH", skipped_to=skipped_to)
