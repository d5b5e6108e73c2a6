"""The daemon as a process, on a sandbox's real output, to a real collector: to the byte."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from forwarder.local.server import LocalServer
from forwarder.local.settings import LocalSettings
from sinks.interface import Stream
from tests.contract.destination_otlp import OtlpCollector
from tests.fakes.daemon import grown, run_to_end, running, size_bytes, write_config
from tests.fakes.local import create_sandbox, read_logs

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import Collector

#: What a program can print: empty lines, binary, CRLF, long lines, no final newline.
ODD = r"""
import os
def out(data):
    while data:
        data = data[os.write(1, data):]
out(b"\n\nfirst\r\nlone\rcr\n \n\t\n" + bytes(range(256)) + b"\n")
out("ä€😀\u2028\u0085\n".encode() * 700 + b"\xff\xfe\x80 not utf-8\n")
out(b"x" * 70_000 + "ä".encode() * 5_000 + b"\n")
for number in range(3000):
    out(b"same\n")
out(b"y" * 5000)
"""
#: Numbered lines, as long as nobody has made the file that it is told of.
COUNTING = r"""
import itertools, os, sys, time
for number in itertools.count():
    os.write(1, b"".join(b"%d.%d\n" % (number, n) for n in range(20)))
    if os.path.exists(sys.argv[1]):
        break
    time.sleep(0.02)
"""
STAMP_BYTES = len("2026-01-02T03:04:05.123456789Z ")


async def test_whatever_a_program_prints_arrives_by_every_protocol(
    tmp_path: Path, collector: Collector
) -> None:
    ways = {"protobuf": "http/protobuf", "json": "http/json", "grpc": "grpc"}
    endpoints = {"grpc": f"http://{collector.endpoint_grpc}"}
    async with LocalServer(LocalSettings()) as server:
        access = (server.base_url, server.api_key)
        sandbox = await create_sandbox(*access, sys.executable, ("-c", ODD), tags=["service:odd"])
        config = write_config(
            tmp_path,
            base_url=server.base_url,
            api_key=server.api_key,
            sandboxes=[{"id": sandbox}],
            sinks={
                name: {
                    "type": "otlp",
                    "protocol": protocol,
                    "endpoint": endpoints.get(name, collector.endpoint_http),
                    "service": {"name": name},
                    "batch": {"max_records": 700, "max_age": "10ms"},
                }
                for name, protocol in ways.items()
            },
            source={"max_line_bytes": "1KiB"},
        )
        code, daemon = await run_to_end(config, "--until-complete", forked=True)
        expected = await read_logs(*access, sandbox_id=sandbox, timestamps=True)
    assert code == 0, daemon.log
    texts = [line[STAMP_BYTES:] for line in expected.split(b"\n")]
    for name in ways:
        destination = OtlpCollector(collector, service=name)
        assert destination.texts(Stream(sandbox, "main")) == texts
        assert destination.gaps(Stream(sandbox, "main")) == []


async def test_a_line_has_one_uid_although_sessions_and_the_daemon_are_lost(
    tmp_path: Path, collector: Collector
) -> None:
    over = tmp_path / "over"
    written = collector.directory / "records.jsonl"
    async with LocalServer(LocalSettings()) as server:
        access = (server.base_url, server.api_key)
        sandbox = await create_sandbox(*access, sys.executable, ("-c", COUNTING, str(over)))
        config = write_config(
            tmp_path,
            base_url=server.base_url,
            api_key=server.api_key,
            sandboxes=[{"id": sandbox}],
            sinks={
                "collector": {
                    "type": "otlp",
                    "endpoint": collector.endpoint_http,
                    "batch": {"max_age": "0s"},
                }
            },
        )
        for _ in range(3):
            async with running(config, forked=True) as daemon:
                for _ in range(2):
                    await grown(written, size_bytes(written) + 40_000, daemon)
                    # What is read again comes from another session, at other offsets.
                    server.forget_sessions()
                    server.faults.cut_after_messages = 0
                    server.faults.cut_after_messages = None
        over.touch()
        code, daemon = await run_to_end(config, "--until-complete", forked=True)
        expected = await read_logs(*access, sandbox_id=sandbox, timestamps=True)
    assert code == 0, daemon.log
    texts = [line[STAMP_BYTES:] for line in expected.splitlines()]
    assert OtlpCollector(collector).texts(Stream(sandbox, "main")) == texts
    uids = {(r.body, r.attributes["log.record.uid"]) for r in collector.records() if r.resource}
    assert len(uids) == len(texts)
