from __future__ import annotations

from structlog.testing import capture_logs

from forwarder.errors import SpoolUnavailableError
from forwarder.metrics import Metrics
from forwarder.model import Checkpoint, FrameDraft, FrameKind, Gap, GapCause
from forwarder.spool.interface import StreamCommit


def draft(raw: bytes, lines: int) -> FrameDraft:
    return FrameDraft(FrameKind.LINES, raw, 0, lines, 0, 1, 1, 1, 1)


def test_a_commit_adds_its_records_bytes_time_and_gaps() -> None:
    metrics = Metrics()
    gap = Gap(GapCause.ANCHOR_LOST, 1, 2, 3, 4)
    metrics.committed(
        [
            StreamCommit(1, [draft(b"ab\n", 1), draft(b"c\nd\n", 2)], Checkpoint(), gaps=[gap]),
            StreamCommit(2, [], Checkpoint()),
        ],
        0.25,
    )
    metrics.committed([StreamCommit(2, [draft(b"e\n", 1)], Checkpoint())], 0.5)
    assert (metrics.commits, metrics.commit_seconds) == (2, 0.75)
    assert (metrics.taken_lines, metrics.taken_bytes) == (4, 9)
    assert metrics.gaps == {"anchor_lost": 1}


def test_a_gap_that_was_filled_is_not_counted_as_one_more() -> None:
    metrics = Metrics()
    filled = Gap(GapCause.TAIL_UNKNOWN, 1, 2, 3, 4, filled_ns=5)
    declared = Gap(GapCause.TAIL_UNKNOWN, 1, 2, 3, 4)
    metrics.committed([StreamCommit(1, [], Checkpoint(), gaps=[filled, declared, filled])], 0.0)
    assert (metrics.gaps, metrics.gaps_filled) == ({"tail_unknown": 1}, 2)


def test_what_the_spool_gives_up_is_a_gap_with_so_many_lines() -> None:
    metrics = Metrics()
    for lines in (5, 7):
        metrics.gave_up(GapCause.SPOOL_FULL, lines)
    assert (metrics.gaps, metrics.lost_lines) == ({"spool_full": 2}, {"spool_full": 12})


def test_without_a_stream_that_is_followed_nothing_is_silent() -> None:
    assert Metrics().longest_idle_s() == 0.0


def test_what_was_received_and_opened_again_is_counted() -> None:
    metrics = Metrics()
    metrics.received(3, 100)
    metrics.received(1, 50)
    for how in ("resume", "resume", "reopen"):
        metrics.reconnected(how)
    assert (metrics.received_messages, metrics.received_bytes) == (4, 150)
    assert metrics.reconnects == {"resume": 2, "reopen": 1}


def test_a_spool_without_room_is_told_once_and_so_is_its_end() -> None:
    metrics = Metrics()
    with capture_logs() as logs:
        metrics.spool_accepted()
        for _ in range(3):
            metrics.spool_refused(SpoolUnavailableError("full"))
        assert metrics.spool_refusing
        for _ in range(2):
            metrics.spool_accepted()
        assert not metrics.spool_refusing
    assert [one["log_level"] for one in logs] == ["error", "warning"]
