"""The Elasticsearch sink and a real OpenSearch: what is stored, and what trouble looks like."""

from __future__ import annotations

import re
from base64 import b64decode
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import orjson
import pytest

from sinks.elasticsearch import ElasticsearchSettings, ElasticsearchSink
from sinks.interface import (
    Batch,
    PartlyDeliveredError,
    SinkError,
    SinkMisconfiguredError,
    SinkUnavailableError,
    Stream,
)
from sinks.testing import MemoryState, batch_of, gap_of, slice_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.servers.opensearch import OpenSearch

NOW_NS = 1_763_899_200_000_000_001
DOCS = Path(__file__).parents[2] / "docs" / "sinks" / "elasticsearch.md"


@pytest.fixture
def name() -> str:
    """An index, or the beginning of several, that only this test has."""
    return f"t-{uuid4().hex}"


@asynccontextmanager
async def opened(server: OpenSearch, **given: Any) -> AsyncIterator[ElasticsearchSink]:
    settings = ElasticsearchSettings.model_validate({"endpoint": server.base_url, **given})
    sink = ElasticsearchSink("es", settings)
    await sink.open(MemoryState())
    yield sink
    await sink.close()


async def outcome(server: OpenSearch, batch: Batch, **given: Any) -> SinkError | None:
    async with opened(server, **given) as sink:
        try:
            await sink.write(batch)
        except SinkError as error:
            return error
        return None


def some(*texts: bytes | str, **more: Any) -> Batch:
    return batch_of(slice_of([(NOW_NS + i, text) for i, text in enumerate(texts)], **more))


def labelled(container: str = "main", **labels: str) -> Stream:
    return Stream("sbx-1", container, attributes=labels)


def put(server: OpenSearch, path: str, body: object) -> None:
    server.http.put(f"{server.base_url}/{path}", json=body).raise_for_status()


def stored(server: OpenSearch, index: str, **more: Any) -> list[dict[str, Any]]:
    server.refresh(index)
    return [hit["_source"] for hit in server.search(index, **more)]


