"""What followers share, with patience that no test has to wait for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forwarder.following import Followed, FollowSettings
from forwarder.metrics import Metrics
from forwarder.stored_tail import StoredTails
from forwarder.stream_limits import StreamLimits

if TYPE_CHECKING:
    from forwarder.clock import Clock
    from forwarder.intake import Intake
    from forwarder.source.interface import LogSource
    from forwarder.source.stored import StoredLogs
    from forwarder.spool.interface import StreamStore


def limits(clock: Clock, *, idle_s: float = 60, life_s: float = 3600) -> StreamLimits:
    """Limits that end nothing before somebody runs them."""
    return StreamLimits(idle_s=idle_s, life_s=life_s, max_opening=50, clock=clock)


def followed(
    source: LogSource,
    spool: StreamStore,
    intake: Intake,
    clock: Clock,
    *,
    settings: FollowSettings,
    metrics: Metrics | None = None,
    stored: StoredLogs | None = None,
    bounds: StreamLimits | None = None,
) -> Followed:
    """Everything that a follower needs beside its stream."""
    return Followed(
        source,
        spool,
        intake,
        settings,
        bounds or limits(clock),
        StoredTails(stored),
        clock,
        metrics or Metrics(),
    )
