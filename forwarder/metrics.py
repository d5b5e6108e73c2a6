"""What the engine counts. Plain numbers, cheap on the hot path; `admin` shows them to the world."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from forwarder.model import Gap, GapCause

_log = structlog.get_logger()


class Committed(Protocol):
    """What is counted of a stream's part of a commit."""

    @property
    def lines(self) -> int:
        """Records."""
        ...

    @property
    def raw_bytes(self) -> int:
        """Their bytes, as the server sent them."""
        ...

    @property
    def gaps(self) -> Sequence[Gap]:
        """Gaps noticed, and gaps that were filled."""
        ...


@dataclass(slots=True)
class Metrics:
    """Counters since the process began. Every sink's own are in the spool and survive it.

    Attributes:
        received_messages: Messages of log streams.
        received_bytes: Their new bytes.
        taken_lines: Records committed to the spool.
        taken_bytes: Their bytes, as the server sent them.
        commits: Transactions that stored what was read.
        commit_seconds: Time spent in them, those that were refused not included.
        reconnects: Attempts to open a stream again, by how.
        gaps: Ranges of lines that are missing, or may be, by cause.
        gaps_filled: Ranges declared missing before, of which the lines were found after all.
        lost_lines: Lines that were taken, and given up before every sink had them, by cause.
        spool_refusing: Whether the spool has no room now: reading has stopped.
        longest_idle_s: Tells the longest silence of a stream that is followed now, 0 without one.
    """

    received_messages: int = 0
    received_bytes: int = 0
    taken_lines: int = 0
    taken_bytes: int = 0
    commits: int = 0
    commit_seconds: float = 0.0
    reconnects: Counter[str] = field(default_factory=Counter)
    gaps: Counter[str] = field(default_factory=Counter)
    gaps_filled: int = 0
    lost_lines: Counter[str] = field(default_factory=Counter)
    spool_refusing: bool = False
    longest_idle_s: Callable[[], float] = lambda: 0.0

    def received(self, messages: int, size_bytes: int) -> None:
        """A follower read something."""
        self.received_messages += messages
        self.received_bytes += size_bytes

    def committed(self, commits: Sequence[Committed], seconds: float) -> None:
        """A transaction is durable."""
        self.commits += 1
        self.commit_seconds += seconds
        for one in commits:
            self.taken_lines += one.lines
            self.taken_bytes += one.raw_bytes
            for gap in one.gaps:
                if gap.filled_ns:
                    self.gaps_filled += 1
                else:
                    self.gaps[str(gap.cause)] += 1

    def gave_up(self, cause: GapCause, lines: int) -> None:
        """The spool dropped or lost a range of lines that some sink had not got."""
        self.gaps[str(cause)] += 1
        self.lost_lines[str(cause)] += lines

    def reconnected(self, how: str) -> None:
        """A stream is about to be opened again."""
        self.reconnects[how] += 1

    def spool_refused(self, error: Exception) -> None:
        """The spool has no room, or is busy; told once."""
        if not self.spool_refusing:
            _log.error("spool cannot be written, reading stops until it can", error=str(error))
        self.spool_refusing = True

    def spool_accepted(self) -> None:
        """A commit worked."""
        if self.spool_refusing:
            _log.warning("spool can be written again")
        self.spool_refusing = False
