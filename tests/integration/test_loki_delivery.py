"""The Loki sink and a real Loki: what arrives, how often, and what is told of the rest."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from sinks.interface import (
    Batch,
    BatchRejectedError,
    PartlyDeliveredError,
    SinkMisconfiguredError,
    Stream,
)
from sinks.loki import LokiSettings, LokiSink
from sinks.ndjson import rfc3339
from sinks.testing import MemoryState, batch_of, gap_of, slice_of
from tests.servers import Loki
from tests.servers.fixtures import need

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.servers import LokiLine

HOUR_NS = 3_600_000_000_000
DAY_NS = 24 * HOUR_NS
STREAM = Stream("sbx-1", "main", image="python:3")
_JOBS = count()


class Place:
    """A job of this test's own, and the time at which it begins."""

    def __init__(self, server: Loki) -> None:
        self.server = server
        self.job = f"delivery-{time.time_ns()}-{next(_JOBS)}"
        self.now_ns = time.time_ns()

    @asynccontextmanager
    async def sink(self, **given: Any) -> AsyncIterator[LokiSink]:
        labels = {"job": self.job, "service_name": "{service}", **given.pop("labels", {})}
        settings = {"endpoint": self.server.base_url, "labels": labels, **given}
        sink = LokiSink("x", LokiSettings.model_validate(settings))
        await sink.open(MemoryState())
        try:
            yield sink
        finally:
            await sink.close()

    def found(self, query: str = "") -> list[LokiLine]:
        """What is stored of the last day."""
        start_ns, end_ns = self.now_ns - DAY_NS, self.now_ns + HOUR_NS
        return self.server.query_range(f'{{job="{self.job}"}} {query}', start_ns, end_ns)

    def lines(self, *texts: bytes | str, age_ns: int = 0, **given: Any) -> Batch:
        first_ns = self.now_ns - age_ns
        stamped = [(first_ns + i, text) for i, text in enumerate(texts)]
        return batch_of(slice_of(stamped, **{"stream": STREAM, **given}))


@pytest.fixture
def place(loki: Loki) -> Place:
    return Place(loki)


@pytest.mark.parametrize("form", ["protobuf", "json"])
async def test_text_stamp_labels_and_metadata_arrive_as_they_were_sent(
    place: Place, form: str
) -> None:
    tag = 'team=a"}\\\n\0\u2028é'
    stream = Stream(
        "sbx-1",
        "side",
        display_name="a run",
        tags=(tag, "service:trainer"),
        attributes={"deployment.environment.name": "prod"},
    )
    async with place.sink(format=form, labels={"team": "{tag:team=}"}) as sink:
        await sink.write(place.lines("tab\t\r\0 é", "", stream=stream, first_line=9, generation=1))
    one, two = place.found()
    assert one.labels == {
        "job": place.job,
        "service_name": "trainer",
        "team": tag.removeprefix("team="),
    }
    assert (one.time_ns, one.line) == (place.now_ns, "tab\t\r\0 é")
    assert (two.time_ns, two.line) == (place.now_ns + 1, "")
    assert one.metadata == {
        "container": "side",
        "deployment_environment_name": "prod",
        "detected_level": "unknown",
        "display_name": "a run",
        "generation": "1",
        "line": "9",
        "log_record_uid": "sbx-1/side/1/9",
        "sandbox_id": "sbx-1",
        "tags": f"{tag},service:trainer",
    }


@pytest.mark.parametrize("structured", [True, False])
async def test_what_is_sent_again_is_stored_once_also_in_smaller_batches(
    place: Place, *, structured: bool
) -> None:
    async with place.sink(structured_metadata=structured) as sink:
        for _ in range(2):
            await sink.write(place.lines("one", b"\xff", "three"))
        await sink.write(place.lines("one"))
        two = slice_of([(place.now_ns + 1, b"\xff")], stream=STREAM, first_line=1)
        await sink.write(batch_of(two))
    assert len(place.found()) == 3


async def test_a_resend_is_seen_once_also_when_it_is_more_than_a_block_of_a_chunk(
    place: Place,
) -> None:
    batch = place.lines(*[f"{n} {'x' * 300}" for n in range(4_000)])
    async with place.sink() as sink:
        await sink.write(batch)
        await sink.write(batch)
    assert len(place.found()) == 4_000


@pytest.mark.parametrize("structured", [True, False])
async def test_equal_lines_of_one_stamp_are_all_kept(place: Place, *, structured: bool) -> None:
    source = slice_of([(place.now_ns, text) for text in ("", "", "x", "")], stream=STREAM)
    async with place.sink(structured_metadata=structured) as sink:
        await sink.write(batch_of(source))
    assert len(place.found()) == 4


async def test_without_structured_metadata_each_line_is_an_object(place: Place) -> None:
    gap = gap_of(stream=STREAM, first_line=1, from_stamp_ns=place.now_ns + 5)
    async with place.sink(structured_metadata=False) as sink:
        await sink.write(batch_of(*place.lines("one").slices, gap))
    line, told = (orjson.loads(found.line) for found in place.found())
    assert (line["text"], line["sandbox_id"], line["line"]) == ("one", "sbx-1", 0)
    assert told["gap"] == gap.gap


async def test_a_gap_is_found_by_its_metadata_and_no_output_is_taken_for_one(place: Place) -> None:
    gap = gap_of(stream=STREAM, first_line=1, from_stamp_ns=place.now_ns, missing_bytes=77)
    async with place.sink() as sink:
        await sink.write(
            batch_of(*place.lines('gap: {"gap_kind":"range"} gap_kind=range').slices, gap)
        )
    (found,) = place.found('| gap_kind != ""')
    assert found.metadata["gap_missing_bytes"] == "77"
    assert found.line.startswith("gap: lines are missing")


