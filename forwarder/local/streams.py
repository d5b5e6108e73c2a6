"""Open log streams: what is sent when, and how a stream is made to fail."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from connectrpc.code import Code
from connectrpc.errors import ConnectError
from cwsandbox._proto import sandbox_pb2 as pb

from forwarder.local.errors import api_error
from forwarder.local.logstore import LinesLostError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from forwarder.local.exchange import Exchange
    from forwarder.local.sessions import Session
    from forwarder.local.settings import Faults

How = Literal["reset", "cut", "clean_end", "error", "status"]
HOWS: tuple[str, ...] = get_args(How)
_YIELD_EVERY_MESSAGES = 16


@dataclass(frozen=True, slots=True)
class Break:
    """How a stream is to end.

    Attributes:
        how: `reset` (TCP reset), `cut` (the body ends without the end of the stream), `clean_end`,
            `error` (in-band, with `code`), `status` (transport status `code`).
    """

    how: How
    code: str = ""


def log_error(code: str, message: str = "") -> pb.LogEntry:
    """An in-band error, which ends a stream."""
    return pb.LogEntry(error=pb.LogStreamError(code=code, message=message or code))


@dataclass(slots=True)
class Counters:
    """What clients did, since the service began.

    Attributes:
        streams_fresh: Log streams opened from the log itself.
        streams_resumed: Log streams that continued a session.
        streams_invalid: Requests for a log stream refused with `invalid_argument`.
        opening: Log streams that are being opened now.
        opening_peak: The most that were being opened at once.
    """

    streams_fresh: int = 0
    streams_resumed: int = 0
    streams_invalid: int = 0
    opening: int = 0
    opening_peak: int = 0

    @contextmanager
    def counted_opening(self) -> Iterator[None]:
        """While a log stream is being opened."""
        self.opening += 1
        self.opening_peak = max(self.opening_peak, self.opening)
        try:
            yield
        except ConnectError as error:
            self.streams_invalid += error.code is Code.INVALID_ARGUMENT
            raise
        finally:
            self.opening -= 1


class OpenStreams:
    """The log streams that are open now."""

    def __init__(self) -> None:
        self._open: set[LogStream] = set()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, stream: LogStream) -> None:
        """A stream was opened."""
        self._open.add(stream)

    def discard(self, stream: LogStream) -> None:
        """A stream has ended."""
        self._open.discard(stream)

    def wake(self) -> None:
        """Let every stream look at its surroundings again."""
        for stream in tuple(self._open):
            stream.wake()

    def break_all(self, how: Break) -> int:
        """Break every open stream now; returns how many there were."""
        for stream in tuple(self._open):
            stream.break_off(how)
        return len(self._open)


class LogStream:
    """One answer to StreamLogs, from its first message to its end."""

    def __init__(
        self,
        session: Session,
        exchange: Exchange,
        faults: Faults,
        *,
        follow: bool,
        message_bytes: int,
        announce: bool,
        time_ns: Callable[[], int],
        rename: Callable[[Session], None],
    ) -> None:
        self._session = session
        self._generation = session.generation
        self._exchange = exchange
        self._faults = faults
        self._follow = follow
        self._message_bytes = message_bytes
        self._announce = announce
        self._time_ns = time_ns
        self._rename = rename
        # `silent` is for the streams that were open before it was set.
        self._spared = faults.silent
        self._renamed = False
        self._wake = asyncio.Event()
        self._break: Break | None = None
        self._sent_bytes = 0
        self._sent_messages = 0

    def wake(self) -> None:
        """Look again: the log grew or ended, or a fault changed."""
        self._spared &= self._faults.silent
        self._renamed &= self._faults.change_session
        self._wake.set()

    def break_off(self, how: Break) -> None:
        """End this way as soon as the message under way is out."""
        self._break = how
        self._wake.set()

    async def messages(self) -> AsyncIterator[pb.LogEntry]:
        """Everything to send. Ends normally when the stream ends cleanly.

        Raises:
            ConnectError: The stream ends with a transport status.
        """
        if self._announce:
            yield self._entry(b"")
        while True:
            self._wake.clear()
            if self._session.generation != self._generation:
                # The client came back on another connection: it does not hear this one any more.
                self._break = Break("cut")
            ending = self._break or self._due_fault()
            if ending is not None:
                for last in self._end(ending):
                    yield last
                return
            entry = self._next_entry()
            if entry is not None:
                yield entry
                if self._sent_messages % _YIELD_EVERY_MESSAGES == 0:
                    await asyncio.sleep(0)
            elif self._done():
                return
            else:
                await self._wake.wait()

    def _done(self) -> bool:
        if self._mute or self._break is not None:
            return False
        return self._session.exhausted or not self._follow

    @property
    def _mute(self) -> bool:
        silent = self._faults.silent and self._follow and not self._spared
        return silent or self._faults.stall

    def _next_entry(self) -> pb.LogEntry | None:
        if self._mute:
            return None
        try:
            self._change_session()
            data = self._session.take(self._room())
        except LinesLostError:
            self._break = Break("error", "REPLAY_GAP")
            self._wake.set()
            return None
        if not data:
            return None
        self._sent_bytes += len(data)
        self._sent_messages += 1
        return self._entry(data)

    def _change_session(self) -> None:
        """Take another session id, if that is wanted and there is data to show it with."""
        wanted = self._faults.change_session and self._sent_bytes and not self._renamed
        if wanted and self._session.ready:
            self._renamed = True
            self._rename(self._session)

    def _entry(self, data: bytes) -> pb.LogEntry:
        entry = pb.LogEntry(data=data)
        entry.timestamp.FromNanoseconds(self._time_ns())
        if self._follow and not self._faults.hide_session:
            entry.log_session_id = self._session.id
            entry.next_log_offset = self._offset()
        return entry

    def _offset(self) -> int:
        if self._faults.offset_value is not None:
            return self._faults.offset_value
        return max(0, self._session.position + self._faults.offset_shift)

    def _limits(self) -> list[tuple[int, Break]]:
        """After how many bytes which fault is due."""
        faults = self._faults
        limits = [
            (faults.cut_after_bytes, Break("cut")),
            (faults.end_after_bytes, Break("clean_end")),
            (faults.error_after_bytes, Break("error", faults.error_code)),
            (faults.status_after_bytes, Break("status", faults.status_code)),
        ]
        return [(limit, ending) for limit, ending in limits if limit is not None]

    def _due_fault(self) -> Break | None:
        messages = self._faults.cut_after_messages
        if messages is not None and self._sent_messages >= messages:
            return Break("cut")
        due = (ending for limit, ending in self._limits() if self._sent_bytes >= limit)
        return next(due, None)

    def _room(self) -> int:
        """How many bytes the next message may carry."""
        room = [limit - self._sent_bytes for limit, _ in self._limits()]
        return min(self._faults.piece_bytes or self._message_bytes, self._message_bytes, *room)

    def _end(self, ending: Break) -> list[pb.LogEntry]:
        match ending.how:
            case "error":
                late = (
                    [self._entry(b"data after the end\n")] if self._faults.data_after_error else []
                )
                return [log_error(ending.code), *late]
            case "status":
                raise api_error(ending.code, f"broken on purpose: {ending.code}")
            case "cut":
                self._exchange.cut()
            case "reset":
                self._exchange.reset()
            case "clean_end":
                pass
        return []
