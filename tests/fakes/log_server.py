"""A log server in memory: what StreamLogs does to a client, with every unknown as a setting.

It holds one append-only log, serves it through sessions with byte offsets and a bounded replay
window, forgets old lines when told, and can lie about its offsets. No I/O and no clock: a test
decides how much is sent, and when a connection ends.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from forwarder.errors import LogStreamError
from forwarder.stamps import format_stamp

SECOND_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One message of a log stream."""

    data: bytes
    log_session_id: str = ""
    next_log_offset: int = 0


@dataclass(frozen=True, slots=True)
class Line:
    r"""One line of the log.

    Attributes:
        stamp_ns: What since_time is compared with, also when the stamp is not shown.
        raw: What the client is sent, with its newline.
    """

    stamp_ns: int
    raw: bytes


def stamped(stamp_ns: int, text: bytes, *, ended: bool = True) -> Line:
    """A line as the server shows it."""
    return Line(stamp_ns, b"%s %s" % (format_stamp(stamp_ns).encode(), text) + b"\n" * ended)


@dataclass(frozen=True, slots=True)
class SinceRules:
    """What since_time means; nobody knows it of the real server.

    Attributes:
        inclusive: Whether a line at that very time is sent.
        whole_seconds: Whether times are compared in whole seconds.
        off_after_first_match: Whether everything behind the first line that passes is sent.
    """

    inclusive: bool = True
    whole_seconds: bool = False
    off_after_first_match: bool = False

    def passes(self, stamp_ns: int, since_ns: int) -> bool:
        """Whether a line of this stamp is late enough."""
        unit = SECOND_NS if self.whole_seconds else 1
        stamp, since = stamp_ns // unit, since_ns // unit
        return stamp >= since if self.inclusive else stamp > since


class Lie(enum.Enum):
    """What an entry says instead of its offset."""

    NOTHING = "nothing"  # as a server that gives no offset
    AHEAD = "ahead"  # ten bytes too many
    BEHIND = "behind"  # ten bytes too few
    REPEATED = "repeated"  # what the entry before it said
    HUGE = "huge"  # 2^63
    LARGEST = "largest"  # 2^64 - 1

    def told(self, end: int, before: int) -> int:
        """The offset that is told for `end`, when `before` was told last."""
        match self:
            case Lie.NOTHING:
                return 0
            case Lie.AHEAD:
                return end + 10
            case Lie.BEHIND:
                return max(end - 10, 0)
            case Lie.REPEATED:
                return before
            case Lie.HUGE:
                return 1 << 63
            case Lie.LARGEST:
                return (1 << 64) - 1


class LogServer:
    """One container's log and the sessions on it.

    Attributes:
        lines: Everything that was ever written, also what is no longer held.
        held_from: The index of the oldest line that can still be read.
    """

    def __init__(self, rules: SinceRules | None = None, *, window_bytes: int = 1 << 20) -> None:
        self.rules = rules or SinceRules()
        self.window_bytes = window_bytes
        self.lines: list[Line] = []
        self.held_from = 0
        self._sessions: dict[str, _Session] = {}
        self._sessions_ever = 0

    @property
    def text(self) -> bytes:
        """Everything that was ever written, as it is sent."""
        return b"".join(line.raw for line in self.lines)

    def write(self, *lines: Line) -> None:
        """Append to the log; open sessions get it as well."""
        self.lines += lines
        for session in self._sessions.values():
            session.extend(lines)

    def forget_lines(self, before: int) -> None:
        """Drop the lines below an index from what can be read; sessions keep what they have."""
        self.held_from = max(self.held_from, min(before, len(self.lines)))

    def forget_sessions(self) -> None:
        """Lose every session."""
        self._sessions.clear()

    def open(self, since_ns: int | None = None) -> Connection:
        """A new stream."""
        self._sessions_ever += 1
        session = _Session(f"log-{self._sessions_ever}", self.rules, since_ns)
        session.extend(self.lines[self.held_from :])
        self._sessions[session.id] = session
        return Connection(session, 0)

    def resume(self, session_id: str, offset: int, *, extra_bytes: int = 0) -> Connection:
        """Continue a session from an offset, or up to so many bytes earlier.

        Raises:
            LogStreamError: By the codes of the API.
        """
        session = self._sessions.get(session_id)
        if session is None:
            raise LogStreamError("no such session", code="SESSION_NOT_FOUND")
        if offset > session.sent:
            raise LogStreamError("never sent", code="INVALID_RESUME_OFFSET")
        oldest = max(session.sent - self.window_bytes, 0)
        if offset < oldest:
            raise LogStreamError("no longer held", code="REPLAY_GAP")
        return Connection(session, max(oldest, offset - extra_bytes))


class _Session:
    """The bytes of one session."""

    def __init__(self, session_id: str, rules: SinceRules, since_ns: int | None) -> None:
        self.id = session_id
        self.data = bytearray()
        self.sent = 0
        self._rules = rules
        self._since_ns = since_ns

    @property
    def filtered(self) -> bool:
        """Whether lines are still being left out for their stamps."""
        return self._since_ns is not None

    def extend(self, lines: list[Line] | tuple[Line, ...]) -> None:
        """Add those of the lines that since_time lets pass."""
        for line in lines:
            if self._since_ns is None or self._rules.passes(line.stamp_ns, self._since_ns):
                self.data += line.raw
                if self._rules.off_after_first_match:
                    self._since_ns = None


class Connection:
    """A session being sent.

    Attributes:
        named: Whether the entries to come say the session's id.
        told: The offset that was told last.
    """

    def __init__(self, session: _Session, position: int) -> None:
        self._session = session
        self._position = position
        self._shift = 0
        self._skipped = False
        self.named = True
        self.told = 0

    @property
    def rest_bytes(self) -> int:
        """How much there is to send."""
        return len(self._session.data) - self._position

    @property
    def filtered(self) -> bool:
        """Whether lines are still being left out for their stamps."""
        return self._session.filtered

    def skip(self, size: int) -> None:
        """Lose some bytes on the way, though not a session's first ones; the next offset tells."""
        if not self._position:
            return
        self._skipped = True
        self._position = min(self._position + size, len(self._session.data))
        self._session.sent = max(self._session.sent, self._position)

    def send(self, size: int, lie: Lie | None = None) -> Entry:
        """The next bytes, at most so many. Two lies in a row never agree with each other."""
        data = bytes(self._session.data[self._position : self._position + size])
        self._position += len(data)
        self._session.sent = max(self._session.sent, self._position)
        end = told = self._position
        if lie is not None and not self._skipped:
            told = lie.told(end, self.told)
            if told and told - end == self._shift:
                told = end
        self._shift = told - end if told else self._shift
        self.told = told or self.told
        self._skipped = self._skipped and not data
        return Entry(data, self._session.id if self.named else "", told)
