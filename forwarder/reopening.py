"""How a stream that ended is opened again: with its session, or anew, or behind what is unreadable.

The table of what an error means is `resume.next_step`; here is what repetition adds to it. A
session that is refused again and again counts as lost, a silent one is doubted now and then, and a
message that cannot be read is given up in the end, with a gap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from forwarder.errors import LogStreamError
from forwarder.following import Begin
from forwarder.model import GapCause
from forwarder.source.interface import LogRequest
from forwarder.source.resume import SECOND_NS, Step, next_step, since_ns
from forwarder.spool.interface import Tail
from forwarder.taker import Reopening

if TYPE_CHECKING:
    from forwarder.errors import SourceError
    from forwarder.following import Followed
    from forwarder.inquiry import Inquiry
    from forwarder.model import Sandbox, StreamInfo
    from forwarder.taker import Taker

#: Lines of one stream that a re-read is compared with, at most.
TAIL_BYTES = 64 << 20

#: A session that cannot be resumed so often in a row, whatever the error, counts as lost.
RESUMES_MAX = 3

#: A message that is too large is met so often before what it holds is given up.
TOO_LARGE_MAX = 3

#: A stream that was refused so often in a row, for whatever reason, is asked about.
ASK_AFTER = 8

#: Of the probes of a silent stream the second is a new stream, and then every tenth: a session may
#: be stuck while a new one works, but a re-read is not for free.
FRESH_PROBE_EVERY = 10
FIRST_FRESH_PROBE = 2


class Reopener:
    """Decides how one stream is opened, and makes its taker ready for the answer.

    Attributes:
        given_up: Whether the stream's end was declared missing, and nothing of it came since.
        read_to_end: Whether this life of the container is over, and was read to a clean end.
        known: What the API has just said of the sandbox; used once instead of asking again.
    """

    def __init__(
        self,
        info: StreamInfo,
        container: str,
        *,
        shared: Followed,
        begin: Begin,
        inquiry: Inquiry,
        taker: Taker,
        stream_id: int,
        given_up: bool,
    ) -> None:
        self.given_up = given_up
        self.known: Sandbox | None = None
        self._sandbox_id = info.key.sandbox_id
        self._container = container
        self._intake = shared.intake
        self._spool = shared.spool
        self._settings = shared.settings
        self._begin = begin
        self._inquiry = inquiry
        self._taker = taker
        self._stream_id = stream_id
        self._fruitless = 0
        self._refused = 0
        self._silent_probes = 0
        self._too_large = 0
        self.read_to_end = False
        self._last_words_of = -1

    # What happened -------------------------------------------------------------------------------

    def ended(self, error: SourceError | None, *, answered: bool) -> None:
        """A stream ended, or could not be opened."""
        if not answered or next_step(error) is Step.HOLD:
            self._fruitless = 0  # nobody has refused the session: it may live
        self._refused = self._refused + 1 if answered and error is not None else 0
        if isinstance(error, LogStreamError) and error.code == GapCause.REPLAY_GAP.name:
            self._taker.doubt()
        if error is not None and error.reason == "MESSAGE_TOO_LARGE":
            self._too_large += 1

    def received(self) -> None:
        """Something came, new or not."""
        self._fruitless = self._refused = 0
        self.read_to_end = self.given_up = False

    def heard(self, sandbox: Sandbox | None, *, after_clean_end: bool) -> None:
        """The API was asked why a stream ended."""
        self.known = sandbox
        self._refused = 0
        if sandbox is not None:
            # A clean end is the log's only when its container turns out to be over. Else the stream
            # was cut, and whatever ends it later says nothing about what came in between.
            over = sandbox.ended or self._restarted
            self.read_to_end = over and (after_clean_end or self.read_to_end)

    def progressed(self) -> None:
        """Something new came."""
        self._silent_probes = self._too_large = 0

    # What to do ----------------------------------------------------------------------------------

    def again(self) -> Step:
        """Continue the session, unless there is none or it has been refused too often."""
        if self._too_large > 1 or (self._restarted and not self.last_words()):
            return Step.REOPEN
        resumable = self._taker.session[0] and self._fruitless < RESUMES_MAX
        return Step.RESUME if resumable else Step.REOPEN

    @property
    def weary(self) -> bool:
        """Whether the stream was refused so often that it may be over without saying so."""
        return self._refused >= ASK_AFTER

    def last_words(self) -> bool:
        """Whether to read the session of a life that is over once more.

        A stream may have ended before its container did: what was written in between is in the
        session, if it still lives. True once for every life. That there is no session any more says
        nothing, and an end that was clean is believed then: everything else would declare a gap at
        every normal end.
        """
        generation = self._taker.checkpoint.generation
        if not self._taker.session[0] or self._last_words_of == generation:
            return False
        self._last_words_of = generation
        return True

    def probe(self) -> Step:
        """The stream was silent for long: most of the time its session is still the right one."""
        self._fruitless = 0
        self._silent_probes += 1
        if self._silent_probes % FRESH_PROBE_EVERY == FIRST_FRESH_PROBE:
            return Step.REOPEN
        return self.again()

    async def request(self, step: Step, *, follow: bool = True) -> LogRequest:
        """The request that continues the stream, with the taker made ready for its answer."""
        self._fruitless += 1
        if step is Step.RESUME:
            self.known = None
            self._taker.resume()
            session_id, offset = self._taker.session
            return LogRequest(
                self._sandbox_id, self._container, session_id=session_id, offset=offset
            )
        tail = await self.tail()  # first: it also commits, and so moves the checkpoint
        skip_ns = self._skip_ns
        reopening = Reopening(
            await self._generation(),
            read_to_end=self.read_to_end,
            given_up=self.given_up,
            skipping=skip_ns > 0,
        )
        self._taker.reopen(tail, reopening)
        begin = self._beginning(skip_ns)
        return LogRequest(
            self._sandbox_id,
            self._container,
            follow=follow,
            since_ns=begin.since_ns,
            tail_lines=begin.tail_lines,
        )

    async def tail(self) -> Tail:
        """What was taken last, all of it committed."""
        await self._intake.flush()
        if not self._taker.holds_any:
            return Tail(())  # a thousand silent streams are opened again every minute
        return await self._spool.tail(
            self._stream_id,
            from_ns=self._taker.checkpoint.high_stamp_ns - self._settings.keep_tail_ns,
            max_bytes=TAIL_BYTES,
        )

    def _beginning(self, skip_ns: int) -> Begin:
        checkpoint = self._taker.checkpoint
        since = since_ns(checkpoint, self._settings.overlap_ns)
        if since is None:
            return Begin(tail_lines=1) if skip_ns else self._begin
        return Begin(checkpoint.high_stamp_ns + skip_ns if skip_ns else since)

    @property
    def _skip_ns(self) -> int:
        """How far behind the last line to go on when what follows it is in no message we can read.

        Nobody knows how much time such a message holds, so it doubles.
        """
        surplus = self._too_large - TOO_LARGE_MAX
        return SECOND_NS << min(surplus, 24) if surplus >= 0 else 0

    async def _generation(self) -> int | None:
        """How often the container was restarted, as far as the API says it."""
        known, self.known = self.known, None
        if not self._taker.checkpoint.any_taken:
            return self._begin.generation
        return self._restarts(known or await self._inquiry.glance())

    @property
    def _restarted(self) -> bool:
        """Whether the session is one of an earlier life of the container."""
        return (self._restarts(self.known) or 0) > self._taker.checkpoint.generation

    def _restarts(self, sandbox: Sandbox | None) -> int | None:
        status = sandbox.status_of(self._container) if sandbox else None
        return status.restart_count if status else None
