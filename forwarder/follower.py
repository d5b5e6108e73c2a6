"""One stream: open, take, commit, reconnect, finish.

The follower reads at full speed and knows nothing of sinks. What a broken stream means is decided
in one table (`resume.next_step`), and no stream is given up before GetSandbox has confirmed that
its sandbox ended or is not known.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from forwarder.errors import SandboxNotFoundError, SandboxNotRunningError, SourceError
from forwarder.following import Begin
from forwarder.inquiry import Inquiry
from forwarder.model import GapCause, StreamState
from forwarder.reopening import Reopener
from forwarder.retry import Backoff
from forwarder.source.resume import SessionLostError, Step, next_step
from forwarder.spool.interface import StreamCommit
from forwarder.stream_limits import StreamDueError
from forwarder.stream_news import StreamNews
from forwarder.taker import Taker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from forwarder.drafts import Take
    from forwarder.following import Followed
    from forwarder.model import Sandbox, StreamInfo
    from forwarder.source.interface import LogEntry, LogRequest
    from forwarder.stream_limits import WatchedStream

#: An outage of the stored logs is waited out so many times, half an hour and more, and not longer.
STORED_ATTEMPTS = 60

#: A log that was refused for so long, of a sandbox that has ended, is not waited for any more.
UNREAD_S = 7200.0

#: A last reading that ends before what is known is repeated so often.
CUTS_MAX = 5

#: The longest pause before it is tried again to open a stream of a sandbox that does not run yet.
WAITING_S = 5.0


class Follower:
    """Follows one stream from its checkpoint until its sandbox ends; a `Feeder` of the intake."""

    def __init__(
        self, info: StreamInfo, *, container: str, shared: Followed, begin: Begin = Begin()
    ) -> None:
        """Prepare to follow; `container` is what the API is asked for, empty for the primary."""
        self.info = info
        self._container = container
        self._shared = shared
        self._intake = shared.intake
        self._settings = settings = shared.settings
        self._clock = clock = shared.clock
        self._begin = begin
        self._log = structlog.get_logger().bind(
            sandbox=info.key.sandbox_id, container=info.key.container
        )
        self._news = StreamNews(self._log, lambda: self._intake.offer(self, 0))
        self._inquiry = Inquiry(
            info.key.sandbox_id,
            source=shared.source,
            backoff_initial_s=settings.backoff_initial_s,
            backoff_max_s=settings.backoff_max_s,
            clock=clock,
        )
        self._backoff = self._new_backoff()
        self._hold = Backoff(initial_s=1.0, max_s=settings.hold_interval_s, clock=clock)
        self._answered = self._resumed = False
        self._taker: Taker | None = None
        self._stream_id = 0
        self._silent_since_s: float | None = None
        self._ready: list[Take] = []

    @property
    def state(self) -> StreamState:
        """Where the stream stands."""
        return self._news.state

    # What the intake asks ------------------------------------------------------------------------

    def take(self) -> StreamCommit | None:
        """Everything that can be stored by now."""
        assert self._taker is not None
        takes, self._ready = self._ready, []
        if not self.state.final:
            now = self._taker.take(self._clock.time_ns())
            takes += [now] if now else []
        state, detail = self._news.take()
        if not takes and state is None:
            return None
        frames = [frame for take in takes for frame in take.frames]
        if any(frame.kind.holds_lines for frame in frames):
            self._reset_pauses()
        gaps = [gap for take in takes for gap in take.gaps]
        for gap in gaps:
            if not gap.filled_ns:
                self._log.error("gap", cause=str(gap.cause), after_line=gap.after_line)
        return StreamCommit(
            self._stream_id,
            frames=frames,
            checkpoint=self._taker.checkpoint,
            gaps=gaps,
            state=state,
            detail=detail,
            filled_ns=max((take.filled_ns for take in takes), default=0),
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
        primary = not self._container
        record = await self._shared.spool.open_stream(self.info, primary=primary)
        self.info = replace(self.info, key=record.key)
        if record.state is StreamState.COMPLETE:
            self._news.state = record.state
            return record.state
        self._stream_id = record.id
        self._taker = taker = Taker(
            record.checkpoint,
            max_line_bytes=self._settings.max_line_bytes,
            overlap_ns=self._settings.overlap_ns,
        )
        opener = Reopener(
            self.info,
            self._container,
            shared=self._shared,
            begin=self._begin,
            inquiry=self._inquiry,
            taker=taker,
            stream_id=record.id,
            given_up=record.tail_missing,
        )
        if self._begin.follow:
            await self._follow(taker, opener)
        else:
            await self._catch_up(taker, opener)
        await self._intake.flush()
        return self.state

    async def _follow(self, taker: Taker, opener: Reopener) -> None:
        """Read, and put right what ended the reading, until the stream is over."""
        step = opener.again()
        while not self.state.final:
            error = await self._read(taker, opener, step)
            if isinstance(error, StreamDueError):
                step = self._renew(opener, error)
                continue
            step = next_step(error)
            at_once = False
            if step is Step.ASK or opener.weary:
                at_once = await self._ask(taker, opener, error)
            elif error is not None:
                self._note_trouble(error)
            if self.state.final:
                return
            if not at_once:
                await self._pause(step, error)
            if step is not Step.REOPEN:
                step = opener.again()

    def _renew(self, opener: Reopener, due: StreamDueError) -> Step:
        """Nothing is known to be wrong with the stream: go on at once."""
        if due.code == "silent":
            self._shared.metrics.reconnected("probe")
            return opener.probe()
        self._shared.metrics.reconnected("renew")
        return opener.again()

    async def _read(
        self, taker: Taker, opener: Reopener, step: Step, *, follow: bool = True
    ) -> SourceError | None:
        """Read one stream until it ends; returns why, None for a clean end."""
        request = await opener.request(step, follow=follow)
        self._resumed = step is Step.RESUME
        self._answered = False
        error = await self._stream(taker, opener, request)
        if not isinstance(error, StreamDueError):
            self._answered |= error is not None and error.code != "connection"
            opener.ended(error, answered=self._answered)
        return error

    async def _stream(
        self, taker: Taker, opener: Reopener, request: LogRequest
    ) -> SourceError | None:
        limits = self._shared.limits
        try:
            async with (
                limits.watch(self._silent_since_s) as watched,
                self._shared.source.read_logs(request) as batches,
            ):
                self._answered = True
                limits.opened(watched)
                self._note(StreamState.FOLLOWING)
                async for entries in batches:
                    await self._receive(taker, opener, entries, watched)
        except SourceError as error:
            return error
        return None

    async def _receive(
        self, taker: Taker, opener: Reopener, entries: Sequence[LogEntry], watched: WatchedStream
    ) -> None:
        """Take what arrived together, and wait while too much of it is not committed yet."""
        try:
            size = taker.receive(entries)
        except SessionLostError:
            self._intake.offer(self, 0)
            raise
        self._intake.offer(self, size)
        self._shared.metrics.received(len(entries), size)
        if size:
            watched.heard()
            self._silent_since_s = watched.silent_since_s
            opener.received()
            # The beginning of a re-read may bring what was taken, again and again; all else is new.
            if self._resumed or not taker.comparing:
                opener.progressed()
                self._reset_pauses()
        if self._intake.full:
            with watched.resting():
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
        elif self.state is StreamState.WAITING:
            delay_s = min(delay_s, WAITING_S)  # it may begin any time, and not live for long
        self._shared.metrics.reconnected(step.value)
        await self._clock.sleep(delay_s)

    # The end of a stream -------------------------------------------------------------------------

    async def _ask(self, taker: Taker, opener: Reopener, error: SourceError | None) -> bool:
        """The stream ended, or cannot be opened: let GetSandbox say why.

        Returns:
            Whether to read on at once.
        """
        await self._intake.flush()  # what is known of the stream's generation is in its checkpoint
        try:
            # A stream that could be opened goes on, also while the rest of the API fails.
            sandbox = await self._settle(
                taker, patient=error is not None and next_step(error) is Step.ASK
            )
        except SourceError as failure:
            self._note_trouble(failure)
            return False
        opener.heard(sandbox, after_clean_end=error is None)
        if sandbox is None:
            await self._close_unknown(taker, opener, error)
        elif sandbox.ended:
            if error is None and opener.last_words():
                return True
            await self._catch_up(taker, opener)
        else:
            waiting = isinstance(error, SandboxNotRunningError)
            self._note(
                StreamState.WAITING if waiting else StreamState.RECONNECTING,
                f"the sandbox is {sandbox.state.name}",
            )
        return False

    async def _settle(self, taker: Taker, *, patient: bool = True) -> Sandbox | None:
        """What the API says of the sandbox; None when it does not know it, again and again."""
        return await self._inquiry.settle(
            well_known=taker.holds_any or self._begin.known,
            patient=patient,
            failed=self._note_trouble,
        )

    async def _catch_up(self, taker: Taker, opener: Reopener) -> None:
        """The sandbox ended: read what is left, without following, and finish.

        An outage is waited out. But a log that is refused for hours, of a sandbox that is known to
        be over, will not come back: its runner is gone.
        """
        begun_s = self._clock.monotonic_s()
        cuts = 0
        read_to_end = opener.read_to_end
        while True:
            error = await self._read(taker, opener, Step.REOPEN, follow=False)
            if error is None and await self._was_cut(taker) and cuts < CUTS_MAX:
                cuts += 1
                await self._pause(Step.REOPEN, None)
                continue
            if error is None:
                take = taker.finish(self._clock.time_ns(), read_to_end=read_to_end)
                self._ready += _some(take)
                self._close(StreamState.COMPLETE, "")
                return
            step = next_step(error)
            unread_s = self._clock.monotonic_s() - begun_s
            gone = unread_s > UNREAD_S and step is not Step.HOLD and self._answered
            if isinstance(error, SandboxNotRunningError) or gone:
                await self._close_unread(taker, opener, read_to_end=read_to_end)
                return
            if step is Step.ASK and await self._settle(taker) is None:
                await self._close_unknown(taker, opener, error)
                return
            self._note_trouble(error)
            await self._pause(step, error)

    async def _was_cut(self, taker: Taker) -> bool:
        """Whether a log that ended cleanly ended before what is known of it."""
        await self._intake.flush()
        return taker.ended_early

    async def _close_unknown(
        self, taker: Taker, opener: Reopener, error: SourceError | None
    ) -> None:
        """The API does not know the sandbox, or no longer."""
        if opener.read_to_end:
            await self._close_unread(taker, opener, read_to_end=True)
            return
        # Not for good: a key of another account knows no sandbox either, so whoever sees it again
        # follows it again. Until then a clean end is believed.
        if error is None:
            self._ready += _some(taker.keep_unfinished(self._clock.time_ns()))
        elif taker.holds_any and not opener.given_up:
            await self._append_stored(taker, opener)
            self._ready.append(taker.give_up(GapCause.TAIL_UNKNOWN, self._clock.time_ns()))
        anew = taker.holds_any and not opener.given_up
        self._log.error("sandbox not found", **({"error": str(error)} if error else {}))
        self._close(StreamState.NOT_FOUND, "the API does not know this sandbox", record=anew)

    async def _close_unread(self, taker: Taker, opener: Reopener, *, read_to_end: bool) -> None:
        """The end cannot be read again: fine after a clean end, otherwise a gap."""
        if read_to_end:
            self._ready += _some(taker.keep_unfinished(self._clock.time_ns()))
            self._close(StreamState.COMPLETE, "")
            return
        await self._append_stored(taker, opener)
        cause = GapCause.TAIL_UNKNOWN if taker.holds_any else GapCause.NEVER_FOLLOWED
        self._ready.append(taker.give_up(cause, self._clock.time_ns()))
        self._close(StreamState.COMPLETE, "the sandbox ended unread: its last lines are unknown")

    async def _append_stored(self, taker: Taker, opener: Reopener) -> None:
        """The stored logs may still have the end, or most of it."""
        backoff = self._new_backoff()
        attempts = 0
        while attempts < STORED_ATTEMPTS:
            pages = self._shared.stored.beyond(
                self.info.key,
                taker.checkpoint,
                await opener.tail(),
                overlap_ns=self._settings.overlap_ns,
            )
            try:
                async with aclosing(pages):
                    async for data in pages:
                        self._ready += _some(taker.append_stored(data, self._clock.time_ns()))
                        self._intake.offer(self, len(data))
                        if self._intake.full:
                            await self._intake.room()
            except SandboxNotFoundError:
                return
            except SourceError as error:
                self._note_trouble(error)
                held = next_step(error) is Step.HOLD
                attempts += not held
                wished_s = self._hold.next_s() if held else error.retry_after_s
                await self._clock.sleep(backoff.next_s(wished_s))
            else:
                return

    def _close(self, state: StreamState, detail: str, *, record: bool = True) -> None:
        assert self._taker is not None
        if record:
            self._ready.append(self._taker.end(state, detail, self._clock.time_ns()))
        self._note(state, detail)
        self._log.info("stream ended", state=str(state), lines=self._taker.checkpoint.next_line)

    # Telling -------------------------------------------------------------------------------------

    def _note_trouble(self, error: SourceError) -> None:
        held = next_step(error) is Step.HOLD
        self._note(StreamState.HELD if held else StreamState.RECONNECTING, f"{error.code}: {error}")

    def _note(self, state: StreamState, detail: str = "") -> None:
        self._news.note(state, detail)

    def _new_backoff(self) -> Backoff:
        settings = self._settings
        return Backoff(
            initial_s=settings.backoff_initial_s, max_s=settings.backoff_max_s, clock=self._clock
        )


def _some(take: Take | None) -> list[Take]:
    return [] if take is None else [take]
