"""Where a stream that was opened again meets what was taken of it before. Pure: no I/O, no clock.

The first new record after a reopening tells whether anything is missing: it is the one that was
next, or it is not, and then there is a gap, unless the container was restarted meanwhile and its
old log had been read to its end.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from forwarder.drafts import Doubt
from forwarder.model import GapCause
from forwarder.stamps import parse_stamp

if TYPE_CHECKING:
    from collections.abc import Iterable

    from forwarder.drafts import TakeDraft
    from forwarder.model import Block, Checkpoint
    from forwarder.source.overlap import Overlap


@dataclass(frozen=True, slots=True)
class Reopening:
    """What is known of a stream that is opened again.

    Attributes:
        generation: How often the platform has restarted the container; None when it does not say.
        read_to_end: Whether the stream had ended cleanly before: of a container that was restarted
            since, or of a sandbox that ended, nothing is missing then.
        given_up: Whether the stream's end was declared missing, and sinks were told.
        skipping: Whether it is opened behind something that cannot be read.
    """

    generation: int | None = None
    read_to_end: bool = False
    given_up: bool = False
    skipping: bool = False


class Junction:
    """One stream's last reopening, and the beginning of a line that was cut off before it.

    Attributes:
        pending: Whether no new record has come since the stream was opened again.
        unfinished: What is known of the record after the last one taken.
    """

    def __init__(self) -> None:
        self.pending = False
        self.unfinished: list[Block] = []
        self._reopening = Reopening()
        self._doubt: Doubt | None = None

    def doubt(self, doubt: Doubt) -> None:
        """Bytes may be missing; the first that are feared for count."""
        self._doubt = self._doubt or doubt

    def reopen(self, reopening: Reopening, at: Checkpoint) -> None:
        """The stream is opened again; what was known of an earlier attempt still holds."""
        earlier = self._reopening
        self._reopening = replace(
            reopening,
            given_up=reopening.given_up or earlier.given_up,
            read_to_end=reopening.read_to_end or (self._restarted(at) and earlier.read_to_end),
        )
        self.pending = True

    def set_aside(self, rest: list[Block], overlap: Overlap | None) -> None:
        """Keep the beginning of the line after the last one taken, unless more of it is known.

        While a re-read is being compared, `rest` may as well be the beginning of a line that was
        taken long ago, or of one beyond a gap.
        """
        if overlap is not None and (overlap.unmet or any(map(overlap.may_be_taken, rest))):
            return
        if joined(rest).startswith(joined(self.unfinished)):
            self.unfinished = rest

    def join(self, draft: TakeDraft, block: Block, overlap: Overlap | None) -> None:
        """The first new record is about to be added."""
        self.pending = False
        rest = joined(self.unfinished)
        continued = block.raw.startswith(rest)
        if overlap is None:
            lost = self._reopening.skipping or not (continued or draft.checkpoint.any_taken)
        else:
            # With stamp and text an unfinished line tells as well as a whole one what came next.
            found = parse_stamp(rest)
            surely = continued and found is not None and found[1] < len(rest)
            lost = overlap.lost and not surely
        if lost:
            self._missing(draft, to_ns=block.first_stamp_ns)
        else:
            self._unbroken(draft)
        self.unfinished = []

    def join_end(self, draft: TakeDraft, overlap: Overlap | None, *, read_to_end: bool) -> None:
        """The stream is over, and brought no new record since it was opened again."""
        if self._reopening.skipping or (overlap is not None and overlap.unmet and not read_to_end):
            self._missing(draft)
        elif overlap is not None and not overlap.unmet:
            self._unbroken(draft)

    def declare_gap(self, draft: TakeDraft, doubt: Doubt, *, to_ns: int = 0) -> None:
        """A gap, behind the unfinished line if there is one."""
        draft.declare_gap(doubt, self.unfinished, to_ns=to_ns)
        self.unfinished = []

    def add_unfinished(self, draft: TakeDraft, *, ended: bool = False) -> None:
        """The unfinished line as it is, or ended by us: nothing can follow in it."""
        for block in self.unfinished:
            draft.add(replace(block, raw=block.raw + b"\n") if ended else block)
        self.unfinished = []

    def _unbroken(self, draft: TakeDraft) -> None:
        """The re-read goes on where the stream was: nothing is missing, whatever was feared."""
        if self._doubt is not None:
            draft.settle(self._doubt)
        if self._reopening.given_up:
            draft.take_back_tail()
        self._settled(draft)

    def _missing(self, draft: TakeDraft, *, to_ns: int = 0) -> None:
        """What was next is gone, unless it was the end of a container that was restarted."""
        restarted = self._restarted(draft.checkpoint)
        if self._reopening.skipping:
            doubt = Doubt(GapCause.MESSAGE_TOO_LARGE)
        elif restarted:
            doubt = Doubt(GapCause.RESTARTED)
        else:
            doubt = self._doubt or Doubt(GapCause.ANCHOR_LOST)
        if not (restarted and self._reopening.read_to_end):
            self.declare_gap(draft, doubt, to_ns=0 if restarted else to_ns)
        self.add_unfinished(draft)
        self._settled(draft)

    def _settled(self, draft: TakeDraft) -> None:
        if self._restarted(draft.checkpoint):
            assert self._reopening.generation is not None
            draft.begin_generation(self._reopening.generation)
        self._doubt = None
        self._reopening = Reopening()

    def _restarted(self, at: Checkpoint) -> bool:
        """Whether the stream that is open now is of a later life of the container."""
        return (self._reopening.generation or 0) > at.generation


def goes_on(rest: bytes, data: bytes) -> bool:
    """Whether `data` begins with the line of which `rest` is the beginning.

    The stored form of a line has a stamp that is written in another way, maybe.
    """
    if data.startswith(rest):
        return True
    found, whole = parse_stamp(rest), parse_stamp(data)
    if found is None or whole is None or found[0] != whole[0]:
        return False
    return data.startswith(rest[found[1] :], whole[1])


def joined(blocks: Iterable[Block]) -> bytes:
    """The bytes of the blocks, one behind the other."""
    return b"".join(block.raw for block in blocks)
