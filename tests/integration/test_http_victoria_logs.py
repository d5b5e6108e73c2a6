"""The http sink and VictoriaLogs' endpoint for JSON lines."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from sinks.http import HttpSettings, HttpSink
from sinks.identity import record_ids
from sinks.interface import SinkError, Stream
from sinks.testing import MemoryState, batch_of, gap_of, slice_of
from tests.servers import VictoriaLogs, eventually

if TYPE_CHECKING:
    from sinks.interface import Batch

FIRST_NS = 1_763_899_200_000_000_001


def sink_for(server: VictoriaLogs, path: str = "/insert/jsonline", **more: Any) -> HttpSink:
    query = "_time_field=time&_msg_field=text&_stream_fields=sandbox_id,container"
    endpoint = f"{server.base_url}{path}?{query}"
    settings = {"type": "http", "endpoint": endpoint, **more}
    return HttpSink("backend", HttpSettings.model_validate(settings))


async def send(server: VictoriaLogs, batch: Batch, **more: Any) -> None:
    sink = sink_for(server, **more)
    await sink.open(MemoryState())
    try:
        assert await sink.write(batch) == {}
    finally:
        await sink.close()


async def test_lines_and_gaps_can_be_found_again(victoria_logs: VictoriaLogs) -> None:
    # To zstd it answers 200, and stores nothing: nothing that a sink could notice.
    ways = ("none", "gzip")
    streams = {way: Stream(f"http-{way}", "main", tags=("service:train",)) for way in ways}
    for way, stream in streams.items():
        lines = slice_of([(FIRST_NS, "one"), (FIRST_NS + 1, "é \x1b[31m")], stream=stream)
        gap = gap_of(stream=stream, first_line=2, from_stamp_ns=FIRST_NS + 2, missing_bytes=77)
        await send(victoria_logs, batch_of(lines, gap), compression=way)
    for stream in streams.values():
        query = f'sandbox_id:="{stream.sandbox_id}" | sort by (_time)'
        rows = await eventually(partial(victoria_logs.query, query), lambda rows: len(rows) == 3)
        assert [row["_msg"] for row in rows[:2]] == ["one", "é \x1b[31m"]
        assert [row["_time"] for row in rows] == [
            f"2025-11-23T12:00:00.00000000{n}Z" for n in (1, 2, 3)
        ]
        lines = slice_of([(FIRST_NS, "one"), (FIRST_NS + 1, "x")], stream=stream)
        assert [row["id"] for row in rows[:2]] == record_ids(lines)
        assert {row["service"] for row in rows} == {"train"}
        assert (rows[2]["gap.cause"], rows[2]["gap.missing_bytes"]) == ("anchor_lost", "77")


@pytest.mark.parametrize("path", ["/insert/nothing", "/"])
async def test_a_wrong_path_is_no_success(victoria_logs: VictoriaLogs, path: str) -> None:
    with pytest.raises(SinkError):
        await send(victoria_logs, batch_of(slice_of([(FIRST_NS, "lost")])), path=path)


async def test_a_check_says_what_it_knows(victoria_logs: VictoriaLogs) -> None:
    assert "whether it takes lines shows" in await sink_for(victoria_logs).check()
