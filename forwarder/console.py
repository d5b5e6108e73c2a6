"""`sandbox-forwarder logs`: one sandbox's log on standard output, without the losses.

It follows with the daemon's own follower, so a lost session, a cut connection or an early end
neither loses nor repeats a line. Only the place where lines go is another one: not a spool, but
memory for what a re-read is compared with, and standard output.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from forwarder.clock import SystemClock
from forwarder.discovery import Selector, wanted_streams
from forwarder.errors import SourceUnavailableError, UsageError
from forwarder.follower import Follower
from forwarder.following import Begin, Followed
from forwarder.intake import Intake
from forwarder.metrics import Metrics
from forwarder.model import Checkpoint, GapKind, StreamState
from forwarder.source.overlap import Taken
from forwarder.spool.interface import StreamRecord, Tail
from forwarder.stamps import parse_stamp
from forwarder.stored_tail import StoredTails
from forwarder.tasks import first_of
from sinks.terminal import line_safe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from forwarder.following import FollowSettings
    from forwarder.model import FrameDraft, Sandbox, StreamInfo
    from forwarder.source.interface import LogSource
    from forwarder.source.stored import StoredLogs
    from forwarder.spool.interface import StreamCommit
    from forwarder.stream_limits import StreamLimits

#: The API is asked so often before `logs` says that it does not answer.
_FIRST_ATTEMPTS = 3

#: Lines appear at least so often.
_INTERVAL_S = 0.05


_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Output(Protocol):
    """Where bytes go: standard output, or a test's buffer."""

    def write(self, data: bytes, /) -> object:
        """Write all of it."""
        ...

    def flush(self) -> object:
        """Hand it to the reader."""
        ...


@dataclass(frozen=True, slots=True)
class LogsRequest:
    """What `logs` was asked for.

    Attributes:
        container: Empty for the primary.
        timestamps: Whether lines keep their stamps.
        raw: Write bytes as they are, also to a terminal.
    """

    sandbox_id: str
    container: str = ""
    follow: bool = False
    tail_lines: int | None = None
    since_ns: int | None = None
    timestamps: bool = False
    raw: bool = True


async def show_logs(
    source: LogSource,
    request: LogsRequest,
    settings: FollowSettings,
    *,
    limits: StreamLimits,
    stored: StoredLogs | None,
    output: Output,
    tell: Callable[[str], None],
) -> None:
    """Write the log; with `follow`, until the sandbox ends.

    Args:
        source: The API.
        request: What to show.
        settings: How to follow.
        limits: What bounds its stream; it is run here.
        stored: Where the end of a log may be that can no longer be streamed.
        output: Where lines go.
        tell: Told of what is not a line: interruptions and gaps.

    Raises:
        SandboxNotFoundError: The API does not know the sandbox.
        CredentialsRefusedError: It refuses our credentials.
        SourceUnavailableError: It does not answer, or no longer has anything of the log.
        UsageError: The sandbox has no such container.
        BrokenPipeError: Nobody reads the output any more.
    """
    clock = SystemClock()
    info, container = _stream(await _first_answer(source, request.sandbox_id), request.container)
    store = _ConsoleStore(request, settings, output, tell)
    metrics = Metrics()
    intake = Intake(
        store, interval_s=_INTERVAL_S, buffer_bytes=64 << 20, clock=clock, metrics=metrics
    )
    shared = Followed(source, store, intake, settings, limits, StoredTails(stored), clock, metrics)
    begin = Begin(request.since_ns, request.tail_lines, request.follow)
    follower = Follower(info, container=container, shared=shared, begin=begin)
    await first_of(follower.run(), intake.run(), limits.run())
    if store.unread:
        raise SourceUnavailableError(
            "this sandbox has ended and its log can no longer be read", code="unavailable"
        )


def parse_since(text: str, *, now_ns: int | None = None) -> int:
    """A moment, in nanoseconds: RFC 3339 with a zone (or a date, in UTC), or `10m` for so long ago.

    Raises:
        ValueError: It is neither.
    """
    ago = re.fullmatch(r"(\d+)(s|m|h|d)", text)
    if ago is not None:
        now_ns = now_ns if now_ns is not None else SystemClock().time_ns()
        return max(now_ns - int(ago[1]) * _UNIT_S[ago[2]] * 1_000_000_000, 0)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a time such as 2026-01-02T03:04:05Z or 10m") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    found = parse_stamp(
        moment.astimezone(UTC).isoformat(timespec="microseconds")[:26].encode() + b"Z"
    )
    if found is None:
        raise ValueError(f"{text!r} is before 1970 or after 2262")
    return found[0]


