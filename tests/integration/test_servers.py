"""The real servers take data in their own protocol and give it back through `tests.servers`."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import sys
import time
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import httpx
import pytest

from tests.fakes.certificates import Authority
from tests.servers import Collector, OtlpRecord, Server, ServerStartError, eventually
from tests.servers.fixtures import need

if TYPE_CHECKING:
    from tests.servers import Loki, OpenSearch, VictoriaLogs

NDJSON = {"Content-Type": "application/x-ndjson"}


def export(text: str) -> dict[str, Any]:
    record = {
        "timeUnixNano": "1700000000000000001",
        "observedTimeUnixNano": "1700000000000000002",
        "severityNumber": 9,
        "severityText": "INFO",
        "body": {"bytesValue": base64.b64encode(text.encode()).decode()},
        "attributes": [
            {"key": "count", "value": {"intValue": "5"}},
            {"key": "tags", "value": {"arrayValue": {"values": [{"stringValue": "a"}]}}},
        ],
    }
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "web"}}]}
    scope_logs = {"scope": {"name": "test"}, "logRecords": [record]}
    return {"resourceLogs": [{"resource": resource, "scopeLogs": [scope_logs]}]}


async def test_the_collector_gives_back_every_part_of_a_record(collector: Collector) -> None:
    answer = httpx.post(f"{collector.endpoint_http}/v1/logs", json=export("one"))
    assert answer.json() == {"partialSuccess": {}}
    assert await eventually(collector.records, bool) == [
        OtlpRecord(
            resource={"service.name": "web"},
            scope="test",
            body=b"one",
            attributes={"count": 5, "tags": ["a"]},
            time_ns=1700000000000000001,
            observed_time_ns=1700000000000000002,
            severity_number=9,
            severity_text="INFO",
        )
    ]


async def test_a_collector_that_forgets_shows_only_what_comes_later(collector: Collector) -> None:
    for text in ("earlier", "later"):
        collector.forget()
        httpx.post(f"{collector.endpoint_http}/v1/logs", json=export(text))
        [record] = await eventually(collector.records, bool)
        assert record.body == text.encode()


async def test_the_collector_keeps_its_records_and_address_over_a_restart(tmp_path: Path) -> None:
    need(Collector)
    with Collector(tmp_path) as collector:
        httpx.post(f"{collector.endpoint_http}/v1/logs", json=export("before"))
        collector.stop()
        with pytest.raises(httpx.ConnectError):
            httpx.post(f"{collector.endpoint_http}/v1/logs", json=export("down"))
        collector.start()
        httpx.post(f"{collector.endpoint_http}/v1/logs", json=export("after"))
        found = await eventually(collector.records, lambda records: len(records) > 1)
    assert [record.body for record in found] == [b"before", b"after"]


async def test_the_collector_with_tls_and_a_token_refuses_those_who_have_neither(
    tmp_path: Path,
) -> None:
    need(Collector)
    authority = Authority(tmp_path)
    shown, client_pair = authority.issue("server"), authority.issue("client")
    trusting = ssl.create_default_context(cafile=authority.file)
    with Collector(
        tmp_path, tls=shown, client_authority=authority.file, token="secret"
    ) as collector:
        address = f"{collector.endpoint_http}/v1/logs"
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.post(address, json={})
        with pytest.raises(httpx.ReadError):
            httpx.post(address, json={}, verify=trusting)
        trusting.load_cert_chain(client_pair.certificate, client_pair.key)
        with httpx.Client(verify=trusting) as client:
            assert client.post(address, json={}).status_code == 401
            authorized = {"Authorization": "Bearer secret"}
            assert client.post(address, json=export("x"), headers=authorized).status_code == 200
        assert await eventually(collector.records, bool)


async def test_what_is_never_enough_is_shown() -> None:
    with pytest.raises(AssertionError, match="'too little'"):
        await eventually(lambda: "too little", lambda _: False, within_s=0)


def test_loki_stores_an_exact_duplicate_once(loki: Loki) -> None:
    now_ns = time.time_ns()
    values = [[str(now_ns), "one", {"sandbox": "s-1"}], [str(now_ns + 1), "two"]]
    push = {"streams": [{"stream": {"job": "duplicates"}, "values": values}]}
    for _ in range(2):
        assert httpx.post(loki.push_url, json=push).status_code == 204
    found = loki.query_range('{job="duplicates"}', now_ns, now_ns + 2)
    assert [(line.time_ns, line.line) for line in found] == [(now_ns, "one"), (now_ns + 1, "two")]
    assert found[0].labels["job"] == "duplicates"
    assert found[0].metadata["sandbox"] == "s-1"


def test_loki_keeps_the_good_lines_of_a_request_that_it_refuses(loki: Loki) -> None:
    now_ns = time.time_ns()
    eight_days_ns = 8 * 24 * 3600 * 10**9
    values = [[str(now_ns - eight_days_ns), "old"], [str(now_ns), "good"]]
    push = {"streams": [{"stream": {"job": "half"}, "values": values}]}
    answer = httpx.post(loki.push_url, json=push)
    assert answer.status_code == 400
    assert "has timestamp too old" in answer.text
    found = loki.query_range('{job="half"}', now_ns, now_ns + 1)
    assert [line.line for line in found] == ["good"]


def test_loki_hides_lines_that_came_too_late_behind_a_later_stream(loki: Loki) -> None:
    now_ns = time.time_ns()
    two_hours_ns = 2 * 3600 * 10**9

    def push(*streams: tuple[str, int]) -> int:
        body = [{"stream": {"job": job}, "values": [[str(ns), "x"]]} for job, ns in streams]
        return httpx.post(loki.push_url, json={"streams": body}).status_code

    assert push(("late", now_ns)) == 204
    assert push(("late", now_ns - two_hours_ns)) == 400
    assert push(("late", now_ns - two_hours_ns), ("other", now_ns)) == 204
    assert len(loki.query_range('{job="late"}', now_ns - two_hours_ns, now_ns + 1)) == 1


def test_opensearch_takes_an_id_once(opensearch: OpenSearch) -> None:
    lines = [{"create": {"_id": "a"}}, {"message": "one", "n": 1}]
    body = "".join(json.dumps(line) + "\n" for line in lines)

    def status() -> int:
        answer = httpx.post(f"{opensearch.base_url}/once/_bulk", content=body, headers=NDJSON)
        return int(answer.json()["items"][0]["create"]["status"])

    assert [status(), status()] == [201, 409]
    opensearch.refresh("once")
    [hit] = opensearch.search("once", {"match": {"message": "one"}}, sort="n")
    assert (hit["_id"], hit["_source"]) == ("a", {"message": "one", "n": 1})


def test_opensearch_makes_a_data_stream_by_a_template(opensearch: OpenSearch) -> None:
    template = {"index_patterns": ["flow-*"], "data_stream": {}}
    address = f"{opensearch.base_url}/_index_template/flow"
    assert httpx.put(address, json=template).is_success
    body = '{"create":{}}\n{"@timestamp":"2026-01-01T00:00:00Z"}\n'
    httpx.post(f"{opensearch.base_url}/flow-a/_bulk", content=body, headers=NDJSON)
    opensearch.refresh("flow-a")
    [hit] = opensearch.search("flow-a")
    assert hit["_index"] == ".ds-flow-a-000001"


class Shell(Server):
    """A server that is a shell script; ready once it has made its file."""

    binary: ClassVar[Path] = Path("/bin/sh")

    def __init__(self, directory: Path, script: str) -> None:
        super().__init__(directory)
        self.script = script

    def command(self) -> list[str]:
        return [str(self.binary), "-c", self.script]

    def is_ready(self) -> bool:
        return (self.directory / "ready").exists()


STUBBORN = "trap '' TERM; echo $$ > {0}/pid; touch {0}/ready; while :; do sleep 0.1; done"
# Starts a server and waits for its own end.
OWNER = """
import sys
from pathlib import Path
from tests.integration.test_servers import STUBBORN, Shell
with Shell(Path(sys.argv[1]), STUBBORN.format(sys.argv[1])):
    input()
