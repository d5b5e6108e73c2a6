"""From a stream's entries to numbered frames and the position after them. Pure: no I/O, no clock.

A `Taker` is the whole state of one stream between two commits. It is told when the stream is
opened, and how; it is given the entries; it is asked for what can be stored by now.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from forwarder.drafts import Doubt, Take, TakeDraft
from forwarder.junction import Junction, Reopening, goes_on, joined
from forwarder.model import GapCause
from forwarder.source.lines import LineCutter
from forwarder.source.overlap import Overlap
from forwarder.source.resume import (
    SEEN_BYTES,
    SessionLostError,
    SessionPosition,
    stepped_back,
    tail_ns,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from forwarder.model import Block, Checkpoint, StreamState
    from forwarder.source.interface import LogEntry
    from forwarder.spool.interface import Tail

__all__ = ["MISTRUST_AFTER", "Reopening", "Take", "Taker"]

#: After so many disagreements in a row, and no new line between them, a server's offsets are not
#: looked at on the next stream: every reopening would only meet the next one.
MISTRUST_AFTER = 3


class Taker:
    """One stream's bytes on their way to the spool.

    Attributes:
        checkpoint: The position after the last `take`. It names a session only when continuing
            that session needs nothing but the offset: while a re-read is still being compared, a
            restart has to compare again.
        removed: Records that a re-read brought again and that were taken out.
    """

    def __init__(self, checkpoint: Checkpoint, *, max_line_bytes: int, overlap_ns: int) -> None:
        self.checkpoint = checkpoint
        self.removed = 0
        self._max_line_bytes = max_line_bytes
        self._overlap_ns = overlap_ns
        self._mismatches = 0
        self._mismatched_at = (-1, -1)
        self._overlap: Overlap | None = None
        self._junction = Junction()
        self._seen = b""
        self._position = SessionPosition(checkpoint.session_id, checkpoint.session_offset)
        self._cutter = LineCutter(
            max_line_bytes,
            open_part=checkpoint.open_part,
            last_stamp_ns=checkpoint.last_stamp_ns,
        )

    @property
    def session(self) -> tuple[str, int]:
        """The session to resume and the next byte wanted of it; an empty id when there is none."""
        return self._position.session_id, self._position.offset

    @property
    def comparing(self) -> bool:
        """Whether a re-read is under way, of which nobody knows yet what of it is new."""
        return self._overlap is not None

    @property
    def ended_early(self) -> bool:
        """Whether a re-read that is over was cut off before the last line taken."""
        return self._overlap is not None and self._overlap.ended_early

    @property
    def holds_any(self) -> bool:
        """Whether anything of the stream was taken, or waits to be."""
        return bool(
            self.checkpoint.any_taken or self._cutter.buffered_bytes or self._junction.unfinished
        )

    def resume(self) -> None:
        """The session is continued: what is buffered stays, and the next byte follows it."""
        self._position = self._position.resumed(self._seen)

    def doubt(self) -> None:
        """The session no longer has the next bytes: a gap, unless a re-read brings them."""
        self._junction.doubt(Doubt(GapCause.REPLAY_GAP, self._position.offset))

    def reopen(self, tail: Tail, reopening: Reopening = Reopening()) -> None:
        """A new stream is opened some time before the checkpoint; `tail` is what was taken there.

        Everything taken must have been committed before the tail was read. An unfinished line is
        read again, so it is only kept for the case that it is not.
        """
        self._junction.set_aside(self._cutter.finish(), self._overlap)
        self._junction.reopen(reopening, self.checkpoint)
        self._cutter = LineCutter(self._max_line_bytes, last_stamp_ns=self.checkpoint.last_stamp_ns)
        if self._place > self._mismatched_at:
            self._mismatches = 0
        self._position = SessionPosition(trusting=self._mismatches < MISTRUST_AFTER)
        self._seen = b""
        self._overlap = None
        if self.checkpoint.any_taken and not reopening.skipping:
            self._overlap = self._compare_with(tail)

    def _compare_with(self, tail: Tail) -> Overlap:
        high_ns = self.checkpoint.high_stamp_ns
        tail_from_ns = tail.from_ns
        if stepped_back(self.checkpoint, self._overlap_ns):
            # Then the re-read begins before the tail.
            tail_from_ns = max(tail_from_ns, high_ns - tail_ns(self._overlap_ns))
        until_ns = high_ns + self._overlap_ns
        return Overlap(
            tail.frames,
            until_ns=until_ns,
            tail_from_ns=tail_from_ns,
            cut_short=tail.cut_short or tail_from_ns > 0,
        )

    def receive(self, entries: Iterable[LogEntry]) -> int:
        """Take the entries' new bytes; returns how many.

        Raises:
            SessionLostError: The session cannot be believed; what came before it was taken.
        """
        fed: list[bytes] = []
        accept, feed = self._position.accept, self._cutter.feed
        try:
            for entry in entries:
                data = accept(entry)
                if data:
                    feed(data)
                    fed.append(data)
        except SessionLostError as error:
            if self._place > self._mismatched_at:
                self._mismatches = 0
            self._mismatches += 1
            self._mismatched_at = self._place
            if error.skipped_to is not None:
                offset = self._position.offset
                self._junction.doubt(Doubt(GapCause.REPLAY_GAP, offset, error.skipped_to))
            raise
        self._seen = _last_bytes(self._seen, fed)
        return sum(map(len, fed))

    def take(self, now_ns: int) -> Take | None:
        """All whole lines by now; None when there is nothing new, not even a position."""
        draft = TakeDraft(self.checkpoint, now_ns)
        self._add(draft, self._cutter.take())
        return self._stored(draft)

    def finish(self, now_ns: int, *, read_to_end: bool = True) -> Take | None:
        """Everything, also a last line without its newline: the stream has been read to its end.

        Args:
            now_ns: The time, by the local clock.
            read_to_end: Whether the stream had ended cleanly before: then nothing is missing when
                not even the last line taken can be read again.
        """
        draft = TakeDraft(self.checkpoint, now_ns)
        self._add(draft, self._cutter.take())
        overlap = self._overlap
        rest = self._cutter.finish()
        if overlap is None or not any(map(overlap.is_cut_off, rest)):
            self._add(draft, rest)
        if overlap is not None:
            self._add_fresh(draft, overlap.end())
        if self._junction.pending:
            self._junction.join_end(draft, overlap, read_to_end=read_to_end)
        return self._last(draft)

    def append_stored(self, data: bytes, now_ns: int) -> Take | None:
        """Whole lines that no stream brought: they follow what was taken.

        The beginning of a line that the first of them is not goes before them, ended by us.
        """
        junction = self._junction
        junction.set_aside(self._cutter.finish(), self._overlap)
        self._overlap, junction.pending = None, False
        self._cutter = LineCutter(self._max_line_bytes, last_stamp_ns=self.checkpoint.last_stamp_ns)
        draft = TakeDraft(self.checkpoint, now_ns)
        if data and not goes_on(joined(junction.unfinished), data):
            junction.add_unfinished(draft, ended=True)
        if data:
            junction.unfinished = []
        self._cutter.feed(data)
        self._add(draft, self._cutter.finish())
        return self._stored(draft)

    def give_up(self, cause: GapCause, now_ns: int) -> Take:
        """The end cannot be read any more: keep the unfinished line, ended, and declare a gap."""
        draft = TakeDraft(self.checkpoint, now_ns)
        self._add_rest(draft)
        self._junction.declare_gap(draft, Doubt(cause))
        take = self._last(draft)
        assert take is not None
        return take

    def keep_unfinished(self, now_ns: int) -> Take | None:
        """The stream had been read to its end before, and cannot be read again: keep all of it."""
        draft = TakeDraft(self.checkpoint, now_ns)
        self._add_rest(draft)
        return self._last(draft)

    def end(self, state: StreamState, detail: str, now_ns: int) -> Take:
        """The record that the stream is over; after everything else."""
        draft = TakeDraft(self.checkpoint, now_ns)
        draft.end(state, detail)
        take = self._stored(draft)
        assert take is not None
        return take

    def _add_rest(self, draft: TakeDraft) -> None:
        """Everything that is known to be new, when a re-read was cut or could not begin."""
        self._add(draft, self._cutter.take())
        self._junction.set_aside(self._cutter.finish(), self._overlap)

    def _last(self, draft: TakeDraft) -> Take | None:
        """The last take: an unfinished line stays unfinished, and no session is to be continued."""
        self._junction.add_unfinished(draft)
        self._position = SessionPosition()
        return self._stored(draft)

    # From blocks to frames -----------------------------------------------------------------------

    def _stored(self, draft: TakeDraft) -> Take | None:
        draft.checkpoint = self.checkpoint = self._with_session(draft.checkpoint)
        return draft.done()

    def _add(self, draft: TakeDraft, blocks: Iterable[Block]) -> None:
        """Add what of the blocks was not taken before."""
        for block in blocks:
            overlap = self._overlap
            if overlap is None:
                self._add_fresh(draft, (block,))
                continue
            removed = overlap.removed
            fresh = overlap.remove(block)
            self.removed += overlap.removed - removed
            self._add_fresh(draft, fresh)
            if overlap.done:
                self._overlap = None

    def _add_fresh(self, draft: TakeDraft, fresh: Iterable[Block]) -> None:
        for block in fresh:
            if self._junction.pending:
                self._junction.join(draft, block, self._overlap)
            draft.add(block)

    @property
    def _place(self) -> tuple[int, int]:
        """Where the stream is; it only ever grows."""
        return self.checkpoint.generation, self.checkpoint.next_line

    def _with_session(self, checkpoint: Checkpoint) -> Checkpoint:
        """The position with the session's offset of the first byte that is in no frame yet."""
        session_id, offset = self.session
        offset -= self._cutter.buffered_bytes
        if self._overlap is not None or not self._position.covers(offset):
            session_id, offset = "", 0
        return replace(checkpoint, session_id=session_id, session_offset=offset)


def _last_bytes(seen: bytes, pieces: Sequence[bytes]) -> bytes:
    """The last bytes of what was seen, with these pieces after it."""
    wanted: list[bytes] = []
    missing = SEEN_BYTES
    for piece in (*pieces[: -SEEN_BYTES - 1 : -1], seen):
        if missing <= 0:
            break
        wanted.append(piece[-missing:])
        missing -= len(piece)
    return b"".join(reversed(wanted))
