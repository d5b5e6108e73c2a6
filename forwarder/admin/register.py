"""The register of metrics: every name, what it means, and what to do about it.

Rules: counters end in `_total` and only ever grow; units are in the names; no label takes its
values from outside, and none names a sandbox, so the number of series is known beforehand. A
metric of the spool has no series while the spool cannot be read.
"""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final

from forwarder.model import GapCause, StreamState
from forwarder.source.resume import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from forwarder.metrics import Metrics
    from forwarder.spool.interface import SinkOverview, SpoolOverview

#: What a sink may be; see `forwarder.dispatcher.SinkHealth`.
SINK_STATES: Final = ("starting", "running", "retrying", "held")


@dataclass(frozen=True, slots=True)
class Sample:
    """Where the numbers of one scrape come from.

    Attributes:
        overview: None while the spool cannot be read.
    """

    metrics: Metrics
    overview: SpoolOverview | None
    ready: bool


class Kind(enum.Enum):
    """How a metric behaves."""

    COUNTER = "counter"
    GAUGE = "gauge"


#: A series: its value, then the values of the labels.
Row = tuple[float, *tuple[str, ...]]


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
    read: Callable[[Sample], Iterable[Row]]
    advice: str = ""
    labels: tuple[str, ...] = ()


def _counter(
    name: str,
    meaning: str,
    read: Callable[[Sample], Iterable[Row]],
    *,
    advice: str = "",
    labels: tuple[str, ...] = (),
) -> Definition:
    return Definition(f"sandbox_forwarder_{name}", Kind.COUNTER, meaning, read, advice, labels)


def _gauge(
    name: str,
    meaning: str,
    read: Callable[[Sample], Iterable[Row]],
    *,
    advice: str = "",
    labels: tuple[str, ...] = (),
) -> Definition:
    return Definition(f"sandbox_forwarder_{name}", Kind.GAUGE, meaning, read, advice, labels)


def _process(value: Callable[[Metrics], float]) -> Callable[[Sample], Iterable[Row]]:
    return lambda sample: [(value(sample.metrics),)]


def _counts(
    value: Callable[[Metrics], Mapping[str, int]], known: Iterable[str]
) -> Callable[[Sample], Iterable[Row]]:
    """One series for each known label value, also while it is 0: a rate needs a beginning."""
    names = tuple(known)

    def read(sample: Sample) -> Iterable[Row]:
        counts = value(sample.metrics)
        return [(counts.get(name, 0), name) for name in dict.fromkeys((*names, *counts))]

    return read


def _spool(value: Callable[[SpoolOverview], float]) -> Callable[[Sample], Iterable[Row]]:
    return lambda sample: [] if sample.overview is None else [(value(sample.overview),)]


def _sinks(value: Callable[[SinkOverview], float]) -> Callable[[Sample], Iterable[Row]]:
    def read(sample: Sample) -> Iterable[Row]:
        sinks = () if sample.overview is None else sample.overview.sinks
        return [(value(sink), sink.name) for sink in sinks]

    return read


def _sink_states(sample: Sample) -> Iterable[Row]:
    sinks = () if sample.overview is None else sample.overview.sinks
    for sink in sinks:
        for state in dict.fromkeys((*SINK_STATES, sink.state)):
            yield float(state == sink.state), sink.name, state


def _stream_states(sample: Sample) -> Iterable[Row]:
    if sample.overview is None:
        return
    counts = Counter(stream.state for stream in sample.overview.streams)
    for state in StreamState:
        yield counts[state], str(state)


def _version() -> str:
    try:
        return version("sandbox-forwarder")
    except PackageNotFoundError:  # run from a source tree
        return "unknown"