async def _first_answer(source: LogSource, sandbox_id: str) -> Sandbox:
    """Ask for the sandbox first: a wrong id, key or address is said at once."""
    for attempt in range(1, _FIRST_ATTEMPTS + 1):
        try:
            return await source.get_sandbox(sandbox_id)
        except SourceUnavailableError:
            if attempt == _FIRST_ATTEMPTS:
                raise
            await asyncio.sleep(0.5 * attempt)
    raise AssertionError


def _stream(sandbox: Sandbox, name: str) -> tuple[StreamInfo, str]:
    """The stream that was asked for: the primary container's, or the named one's."""
    selector = Selector(containers=(name,)) if name else Selector(primary_only=True)
    for wanted in wanted_streams(sandbox, selector):
        return wanted.info, wanted.container
    known = ", ".join(container.name for container in sandbox.containers) or "none is named"
    raise UsageError(f"sandbox {sandbox.id} has no container {name!r}; it has: {known}")


class _ConsoleStore:
    """A `StreamStore` that writes to the console and remembers only what a re-read may bring."""

    def __init__(
        self,
        request: LogsRequest,
        settings: FollowSettings,
        output: Output,
        tell: Callable[[str], None],
    ) -> None:
        self._request = request
        self._keep_ns = settings.keep_tail_ns
        self._output = output
        self._tell = tell
        self._tail: deque[FrameDraft] = deque()
        self._state = StreamState.WAITING
        self._any_line = False
        self._end_unknown = False

    @property
    def unread(self) -> bool:
        """Whether the log is over and nothing of it could be read."""
        return self._end_unknown and not self._any_line

    async def open_stream(self, info: StreamInfo, *, primary: bool = False) -> StreamRecord:
        """A stream that begins now."""
        del primary
        return StreamRecord(1, info.key, Checkpoint(), StreamState.WAITING)

    async def commit(self, commits: Sequence[StreamCommit]) -> None:
        """Write the lines; when this returns they are with the reader, or in a pipe to it."""
        # Whoever reads our output may pause for ever: that must not keep a signal from being heard.
        await asyncio.to_thread(self._write, commits)
        for commit in commits:
            self._tail.extend(one for one in commit.frames if one.kind.holds_lines)
            self._any_line |= any(one.kind.holds_lines for one in commit.frames)
            for gap in commit.gaps:
                self._end_unknown |= gap.kind is GapKind.TAIL and not gap.filled_ns
                if self.unread or gap.filled_ns:
                    continue
                self._tell(f"gap after line {gap.after_line + 1}: {gap.cause}")
            self._forget(commit.checkpoint.high_stamp_ns - self._keep_ns)
            if commit.state is not None:
                self._end_unknown |= commit.state is StreamState.NOT_FOUND
                self._tell_state(commit.state, commit.detail)

    def _write(self, commits: Sequence[StreamCommit]) -> None:
        for commit in commits:
            for frame in commit.frames:
                if frame.kind.holds_lines:
                    self._output.write(self._shown(frame))
        self._output.flush()

    async def tail(self, stream_id: int, *, from_ns: int, max_bytes: int) -> Tail:
        """What a re-read is compared with."""
        del stream_id, from_ns
        frames: list[Taken] = []
        size = 0
        for frame in reversed(self._tail):
            size += len(frame.raw)
            if frames and size > max_bytes:
                return Tail(frames[::-1], from_ns=frame.last_stamp_ns)
            frames.append(Taken(frame.kind, frame.part, frame.raw))
        # Lines before those that were asked for were never taken: a re-read may bring them.
        shown_from = self._request.tail_lines is not None or self._request.since_ns is not None
        from_ns = self._tail[0].first_stamp_ns if shown_from and self._tail else 0
        return Tail(frames[::-1], from_ns=from_ns)

    def _forget(self, before_ns: int) -> None:
        while len(self._tail) > 1 and self._tail[0].high_stamp_ns < before_ns:
            self._tail.popleft()

    def _shown(self, frame: FrameDraft) -> bytes:
        if self._request.timestamps and self._request.raw:
            return frame.raw
        lines = frame.raw.split(b"\n")
        last = lines.pop()
        shown = [self._line(line + b"\n", begins=frame.part <= 1) for line in lines]
        if last:
            shown.append(self._line(last, begins=frame.part <= 1))
        return b"".join(shown)

    def _line(self, line: bytes, *, begins: bool) -> bytes:
        if begins and not self._request.timestamps:
            found = parse_stamp(line)
            line = line[found[1] :] if found else line
        if self._request.raw:
            return line
        ending = b"\n" if line.endswith(b"\n") else b""
        return line_safe(line.removesuffix(b"\n")).encode() + ending

    def _tell_state(self, state: StreamState, detail: str) -> None:
        if state is not self._state and state in {StreamState.RECONNECTING, StreamState.HELD}:
            self._tell(f"{state}: {detail}")
        self._state = state
