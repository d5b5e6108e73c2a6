"""What followers are given: settings, where a stream begins, and what they share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forwarder.source.resume import SECOND_NS, tail_ns

if TYPE_CHECKING:
    from forwarder.clock import Clock
    from forwarder.intake import Intake
    from forwarder.metrics import Metrics
    from forwarder.source.interface import LogSource
    from forwarder.spool.interface import StreamStore
    from forwarder.stored_tail import StoredTails
    from forwarder.stream_limits import StreamLimits


@dataclass(frozen=True, slots=True)
class FollowSettings:
    """How streams are followed; see the `source` section of the configuration."""

    max_line_bytes: int
    overlap_s: float
    backoff_initial_s: float
    backoff_max_s: float
    hold_interval_s: float

    @property
    def overlap_ns(self) -> int:
        """How far before the checkpoint a re-read begins."""
        return int(self.overlap_s * SECOND_NS)

    @property
    def keep_tail_ns(self) -> int:
        """How much of a live stream the spool keeps, for a re-read to be compared with."""
        return tail_ns(self.overlap_ns)


@dataclass(frozen=True, slots=True)
class Begin:
    """Where a stream begins of which nothing was taken yet: the very beginning, by default.

    Attributes:
        since_ns: Lines from this time on.
        tail_lines: Only so many of the newest lines.
        follow: Whether to go on with what comes; else what is there is read once.
        generation: How often its container was restarted before.
        known: Whether the API knew its sandbox when it was found.
    """

    since_ns: int | None = None
    tail_lines: int | None = None
    follow: bool = True
    generation: int = 0
    known: bool = False


@dataclass(frozen=True, slots=True)
class Followed:
    """What all followers of a process share.

    Attributes:
        stored: Where the end of a log may be found that can no longer be streamed.
    """

    source: LogSource
    spool: StreamStore
    intake: Intake
    settings: FollowSettings
    limits: StreamLimits
    stored: StoredTails
    clock: Clock
    metrics: Metrics
