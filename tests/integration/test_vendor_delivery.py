"""The vendor's own SDK and CLI, in processes of their own, against what we put into files."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from typing import TYPE_CHECKING

from forwarder.local.server import LocalServer
from forwarder.local.settings import LocalSettings
from tests.fakes.daemon import file_sink, running, write_config

if TYPE_CHECKING:
    from pathlib import Path

#: ASCII only: the vendor's SDK decodes each message by itself, so where a message happens to end
#: inside a character it would print something else than we keep. Other bytes are compared with the
#: service's own log, in `test_daemon_delivery`.
CHATTY = "for i in $(seq 2000); do echo out $i; echo err $i >&2; done; sleep 0.2; echo; echo end"
SANDBOXES = 3

#: Creates the sandboxes and says so, waits for their ends, and then reads their whole logs.
SDK = """
import base64, json, sys
from cwsandbox import Sandbox
sandboxes = [Sandbox.run("sh", "-c", sys.argv[1], tags=["sdk"]) for _ in range(int(sys.argv[2]))]
for sandbox in sandboxes:
    print(sandbox.sandbox_id, flush=True)
for sandbox in sandboxes:
    assert sandbox.wait_until_complete().result().status.value == "completed"
logs = {s.sandbox_id: "".join(s.stream_logs(timestamps=True)).encode() for s in sandboxes}
print(json.dumps({id: base64.b64encode(log).decode() for id, log in logs.items()}))
"""


def environment(server: LocalServer) -> dict[str, str]:
    return {
        **os.environ,
        "CWSANDBOX_BASE_URL": server.base_url,
        "CWSANDBOX_API_KEY": server.api_key,
        "PYTHONIOENCODING": "utf-8",
    }


async def output_of(server: LocalServer, *arguments: str) -> bytes:
    """What Python prints with these arguments and the vendor's settings."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *arguments),
        stdout=asyncio.subprocess.PIPE,
        env=environment(server),
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output


async def test_our_files_equal_what_the_vendors_sdk_and_cli_read_to_the_byte(
    tmp_path: Path,
) -> None:
    async with LocalServer(LocalSettings()) as server:
        config = write_config(
            tmp_path,
            base_url=server.base_url,
            api_key=server.api_key,
            sandboxes=[{"tags": ["sdk"]}],
            sinks={"text": file_sink(tmp_path / "out" / "{sandbox_id}.log")},
        )
        async with running(config) as daemon:
            output = await output_of(server, "-c", SDK, CHATTY, str(SANDBOXES))
            *ids, encoded = output.decode().splitlines()
            logs = {one: base64.b64decode(log) for one, log in json.loads(encoded).items()}
            for sandbox in ids:
                await daemon.event("stream ended", sandbox=sandbox)
            daemon.terminate()
            assert await daemon.wait() == 0, daemon.log
        assert sorted(logs) == sorted(ids)
        assert len(ids) == SANDBOXES
        for sandbox, log in logs.items():
            assert log.count(b"\n") == 4002
            assert (tmp_path / "out" / f"{sandbox}.log").read_bytes() == log
        cli = await output_of(server, "-m", "cwsandbox", "logs", ids[0], "--timestamps")
        assert cli == logs[ids[0]]
