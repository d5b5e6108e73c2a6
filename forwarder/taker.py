"""From a stream's entries to numbered frames and the position after them. Pure: no I/O, no clock.

A `Taker` is the whole state of one stream between two commits. It is told when the stream is
opened, and how; it is given the entries; it is asked for what can be stored by now.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import orjson

from forwarder.model import Block, Checkpoint, FrameDraft, FrameKind, Gap, GapCause
from forwarder.source.lines import LineCutter
from forwarder.source.resume import Overlap, SessionLostError, SessionPosition

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from forwarder.source.interface import LogEntry
    from forwarder.spool.interface import Tail

#: After so many disagreements a server's offsets are not looked at any more: every reopening would
#: only meet the next one.
MISTRUST_AFTER = 3


@dataclass(frozen=True, slots=True)
class Take:
    """What can be stored by now: frames in order, gap records among them, and the position after.

    Attributes:
        gaps: The gaps that are among the frames, once more as values.
    """

    frames: Sequence[FrameDraft]
    gaps: Sequence[Gap]
    checkpoint: Checkpoint


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
        self._overlap: Overlap | None = None
        self._unfinished: list[Block] = []
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

    def resume(self) -> None:
        """The session is continued: what is buffered stays, and the next byte follows it."""
        self._position = SessionPosition(*self.session)

    def reopen(self, tail: Tail) -> None:
        """A new stream is opened some time before the checkpoint; `tail` is what was taken there.

        Everything taken must have been committed before the tail was read. An unfinished line is
        read again, so it is only kept for the case that it is not.
        """
        self._unfinished = self._cutter.finish()
        self._cutter = LineCutter(self._max_line_bytes, last_stamp_ns=self.checkpoint.last_stamp_ns)
        self._position = SessionPosition(trusting=self._mismatches < MISTRUST_AFTER)
        self._overlap = None
        if self.checkpoint.next_line:
            until_ns = self.checkpoint.high_stamp_ns + self._overlap_ns
            self._overlap = Overlap(tail.frames, until_ns=until_ns)

    def receive(self, entries: Iterable[LogEntry]) -> int:
        """Take the entries' new bytes; returns how many.

        Raises:
            SessionLostError: The session cannot be believed; what came before it was taken.
        """
        size = 0
        accept, feed = self._position.accept, self._cutter.feed
        try:
            for entry in entries:
                data = accept(entry)
                if data:
                    feed(data)
                    size += len(data)
        except SessionLostError:
            self._mismatches += 1
            raise
        return size

    def take(self, now_ns: int) -> Take | None:
        """All whole lines by now; None when there is nothing new, not even a position."""
        return self._place(self._cutter.take(), now_ns)

    def finish(self, now_ns: int) -> Take | None:
        """Everything, also a last line without its newline: the stream has been read to its end."""
        return self._place(self._cutter.finish(), now_ns)

    def give_up(self, cause: GapCause, now_ns: int) -> Take:
        """The end cannot be read any more: keep the unfinished line as it is, and declare a gap."""
        take = self.keep_unfinished(now_ns)
        gap = self._gap(cause, now_ns, to_ns=0)
        frames, gaps = (take.frames, take.gaps) if take else ((), ())
        return Take([*frames, self._gap_draft(gap)], [*gaps, gap], self.checkpoint)

    def keep_unfinished(self, now_ns: int) -> Take | None:
        """The stream had been read to its end before, and cannot be read again: keep all of it."""
        self._overlap = None
        blocks, self._unfinished = self._unfinished, []
        return self._place([*blocks, *self._cutter.finish()], now_ns)

    def _place(self, blocks: Iterable[Block], now_ns: int) -> Take | None:
        """Remove what was taken before, number the rest, and move the checkpoint."""
        before = self.checkpoint
        gaps: list[Gap] = []
        frames: list[FrameDraft] = []
        for block in blocks:
            fresh = self._remove_taken(block, gaps, frames, now_ns)
            if fresh is not None:
                frames.append(self._draft(fresh, now_ns))
        self._move_session()
        if self.checkpoint == before and not gaps:
            return None
        return Take(frames, gaps, self.checkpoint)

    def _remove_taken(
        self, block: Block, gaps: list[Gap], frames: list[FrameDraft], now_ns: int
    ) -> Block | None:
        overlap = self._overlap
        if overlap is None:
            return block
        removed = overlap.removed
        was_lost = overlap.lost
        fresh = overlap.remove(block)
        self.removed += overlap.removed - removed
        if overlap.lost and not was_lost:
            # The unfinished line's beginning is all that is left of it: it belongs before the gap.
            frames.extend(self._draft(rest, now_ns) for rest in self._unfinished)
            gap = self._gap(GapCause.ANCHOR_LOST, now_ns, to_ns=block.first_stamp_ns)
            gaps.append(gap)
            frames.append(self._gap_draft(gap))
        if overlap.removed or overlap.lost:
            self._unfinished = []
        if overlap.done:
            self._overlap = None
        return fresh

    def _draft(self, block: Block, now_ns: int) -> FrameDraft:
        at = self.checkpoint
        high_ns = max(at.high_stamp_ns, block.first_stamp_ns, block.last_stamp_ns)
        self.checkpoint = replace(
            at,
            next_line=at.next_line + block.lines,
            open_part=block.part
            if block.kind is FrameKind.PART and not block.raw.endswith(b"\n")
            else 0,
            last_stamp_ns=block.last_stamp_ns,
            high_stamp_ns=high_ns,
        )
        return FrameDraft(
            block.kind,
            block.raw,
            first_line=at.next_line,
            lines=block.lines,
            part=block.part,
            first_stamp_ns=block.first_stamp_ns,
            last_stamp_ns=block.last_stamp_ns,
            high_stamp_ns=high_ns,
            received_ns=now_ns,
        )

    def _move_session(self) -> None:
        """The session's offset of the first byte that is in no frame yet."""
        session_id, offset = self.session
        if self._overlap is not None or not session_id:
            session_id, offset = "", 0
        else:
            offset -= self._cutter.buffered_bytes
        self.checkpoint = replace(
            self.checkpoint, session_id=session_id, session_offset=max(offset, 0)
        )

    def _gap_draft(self, gap: Gap) -> FrameDraft:
        """A gap travels as a frame of its own kind: no log text can look like it."""
        return FrameDraft(
            FrameKind.GAP,
            orjson.dumps(asdict(gap)),
            first_line=self.checkpoint.next_line,
            lines=0,
            part=0,
            first_stamp_ns=gap.from_stamp_ns,
            last_stamp_ns=gap.to_stamp_ns,
            high_stamp_ns=self.checkpoint.high_stamp_ns,
            received_ns=gap.noticed_ns,
        )

    def _gap(self, cause: GapCause, now_ns: int, *, to_ns: int) -> Gap:
        return Gap(
            cause,
            after_line=self.checkpoint.next_line - 1,
            from_stamp_ns=self.checkpoint.last_stamp_ns,
            to_stamp_ns=to_ns,
            noticed_ns=now_ns,
        )
