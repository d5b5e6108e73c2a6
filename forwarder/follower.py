"""One stream: open, take, commit, reconnect, finish.

The follower reads at full speed and knows nothing of sinks. What a broken stream means is decided
in one table (`resume.next_step`), and no stream is given up before GetSandbox has confirmed that
its sandbox ended or is not known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from forwarder.errors import SandboxNotFoundError, SandboxNotRunningError, SourceError
from forwarder.model import GapCause, StreamState
from forwarder.retry import Backoff, retry_forever
from forwarder.source.interface import LogRequest
from forwarder.source.resume import (
    SECOND_NS,
    SessionLostError,
    Step,
    next_step,
    since_ns,
    tail_ns,
)
from forwarder.spool.interface import StreamCommit
from forwarder.taker import Take, Taker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from forwarder.clock import Clock
    from forwarder.intake import Intake
    from forwarder.metrics import Metrics
    from forwarder.model import Sandbox, StreamInfo
    from forwarder.source.interface import LogEntry, LogSource
    from forwarder.spool.interface import StreamStore

#: Lines of one stream that a re-read is compared with, at most.
TAIL_BYTES = 64 << 20

#: A session that cannot be resumed so often in a row, whatever the error, counts as lost.
RESUMES_MAX = 3

#: "Not found" is asked so often, with doubling pauses, before a stream is given up of which
#: something was taken; 0.5 s at first makes half a minute.
CONFIRMATIONS = 6


@dataclass(frozen=True, slots=True)
class FollowSettings:
    """How streams are followed; see the `source` section of the configuration."""

    max_line_bytes: int
    overlap_s: float
    backoff_initial_s: float
    backoff_max_s: float
    hold_interval_s: float

    @property
    def overlap_ns(self) -> int:
        """How far before the checkpoint a re-read begins."""
        return int(self.overlap_s * SECOND_NS)

    @property
    def keep_tail_ns(self) -> int:
        """How much of a live stream the spool keeps, for a re-read to be compared with."""
        return tail_ns(self.overlap_ns)


@dataclass(frozen=True, slots=True)
class Begin:
    """Where a stream begins of which nothing was taken yet: the very beginning, by default.

    Attributes:
        since_ns: Lines from this time on.
        tail_lines: Only so many of the newest lines.
        follow: Whether to go on with what comes; else what is there is read once.
    """

    since_ns: int | None = None
    tail_lines: int | None = None
    follow: bool = True


class Follower:
    """Follows one stream from its checkpoint until its sandbox ends; a `Feeder` of the intake."""

    def __init__(
        self,
        info: StreamInfo,
        *,
        container: str,
        source: LogSource,
        spool: StreamStore,
        intake: Intake,
        settings: FollowSettings,
        clock: Clock,
        metrics: Metrics,
        begin: Begin = Begin(),
    ) -> None:
        """Prepare to follow; `container` is what the API is asked for, empty for the primary."""
        self.info = info
        self.state = StreamState.WAITING
        self._container = container
        self._source = source
        self._spool = spool
        self._intake = intake
        self._settings = settings
        self._clock = clock
        self._metrics = metrics
        self._begin = begin
        self._log = structlog.get_logger().bind(
            sandbox=info.key.sandbox_id, container=info.key.container
        )
        self._backoff = Backoff(
            initial_s=settings.backoff_initial_s, max_s=settings.backoff_max_s, clock=clock
        )
        self._hold = Backoff(initial_s=1.0, max_s=settings.hold_interval_s, clock=clock)
        self._fruitless = 0
        self._given_up = False
        self._answered = self._resumed = False
        self._taker: Taker | None = None
        self._stream_id = 0
        self._ready: list[Take] = []
        self._detail = ""
        self._news: tuple[StreamState, str] | None = None

    # What the intake asks ------------------------------------------------------------------------

    def take(self) -> StreamCommit | None:
        """Everything that can be stored by now."""
        assert self._taker is not None
        takes, self._ready = self._ready, []
        if not self.state.final:
            now = self._taker.take(self._clock.time_ns())
            takes += [now] if now else []
        news, self._news = self._news, None
        if not takes and news is None:
            return None
        if any(take.frames for take in takes):
            self._reset_pauses()
        gaps = [gap for take in takes for gap in take.gaps]
        for gap in gaps:
            self._log.error("gap", cause=str(gap.cause), after_line=gap.after_line)
        return StreamCommit(
            self._stream_id,
            frames=[frame for take in takes for frame in take.frames],
            checkpoint=self._taker.checkpoint,
            gaps=gaps,
            state=news[0] if news else None,
            detail=news[1] if news else "",
        )

    # The life of a stream ------------------------------------------------------------------------

    async def run(self) -> StreamState:
        """Follow until the sandbox ended and was read to its end; returns the final state.

        Cancelling stops the reading. What was read by then is still given to the intake, so flush
        that afterwards.

        Raises:
            SpoolError: The spool failed.
        """
        # If this stream was followed before, in this process: all of that first.
        await self._intake.flush()
        record = await self._spool.open_stream(self.info)
        if record.state is StreamState.COMPLETE:
            self.state = record.state
            return record.state
        self._given_up = record.state is StreamState.NOT_FOUND
        self._stream_id = record.id
        self._taker = Taker(
            record.checkpoint,
            max_line_bytes=self._settings.max_line_bytes,
            overlap_ns=self._settings.overlap_ns,
        )
        if self._begin.follow:
            await self._follow(self._taker)
        else:
            await self._catch_up(self._taker, read_to_end=False)
        await self._intake.flush()
        return self.state

    async def _follow(self, taker: Taker) -> None:
        """Read, and put right what ended the reading, until the stream is over."""
        step = self._again(taker)
        while not self.state.final:
            self._fruitless += 1
            error = await self._read(taker, await self._open(taker, step))
            if not self._answered:
                self._fruitless = 0  # nobody answered, so nobody refused: the session may live
            step = next_step(error)
            if step is Step.ASK:
                await self._ask(taker, error)
            elif error is not None:
                self._note_trouble(step, error)
            if self.state.final:
                return
            await self._pause(step, error)
            if step is not Step.REOPEN:
                step = self._again(taker)

    def _again(self, taker: Taker) -> Step:
        """Continue the session, unless there is none or it has been refused too often."""
        resumable = taker.session[0] and self._fruitless < RESUMES_MAX
        return Step.RESUME if resumable else Step.REOPEN

    async def _open(self, taker: Taker, step: Step, *, follow: bool = True) -> LogRequest:
        """The request that continues the stream, with the taker made ready for its answer."""
        self._resumed = step is Step.RESUME
        if step is Step.RESUME:
            taker.resume()
            session_id, offset = taker.session
            return LogRequest(
                self.info.key.sandbox_id, self._container, session_id=session_id, offset=offset
            )
        await self._intake.flush()
        tail = await self._spool.tail(
            self._stream_id,
            from_ns=taker.checkpoint.high_stamp_ns - self._settings.keep_tail_ns,
            max_bytes=TAIL_BYTES,
        )
        taker.reopen(tail)
        since = since_ns(taker.checkpoint, self._settings.overlap_ns)
        begin = self._begin if since is None else Begin(since)
        return LogRequest(
            self.info.key.sandbox_id,
            self._container,
            follow=follow,
            since_ns=begin.since_ns,
            tail_lines=begin.tail_lines,
        )

    async def _read(self, taker: Taker, request: LogRequest) -> SourceError | None:
        """Read one stream until it ends; returns why, None for a clean end."""
        self._answered = False
        try:
            async with self._source.read_logs(request) as batches:
                self._answered = True
                self._note(StreamState.FOLLOWING)
                async for entries in batches:
                    await self._receive(taker, entries)
        except SourceError as error:
            self._answered |= error.code != "connection"
            return error
        return None

    async def _receive(self, taker: Taker, entries: Sequence[LogEntry]) -> None:
        """Take what arrived together, and wait while too much of it is not committed yet."""
        try:
            size = taker.receive(entries)
        except SessionLostError:
            self._intake.offer(self, 0)
            raise
        self._intake.offer(self, size)
        self._metrics.received(len(entries), size)
        self._given_up = False
        if size:
            self._fruitless = 0
            # The beginning of a re-read may bring what was taken, again and again; all else is new.
            if self._resumed or not taker.comparing:
                self._reset_pauses()
        if self._intake.full:
            await self._intake.room()

    def _reset_pauses(self) -> None:
        """Something new came: the next pause is short again."""
        self._backoff.reset()
        self._hold.reset()

    async def _pause(self, step: Step, error: SourceError | None) -> None:
        """Wait before the next attempt: slowly while credentials are refused."""
        delay_s = self._backoff.next_s(error.retry_after_s if error else None)
        if step is Step.HOLD:
            delay_s = max(delay_s, self._hold.next_s())
        self._metrics.reconnected(step.value)
        await self._clock.sleep(delay_s)

    # The end of a stream -------------------------------------------------------------------------

    async def _ask(self, taker: Taker, error: SourceError | None) -> None:
        """The stream ended, or cannot be opened: let GetSandbox say why."""
        sandbox = await self._get_sandbox()
        if sandbox is None:
            self._close_unknown(taker, error)
        elif sandbox.ended:
            await self._catch_up(taker, read_to_end=error is None)
        else:
            waiting = isinstance(error, SandboxNotRunningError)
            self._note(
                StreamState.WAITING if waiting else StreamState.RECONNECTING,
                f"the sandbox is {sandbox.state.name}",
            )

    async def _get_sandbox(self) -> Sandbox | None:
        """What the API says, however long it takes to say something; None when it knows nothing."""
        sandbox_id = self.info.key.sandbox_id
        backoff = Backoff(
            initial_s=self._settings.backoff_initial_s,
            max_s=self._settings.backoff_max_s,
            clock=self._clock,
        )

        async def ask() -> Sandbox | None:
            assert self._taker is not None
            for attempt in range(CONFIRMATIONS if self._taker.holds_any else 2):
                try:
                    return await self._source.get_sandbox(sandbox_id)
                except SandboxNotFoundError:
                    await self._clock.sleep(self._settings.backoff_initial_s * 2**attempt)
            return None

        def failed(error: Exception) -> None:
            assert isinstance(error, SourceError)
            self._note_trouble(next_step(error), error)

        return await retry_forever(
            ask, on=SourceError, backoff=backoff, clock=self._clock, failed=failed
        )

    async def _catch_up(self, taker: Taker, *, read_to_end: bool) -> None:
        """The sandbox ended: read what is left, without following, and finish.

        Args:
            taker: The stream's bytes.
            read_to_end: Whether the stream had ended cleanly; if the API then refuses to be read
                again nothing is missing (a stream that is already open runs to its end).
        """
        while True:
            error = await self._read(taker, await self._open(taker, Step.REOPEN, follow=False))
            if error is None:
                take = taker.finish(self._clock.time_ns(), read_to_end=read_to_end)
                self._ready += _some(take)
                self._close(StreamState.COMPLETE, "")
                return
            if next_step(error) is Step.ASK:
                self._close_unread(taker, read_to_end=read_to_end)
                return
            self._note_trouble(next_step(error), error)
            await self._pause(next_step(error), error)

    def _close_unknown(self, taker: Taker, error: SourceError | None) -> None:
        """The API does not know the sandbox, or no longer."""
        if error is None:
            self._close_unread(taker, read_to_end=True)
            return
        # Not for good: a key of another account knows no sandbox either, so a restart asks again.
        if taker.holds_any and not self._given_up:
            self._ready.append(taker.give_up(GapCause.TAIL_UNKNOWN, self._clock.time_ns()))
        self._log.error("sandbox not found", error=str(error))
        self._close(StreamState.NOT_FOUND, "the API does not know this sandbox")

    def _close_unread(self, taker: Taker, *, read_to_end: bool) -> None:
        """The end cannot be read again: fine after a clean end, otherwise a gap."""
        now_ns = self._clock.time_ns()
        if read_to_end:
            self._ready += _some(taker.keep_unfinished(now_ns))
            self._close(StreamState.COMPLETE, "")
        else:
            self._ready.append(taker.give_up(GapCause.TAIL_UNKNOWN, now_ns))
            self._close(
                StreamState.COMPLETE, "the sandbox ended unread: its last lines are unknown"
            )

    def _close(self, state: StreamState, detail: str) -> None:
        self._note(state, detail)
        assert self._taker is not None
        self._log.info("stream ended", state=str(state), lines=self._taker.checkpoint.next_line)

    # Telling -------------------------------------------------------------------------------------

    def _note_trouble(self, step: Step, error: SourceError) -> None:
        state = StreamState.HELD if step is Step.HOLD else StreamState.RECONNECTING
        self._note(state, f"{error.code}: {error}")

    def _note(self, state: StreamState, detail: str = "") -> None:
        """The stream's state, told once for each change and stored with the next commit."""
        if state is not self.state:
            level = self._log.warning if state is StreamState.HELD else self._log.info
            if not state.final:
                level(f"stream {state}", **({"detail": detail} if detail else {}))
        elif detail == self._detail:
            return
        self.state, self._detail = state, detail
        self._news = (state, detail)
        self._intake.offer(self, 0)


def _some(take: Take | None) -> list[Take]:
    return [] if take is None else [take]
