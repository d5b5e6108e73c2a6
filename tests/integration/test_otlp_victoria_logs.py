"""OTLP against VictoriaLogs: another reader of the protocol, which answers queries."""

from __future__ import annotations

from base64 import b64encode
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from sinks.identity import record_ids
from sinks.interface import BatchRejectedError, Stream
from sinks.otlp import OtlpSettings, OtlpSink
from sinks.testing import MemoryState, batch_of, gap_of, slice_of
from tests.servers import VictoriaLogs, eventually

if TYPE_CHECKING:
    from sinks.interface import Batch, Slice

FIRST_NS = 1_763_899_200_000_000_001
TEXTS = [b"plain", "é e\u0301".encode(), b"\xff\xfe not text", b"ERROR \x1b[31mred", b"x" * 10_000]


def sink_for(server: VictoriaLogs, **more: Any) -> OtlpSink:
    settings = {
        "logs_endpoint": f"{server.base_url}/insert/opentelemetry/v1/logs",
        "headers": {"VL-Stream-Fields": "service.name,cwsandbox.id,container.name"},
        "severity": "detect",
        **more,
    }
    return OtlpSink("backend", OtlpSettings.model_validate(settings))


async def send(server: VictoriaLogs, batch: Batch, **more: Any) -> None:
    sink = sink_for(server, **more)
    await sink.open(MemoryState())
    try:
        assert await sink.write(batch) == {}
    finally:
        await sink.close()


async def test_everything_can_be_found_again(victoria_logs: VictoriaLogs) -> None:
    sent = {way: records_of(f"otlp-{way}") for way in ("gzip", "none")}
    for way, (lines, gap) in sent.items():
        await send(victoria_logs, batch_of(lines, gap), compression=way)
    for lines, gap in sent.values():
        # Not by its stream: that there is no such stream is remembered for ten seconds.
        query = f'cwsandbox.id:="{lines.stream.sandbox_id}" | sort by (_time)'
        rows = await eventually(partial(victoria_logs.query, query), lambda rows: len(rows) == 6)
        compare(rows, lines, gap)


def records_of(sandbox_id: str) -> tuple[Slice, Slice]:
    stream = Stream(sandbox_id, "main", tags=("service:train",), image="python:3.11")
    lines = slice_of([(FIRST_NS + n, text) for n, text in enumerate(TEXTS)], stream=stream)
    gap = gap_of(stream=stream, first_line=5, from_stamp_ns=FIRST_NS + 5, missing_bytes=77)
    return lines, gap


def compare(found: list[dict[str, Any]], lines: Slice, gap: Slice) -> None:
    readable = [*TEXTS[:2], b64encode(TEXTS[2]), *TEXTS[3:]]
    assert [row["_msg"].encode() for row in found[:-1]] == readable
    assert [row["_time"] for row in found[:-1]] == [
        f"2025-11-23T12:00:00.00000000{n}Z" for n in range(1, 6)
    ]
    assert [row["log.record.uid"] for row in found] == record_ids(lines) + record_ids(gap)
    assert found[3]["severity"] == "ERROR"
    assert {(row["service.name"], row["container.name"]) for row in found} == {("train", "main")}
    assert gap.gap is not None
    for key, value in gap.gap.items():
        assert found[-1].get(f"cwsandbox.gap.{key}") == (None if value is None else str(value))
    assert not any(key.startswith("cwsandbox.gap") for row in found[:-1] for key in row)


async def test_check_is_content(victoria_logs: VictoriaLogs) -> None:
    assert await sink_for(victoria_logs).check() == "takes our requests"


async def test_a_form_that_it_does_not_know_is_refused_in_its_words(
    victoria_logs: VictoriaLogs,
) -> None:
    with pytest.raises(BatchRejectedError, match="json encoding isn't supported"):
        await send(victoria_logs, batch_of(slice_of([(FIRST_NS, "x")])), protocol="http/json")