_VERSION: Final = _version()
_SINK = ("sink",)

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
        _spool(lambda overview: float(any(note.name == "discovery" for note in overview.notes))),
        advice="Alert on 1 for some minutes; status says why.",
    ),
    # Reading: since the process began.
    _counter(
        "received_messages_total",
        "Messages received on log streams.",
        _process(lambda metrics: metrics.received_messages),
    ),
    _counter(
        "received_bytes_total",
        "New log bytes received on log streams, committed or not yet.",
        _process(lambda metrics: metrics.received_bytes),
    ),
    _counter(
        "lines_taken_total",
        "Lines committed to the spool: from here on they survive a kill and a power cut.",
        _process(lambda metrics: metrics.taken_lines),
        advice="Compare its rate with what you expect of your sandboxes.",
    ),
    _counter(
        "taken_bytes_total",
        "Bytes of those lines, as the API sent them.",
        _process(lambda metrics: metrics.taken_bytes),
    ),
    _counter(
        "stream_reconnects_total",
        "Attempts to open a log stream again, by how.",
        _counts(lambda metrics: metrics.reconnects, (step.value for step in Step)),
        advice="A few are routine. A steadily high rate of hold means refused credentials.",
        labels=("how",),
    ),
    _counter(
        "gaps_total",
        "Ranges of lines that the platform no longer had, by cause.",
        _counts(lambda metrics: metrics.gaps, GapCause),
        advice="Alert on any increase: lines are missing, or may be. status names the streams.",
        labels=("cause",),
    ),
    # The spool.
    _counter(
        "commits_total",
        "Transactions that made durable what was read.",
        _process(lambda metrics: metrics.commits),
    ),
    _counter(
        "commit_seconds_total",
        "Time spent in these transactions.",
        _process(lambda metrics: metrics.commit_seconds),
        advice="Divide by commits_total: over about 0.1 s each the disk is too slow.",
    ),
    _gauge(
        "spool_refusing",
        "1 while the spool has no room and reading has stopped.",
        _process(lambda metrics: float(metrics.spool_refusing)),
        advice="Alert on 1: make room on the file system of state_dir.",
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
        _spool(lambda overview: overview.size_bytes),
        advice="Watch it against the free space: a sink that is down makes it grow.",
    ),
    _gauge(
        "spool_frames",
        "Frames held now, for sinks and for comparison with a re-read.",
        _spool(lambda overview: overview.frames),
    ),
    _gauge(
        "spool_gaps",
        "Gap records in the spool, over its whole life.",
        _spool(lambda overview: sum(stream.gaps for stream in overview.streams)),
    ),
    _gauge(
        "streams",
        "Streams by state.",
        _stream_states,
        advice="Alert on held (credentials refused) and on many reconnecting for long.",
        labels=("state",),
    ),
    # Sinks, over the spool's life: taken is always the sum of the five that follow it.
    _gauge(
        "sink_state",
        "1 for the state that the sink is in, 0 for the others.",
        _sink_states,
        advice="Alert on held at once and on retrying for long; status says why.",
        labels=("sink", "state"),
    ),
    _counter(
        "sink_lines_taken_total",
        "Lines that the sink is to get: delivered + filtered + dead-lettered + dropped + pending.",
        _sinks(lambda sink: sink.taken),
        labels=_SINK,
    ),
    _counter(
        "sink_lines_delivered_total",
        "Lines that the destination has confirmed to keep.",
        _sinks(lambda sink: sink.delivered),
        advice="Alert when it stands still while sink_pending_lines is not 0.",
        labels=_SINK,
    ),
    _counter(
        "sink_lines_filtered_total",
        "Lines that the configuration told this sink to leave out.",
        _sinks(lambda sink: sink.filtered),
        labels=_SINK,
    ),
    _counter(
        "sink_lines_dead_lettered_total",
        "Lines that the destination refused for good, set aside.",
        _sinks(lambda sink: sink.dead_lettered),
        advice="Alert on any increase.",
        labels=_SINK,
    ),
    _counter(
        "sink_lines_dropped_total",
        "Lines given up.",
        _sinks(lambda sink: sink.dropped),
        advice="Alert on any increase.",
        labels=_SINK,
    ),
    _gauge(
        "sink_pending_lines",
        "Lines in the spool that the sink has not got yet.",
        _sinks(lambda sink: sink.pending),
        advice="Alert when it grows for long: the destination is down or too slow.",
        labels=_SINK,
    ),
    _gauge(
        "sink_pending_bytes",
        "Their bytes, as the API sent them.",
        _sinks(lambda sink: sink.pending_bytes),
        labels=_SINK,
    ),
)
