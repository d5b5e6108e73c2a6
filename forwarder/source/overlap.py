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

from forwarder.stamps import decode_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from forwarder.model import Block, FrameKind

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

    Attributes:
        removed: Records taken out so far.
        lost: Whether the re-read brought a new line before any that was taken: what lies between
            the two is gone. Known as soon as it happens, never changed later.
    """

    def __init__(
        self,
        taken: Iterable[Taken],
        *,
        until_ns: int,
        tail_from_ns: int = 0,
        cut_short: bool = False,
    ) -> None:
        """Compare with `taken`, in stream order, until the re-read's stamps pass `until_ns`.

        Args:
            taken: What was taken, up to the last line, from as far back as the re-read may begin.
            until_ns: No line that was taken has a higher stamp.
            tail_from_ns: The first stamp in `taken` when it does not reach that far back, else 0.
            cut_short: Whether it does not, also when there is no stamp in it.
        """
        self._search: _Search | None = None
        if tail_from_ns or cut_short:
            taken = list(taken)
            self._search = _Search(taken, tail_from_ns)
        self._taken: Iterator[_Record] | None = _records(taken)
        self._ahead: Counter[_Record] = Counter()
        self._ahead_unstamped: Counter[_Record] = Counter()
        self._until_ns = until_ns
        self._any_taken = False
        self._last: _Record | None = None
        self.removed = 0
        self.lost = False

    @property
    def done(self) -> bool:
        """Whether nothing more can be removed: every line from here on is new."""
        return not (self._taken or self._ahead or self._ahead_unstamped)

    @property
    def unmet(self) -> bool:
        """Whether something was taken, and nothing of it has been met so far."""
        if not self._any_taken:
            self._load_next()
        return self._any_taken and not self.removed

    def remove(self, block: Block) -> list[Block]:
        """What is known to be new by now, in its order: of what was held back, and of the block."""
        if not self.done and block.first_stamp_ns > self._until_ns:
            return [*self.end(), *self._new(block)]
        if self._search is None:
            return self._new(self._fresh(block))
        known = self._search.find(block)
        if known is not None:
            self._search = None
            return self._new(self._fresh(known))
        return self._release() if self._search.held_bytes > HOLD_BYTES else []

    def end(self) -> list[Block]:
        """Nothing more is compared: what was held back is new."""
        held = self._release()
        self._load_next()
        self._taken = None
        self._ahead.clear()
        self._ahead_unstamped.clear()
        return held

    @property
    def ended_early(self) -> bool:
        """Whether something of what was taken was met, but not the last of it.

        The server shows the lines in one order, so a re-read that is over was cut off then.
        """
        if not self.removed:
            return False
        if self._load_next() is not None:
            return True  # the last of it was not even looked for
        return self._last is not None and self._waits(self._last)

    def may_be_taken(self, block: Block) -> bool:
        """Whether the block, a record's beginning, may be that of one that was taken before."""
        while self._load_next():
            pass
        rest = self._ahead + self._ahead_unstamped
        # The beginning of a whole line may as well be that of a long line's first part.
        number = block.part or 1
        return any((part or 1) == number and known.startswith(block.raw) for part, known in rest)

    def is_cut_off(self, block: Block) -> bool:
        """Whether the block is only the beginning of a record that was taken before."""
        return self.may_be_taken(block) and not self._waits((block.part, block.raw))

    def _waits(self, record: _Record) -> bool:
        """Whether the record was taken, and not met so far."""
        return record in self._ahead or record in self._ahead_unstamped

    def _release(self) -> list[Block]:
        """No known line is to be found: whatever came is new, and what came before it is gone."""
        search, self._search = self._search, None
        if search is None:
            return []
        self.lost |= search.met_any
        return search.held

    def _new(self, block: Block | None) -> list[Block]:
        if block is None:
            return []
        self.lost |= self.unmet
        return [block]

    def _fresh(self, block: Block) -> Block | None:
        """The block with only those of its records that are new; None when none is."""
        lines = _lines(block.raw)
        fresh: list[int] = []
        for at, line in enumerate(lines):
            if not self._use_up((block.part, line)):
                self.lost |= self.unmet
                fresh.append(at)
        if len(fresh) == len(lines):
            return block
        return _only(block, lines, fresh) if fresh else None

    def _use_up(self, record: _Record) -> bool:
        """Whether the record was taken before; uses up one occurrence of it."""
        ahead = self._ahead if _is_stamped(record) else self._ahead_unstamped
        if not ahead[record] and not self._look_ahead(record):
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
                self._ahead_unstamped.clear()
                if not _is_stamped(record):
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
        self._last = known
        (self._ahead if _is_stamped(known) else self._ahead_unstamped)[known] += 1
        return known


class _Search:
    """Looks for where a re-read reaches what is known, when older lines were taken as well.

    Until it does, whatever comes is either older than what is known, so it was taken; or nothing of
    what is known is left on the server, and all of it is new. A line stamped before the first known
    one is old. The others are held back until it is clear, also those of a log without any stamps.

    Attributes:
        held: What is new if no known line comes.
        held_bytes: How much that is.
        met_any: Whether the re-read brought anything.
    """

    def __init__(self, taken: Iterable[Taken], from_ns: int) -> None:
        records = set(_records(taken))
        # Only a line with its own stamp is certain to be the known one and none that is like it.
        self._known = set(filter(_is_stamped, records)) or records
        self._from_ns = from_ns
        self.held: list[Block] = []
        self.held_bytes = 0
        self.met_any = False

    def find(self, block: Block) -> Block | None:
        """The block from its first known record on; None when it has none, then it is held."""
        self.met_any = True
        lines = _lines(block.raw)
        for at, line in enumerate(lines):
            if (block.part, line) in self._known:
                return _only(block, lines, range(at, len(lines)))
        stamps = _stamps(block)
        younger = [at for at, stamp in enumerate(stamps) if stamp > self._from_ns or not stamp]
        if younger:
            self.held.append(_only(block, lines, younger))
            self.held_bytes += len(self.held[-1].raw)
        return None


def _records(taken: Iterable[Taken]) -> Iterator[_Record]:
    """Each record of the frames, in order."""
    for frame in taken:
        if frame.kind.holds_lines:
            for line in _lines(frame.raw):
                yield (frame.part, line)


def _is_stamped(record: _Record) -> bool:
    """Whether the record has the look of a line with its stamp (`2026-01-02T...`)."""
    part, line = record
    return part <= 1 and line[10:11] == b"T" and line[:4].isdigit()


def _lines(raw: bytes) -> list[bytes]:
    """The records of a block or frame without their newlines."""
    lines = raw.split(b"\n")
    if not lines[-1] and len(lines) > 1:
        lines.pop()
    return lines


def _stamps(block: Block) -> list[int]:
    return decode_lines(block.raw, block.first_stamp_ns)[0]


def _only(block: Block, lines: list[bytes], kept: Sequence[int]) -> Block:
    """The block again, with only these of its lines."""
    stamps = _stamps(block)
    ended = kept[-1] < len(lines) - 1 or block.raw.endswith(b"\n")
    return replace(
        block,
        raw=b"\n".join(lines[at] for at in kept) + b"\n" * ended,
        lines=len(kept),
        first_stamp_ns=stamps[kept[0]],
        last_stamp_ns=stamps[kept[-1]],
    )
