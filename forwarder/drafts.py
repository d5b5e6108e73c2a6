"""What one take stores: frames in order, our records among them, and the position after. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import orjson

from forwarder.model import (
    Block,
    Checkpoint,
    FrameDraft,
    FrameKind,
    Gap,
    GapCause,
    GapKind,
    StreamState,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

#: Causes of which the missing lines were the stream's last.
_OF_TAILS = frozenset({GapCause.TAIL_UNKNOWN, GapCause.NEVER_FOLLOWED, GapCause.RESTARTED})


@dataclass(frozen=True, slots=True)
class Doubt:
    """Bytes that a session no longer had: a gap, unless the re-read brings them.

    Attributes:
        from_offset: Where in the session they begin.
        to_offset: Where they end, None when unknown.
    """

    cause: GapCause
    from_offset: int | None = None
    to_offset: int | None = None


@dataclass(frozen=True, slots=True)
class Take:
    """What can be stored by now: frames in order, our records among them, and the position after.

    Attributes:
        gaps: The gaps that are among the frames, once more as values, and those that were filled
            before anybody had to be told.
        filled_ns: Not 0 when the stream's end, which had been given up, was found after all.
    """

    frames: Sequence[FrameDraft]
    gaps: Sequence[Gap]
    checkpoint: Checkpoint
    filled_ns: int = 0


class TakeDraft:
    """A `Take` in the making: gives every record its place in the stream.

    Attributes:
        checkpoint: The position after what was added so far.
    """

    def __init__(self, checkpoint: Checkpoint, now_ns: int) -> None:
        self.checkpoint = checkpoint
        self._before = checkpoint
        self._now_ns = now_ns
        self._frames: list[FrameDraft] = []
        self._gaps: list[Gap] = []
        self._filled_ns = 0

    def done(self) -> Take | None:
        """What is to be stored; None when that is nothing, not even a position."""
        if self.checkpoint == self._before and not (self._gaps or self._frames):
            return None
        return Take(self._frames, self._gaps, self.checkpoint, self._filled_ns)

    def add(self, block: Block) -> None:
        """Number the block's records, and move the position behind them."""
        at = self.checkpoint
        high_ns = max(at.high_stamp_ns, block.first_stamp_ns, block.last_stamp_ns)
        is_open = block.kind is FrameKind.PART and not block.raw.endswith(b"\n")
        self.checkpoint = replace(
            at,
            next_line=at.next_line + block.lines,
            open_part=block.part if is_open else 0,
            last_stamp_ns=block.last_stamp_ns,
            high_stamp_ns=high_ns,
        )
        self._frames.append(
            FrameDraft(
                block.kind,
                block.raw,
                first_line=at.next_line,
                lines=block.lines,
                part=block.part,
                first_stamp_ns=block.first_stamp_ns,
                last_stamp_ns=block.last_stamp_ns,
                high_stamp_ns=high_ns,
                received_ns=self._now_ns,
                generation=at.generation,
            )
        )

    def begin_generation(self, generation: int) -> None:
        """The container was restarted: its lines are counted from 0 again."""
        self.checkpoint = replace(self.checkpoint, generation=generation, next_line=0, open_part=0)

    def declare_gap(self, doubt: Doubt, unfinished: Iterable[Block], *, to_ns: int = 0) -> None:
        """Put a gap behind what was taken, and behind the beginning of a line that it cuts off.

        That line gets a newline of ours, so that what follows can never be taken for its rest.
        """
        at = self.checkpoint
        if at.open_part and not unfinished:
            stamp_ns = at.last_stamp_ns
            unfinished = [Block(FrameKind.PART, b"", 1, at.open_part + 1, stamp_ns, stamp_ns)]
        for block in unfinished:
            self.add(replace(block, raw=block.raw + b"\n"))
        gap = self._gap(doubt, to_ns=to_ns)
        self._gaps.append(gap)
        self._record(FrameKind.GAP, gap.record(), to_ns=to_ns)

    def settle(self, doubt: Doubt) -> None:
        """What a session no longer had was in the re-read: told in the spool, not to the sinks."""
        self._gaps.append(replace(self._gap(doubt, to_ns=0), filled_ns=self._now_ns))

    def take_back_tail(self) -> None:
        """The end that had been declared missing was found: whoever was told of it is told so."""
        gap = self._gap(Doubt(GapCause.TAIL_UNKNOWN), to_ns=0)
        self._filled_ns = self._now_ns
        self._record(FrameKind.GAP, replace(gap, filled_ns=self._now_ns).record())

    def end(self, state: StreamState, detail: str) -> None:
        """The stream is over."""
        lines = self.checkpoint.next_line
        record = {"state": state, "detail": detail, "lines": lines, "ended_ns": self._now_ns}
        self._record(FrameKind.END, record)

    def _gap(self, doubt: Doubt, *, to_ns: int) -> Gap:
        at = self.checkpoint
        of_tail = doubt.cause in _OF_TAILS
        return Gap(
            doubt.cause,
            after_line=at.next_line - 1,
            from_stamp_ns=at.last_stamp_ns,
            to_stamp_ns=to_ns,
            noticed_ns=self._now_ns,
            kind=GapKind.TAIL if of_tail else GapKind.RANGE,
            before_line=None if of_tail else at.next_line,
            from_offset=doubt.from_offset,
            to_offset=doubt.to_offset,
            generation=at.generation,
        )

    def _record(self, kind: FrameKind, record: Mapping[str, object], *, to_ns: int = 0) -> None:
        """A record of ours travels as a frame of its own kind: no log text can look like it."""
        at = self.checkpoint
        self._frames.append(
            FrameDraft(
                kind,
                orjson.dumps(record),
                first_line=at.next_line,
                lines=0,
                part=0,
                first_stamp_ns=at.last_stamp_ns,
                last_stamp_ns=to_ns,
                high_stamp_ns=at.high_stamp_ns,
                received_ns=self._now_ns,
                generation=at.generation,
            )
        )
