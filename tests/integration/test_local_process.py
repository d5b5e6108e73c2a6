"""The local service as a process: how it starts, and that nothing outlives it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from forwarder.local.runner import banner
from forwarder.local.server import LocalServer
from forwarder.local.settings import LocalSettings
from tests.fakes.local import call, local_service, open_logs, shell_sandbox


def alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"


async def printed_pids(base_url: str, api_key: str, sandbox_id: str, count: int) -> list[int]:
    data = b""
    async with open_logs(base_url, api_key, sandbox_id=sandbox_id, follow=True) as entries:
        async for entry in entries:
            data += entry.data
            if data.count(b"\n") == count:
                break
    return [int(line) for line in data.split()]


async def test_no_process_survives_the_services_exit() -> None:
    script = 'trap "" TERM; echo $$; sleep 600 & echo $!; while :; do sleep 600; done'
    async with local_service() as service:
        at = (service.base_url, service.api_key)
        sandbox_id = await shell_sandbox(*at, script)
        pids = await printed_pids(*at, sandbox_id, 2)
        assert all(map(alive, pids))
    assert not any(map(alive, [*pids, service.pid]))


async def test_no_process_survives_the_services_kill_either() -> None:
    script = "echo $$; sleep 600 & echo $!; while :; do sleep 600; done"
    async with local_service() as service:
        at = (service.base_url, service.api_key)
        await shell_sandbox(*at, "true")
        sandbox_ids = [await shell_sandbox(*at, script) for _ in range(3)]
        pids = [pid for one in sandbox_ids for pid in await printed_pids(*at, one, 2)]
        os.kill(service.pid, signal.SIGKILL)
        while any(map(alive, pids)):
            await asyncio.sleep(0.01)


async def test_an_in_process_service_takes_its_processes_with_it() -> None:
    async with LocalServer() as server:
        at = (server.base_url, server.api_key)
        sandbox_id = await shell_sandbox(*at, "echo $$; exec sleep 600")
        (pid,) = await printed_pids(*at, sandbox_id, 1)
        assert alive(pid)
    assert not alive(pid)


async def test_settings_are_options() -> None:
    options = ("--api-key", "mine", "--message-bytes", "5", "--since-granularity", "second")
    async with local_service(*options, "--no-announce-session") as service:
        assert service.api_key == "mine"
        sandbox_id = await shell_sandbox(service.base_url, "mine", "echo 0123456789; sleep 600")
        async with open_logs(
            service.base_url, "mine", sandbox_id=sandbox_id, follow=True
        ) as entries:
            assert (await anext(entries)).data == b"01234"


async def test_it_listens_on_loopback_only() -> None:
    async with LocalServer() as server:
        assert server.base_url.startswith("http://127.0.0.1:")


async def test_a_taken_port_is_an_error_and_the_same_port_is_free_afterwards() -> None:
    blocker = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = blocker.sockets[0].getsockname()[1]
    with pytest.raises(OSError, match="in use"):
        async with LocalServer(LocalSettings(port=port)):
            pass
    blocker.close()
    await blocker.wait_closed()
    async with LocalServer(LocalSettings(port=port)) as server:
        assert server.base_url.endswith(f":{port}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_for_people_it_says_what_it_is_and_how_to_use_it(number: signal.Signals) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "forwarder.local",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    banner = await process.stdout.readuntil(b"logs --follow --timestamps SANDBOX_ID\n")
    process.send_signal(number)
    _, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")
    text = banner.decode()
    assert "a development and test tool" in text
    exports = dict(
        line.removeprefix("  export ").split("=", 1)
        for line in text.splitlines()
        if line.startswith("  export ")
    )
    assert set(exports) == {"CWSANDBOX_BASE_URL", "CWSANDBOX_API_KEY"}


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
async def test_the_banners_curl_command_works_as_printed() -> None:
    async with local_service() as service:
        text = banner(service.base_url, service.api_key)
        command = text.partition("exits):\n\n")[2].partition("\n\n")[0].strip()
        process = await asyncio.create_subprocess_exec(
            "sh",
            "-c",
            command.replace("curl", "curl -sS"),
            stdout=asyncio.subprocess.PIPE,
            env={**service.environment, "PATH": os.environ["PATH"]},
        )
        output, _ = await process.communicate()
        assert b'"sandboxId"' in output
        listed = await call(service.base_url, service.api_key, "ListSandboxes", {"tags": ["demo"]})
        assert len(listed["sandboxes"]) == 1