def documented_template(pattern: str) -> dict[str, Any]:
    """The index template that the documentation shows, for other names."""
    block = re.search(r"PUT _index_template/logs-sandbox\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert block is not None
    template: dict[str, Any] = orjson.loads(block[1])
    return {**template, "index_patterns": [pattern]}


async def test_a_batch_that_comes_twice_is_in_the_data_stream_once(
    opensearch: OpenSearch, name: str
) -> None:
    put(opensearch, f"_index_template/{name}", documented_template(name))
    batch = batch_of(
        slice_of([(NOW_NS + 2, "first"), (NOW_NS + 1, "second"), (NOW_NS + 1, "third")]),
        gap_of(first_line=3, from_stamp_ns=NOW_NS + 1),
        slice_of([(NOW_NS + 3, b"\xff")], first_line=3),
    )
    async with opened(opensearch, data_stream=name) as sink:
        assert await sink.write(batch) == {}
        assert await sink.write(batch) == {}
        assert "the data stream" in await sink.check()
    opensearch.refresh(name)
    found = [hit["_source"] for hit in opensearch.search(name, sort="@timestamp")]
    assert len(found) == 5
    assert found[3]["message"] == "first"
    assert b64decode(found[4]["cwsandbox"]["message_base64"]) == b"\xff"
    by_number = sorted(found[:3], key=lambda x: (x["event"]["sequence"], x["event"]["id"]))
    assert [x["message"] for x in by_number[:2]] == ["second", "third"]
    gap_query = {"exists": {"field": "cwsandbox.gap.kind"}}
    (gap,) = [hit["_source"] for hit in opensearch.search(name, gap_query)]
    assert gap["cwsandbox"]["gap"] == batch.slices[1].gap


async def test_part_of_a_batch_that_comes_again_adds_what_is_missing(
    opensearch: OpenSearch, name: str
) -> None:
    async with opened(opensearch, index=name, compression="none") as sink:
        await sink.write(some("a"))
        await sink.write(some("a", "b"))
    assert sorted(x["message"] for x in stored(opensearch, name)) == ["a", "b"]


async def test_without_document_ids_every_write_is_stored(
    opensearch: OpenSearch, name: str
) -> None:
    async with opened(opensearch, index=name, document_ids=False) as sink:
        await sink.write(some("a"))
        await sink.write(some("a"))
    assert len(stored(opensearch, name)) == 2


async def test_each_line_goes_to_the_index_of_its_day(opensearch: OpenSearch, name: str) -> None:
    day_ns = 86_400_000_000_000
    async with opened(opensearch, index=f"{name}-{{date}}") as sink:
        await sink.write(batch_of(slice_of([(NOW_NS, "a"), (NOW_NS + day_ns, "b")])))
    assert [x["message"] for x in stored(opensearch, f"{name}-2025.11.23")] == ["a"]
    assert [x["message"] for x in stored(opensearch, f"{name}-2025.11.24")] == ["b"]


async def test_a_mapping_conflict_refuses_that_record_alone(
    opensearch: OpenSearch, name: str
) -> None:
    put(opensearch, name, {"mappings": {"properties": {"labels.n": {"type": "long"}}}})
    slices = [
        slice_of([(NOW_NS, text)], stream=labelled(text, n=n))
        for text, n in (("a", "1"), ("b", "SECRET"))
    ]
    error = await outcome(opensearch, batch_of(*slices, slices[0]), index=name)
    assert isinstance(error, PartlyDeliveredError)
    assert list(error.refused) == [1]
    assert error.refused[1].status == "mapper_parsing_exception"
    assert "failed to parse field [labels.n] of type [long]" in error.refused[1].reason
    assert "SECRET" not in error.refused[1].reason + str(error)
    assert error.again == ()
    assert [x["message"] for x in stored(opensearch, name)] == ["a"]


async def test_a_refused_record_goes_to_the_dead_letter_index(
    opensearch: OpenSearch, name: str
) -> None:
    put(opensearch, name, {"mappings": {"properties": {"labels.n": {"type": "long"}}}})
    refused = slice_of([(NOW_NS, b"b\xff")], stream=labelled(n="x"))
    put(opensearch, f"_ingest/pipeline/{name}", {"processors": []})
    given = {"index": name, "dead_letter_index": f"{name}-dead", "pipeline": name}
    for _ in range(2):
        assert await outcome(opensearch, batch_of(refused), **given) is None
    (document,) = stored(opensearch, f"{name}-dead")
    assert document["error"]["type"] == "mapper_parsing_exception"
    assert b64decode(document["cwsandbox"]["message_base64"]) == b"b\xff"


async def test_too_many_fields_refuse_the_record_that_brings_them(
    opensearch: OpenSearch, name: str
) -> None:
    put(opensearch, name, {"settings": {"index.mapping.total_fields.limit": 30}})
    many = labelled(**{f"field{i}": "x" for i in range(40)})
    batch = batch_of(slice_of([(NOW_NS, "a")], stream=many), slice_of([(NOW_NS, "b")]))
    error = await outcome(opensearch, batch, index=name)
    assert isinstance(error, PartlyDeliveredError)
    assert "Limit of total fields" in error.refused[0].reason
    assert [x["message"] for x in stored(opensearch, name)] == ["b"]


async def test_a_missing_pipeline_holds_until_it_is_there(
    opensearch: OpenSearch, name: str
) -> None:
    async with opened(opensearch, index=name, pipeline=name) as sink:
        with pytest.raises(SinkMisconfiguredError, match="does not exist"):
            await sink.write(some("a"))
        put(opensearch, f"_ingest/pipeline/{name}", {"processors": []})
        await sink.write(some("a"))
    assert len(stored(opensearch, name)) == 1


async def test_a_write_block_holds_its_own_records_alone(opensearch: OpenSearch, name: str) -> None:
    put(opensearch, f"{name}-blocked", {"settings": {"index.blocks.write": True}})
    batch = batch_of(
        *(slice_of([(NOW_NS, c)], stream=Stream("s", c)) for c in ("blocked", "free", "blocked"))
    )
    async with opened(opensearch, index=f"{name}-{{container}}") as sink:
        with pytest.raises(PartlyDeliveredError) as caught:
            await sink.write(batch)
        assert caught.value.again == (0, 2)
        assert not caught.value.refused
        with pytest.raises(SinkMisconfiguredError, match="cluster_block_exception") as held:
            await sink.write(batch_of(batch.slices[0]))
        assert not held.value.credentials
        put(opensearch, f"{name}-blocked/_settings", {"index.blocks.write": None})
        await sink.write(batch_of(batch.slices[0]))
    assert len(stored(opensearch, f"{name}-*")) == 2


async def test_a_full_disk_is_waited_for(opensearch: OpenSearch, name: str) -> None:
    put(opensearch, name, {"settings": {"index.blocks.read_only_allow_delete": True}})
    error = await outcome(opensearch, some("a"), index=name)
    assert isinstance(error, SinkUnavailableError)
    assert "429" in str(error)


async def test_a_closed_index_holds(opensearch: OpenSearch, name: str) -> None:
    put(opensearch, name, {})
    opensearch.http.post(f"{opensearch.base_url}/{name}/_close").raise_for_status()
    error = await outcome(opensearch, some("a"), index=name)
    assert isinstance(error, SinkMisconfiguredError)


async def test_an_alias_without_a_write_index_holds(opensearch: OpenSearch, name: str) -> None:
    put(opensearch, name, {"aliases": {f"{name}-alias": {"is_write_index": False}}})
    error = await outcome(opensearch, some("a"), index=f"{name}-alias")
    assert isinstance(error, SinkMisconfiguredError)


async def test_a_shard_that_is_missing_is_told_before_the_request_times_out(
    opensearch: OpenSearch, name: str
) -> None:
    nowhere = {"index.routing.allocation.require._name": "nowhere"}
    url = f"{opensearch.base_url}/{name}?wait_for_active_shards=0"
    opensearch.http.put(url, json={"settings": nowhere}).raise_for_status()
    error = await outcome(opensearch, some("a"), index=name, timeout=1.0)
    assert isinstance(error, SinkUnavailableError)
    assert "unavailable_shards_exception" in str(error)


async def test_a_parameter_that_is_not_known_holds(opensearch: OpenSearch, name: str) -> None:
    url = f"{opensearch.base_url}/?_stream_fields=a"
    error = await outcome(opensearch, some("a"), index=name, endpoint=url)
    assert isinstance(error, SinkMisconfiguredError)
    assert "mend the query" in str(error)


async def test_check_tells_a_data_stream_from_a_plain_index_and_writes_nothing(
    opensearch: OpenSearch, name: str
) -> None:
    settings = ElasticsearchSettings(endpoint=opensearch.base_url, data_stream=name)
    assert f"there is no data stream {name} yet" in await ElasticsearchSink("es", settings).check()
    assert opensearch.http.head(f"{opensearch.base_url}/{name}").status_code == 404
    async with opened(opensearch, data_stream=name) as sink:
        await sink.write(some("a"))
    answer = await ElasticsearchSink("es", settings).check()
    assert re.match(r"OpenSearch 2\.[0-9.]+ answers; ", answer)
    assert f"{name} is a plain index, and no data stream" in answer


async def test_the_longest_ids_and_strangest_names_are_taken(
    opensearch: OpenSearch, name: str
) -> None:
    long = Stream(
        '"/\\' * 300, "\u00e9\u2028" * 300, tags=("", "\x00"), attributes={"": "x", ".": ""}
    )
    async with opened(opensearch, index=f"{name}-{{container}}") as sink:
        await sink.write(batch_of(slice_of([(NOW_NS, "a")], stream=long), gap_of(stream=long)))
        await sink.write(batch_of(slice_of([(NOW_NS, "a")], stream=long), gap_of(stream=long)))
    assert len(stored(opensearch, f"{name}-*")) == 2
