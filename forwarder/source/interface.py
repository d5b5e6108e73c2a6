"""What the engine asks of the sandbox API, whatever the transport."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from forwarder.model import Sandbox


class LogEntry(Protocol):
    """One message of a log stream, as it came."""

    @property
    def data(self) -> bytes:
        """Any piece of the byte stream: it may be cut inside a line, a stamp or a character."""
        ...

    @property
    def log_session_id(self) -> str:
        """The API's session; empty when the server has none."""
        ...

    @property
    def next_log_offset(self) -> int:
        """The session's offset of the next unread byte, 0 when not given."""
        ...


@dataclass(frozen=True, slots=True)
class LogRequest:
    """What to stream. Either a fresh stream, or the continuation of a session.

    A continuation (`session_id` not empty) needs `follow` and excludes `tail_lines`, `since_ns`
    and `timestamps`: the server refuses anything else (API reference, StreamLogs), so the
    transport leaves those out of such a request.

    Attributes:
        container: Empty for the primary container.
        tail_lines: Only so many of the newest lines; None for all.
        since_ns: Only lines from this time on; None for all.
        timestamps: Prefix each line with its stamp and one space.
        session_id: Continue this session ...
        offset: ... from this byte.
    """

    sandbox_id: str
    container: str = ""
    follow: bool = True
    tail_lines: int | None = None
    since_ns: int | None = None
    timestamps: bool = True
    session_id: str = ""
    offset: int = 0


class LogSource(Protocol):
    """The sandbox API. Every method raises `forwarder.errors.SourceError` and nothing else."""

    async def get_sandbox(self, sandbox_id: str) -> Sandbox:
        """What the API says of one sandbox now.

        Raises:
            SandboxNotFoundError: It does not know it.
            SourceError: See its subclasses.
        """
        ...

    async def list_sandboxes(
        self, *, tags: Sequence[str] = (), show_terminated: bool = False
    ) -> list[Sandbox]:
        """All sandboxes that have all of these tags; every page is followed.

        It is all or nothing: when a page fails the whole call raises, so that a partial list is
        never read as "the others are gone" (grafana/alloy#7036).
        """
        ...

    def read_logs(
        self, request: LogRequest
    ) -> AbstractAsyncContextManager[AsyncIterator[Sequence[LogEntry]]]:
        """Open a log stream; entering waits for the server's answer.

        A server may send nothing before its first message, so entering a followed stream can last
        as long as the log is silent: put no deadline on it. Cancelling is safe.

        The iterator yields what arrived together, in order, and never an empty sequence. It ends
        normally only when the server ended the stream cleanly; that says nothing about why. A body
        that stops without the protocol's end is a broken connection.

        Raises (on entering or while iterating):
            LogStreamError: The stream ended with an in-band error; what came before it was yielded.
            SandboxNotRunningError: No new stream can be opened now.
            SourceError: See its subclasses.
        """
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...