async def test_the_lines_of_a_sandbox_are_found_by_its_id(place: Place) -> None:
    async with place.sink() as sink:
        await sink.write(place.lines("mine"))
        await sink.write(place.lines("another's", stream=Stream("sbx-2", "main")))
    assert [found.line for found in place.found('| sandbox_id="sbx-1"')] == ["mine"]


async def test_a_line_longer_than_loki_takes_comes_in_pieces(place: Place) -> None:
    text = "é" * 200_000
    async with place.sink() as sink:
        await sink.write(place.lines(text))
    pieces = [found for found in place.found() if "piece" in found.metadata]
    assert [found.metadata["piece"] for found in pieces] == ["1", "2"]
    assert "".join(found.line for found in pieces) == text


async def test_a_line_that_the_server_finds_too_long_is_the_only_one_refused(place: Place) -> None:
    async with place.sink(long_lines="send") as sink:
        with pytest.raises(PartlyDeliveredError) as caught:
            await sink.write(place.lines("one", "x" * (256 * 1024 + 1), "three"))
    assert {i: refusal.maybe_stored for i, refusal in caught.value.refused.items()} == {1: False}
    assert [found.line for found in place.found()] == ["one", "three"]


async def test_a_line_that_the_server_finds_too_old_is_the_only_one_refused(place: Place) -> None:
    old = slice_of([(place.now_ns - 8 * DAY_NS, "old"), (place.now_ns, "new")], stream=STREAM)
    async with place.sink(old_lines="send") as sink:
        with pytest.raises(PartlyDeliveredError) as caught:
            await sink.write(batch_of(old))
    assert {i: refusal.maybe_stored for i, refusal in caught.value.refused.items()} == {0: False}
    assert [found.line for found in place.found()] == ["new"]


async def test_old_lines_get_the_time_of_sending_when_told_to(place: Place) -> None:
    async with place.sink(old_lines="restamp") as sink:
        await sink.write(place.lines("b", "a", age_ns=8 * DAY_NS, first_line=3))
    found = place.found()
    assert [line.line for line in found] == ["b", "a"]
    true_ns = place.now_ns - 8 * DAY_NS
    assert [line.metadata["stamp"] for line in found] == [rfc3339(true_ns), rfc3339(true_ns + 1)]
    assert all(abs(line.time_ns - place.now_ns) < HOUR_NS for line in found)


async def test_lines_too_far_behind_their_stream_are_the_only_ones_refused(place: Place) -> None:
    async with place.sink() as sink:
        await sink.write(place.lines("newest"))
        behind = [(place.now_ns - n * HOUR_NS, f"{n} hours") for n in (3, 2)]
        source = slice_of([*behind, (place.now_ns - 1, "fine")], stream=STREAM, first_line=1)
        with pytest.raises(PartlyDeliveredError) as caught:
            await sink.write(batch_of(source))
    refused = caught.value.refused
    assert {i: refusal.maybe_stored for i, refusal in refused.items()} == {0: False, 1: False}
    assert "too far behind" in refused[0].reason
    assert [found.line for found in place.found()] == ["fine", "newest"]


async def test_a_refusal_in_one_stream_is_told_whatever_becomes_of_the_others(
    place: Place,
) -> None:
    one, other = (Stream(f"sbx-{name}", "main", tags=(f"service:{name}",)) for name in "ab")
    async with place.sink() as sink:
        await sink.write(place.lines("newest", stream=one))
        behind = place.lines("behind", age_ns=2 * HOUR_NS, stream=one, first_line=1)
        fine = place.lines("fine", stream=other)
        with pytest.raises(PartlyDeliveredError) as caught:
            await sink.write(batch_of(*behind.slices, *fine.slices))
    assert list(caught.value.refused) == [0]
    assert sorted(found.line for found in place.found()) == ["fine", "newest"]


@pytest.mark.parametrize("form", ["protobuf", "json"])
async def test_the_check_writes_nothing(place: Place, form: str) -> None:
    settings = LokiSettings.model_validate(
        {"endpoint": place.server.base_url, "labels": {"job": place.job}, "format": form}
    )
    assert await LokiSink("x", settings).check() == "answers"
    assert place.found() == []


async def test_a_tenant_is_asked_for_and_a_blocked_one_holds(tmp_path: Path) -> None:
    need(Loki)
    limits = {"block_ingestion_until": "2200-01-01T00:00:00Z"}
    with Loki(tmp_path, limits=limits, tenants=True) as server:
        place = Place(server)
        settings = LokiSettings.model_validate({"endpoint": server.base_url})
        with pytest.raises(SinkMisconfiguredError, match='set "tenant"'):
            await LokiSink("x", settings).check()
        async with place.sink(tenant="a") as sink:
            with pytest.raises(SinkMisconfiguredError, match=r"answered 260: .*blocked"):
                await sink.write(place.lines("one"))


async def test_a_batch_above_the_rate_limit_is_split_and_passes_in_pieces(tmp_path: Path) -> None:
    need(Loki)
    limits = {"ingestion_rate_mb": 0.1, "ingestion_burst_size_mb": 0.2}
    with Loki(tmp_path, limits=limits) as server:
        place = Place(server)
        async with place.sink() as sink:
            with pytest.raises(BatchRejectedError) as caught:
                await sink.write(place.lines(*["x" * 30_000] * 8))
            assert caught.value.too_large
            await sink.write(place.lines(*["x" * 30_000] * 4))
        assert len(place.found()) == 4
