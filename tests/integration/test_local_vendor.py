"""The vendor's own SDK and CLI, unchanged, against the local service."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from forwarder.local.server import LocalServer
from forwarder.local.settings import LocalSettings
from tests.fakes.local import get_sandbox, shell_sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# ASCII only: the SDK decodes message by message and damages a character that is cut between two.
CHATTY = "for i in $(seq 3000); do echo out $i; echo err $i >&2; done; sleep 0.2; printf end"

SDK_FOLLOWS = """
import sys
from cwsandbox import Sandbox
sandbox = Sandbox.run("sh", "-c", sys.argv[1], tags=["sdk"])
print(sandbox.sandbox_id, flush=True)
for line in sandbox.stream_logs(follow=True, timestamps=True):
    sys.stdout.write(line)
assert Sandbox.from_id(sandbox.sandbox_id).result().status.value == "completed"
for line in sandbox.stream_logs(timestamps=True, tail_lines=1):
    sys.stdout.write(line)
"""

SDK_STOPS = """
from cwsandbox import Sandbox
sandbox = Sandbox.run("sleep", "600", tags=["a", "b"])
listed = Sandbox.list(tags=["b"]).result()
assert [s.sandbox_id for s in listed] == [sandbox.sandbox_id], listed
sandbox.stop().result()
print(sandbox.sandbox_id, sandbox.status.value)
"""


@pytest.fixture
async def server() -> AsyncIterator[LocalServer]:
    async with LocalServer(LocalSettings()) as running:
        yield running


async def vendor(server: LocalServer, *args: str) -> bytes:
    """Run Python with these arguments in a process that has the vendor's settings."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *args,
        stdout=asyncio.subprocess.PIPE,
        env={
            **os.environ,
            "CWSANDBOX_BASE_URL": server.base_url,
            "CWSANDBOX_API_KEY": server.api_key,
            "PYTHONIOENCODING": "utf-8",
        },
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output


async def test_what_the_sdk_streams_equals_what_was_printed_byte_for_byte(
    server: LocalServer,
) -> None:
    script = f"until [ -e go ]; do sleep 0.05; done; {CHATTY}"
    following = asyncio.ensure_future(vendor(server, "-c", SDK_FOLLOWS, script))
    while not server.open_streams and not following.done():
        await asyncio.sleep(0.01)
    for sandbox in server.sandboxes.select():
        Path(f"/proc/{sandbox.container('')[1].pid}/cwd/go").touch()
    output = await following
    sandbox_id, _, streamed = output.partition(b"\n")
    stored = server.process(sandbox_id.decode()).log.stamped()
    last_line = stored[stored.rindex(b"\n") + 1 :]
    assert stored.count(b"\n") == 6000
    assert last_line.endswith(b" end")
    assert streamed == stored + last_line


async def test_the_sdk_lists_by_tag_and_stops_a_sandbox(server: LocalServer) -> None:
    output = await vendor(server, "-c", SDK_STOPS)
    sandbox_id, status = output.decode().split()
    assert status == "terminated"
    answer = await get_sandbox(server.base_url, server.api_key, sandbox_id)
    assert answer["status"]["state"] == "STATE_TERMINATED"


async def test_the_cli_lists_follows_and_stops(server: LocalServer) -> None:
    chatty = await shell_sandbox(server.base_url, server.api_key, CHATTY)
    process = server.process(chatty)
    await process.ended.wait()
    silent = await shell_sandbox(server.base_url, server.api_key, "exec sleep 600", tags=["cli"])

    listed = json.loads(await vendor(server, "-m", "cwsandbox", "ls", "-t", "cli", "-o", "json"))
    assert [(item["sandbox_id"], item["status"]) for item in listed] == [(silent, "running")]

    logs = await vendor(server, "-m", "cwsandbox", "logs", "--timestamps", chatty)
    assert logs == process.log.stamped()

    stopped = await vendor(server, "-m", "cwsandbox", "stop", silent)
    assert silent in stopped.decode()
    assert server.process(silent).ended.is_set()
