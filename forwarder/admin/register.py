"""The register of metrics: every name, what it means, and what to do about it.

Rules: counters end in `_total` and only ever grow; units are in the names; no label takes its
values from outside, and none names a sandbox, so the number of series is known beforehand. A
metric of the spool has no series while the spool cannot be read.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final

from forwarder.admin.samples import (
    by_label,
    dropped_lines,
    of_process,
    of_sinks,
    of_spool,
    oldest_pending,
    sink_states,
    spool_limit,
    stream_states,
)
from forwarder.model import GapCause
from forwarder.source.resume import Step

if TYPE_CHECKING:
    from forwarder.admin.samples import Reading


class Kind(enum.Enum):
    """How a metric behaves."""

    COUNTER = "counter"
    GAUGE = "gauge"


@dataclass(frozen=True, slots=True)
class Definition:
    """One metric.

    Attributes:
        meaning: What it counts, for an operator.
        advice: What to do about it, empty when there is nothing to do.
        labels: The names of the labels, in the order of the rows.
    """

    name: str
    kind: Kind
    meaning: str
    read: Reading
    advice: str = ""
    labels: tuple[str, ...] = ()


def _counter(
    name: str,
    meaning: str,
    read: Reading,
    *,
    advice: str = "",
    labels: tuple[str, ...] = (),
) -> Definition:
    return Definition(f"sandbox_forwarder_{name}", Kind.COUNTER, meaning, read, advice, labels)


def _gauge(
    name: str,
    meaning: str,
    read: Reading,
    *,
    advice: str = "",
    labels: tuple[str, ...] = (),
) -> Definition:
    return Definition(f"sandbox_forwarder_{name}", Kind.GAUGE, meaning, read, advice, labels)


def _version() -> str:
    try:
        return version("sandbox-forwarder")
    except PackageNotFoundError:  # run from a source tree
        return "unknown"


_VERSION: Final = _version()
_SINK = ("sink",)
_LOSSES: Final = (GapCause.SPOOL_FULL, GapCause.SPOOL_DAMAGED)

#: Every metric there is, in the order in which `docs/operations.md` explains them.
REGISTER: Final = (
    _gauge(
        "build_info",
        "Always 1; the label says which version runs.",
        lambda _: [(1.0, _VERSION)],
        labels=("version",),
    ),
    _gauge(
        "ready",
        "1 when /readyz answers 200, else 0.",
        lambda sample: [(float(sample.ready),)],
        advice="Alert on 0 for some minutes; /readyz says why.",
    ),
    _gauge(
        "discovery_failing",
        "1 while the API does not say which sandboxes there are: new ones are not seen.",
        of_spool(lambda overview: float(any(note.name == "discovery" for note in overview.notes))),
        advice="Alert on 1 for some minutes; status says why.",
    ),
    # Reading: since the process began.
    _counter(
        "received_messages_total",
        "Messages received on log streams.",
        of_process(lambda metrics: metrics.received_messages),
    ),
    _counter(
        "received_bytes_total",
        "New log bytes received on log streams, committed or not yet.",
        of_process(lambda metrics: metrics.received_bytes),
    ),
    _counter(
        "lines_taken_total",
        "Lines committed to the spool: from here on they survive a kill and a power cut.",
        of_process(lambda metrics: metrics.taken_lines),
        advice="Compare its rate with what you expect of your sandboxes.",
    ),
    _counter(
        "taken_bytes_total",
        "Bytes of those lines, as the API sent them.",
        of_process(lambda metrics: metrics.taken_bytes),
    ),
    _counter(
        "stream_reconnects_total",
        "Attempts to open a log stream again, by how.",
        by_label(lambda metrics: metrics.reconnects, (step.value for step in Step)),
        advice="A few are routine. A steadily high rate of hold means refused credentials.",
        labels=("how",),
    ),
    _gauge(
        "stream_idle_seconds",
        "The longest time for which a stream that is followed now has brought nothing, not even a"
        " sign of life.",
        of_process(lambda metrics: metrics.longest_idle_s()),
        advice="Over some multiples of source.idle_probe something hangs; status names the stream.",
    ),
    _counter(
        "gaps_total",
        "Ranges of lines declared missing, or possibly missing, by cause.",
        by_label(lambda metrics: metrics.gaps, GapCause),
        advice="Alert on any increase; the command gaps says which lines, and why.",
        labels=("cause",),
    ),
    _counter(
        "gaps_filled_total",
        "Ranges declared missing before, of which the lines were found after all.",
        of_process(lambda metrics: metrics.gaps_filled),
    ),
    _counter(
        "lost_lines_total",
        "Lines that were taken, and given up before every sink had them, by cause.",
        by_label(lambda metrics: metrics.lost_lines, _LOSSES),
        advice="Alert on any increase: spool_full is a choice (spool.when_full), spool_damaged the"
        " disk.",
        labels=("cause",),
    ),
    # The spool.
    _counter(
        "commits_total",
        "Transactions that made durable what was read.",
        of_process(lambda metrics: metrics.commits),
    ),
    _counter(
        "commit_seconds_total",
        "Time spent in these transactions.",
        of_process(lambda metrics: metrics.commit_seconds),
        advice="Divide by commits_total: over about 0.1 s each the disk is too slow.",
    ),
    _gauge(
        "spool_refusing",
        "1 while the spool has no room and reading has stopped.",
        of_process(lambda metrics: float(metrics.spool_refusing)),
        advice="Alert on 1: status says whether the disk is full or the spool at its limit.",
    ),
    _gauge(
        "spool_readable",
        "1 when the spool's numbers could be read for this answer.",
        lambda sample: [(float(sample.overview is not None),)],
        advice="Alert on 0 for some minutes: the disk of state_dir hangs or fails.",
    ),
    _gauge(
        "spool_size_bytes",
        "Size of the spool's database, free pages inside it included.",
        of_spool(lambda overview: overview.size_bytes),
        advice="Watch it against the free space: a sink that is down makes it grow.",
    ),
    _gauge(
        "spool_used_bytes",
        "What the spool takes: the database without its free pages, and its write-ahead log.",
        of_spool(lambda overview: overview.used_bytes),
        advice="Compare it with spool_limit_bytes where there is a limit.",
    ),
    _gauge(
        "spool_limit_bytes",
        "The most that it may take, spool.max_size; no series without one.",
        spool_limit,
    ),
    _gauge(
        "spool_wal_bytes",
        "Size of the spool's write-ahead log.",
        of_spool(lambda overview: overview.wal_bytes),
        advice="Alert when it grows for minutes: some program keeps the database open.",
    ),
    _gauge(
        "spool_frames",
        "Frames held now, for sinks and for comparison with a re-read.",
        of_spool(lambda overview: overview.frames),
    ),
    _gauge(
        "spool_gaps",
        "Gap records in the spool that are open: lines are missing, or may be.",
        of_spool(lambda overview: overview.gaps_unfilled),
    ),
    _gauge(
        "spool_gaps_filled",
        "Gap records in the spool that were filled: the lines were found after all.",
        of_spool(lambda overview: sum(stream.gaps_filled for stream in overview.streams)),
    ),
    _gauge(
        "streams",
        "Streams by state.",
        stream_states,
        advice="Alert on held (credentials refused) and on many reconnecting for long.",
        labels=("state",),
    ),
    # Sinks, over the spool's life: taken is always the sum of the five that follow it.
    _gauge(
        "sink_state",
        "1 for the state that the sink is in, 0 for the others.",
        sink_states,
        advice="Alert on held at once and on retrying for long; status says why.",
        labels=("sink", "state"),
    ),
    _counter(
        "sink_lines_taken_total",
        "Lines that the sink is to get: delivered + filtered + dead-lettered + dropped + pending.",
        of_sinks(lambda sink: sink.taken),
        labels=_SINK,
    ),
    _counter(
        "sink_lines_delivered_total",
        "Lines that the destination has confirmed to keep.",
        of_sinks(lambda sink: sink.delivered),
        advice="Alert when it stands still while sink_pending_lines is not 0.",
        labels=_SINK,
    ),
    _counter(
        "sink_lines_filtered_total",
        "Lines that the configuration told this sink to leave out.",
        of_sinks(lambda sink: sink.filtered),
        labels=_SINK,
    ),
    _gauge(
        "sink_dead_letter_lines",
        "Lines that the destination refused for good, and that are among the dead letters now.",
        of_sinks(lambda sink: sink.dead_lettered),
        advice="Alert on any increase; dead-letters list says why.",
        labels=_SINK,
    ),
    _gauge(
        "sink_dead_letters",
        "Dead letters; each holds one or more of these lines, or says how many are not known.",
        of_sinks(lambda sink: sink.dead_letters),
        labels=_SINK,
    ),
    _gauge(
        "sink_dead_letter_bytes",
        "What they count against dead_letters.max_size.",
        of_sinks(lambda sink: sink.dead_letter_bytes),
        advice="Alert before the limit: then the sink is held.",
        labels=_SINK,
    ),
    _counter(
        "sink_lines_dropped_total",
        "Lines given up, by reason.",
        dropped_lines,
        advice="Alert on any increase; dead_letters_dropped is an operator's choice.",
        labels=("sink", "reason"),
    ),
    _gauge(
        "sink_pending_lines",
        "Lines in the spool that the sink has not got yet.",
        of_sinks(lambda sink: sink.pending),
        advice="Alert when it grows for long: the destination is down or too slow.",
        labels=_SINK,
    ),
    _gauge(
        "sink_pending_bytes",
        "Their bytes, as the API sent them.",
        of_sinks(lambda sink: sink.pending_bytes),
        labels=_SINK,
    ),
    _gauge(
        "sink_oldest_pending_seconds",
        "How long ago the oldest of these lines was taken; 0 when there are none.",
        oldest_pending,
        advice="Alert on more than you can wait: it is how late the destination is.",
        labels=_SINK,
    ),
)
