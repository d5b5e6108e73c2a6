"""Containers of the local service that are restarted while their sandbox runs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from forwarder.local.sandbox import SandboxOverError
from forwarder.local.server import LocalServer
from forwarder.local.settings import LocalSettings
from tests.fakes.local import (
    StatusError,
    call,
    control,
    delete_sandbox,
    get_sandbox,
    open_logs,
    read_logs,
    shell_sandbox,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from cwsandbox._proto import sandbox_pb2 as pb

SCRIPT = "echo $$; exec sleep 600"


@pytest.fixture
async def server() -> AsyncIterator[LocalServer]:
    async with LocalServer() as running:
        yield running


@pytest.fixture
def at(server: LocalServer) -> tuple[str, str]:
    return server.base_url, server.api_key


async def first_line(server: LocalServer, sandbox_id: str, container: str = "") -> bytes:
    await server.wait_printed(sandbox_id, b"\n", container)
    return server.process(sandbox_id, container).log.stamped().split(b" ")[1]


async def statuses(at: tuple[str, str], sandbox_id: str) -> dict[str, dict[str, Any]]:
    answer = await get_sandbox(*at, sandbox_id)
    return {status["name"]: status for status in answer["status"]["containerStatuses"]}


async def two_containers(at: tuple[str, str], side: str) -> str:
    containers = [
        {"name": "main", "command": "sleep", "args": ["600"], "primary": True},
        {"name": "side", "command": "sh", "args": ["-c", side]},
    ]
    answer = await call(*at, "CreateSandbox", {"sandbox": {"spec": {"containers": containers}}})
    sandbox_id: str = answer["sandboxId"]
    return sandbox_id


async def test_a_restart_of_the_primary_replaces_process_and_log_and_spares_the_sandbox(
    server: LocalServer, at: tuple[str, str]
) -> None:
    sandbox_id = await shell_sandbox(*at, SCRIPT)
    old = await first_line(server, sandbox_id)
    assert await control(*at, "restart-container", {"sandbox_id": sandbox_id}) == {
        "restart_count": 1
    }
    new = await first_line(server, sandbox_id)
    assert new != old
    assert await read_logs(*at, sandbox_id=sandbox_id) == new
    answer = await get_sandbox(*at, sandbox_id)
    assert answer["status"]["state"] == "STATE_RUNNING"
    assert (await statuses(at, sandbox_id))["main"] == {
        "name": "main",
        "state": "STATE_RUNNING",
        "restartCount": 1,
    }


async def test_the_end_of_the_new_primary_is_the_end_of_the_sandbox(
    server: LocalServer, at: tuple[str, str]
) -> None:
    sandbox_id = await shell_sandbox(*at, SCRIPT)
    await server.restart_container(sandbox_id)
    server.process(sandbox_id).kill()
    await server.wait_ended(sandbox_id)
    status = (await get_sandbox(*at, sandbox_id))["status"]
    assert (status["state"], status["exitCode"]) == ("STATE_FAILED", 137)


async def test_a_followed_stream_of_the_old_process_sends_everything_and_ends_cleanly(
    server: LocalServer, at: tuple[str, str]
) -> None:
    sandbox_id = await shell_sandbox(*at, SCRIPT)
    old = await first_line(server, sandbox_id)
    async with open_logs(*at, sandbox_id=sandbox_id, follow=True) as entries:
        session = (await anext(entries)).log_session_id
        server.process(sandbox_id).record([(0, b"last words\n")])
        await server.restart_container(sandbox_id)
        assert b"".join([entry.data async for entry in entries]) == old + b"last words\n"
    resumed: dict[str, Any] = {"resume_log_session_id": session, "resume_log_offset": len(old)}
    assert await read_logs(*at, sandbox_id=sandbox_id, follow=True, **resumed) == b"last words\n"


async def test_a_new_stream_is_the_new_process_from_its_beginning(
    server: LocalServer, at: tuple[str, str]
) -> None:
    sandbox_id = await shell_sandbox(*at, SCRIPT)
    await first_line(server, sandbox_id)
    await server.restart_container(sandbox_id)
    new = await first_line(server, sandbox_id)
    async with open_logs(*at, sandbox_id=sandbox_id, follow=True) as entries:
        await anext(entries)
        assert (await anext(entries)).data == new


async def test_the_log_of_all_processes_is_served_where_it_is_kept() -> None:
    async with LocalServer(LocalSettings(restart_keeps_log=True)) as server:
        at = (server.base_url, server.api_key)
        sandbox_id = await shell_sandbox(*at, SCRIPT)
        old = await first_line(server, sandbox_id)
        async with open_logs(*at, sandbox_id=sandbox_id, follow=True) as entries:
            await server.restart_container(sandbox_id)
            assert b"".join([entry.data async for entry in entries]) == old
        pid = b"%d\n" % (server.process(sandbox_id).pid or 0)
        await server.wait_printed(sandbox_id, pid)
        assert await read_logs(*at, sandbox_id=sandbox_id) == old + pid


async def test_a_container_whose_process_has_ended_is_started_again(
    server: LocalServer, at: tuple[str, str]
) -> None:
    sandbox_id = await two_containers(at, "echo $$; exit 3")
    await server.process(sandbox_id, "side").ended.wait()
    ended = (await statuses(at, sandbox_id))["side"]
    assert (ended["state"], ended["exitCode"]) == ("STATE_FAILED", 3)
    for count in (1, 2):
        assert await server.restart_container(sandbox_id, "side") == count
        await server.process(sandbox_id, "side").ended.wait()
    found = await statuses(at, sandbox_id)
    assert found["side"]["restartCount"] == 2
    assert "restartCount" not in found["main"]


async def test_a_stop_after_a_restart_leaves_nothing(
    server: LocalServer, at: tuple[str, str]
) -> None:
    sandbox_id = await shell_sandbox(*at, SCRIPT)
    restarts = [asyncio.ensure_future(server.restart_container(sandbox_id)) for _ in range(3)]
    await asyncio.sleep(0)
    await delete_sandbox(*at, sandbox_id)
    for result in await asyncio.gather(*restarts, return_exceptions=True):
        assert isinstance(result, int | SandboxOverError)
    assert server.process(sandbox_id).ended.is_set()
    assert (await get_sandbox(*at, sandbox_id))["status"]["state"] == "STATE_TERMINATED"


async def test_a_primary_that_has_ended_by_itself_is_not_started_again(
    server: LocalServer, at: tuple[str, str]
) -> None:
    sandbox_id = await shell_sandbox(*at, SCRIPT)
    process = server.process(sandbox_id)
    process.kill()
    await process.ended.wait()
    with pytest.raises(SandboxOverError):
        await server.restart_container(sandbox_id)
    await server.wait_ended(sandbox_id)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"sandbox_id": "sbx-none"}, httpx.codes.NOT_FOUND),
        ({}, httpx.codes.NOT_FOUND),
        ({"sandbox_id": "", "container": "none"}, httpx.codes.NOT_FOUND),
        ({"sandbox_id": ""}, httpx.codes.CONFLICT),
    ],
)
async def test_what_cannot_be_restarted_is_refused(
    server: LocalServer, at: tuple[str, str], body: dict[str, str], status: int
) -> None:
    ended = await shell_sandbox(*at, "true")
    await server.wait_ended(ended)
    if body.get("sandbox_id") == "":
        body = {**body, "sandbox_id": ended}
    with pytest.raises(httpx.HTTPStatusError) as caught:
        await control(*at, "restart-container", body)
    assert caught.value.response.status_code == status


async def test_a_followed_stream_of_another_container_is_not_touched(
    server: LocalServer, at: tuple[str, str]
) -> None:
    sandbox_id = await two_containers(at, SCRIPT)
    async with open_logs(*at, sandbox_id=sandbox_id, follow=True) as entries:
        await anext(entries)
        await server.restart_container(sandbox_id, "side")
        server.process(sandbox_id).record([(0, b"still here\n")])
        entry: pb.LogEntry = await anext(entries)
        assert entry.data == b"still here\n"


async def test_an_unknown_container_is_refused_by_the_stream_too(
    server: LocalServer, at: tuple[str, str]
) -> None:
    sandbox_id = await shell_sandbox(*at, SCRIPT)
    await server.restart_container(sandbox_id)
    with pytest.raises(StatusError) as caught:
        await read_logs(*at, sandbox_id=sandbox_id, container="none")
    assert caught.value.code == "invalid_argument"
    assert server.counters.streams_invalid == 1
