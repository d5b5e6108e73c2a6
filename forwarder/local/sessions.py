"""Log sessions: a byte stream that can be taken up again from an offset, within a window.

Offsets count the bytes of the stream as it is sent (stamps included when they were asked for) and
are cumulative after each chunk. Pure: the time is passed in.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from forwarder.local.logstore import LogReader

_TRIM_BYTES = 64 * 1024


class ReplayGapError(Exception):
    """The bytes asked for are no longer in the session's replay window."""


class InvalidOffsetError(Exception):
    """The offset is ahead of everything that was ever sent."""


class Session:
    """One log stream's bytes, across its connections.

    Attributes:
        position: Offset of the next byte to send.
        generation: Grows when another connection takes the session over; the older one must stop.
    """

    def __init__(
        self, session_id: str, sandbox_id: str, container: str, reader: LogReader, window_bytes: int
    ) -> None:
        self.id = session_id
        self.sandbox_id = sandbox_id
        self.container = container
        self.position = 0
        self.generation = 0
        self._reader = reader
        self._window_bytes = window_bytes
        self._buffer = bytearray()
        self._base = 0
        self._sent = 0

    @property
    def exhausted(self) -> bool:
        """Whether the log is closed and everything of it was sent."""
        return self.position == self._base + len(self._buffer) and self._reader.exhausted

    @property
    def ready(self) -> bool:
        """Whether there is something to take now.

        Raises:
            LinesLostError: The log no longer holds what comes next.
        """
        self._fill()
        return self.position < self._base + len(self._buffer)

    def take(self, max_bytes: int) -> bytes:
        """The next bytes to send, remembered for a replay; empty when there are none now.

        Raises:
            LinesLostError: The log no longer holds what comes next.
        """
        self._fill()
        start = self.position - self._base
        data = bytes(self._buffer[start : start + max_bytes])
        self.position += len(data)
        self._sent = max(self._sent, self.position)
        self._trim()
        return data

    def rewind(self, offset: int, extra_bytes: int = 0) -> None:
        """Go back to an offset, or up to `extra_bytes` before it; the session changes hands.

        Raises:
            InvalidOffsetError: Nothing was ever sent there.
            ReplayGapError: It is before the window.
        """
        if offset > self._sent:
            raise InvalidOffsetError
        oldest = max(self._base, self._sent - self._window_bytes)
        if offset < oldest:
            raise ReplayGapError
        self.position = max(oldest, offset - extra_bytes)
        self.generation += 1

    def begin_anew(self) -> None:
        """Count offsets from here: nothing that was sent before can be replayed."""
        del self._buffer[: self.position - self._base]
        self._base = self._sent = self.position = 0

    def _fill(self) -> None:
        if self.position - self._base == len(self._buffer):
            self._buffer += self._reader.read()

    def _trim(self) -> None:
        excess = self._sent - self._window_bytes - self._base
        if excess >= _TRIM_BYTES and self.position - self._base >= excess:
            del self._buffer[:excess]
            self._base += excess


def _new_id() -> str:
    return f"log-{secrets.token_hex(12)}"


class SessionTable:
    """The sessions that can be resumed, each for a time after its stream ended."""

    def __init__(self, lifetime_s: float, monotonic_s: Callable[[], float]) -> None:
        self._lifetime_s = lifetime_s
        self._monotonic_s = monotonic_s
        self._sessions: dict[str, Session] = {}
        self._idle_since_s: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def add(self, sandbox_id: str, container: str, reader: LogReader, window_bytes: int) -> Session:
        """A new session, in use."""
        self._expire()
        session_id = _new_id()
        session = Session(session_id, sandbox_id, container, reader, window_bytes)
        self._sessions[session_id] = session
        return session

    def find(self, session_id: str, sandbox_id: str) -> Session | None:
        """The session, if it is still there and belongs to this sandbox."""
        self._expire()
        session = self._sessions.get(session_id)
        return session if session is not None and session.sandbox_id == sandbox_id else None

    def rename(self, session: Session) -> None:
        """Go on with the session as if it were another one, which begins here."""
        if self._sessions.pop(session.id, None) is not None:
            session.id = _new_id()
            session.begin_anew()
            self._sessions[session.id] = session

    def use(self, session: Session) -> None:
        """A stream has begun: the session does not age."""
        self._idle_since_s.pop(session.id, None)

    def release(self, session: Session, generation: int) -> None:
        """A stream has ended; unless another one took the session over, it begins to age."""
        if session.id in self._sessions and session.generation == generation:
            self._idle_since_s[session.id] = self._monotonic_s()

    def forget_all(self) -> None:
        """Lose every session; open streams go on, but can never be resumed."""
        self._sessions.clear()
        self._idle_since_s.clear()

    def _expire(self) -> None:
        oldest_s = self._monotonic_s() - self._lifetime_s
        for session_id, since_s in list(self._idle_since_s.items()):
            if since_s <= oldest_s:
                del self._idle_since_s[session_id]
                self._sessions.pop(session_id, None)