"""


def test_a_server_that_ends_at_start_shows_its_last_words(tmp_path: Path) -> None:
    server = Shell(tmp_path, "echo no such option; exit 3")
    with pytest.raises(ServerStartError, match=r"(?s)ended with 3.*no such option"), server:
        pytest.fail("it never started")


def test_a_server_that_does_not_heed_the_signal_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.servers.process._STOP_LIMIT_S", 0.05)
    with Shell(tmp_path, STUBBORN.format(tmp_path)):
        pid = int((tmp_path / "pid").read_text())
    assert not Path(f"/proc/{pid}").exists()


async def test_a_server_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, str(tmp_path), stdin=PIPE
    )
    await eventually((tmp_path / "ready").exists, bool)
    pid = int((tmp_path / "pid").read_text())
    owner.kill()
    await owner.wait()
    await eventually(Path(f"/proc/{pid}").exists, lambda there: not there)


async def test_victoria_logs_takes_json_lines_and_gives_back(victoria_logs: VictoriaLogs) -> None:
    answer = victoria_logs.http.post(
        f"{victoria_logs.base_url}/insert/jsonline",
        params={"_time_field": "time", "_msg_field": "text", "_stream_fields": "sandbox_id"},
        content='{"time":"2026-11-23T04:05:06.000000007Z","text":"hello","sandbox_id":"jsonline"}\n',
    )

    assert answer.status_code == 200
    (record,) = await eventually(lambda: victoria_logs.query('{sandbox_id="jsonline"}'), bool)
    assert record["_msg"] == "hello"
    assert record["_time"] == "2026-11-23T04:05:06.000000007Z"
