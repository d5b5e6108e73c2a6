"""OTLP against a real collector: everything that was sent is read back from what it wrote."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from sinks.identity import record_ids
from sinks.interface import (
    BatchRejectedError,
    SinkMisconfiguredError,
    SinkUnavailableError,
    Stream,
)
from sinks.otlp import OtlpSettings, OtlpSink
from sinks.testing import MemoryState, batch_of, end_of, gap_of, slice_of
from tests.fakes.certificates import Authority
from tests.servers import Collector, OtlpRecord, eventually
from tests.servers.fixtures import need

if TYPE_CHECKING:
    from pathlib import Path

    from sinks.interface import Batch

NOW_NS = 1_763_899_200_000_000_001
STREAM = Stream(
    "sbx-1",
    "main",
    display_name="trainer",
    tags=("service:train", "prod"),
    image="ghcr.io/acme/python:3.11",
    runner_id="runner-7",
    annotations={"team": "red"},
    attributes={"deployment.environment.name": "prod"},
)
TEXTS = [
    b"plain",
    b"",
    "é e\u0301 \u2028 \x00".encode(),
    b"\xff\xfe not text",
    b"\xed\xa0\x80",
    b'{"level":"error","text":"x"}',
    b"\x1b[31mred\x1b[0m\ttab\r",
    b"x" * 100_000,
]
LINES = slice_of(
    [(NOW_NS + n, text) for n, text in enumerate(TEXTS)], stream=STREAM, first_line=124
)
GAP = gap_of(stream=STREAM, first_line=132, from_stamp_ns=NOW_NS, missing_bytes=77)
BATCH = batch_of(LINES, GAP, end_of(stream=STREAM, first_line=132))


def sink_for(collector: Collector, **more: Any) -> OtlpSink:
    over_grpc = more.get("protocol") == "grpc"
    scheme = collector.endpoint_http.partition("://")[0]
    endpoint = f"{scheme}://{collector.endpoint_grpc}" if over_grpc else collector.endpoint_http
    return OtlpSink("backend", OtlpSettings.model_validate({"endpoint": endpoint, **more}))


async def send(collector: Collector, *batches: Batch, **more: Any) -> None:
    sink = sink_for(collector, **more)
    await sink.open(MemoryState())
    try:
        for batch in batches:
            assert await sink.write(batch) == {}
    finally:
        await sink.close()


async def written(collector: Collector, count: int) -> list[OtlpRecord]:
    return await eventually(collector.records, lambda records: len(records) >= count)


WAYS = [
    {"protocol": protocol, "compression": compression}
    for protocol in ("http/protobuf", "http/json", "grpc")
    for compression in ("gzip", "zstd", "none")
    if (protocol, compression) != ("grpc", "zstd")
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(way.values()))
async def test_everything_arrives_as_it_was(collector: Collector, way: dict[str, str]) -> None:
    await send(collector, BATCH, **way)
    *lines, gap = await written(collector, len(TEXTS) + 1)
    bodies = [r.body.encode() if isinstance(r.body, str) else r.body or b"" for r in lines]
    assert bodies == TEXTS
    assert [isinstance(r.body, bytes) for r in lines] == [n in {3, 4} for n in range(8)]
    assert [r.time_ns for r in lines] == LINES.columns.stamps_ns
    assert {r.observed_time_ns for r in lines} == {LINES.received_ns}
    assert [r.attributes["log.record.uid"] for r in lines] == record_ids(LINES)
    assert [r.attributes["cwsandbox.line"] for r in lines] == list(range(124, 132))
    assert {r.severity_number for r in lines} == {0}
    for record in (*lines, gap):
        assert record.scope == "sandbox-forwarder"
        assert record.resource == {
            "deployment.environment.name": "prod",
            "service.name": "train",
            "cwsandbox.id": "sbx-1",
            "container.name": "main",
            "container.image.name": "ghcr.io/acme/python",
            "container.image.tags": ["3.11"],
            "cwsandbox.display_name": "trainer",
            "cwsandbox.tags": ["service:train", "prod"],
            "cwsandbox.runner_id": "runner-7",
            "cwsandbox.annotation.team": "red",
        }


@pytest.mark.parametrize("protocol", ["http/protobuf", "http/json", "grpc"])
async def test_a_gap_is_a_record_that_no_line_can_be(collector: Collector, protocol: str) -> None:
    forged = slice_of([(NOW_NS, '{"cwsandbox.gap.cause":"forged"} cwsandbox.gap')], stream=STREAM)
    await send(collector, batch_of(forged, GAP), protocol=protocol)
    line, gap = await written(collector, 2)
    assert set(line.attributes) == {"log.record.uid", "cwsandbox.line"}
    assert GAP.gap is not None
    assert gap.attributes == {
        "log.record.uid": record_ids(GAP)[0],
        **{f"cwsandbox.gap.{key}": value for key, value in GAP.gap.items()},
    }
    assert (gap.severity_number, gap.severity_text, gap.time_ns) == (13, "WARN", NOW_NS)
    assert gap.body == "lines are missing after line 131, 77 bytes (anchor_lost)"


@pytest.mark.parametrize("protocol", ["http/protobuf", "http/json", "grpc"])
async def test_severities_are_found_when_asked_for(collector: Collector, protocol: str) -> None:
    await send(collector, batch_of(LINES), protocol=protocol, severity="detect")
    records = await written(collector, len(TEXTS))
    assert [(r.severity_number, r.severity_text) for r in records] == [
        (17, "error") if n == 5 else (0, "") for n in range(8)
    ]


async def test_the_same_line_has_the_same_uid_however_it_comes(collector: Collector) -> None:
    def lines(first: int, stop: int, received_ns: int) -> Batch:
        pairs = [(NOW_NS + n, f"line {n}") for n in range(first, stop)]
        source = slice_of(pairs, stream=STREAM, first_line=first)
        source.received_ns = received_ns
        return batch_of(source)

    # A resend, a batch that was cut elsewhere, another protocol.
    await send(collector, lines(0, 1_200, 1), lines(900, 1_300, 2))
    await send(collector, lines(0, 1_300, 3), protocol="http/json")
    await send(collector, lines(50, 1_300, 4), protocol="grpc")
    records = await written(collector, 1_200 + 400 + 1_300 + 1_250)
    pairs = {((r.time_ns, r.body), r.attributes["log.record.uid"]) for r in records}
    assert len(pairs) == 1_300
    assert len({uid for _, uid in pairs}) == 1_300


async def test_many_streams_in_one_batch_stay_apart(collector: Collector) -> None:
    streams = [Stream(f"sbx-{n}", name) for n in range(10) for name in ("main", "side")]
    slices = [
        slice_of([(NOW_NS, f"{s.identity} {line}")], stream=s, first_line=line)
        for line in range(3)
        for s in streams
    ]
    await send(collector, batch_of(*slices))
    records = await written(collector, 60)
    assert sorted(r.body for r in records) == sorted(
        f"{(r.resource['cwsandbox.id'], r.resource['container.name'])} {line}"
        for r in records[::3]
        for line in range(3)
    )


@pytest.mark.parametrize("protocol", ["http/protobuf", "http/json", "grpc"])
async def test_check_is_content_and_leaves_nothing(collector: Collector, protocol: str) -> None:
    assert await sink_for(collector, protocol=protocol).check() == "takes our requests"
    await send(collector, batch_of(LINES), protocol=protocol)
    assert len(await written(collector, len(TEXTS))) == len(TEXTS)


async def test_a_body_that_the_server_finds_too_large_is_to_be_split(tmp_path: Path) -> None:
    need(Collector)
    with Collector(tmp_path, max_request_bytes=10_000) as collector:
        with pytest.raises(BatchRejectedError) as caught:
            await send(collector, batch_of(LINES), compression="none")
        # This server says 400 for it; that is halved as well.
        assert caught.value.status in {"400", "413"}


async def test_a_message_that_the_server_finds_too_large_is_to_be_split(
    collector: Collector,
) -> None:
    large = batch_of(slice_of([(n, b"x" * 1_000_000) for n in range(5)]))
    more: dict[str, Any] = {"protocol": "grpc", "grpc": {"max_message": 64 << 20}}
    with pytest.raises(BatchRejectedError) as caught:
        await send(collector, large, **more)
    assert caught.value.too_large


async def test_certificates_and_tokens_are_shown_and_wanted(tmp_path: Path) -> None:
    need(Collector)
    authority = Authority(tmp_path)
    client = authority.issue("client")
    ours = {"cert_file": str(client.certificate), "key_file": str(client.key)}
    trusted = {"ca_file": str(authority.file)}
    with Collector(
        tmp_path / "collector",
        tls=authority.issue("server"),
        client_authority=authority.file,
        token="t0ken-of-the-test",
    ) as collector:
        for protocol in ("http/protobuf", "grpc"):
            way: dict[str, Any] = {"protocol": protocol, "bearer_token": "t0ken-of-the-test"}
            await send(collector, BATCH, tls=trusted | ours, **way)
            with pytest.raises(SinkMisconfiguredError, match=r"tls\.ca_file"):
                await send(collector, BATCH, tls=ours, **way)
            with pytest.raises((SinkMisconfiguredError, SinkUnavailableError)):
                await send(collector, BATCH, tls=trusted, **way)
            way["bearer_token"] = "another-token"
            with pytest.raises(SinkMisconfiguredError) as refused:
                await send(collector, BATCH, tls=trusted | ours, **way)
            assert refused.value.credentials
            assert "another-token" not in str(refused.value)
            with pytest.raises(SinkMisconfiguredError):
                await sink_for(collector, tls=trusted | ours, **way).check()
        assert len(await written(collector, 18)) == 18


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
async def test_a_collector_that_comes_back_is_found_again(tmp_path: Path, protocol: str) -> None:
    need(Collector)
    with Collector(tmp_path) as collector:
        sink = sink_for(collector, protocol=protocol)
        await sink.open(MemoryState())
        await sink.write(BATCH)
        await asyncio.to_thread(collector.stop)
        with pytest.raises(SinkUnavailableError):
            await sink.write(BATCH)
        await asyncio.to_thread(collector.start)

        for _ in range(200):
            try:
                await sink.write(BATCH)
            except SinkUnavailableError:
                await asyncio.sleep(0.05)
            else:
                break
        await sink.close()
        records = await written(collector, 18)
    assert len({r.attributes["log.record.uid"] for r in records}) == 9
