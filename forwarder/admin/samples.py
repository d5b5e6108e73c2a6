"""One scrape's sample, and how a metric reads its series from it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forwarder.admin.parts import SECOND_NS
from forwarder.model import SinkHealth, StreamState
from forwarder.spool.interface import DropReason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from forwarder.metrics import Metrics
    from forwarder.spool.interface import SinkOverview, SpoolOverview

#: A series: its value, then the values of the labels.
Row = tuple[float, *tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Sample:
    """Where the numbers of one scrape come from.

    Attributes:
        overview: None while the spool cannot be read.
        now_ns: The wall clock, for ages.
    """

    metrics: Metrics
    overview: SpoolOverview | None
    ready: bool
    now_ns: int


#: Every series of one metric.
Reading = Callable[[Sample], Iterable[Row]]


def of_process(value: Callable[[Metrics], float]) -> Reading:
    """A number of the process."""
    return lambda sample: [(value(sample.metrics),)]


def by_label(value: Callable[[Metrics], Mapping[str, int]], known: Iterable[str]) -> Reading:
    """One series for each known label value, also while it is 0: a rate needs a beginning."""
    names = tuple(known)

    def read(sample: Sample) -> Iterable[Row]:
        counts = value(sample.metrics)
        return [(counts.get(name, 0), name) for name in dict.fromkeys((*names, *counts))]

    return read


def of_spool(value: Callable[[SpoolOverview], float]) -> Reading:
    """A number of the spool; no series while it cannot be read."""
    return lambda sample: [] if sample.overview is None else [(value(sample.overview),)]


def spool_limit(sample: Sample) -> Iterable[Row]:
    """No series without a limit: 0 would mean that nothing fits."""
    if sample.overview is None or sample.overview.max_bytes is None:
        return []
    return [(sample.overview.max_bytes,)]


def of_sinks(value: Callable[[SinkOverview], float]) -> Reading:
    """A number of each sink."""

    def read(sample: Sample) -> Iterable[Row]:
        sinks = () if sample.overview is None else sample.overview.sinks
        return [(value(sink), sink.name) for sink in sinks]

    return read


def dropped_lines(sample: Sample) -> Iterable[Row]:
    """Each sink's dropped lines for every reason there is."""
    for sink in () if sample.overview is None else sample.overview.sinks:
        for reason in dict.fromkeys((*DropReason, *sink.dropped_for)):
            yield sink.dropped_for.get(reason, 0), sink.name, str(reason)


def sink_states(sample: Sample) -> Iterable[Row]:
    """1 for the state that a sink is in, 0 for every other."""
    sinks = () if sample.overview is None else sample.overview.sinks
    for sink in sinks:
        for state in dict.fromkeys((*SinkHealth, sink.state)):
            yield float(state == sink.state), sink.name, str(state)


def stream_states(sample: Sample) -> Iterable[Row]:
    """How many streams are in each state."""
    if sample.overview is None:
        return
    counts = Counter(stream.state for stream in sample.overview.streams)
    for state in StreamState:
        yield counts[state], str(state)


def oldest_pending(sample: Sample) -> Iterable[Row]:
    """0 without a backlog; a clock that was set back makes no negative age."""
    for sink in () if sample.overview is None else sample.overview.sinks:
        since_ns = sink.oldest_pending_ns
        age_ns = max(0, sample.now_ns - since_ns) if since_ns else 0
        yield age_ns / SECOND_NS, sink.name
