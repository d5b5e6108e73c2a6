"""From a stream's entries to numbered frames and the position after them. Pure: no I/O, no clock.

A `Taker` is the whole state of one stream between two commits. It is told when the stream is
opened, and how; it is given the entries; it is asked for what can be stored by now.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from forwarder.drafts import Take, TakeDraft
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
from forwarder.stamps import parse_stamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from forwarder.model import Block, Checkpoint
    from forwarder.source.interface import LogEntry
    from forwarder.spool.interface import Tail

__all__ = ["MISTRUST_AFTER", "Take", "Taker"]

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
        self._mismatch_line = -1
        self._overlap: Overlap | None = None
        self._joining = False
        self._unfinished: list[Block] = []
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
    def holds_any(self) -> bool:
        """Whether anything of the stream was taken, or waits to be."""
        return bool(self.checkpoint.next_line or self._cutter.buffered_bytes or self._unfinished)

    def resume(self) -> None:
        """The session is continued: what is buffered stays, and the next byte follows it."""
        self._position = self._position.resumed(self._seen)

    def reopen(self, tail: Tail) -> None:
        """A new stream is opened some time before the checkpoint; `tail` is what was taken there.

        Everything taken must have been committed before the tail was read. An unfinished line is
        read again, so it is only kept for the case that it is not.
        """
        self._set_aside(self._cutter.finish())
        self._cutter = LineCutter(self._max_line_bytes, last_stamp_ns=self.checkpoint.last_stamp_ns)
        if self.checkpoint.next_line > self._mismatch_line:
            self._mismatches = 0
        self._position = SessionPosition(trusting=self._mismatches < MISTRUST_AFTER)
        self._seen = b""
        self._joining = True
        self._overlap = None
        if self.checkpoint.next_line:
            self._overlap = self._compare_with(tail)

    def _compare_with(self, tail: Tail) -> Overlap:
        high_ns = self.checkpoint.high_stamp_ns
        tail_from_ns = tail.from_ns
        if stepped_back(self.checkpoint, self._overlap_ns):
            # Then the re-read begins before the tail.
            tail_from_ns = max(tail_from_ns, high_ns - tail_ns(self._overlap_ns))
        until_ns = high_ns + self._overlap_ns
        return Overlap(tail.frames, until_ns=until_ns, tail_from_ns=tail_from_ns)

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
        except SessionLostError:
            self._mismatches += 1
            self._mismatch_line = self.checkpoint.next_line
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
        self._add(draft, self._cutter.finish())
        overlap = self._overlap
        if overlap is not None:
            self._add_fresh(draft, overlap.end())
            if overlap.unmet and not overlap.lost and not read_to_end:
                self._declare_gap(draft, GapCause.ANCHOR_LOST)
        return self._last(draft)

    def give_up(self, cause: GapCause, now_ns: int) -> Take:
        """The end cannot be read any more: keep the unfinished line, ended, and declare a gap."""
        draft = TakeDraft(self.checkpoint, now_ns)
        self._add_rest(draft)
        self._declare_gap(draft, cause)
        take = self._last(draft)
        assert take is not None
        return take

    def keep_unfinished(self, now_ns: int) -> Take | None:
        """The stream had been read to its end before, and cannot be read again: keep all of it."""
        draft = TakeDraft(self.checkpoint, now_ns)
        self._add_rest(draft)
        return self._last(draft)

    # An unfinished line --------------------------------------------------------------------------

    def _set_aside(self, rest: list[Block]) -> None:
        """Keep the beginning of the line after the last one taken, unless more of it is known.

        While a re-read is being compared, what is in the cutter may as well be the beginning of a
        line that was taken long ago, or of one beyond a gap.
        """
        overlap = self._overlap
        if overlap is not None and (overlap.unmet or any(map(overlap.may_be_taken, rest))):
            return
        if _joined(rest).startswith(_joined(self._unfinished)):
            self._unfinished = rest

    def _add_rest(self, draft: TakeDraft) -> None:
        """Everything that is known to be new, when a re-read was cut or could not begin."""
        self._add(draft, self._cutter.take())
        self._set_aside(self._cutter.finish())

    def _last(self, draft: TakeDraft) -> Take | None:
        """The last take: an unfinished line stays unfinished, and no session is to be continued."""
        for block in self._unfinished:
            draft.add(block)
        self._unfinished = []
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
            if self._joining:
                self._join(draft, block)
            draft.add(block)

    def _join(self, draft: TakeDraft, block: Block) -> None:
        """The first new record since the stream was opened again: is it the one that was next?"""
        self._joining = False
        rest = _joined(self._unfinished)
        continued = block.raw.startswith(rest)
        if self._overlap is None:
            lost = not continued and not draft.checkpoint.next_line
        else:
            # With stamp and text an unfinished line tells as well as a whole one what came next.
            found = parse_stamp(rest)
            surely = continued and found is not None and found[1] < len(rest)
            lost = self._overlap.lost and not surely
        if lost:
            self._declare_gap(draft, GapCause.ANCHOR_LOST, to_ns=block.first_stamp_ns)
        self._unfinished = []

    def _declare_gap(self, draft: TakeDraft, cause: GapCause, *, to_ns: int = 0) -> None:
        draft.declare_gap(cause, self._unfinished, to_ns=to_ns)
        self._unfinished = []

    def _with_session(self, checkpoint: Checkpoint) -> Checkpoint:
        """The position with the session's offset of the first byte that is in no frame yet."""
        session_id, offset = self.session
        offset -= self._cutter.buffered_bytes
        if self._overlap is not None or not self._position.covers(offset):
            session_id, offset = "", 0
        return replace(checkpoint, session_id=session_id, session_offset=offset)


def _joined(blocks: Iterable[Block]) -> bytes:
    return b"".join(block.raw for block in blocks)


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
