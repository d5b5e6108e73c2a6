"""What of a re-read was already taken. Pure: no I/O, no clock.

A stream that is opened again from `since_time` brings some lines a second time. They are recognised
by their bytes and counted, never by a stamp alone: stamps are neither unique nor sorted, and
whether since_time is inclusive, and whether it counts whole seconds, is unknown (API reference,
StreamLogs). Of the server only this is assumed: it shows the lines of a log in one order, and all
lines of one stamp and text are in a re-read, or none is.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from forwarder.model import Block, FrameKind
from forwarder.stamps import decode_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: So much is held back at most while it is not known whether it was taken.
HOLD_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Taken:
    """A frame of what was already taken: as much of it as the comparison needs."""

    kind: FrameKind
    part: int
    raw: bytes


#: A record, for comparison: its part number, and its exact bytes without the newline.
_Record = tuple[int, bytes]


class Overlap:
    """Takes out of a re-read what was taken before, by counted occurrence of the exact bytes.

    Ten thousand equal lines on one stamp are ten thousand lines: each removal uses one occurrence
    up. A record without a stamp of its own (a line that has none, a long line's later part) could
    as well be an old one that the re-read left out, so it counts only as long as nothing that
    stood behind it has been met.

    What was taken may be known only from some line on (`tail_from_ns`). Until a known line is met,
    whatever comes is then either older than that, or there is a gap and all of it is new. Stamps
    decide as far as they can, and the rest is held back until it is known.

    Attributes:
        removed: Records taken out so far.
        lost: Whether the re-read brought a new line before any that was taken: what lies between
            the two is gone. Known as soon as it happens, never changed later.
    """

    def __init__(self, taken: Iterable[Taken], *, until_ns: int, tail_from_ns: int = 0) -> None:
        """Compare with `taken`, in stream order, until the re-read's stamps pass `until_ns`.

        Args:
            taken: What was taken, up to the last line, from as far back as the re-read may begin.
            until_ns: No line that was taken has a higher stamp.
            tail_from_ns: The first stamp in `taken` when it does not reach that far back, else 0.
        """
        self._taken: Iterator[_Record] | None = _records(taken)
        self._ahead: Counter[_Record] = Counter()
        self._ahead_unstamped: Counter[_Record] = Counter()
        self._until_ns = until_ns
        self._tail_from_ns = tail_from_ns
        self._any_taken = False
        self._skipped = False
        self._held: list[Block] = []
        self._held_bytes = 0
        self.removed = 0
        self.lost = False

    @property
    def done(self) -> bool:
        """Whether nothing more can be removed: every line from here on is new."""
        return not (self._taken or self._ahead or self._ahead_unstamped or self._held)

    @property
    def unmet(self) -> bool:
        """Whether something was taken, and nothing of it has been met so far."""
        if not self._any_taken:
            self._load_next()
        return self._any_taken and not self.removed

    def remove(self, block: Block) -> list[Block]:
        """What is known to be new by now, in its order: of what was held back, and of the block."""
        if not self.done and block.first_stamp_ns > self._until_ns:
            held = self.end()
            self._note_new()
            return [*held, block]
        fresh = self._fresh(block)
        if fresh is None:
            return []
        if not self._waits:
            self._note_new()
            return [fresh]
        self._held.append(fresh)
        self._held_bytes += len(fresh.raw)
        return self._release() if self._held_bytes > HOLD_BYTES else []

    def end(self) -> list[Block]:
        """Nothing more is compared: what was held back is new."""
        held = self._release()
        if self._skipped and not self.removed:
            self.lost = True
        self._load_next()
        self._taken = None
        self._ahead.clear()
        self._ahead_unstamped.clear()
        return held

    def may_be_taken(self, block: Block) -> bool:
        """Whether the block, a record's beginning, may be that of one that was taken before."""
        if self._waits:
            return True
        while self._load_next():
            pass
        rest = self._ahead + self._ahead_unstamped
        return any(part == block.part and known.startswith(block.raw) for part, known in rest)

    @property
    def _waits(self) -> bool:
        """Whether a line that is not known may still be older than what is known."""
        return bool(self._tail_from_ns) and not self.lost and self.unmet

    def _release(self) -> list[Block]:
        held, self._held, self._held_bytes = self._held, [], 0
        if held:
            self.lost = True
        return held

    def _note_new(self) -> None:
        if self.unmet:
            self.lost = True

    def _fresh(self, block: Block) -> Block | None:
        """The block with only those of its records that are not known; None when there are none."""
        lines = [block.raw.removesuffix(b"\n")] if block.part else block.raw.split(b"\n")
        ended = not lines[-1] and not block.part
        if ended:
            lines.pop()
        fresh: list[int] = []
        for at, line in enumerate(lines):
            if not self._use_up((block.part, line)):
                fresh.append(at)
            elif self.removed == 1:
                self._meet_first(fresh)
        if fresh and self._waits:
            fresh = self._skip_older(block, fresh)
        if len(fresh) == len(lines) or not fresh:
            return block if fresh else None
        return _only(block, lines, fresh, ended=ended)

    def _meet_first(self, unknown: list[int]) -> None:
        """A known line is met for the first time, after these lines that are not known."""
        if self._tail_from_ns:
            # What is known begins here, so everything before it is older: it was taken.
            unknown.clear()
            self._held.clear()
        elif unknown:
            self.lost = True

    def _skip_older(self, block: Block, fresh: list[int]) -> list[int]:
        """Those of the lines that are not older than what is known, as far as stamps tell."""
        stamps = [block.first_stamp_ns] if block.part else _stamps(block)
        younger = [at for at in fresh if stamps[at] > self._tail_from_ns]
        self._skipped |= len(younger) < len(fresh)
        return younger

    def _use_up(self, record: _Record) -> bool:
        """Whether the record was taken before; uses up one occurrence of it."""
        ahead = self._ahead if _is_stamped(record) else self._ahead_unstamped
        if not ahead[record] and not self._look_ahead(record):
            if not self._waits:
                self._ahead_unstamped.clear()
            return False
        ahead[record] -= 1
        if not ahead[record]:
            del ahead[record]
        self.removed += 1
        return True

    def _look_ahead(self, record: _Record) -> bool:
        """Count what was taken, from where we stopped, until the record is met or all is counted.

        Re-read and taken lines come in nearly the same order, so little is held at a time.
        """
        while known := self._load_next():
            if known == record:
                unstamped = self._ahead_unstamped[record]
                self._ahead_unstamped.clear()
                if unstamped:
                    self._ahead_unstamped[record] = 1
                return True
        return False

    def _load_next(self) -> _Record | None:
        """Count the next record of what was taken."""
        known = next(self._taken, None) if self._taken else None
        if known is None:
            self._taken = None
            return None
        self._any_taken = True
        (self._ahead if _is_stamped(known) else self._ahead_unstamped)[known] += 1
        return known


def _records(taken: Iterable[Taken]) -> Iterator[_Record]:
    """Each record of the frames, in order."""
    for frame in taken:
        if frame.kind is FrameKind.PART:
            yield (frame.part, frame.raw.removesuffix(b"\n"))
        elif frame.kind is FrameKind.LINES:
            lines = frame.raw.split(b"\n")
            if not lines[-1]:
                lines.pop()
            for line in lines:
                yield (0, line)


def _is_stamped(record: _Record) -> bool:
    """Whether the record has the look of a line with its stamp (`2026-01-02T...`)."""
    part, line = record
    return part <= 1 and line[10:11] == b"T" and line[:4].isdigit()


def _stamps(block: Block) -> list[int]:
    return decode_lines(block.raw, block.first_stamp_ns)[0]


def _only(block: Block, lines: list[bytes], kept: list[int], *, ended: bool) -> Block:
    """The block again, with only these of its lines."""
    stamps = _stamps(block)
    return replace(
        block,
        raw=b"\n".join(lines[at] for at in kept)
        + (b"\n" if ended or kept[-1] < len(lines) - 1 else b""),
        lines=len(kept),
        first_stamp_ns=stamps[kept[0]],
        last_stamp_ns=stamps[kept[-1]],
    )
