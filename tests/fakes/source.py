"""A scripted `LogSource`: every stream does what its script says, and what was asked is kept."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from forwarder.errors import LogStreamError, SandboxNotFoundError, SourceError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    from forwarder.model import Sandbox
    from forwarder.source.interface import LogEntry, LogRequest

_T = TypeVar("_T")


@dataclass(frozen=True)
class Entry:
    """One message of a log stream."""

    data: bytes
    log_session_id: str = ""
    next_log_offset: int = 0


@dataclass(frozen=True)
class Emit:
    """Messages that arrive together."""

    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Pause:
    """The stream is silent until the event is set; `reached` is set when it begins to be."""

    until: asyncio.Event = field(default_factory=asyncio.Event)
    reached: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True)
class Break:
    """The stream ends with an error; as the first action it is refused."""

    error: SourceError


Action: TypeAlias = Emit | Pause | Break


def emit(*data: bytes, session: str = "", offset: int = 0) -> Emit:
    """Messages of these bytes; with a session, `offset` is where the first one begins."""
    entries = []
    for one in data:
        offset += len(one)
        entries.append(Entry(one, session, offset if session else 0))
    return Emit(tuple(entries))


def interrupted(code: str = "STREAM_INTERRUPTED") -> Break:
    """An in-band error with this code."""
    return Break(LogStreamError("as scripted", code=code))


class FakeSource:
    """See `forwarder.source.interface.LogSource`.

    Attributes:
        requests: Every log stream that was asked for, in order.
        asked: The sandbox of every `get_sandbox`, in order.
        listed: The tags of every `list_sandboxes`, in order.
        closed: Whether `close` was called.
        open_streams: How many streams are open now.
    """

    def __init__(self) -> None:
        self.requests: list[LogRequest] = []
        self.asked: list[str] = []
        self.listed: list[tuple[str, ...]] = []
        self.closed = False
        self.open_streams = 0
        self._scripts: deque[tuple[Action, ...]] = deque()
        self._sandboxes: defaultdict[str, deque[Sandbox | SourceError]] = defaultdict(deque)
        self._lists: defaultdict[tuple[str, ...], deque[list[Sandbox] | SourceError]] = defaultdict(
            deque
        )
        self._changed = asyncio.Condition()

    def stream(self, *actions: Action) -> None:
        """What the next stream does that has no script yet; after its last action it ends cleanly.

        A stream without a script is silent for ever.
        """
        self._scripts.append(actions)

    def answer(self, sandbox_id: str, *answers: Sandbox | SourceError) -> None:
        """What `get_sandbox` says, one after the other; the last one stays."""
        self._sandboxes[sandbox_id].extend(answers)

    def answer_list(self, tags: Sequence[str], *answers: list[Sandbox] | SourceError) -> None:
        """What `list_sandboxes` says for these tags, one after the other; the last one stays."""
        self._lists[tuple(tags)].extend(answers)

    async def called(self, count: int) -> None:
        """Return once the API was called so many times, streams included."""
        async with self._changed:
            await self._changed.wait_for(
                lambda: len(self.requests) + len(self.asked) + len(self.listed) >= count
            )

    async def get_sandbox(self, sandbox_id: str) -> Sandbox:
        """The next answer; a sandbox without one is not known."""
        self.asked.append(sandbox_id)
        await self._tell()
        answers = self._sandboxes[sandbox_id]
        if not answers:
            raise SandboxNotFoundError(f"no sandbox {sandbox_id}", code="not_found")
        return _next(answers)

    async def list_sandboxes(
        self, *, tags: Sequence[str] = (), show_terminated: bool = False
    ) -> list[Sandbox]:
        """The next answer; without one, nothing has these tags."""
        self.listed.append(tuple(tags))
        await self._tell()
        answers = self._lists[tuple(tags)]
        sandboxes = _next(answers) if answers else []
        return [one for one in sandboxes if show_terminated or not one.ended]

    @asynccontextmanager
    async def read_logs(self, request: LogRequest) -> AsyncIterator[AsyncIterator[list[LogEntry]]]:
        """Play the next script."""
        self.requests.append(request)
        script = deque(self._scripts.popleft() if self._scripts else (Pause(),))
        self.open_streams += 1
        try:
            await self._tell()
            if script and isinstance(script[0], Break):
                raise script[0].error
            entries = _play(script)
            try:
                yield entries
            finally:
                await entries.aclose()
        finally:
            self.open_streams -= 1

    async def close(self) -> None:
        """Note it."""
        self.closed = True

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()


async def _play(script: deque[Action]) -> AsyncGenerator[list[LogEntry], None]:
    while script:
        match script.popleft():
            case Emit(entries):
                yield list(entries)
            case Pause(until, reached):
                reached.set()
                await until.wait()
            case Break(error):
                raise error


def _next(answers: deque[_T | SourceError]) -> _T:
    answer = answers.popleft() if len(answers) > 1 else answers[0]
    if isinstance(answer, SourceError):
        raise answer
    return answer
