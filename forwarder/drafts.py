"""What one take stores: frames in order, gap records among them, and the position after. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import orjson

from forwarder.model import Block, Checkpoint, FrameDraft, FrameKind, Gap, GapCause

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True, slots=True)
class Take:
    """What can be stored by now: frames in order, gap records among them, and the position after.

    Attributes:
        gaps: The gaps that are among the frames, once more as values.
    """

    frames: Sequence[FrameDraft]
    gaps: Sequence[Gap]
    checkpoint: Checkpoint


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

    def done(self) -> Take | None:
        """What is to be stored; None when that is nothing, not even a position."""
        if self.checkpoint == self._before and not self._gaps:
            return None
        return Take(self._frames, self._gaps, self.checkpoint)

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
            )
        )

    def declare_gap(self, cause: GapCause, unfinished: Iterable[Block], *, to_ns: int) -> None:
        """Put a gap behind what was taken, and behind the beginning of a line that it cuts off.

        That line gets a newline of ours, so that what follows can never be taken for its rest.
        """
        at = self.checkpoint
        if at.open_part and not unfinished:
            stamp_ns = at.last_stamp_ns
            unfinished = [Block(FrameKind.PART, b"", 1, at.open_part + 1, stamp_ns, stamp_ns)]
        for block in unfinished:
            self.add(replace(block, raw=block.raw + b"\n"))
        gap = Gap(
            cause,
            after_line=self.checkpoint.next_line - 1,
            from_stamp_ns=self.checkpoint.last_stamp_ns,
            to_stamp_ns=to_ns,
            noticed_ns=self._now_ns,
        )
        self._gaps.append(gap)
        self._frames.append(self._gap_frame(gap))

    def _gap_frame(self, gap: Gap) -> FrameDraft:
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
            received_ns=self._now_ns,
        )
