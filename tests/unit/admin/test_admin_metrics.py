from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from forwarder.admin.metrics import Exposition, Sample
from forwarder.admin.register import REGISTER, Kind
from forwarder.metrics import Metrics
from forwarder.model import GapCause, SinkHealth, StreamState
from forwarder.spool.interface import DropReason
from tests.unit.admin.overviews import NOW_NS, S, note, overview, sink, stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from forwarder.spool.interface import SpoolOverview

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]
OPERATIONS = Path(__file__).parents[3] / "docs" / "operations.md"


@pytest.fixture
def exposition() -> Iterator[Exposition]:
    made = Exposition()
    yield made
    made.close()


def scrape(
    exposition: Exposition,
    seen: SpoolOverview | None,
    metrics: Metrics | None = None,
    *,
    ready: bool = True,
) -> Series:
    sample = Sample(metrics or Metrics(), seen, ready=ready, now_ns=NOW_NS)
    text = exposition.render(sample).decode()
    return {
        (one.name, frozenset(one.labels.items())): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def value(series: Series, name: str, **labels: str) -> float:
    return series[f"sandbox_forwarder_{name}", frozenset(labels.items())]


def test_every_metric_of_the_register_is_shown_and_no_other(exposition: Exposition) -> None:
    series = scrape(exposition, overview(sinks=[sink()], streams=[stream()], max_bytes=1))
    assert {name for name, _ in series} == {definition.name for definition in REGISTER}


def test_every_name_follows_the_rules() -> None:
    for definition in REGISTER:
        assert re.fullmatch(r"sandbox_forwarder_[a-z]+(_[a-z]+)*", definition.name)
        assert definition.name.endswith("_total") == (definition.kind is Kind.COUNTER)
        assert definition.meaning.endswith(".")
    assert len({definition.name for definition in REGISTER}) == len(REGISTER)


def test_every_metric_is_explained_in_the_operations_guide() -> None:
    explained = set(re.findall(r"`(sandbox_forwarder_[a-z_]+)", OPERATIONS.read_text("utf-8")))
    assert explained == {definition.name for definition in REGISTER}


def test_every_line_that_a_sink_is_to_get_is_in_exactly_one_number(exposition: Exposition) -> None:
    series = scrape(exposition, overview(sinks=[sink("archive"), sink("otlp", pending=0)]))
    for name in ("archive", "otlp"):
        ways = [
            value(series, f"sink_lines_{way}_total", sink=name) for way in ("delivered", "filtered")
        ]
        ways += [
            value(series, "sink_lines_dropped_total", sink=name, reason=str(reason))
            for reason in DropReason
        ]
        ways += [
            value(series, gauge, sink=name)
            for gauge in ("sink_pending_lines", "sink_dead_letter_lines")
        ]
        assert value(series, "sink_lines_taken_total", sink=name) == sum(ways)


def test_a_sinks_numbers_are_the_spools(exposition: Exposition) -> None:
    series = scrape(exposition, overview(sinks=[sink()]))
    assert value(series, "sink_lines_taken_total", sink="archive") == 100
    assert value(series, "sink_lines_delivered_total", sink="archive") == 50
    assert value(series, "sink_lines_filtered_total", sink="archive") == 1
    assert value(series, "sink_dead_letter_lines", sink="archive") == 2
    assert value(series, "sink_dead_letters", sink="archive") == 1
    assert value(series, "sink_dead_letter_bytes", sink="archive") == 2000
    assert value(series, "sink_lines_dropped_total", sink="archive", reason="spool_full") == 3
    assert value(series, "sink_lines_dropped_total", sink="archive", reason="damaged") == 0
    assert value(series, "sink_pending_lines", sink="archive") == 44
    assert value(series, "sink_pending_bytes", sink="archive") == 4400


def test_a_sink_is_in_exactly_one_state(exposition: Exposition) -> None:
    series = scrape(exposition, overview(sinks=[sink(state="held")]))
    states = {
        health: value(series, "sink_state", sink="archive", state=str(health))
        for health in SinkHealth
    }
    assert states == {"starting": 0, "running": 0, "retrying": 0, "held": 1}


def test_a_sink_that_is_gone_has_no_series_any_more(exposition: Exposition) -> None:
    scrape(exposition, overview(sinks=[sink("old"), sink("new")]))
    series = scrape(exposition, overview(sinks=[sink("new")]))
    assert not [labels for _, labels in series if ("sink", "old") in labels]
    assert value(series, "sink_lines_taken_total", sink="new") == 100


def test_streams_are_counted_by_state_also_where_there_are_none(exposition: Exposition) -> None:
    seen = [
        stream("a", gaps_filled=1),
        stream("b", gaps=1),
        stream("c", StreamState.HELD, gaps=2, gaps_filled=4),
    ]
    series = scrape(exposition, overview(streams=seen))
    counts = {state: value(series, "streams", state=str(state)) for state in StreamState}
    expected = dict.fromkeys(StreamState, 0.0)
    expected[StreamState.FOLLOWING], expected[StreamState.HELD] = 2, 1
    assert counts == expected
    assert value(series, "spool_gaps") == 3
    assert value(series, "spool_gaps_filled") == 5


def test_a_series_for_each_cause_exists_before_the_first_gap(exposition: Exposition) -> None:
    metrics = Metrics(
        gaps=Counter({"anchor_lost": 3}),
        reconnects=Counter(resume=2),
        lost_lines=Counter(spool_damaged=4),
    )
    series = scrape(exposition, overview(), metrics)
    gaps = {cause: value(series, "gaps_total", cause=str(cause)) for cause in GapCause}
    expected = dict.fromkeys(GapCause, 0.0)
    expected[GapCause.ANCHOR_LOST] = 3
    assert gaps == expected
    assert value(series, "stream_reconnects_total", how="resume") == 2
    assert value(series, "stream_reconnects_total", how="hold") == 0
    assert value(series, "lost_lines_total", cause="spool_damaged") == 4
    assert value(series, "lost_lines_total", cause="spool_full") == 0


def test_the_counters_of_the_process_are_shown(exposition: Exposition) -> None:
    metrics = Metrics(
        received_messages=1,
        received_bytes=2,
        taken_lines=3,
        taken_bytes=4,
        commits=5,
        commit_seconds=0.25,
        spool_refusing=True,
        gaps_filled=6,
        longest_idle_s=lambda: 7.5,
    )
    series = scrape(exposition, overview(), metrics, ready=False)
    assert value(series, "received_messages_total") == 1
    assert value(series, "received_bytes_total") == 2
    assert value(series, "lines_taken_total") == 3
    assert value(series, "taken_bytes_total") == 4
    assert value(series, "commits_total") == 5
    assert value(series, "commit_seconds_total") == 0.25
    assert value(series, "spool_refusing") == 1
    assert value(series, "gaps_filled_total") == 6
    assert value(series, "stream_idle_seconds") == 7.5
    assert value(series, "ready") == 0
    assert value(series, "spool_size_bytes") == 64 << 20
    assert value(series, "spool_used_bytes") == 16 << 20
    assert value(series, "spool_wal_bytes") == 4 << 20
    assert value(series, "spool_frames") == 7


def test_only_a_spool_with_a_limit_has_one(exposition: Exposition) -> None:
    name = ("sandbox_forwarder_spool_limit_bytes", frozenset[tuple[str, str]]())
    assert name not in scrape(exposition, overview())
    assert scrape(exposition, overview(max_bytes=99))[name] == 99


@pytest.mark.parametrize(
    ("oldest_ns", "expected"), [(NOW_NS - 90 * S, 90), (0, 0), (NOW_NS + S, 0)]
)
def test_how_late_a_sink_is_is_never_negative_and_0_without_a_backlog(
    exposition: Exposition, oldest_ns: int, expected: float
) -> None:
    series = scrape(exposition, overview(sinks=[sink(oldest_pending_ns=oldest_ns)]))
    assert value(series, "sink_oldest_pending_seconds", sink="archive") == expected


def test_a_discovery_that_fails_is_a_series_of_its_own(exposition: Exposition) -> None:
    other = overview(notes=[note("rain", "weather")])
    assert value(scrape(exposition, other), "discovery_failing") == 0
    failing = overview(notes=[note("unavailable: down")])
    assert value(scrape(exposition, failing), "discovery_failing") == 1


def test_without_the_spool_the_process_still_speaks_and_says_so(exposition: Exposition) -> None:
    metrics = Metrics(taken_lines=9)
    scrape(exposition, overview(sinks=[sink()], streams=[stream()]), metrics)
    series = scrape(exposition, None, metrics)
    assert value(series, "lines_taken_total") == 9
    assert value(series, "spool_readable") == 0
    assert not [name for name, _ in series if "sink" in name or "streams" in name]


def test_a_hundred_thousand_hostile_sandboxes_add_no_series(exposition: Exposition) -> None:
    few = scrape(exposition, overview(streams=[stream()]))
    hostile = [stream(f'x{number}"\n{{}}', detail='"') for number in range(100_000)]
    many = scrape(exposition, overview(streams=hostile))
    assert many.keys() == few.keys()
    assert value(many, "streams", state="following") == 100_000


def test_two_expositions_in_one_process_share_nothing(exposition: Exposition) -> None:
    other = Exposition()
    try:
        assert value(scrape(other, None, Metrics(taken_lines=1)), "lines_taken_total") == 1
        assert value(scrape(exposition, None), "lines_taken_total") == 0
    finally:
        other.close()


def test_the_environment_has_no_say_in_labels(
    monkeypatch: pytest.MonkeyPatch, exposition: Exposition
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "secret=CANARY")
    made = Exposition()
    try:
        sample = Sample(Metrics(), None, ready=True, now_ns=NOW_NS)
        assert b"CANARY" not in made.render(sample)
    finally:
        made.close()
