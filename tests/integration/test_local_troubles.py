"""Faults of the local service that act in the middle of a stream, and what it counts."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from cwsandbox._proto import sandbox_pb2 as pb

from forwarder.local.server import LocalServer
from forwarder.local.settings import LocalSettings
from tests.fakes.local import (
    SERVICE_PATH,
    StatusError,
    control,
    counters,
    create_sandbox,
    get_sandbox,
    open_logs,
    read_logs,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Running:
    """A service with one silent sandbox, into whose log a test writes."""

    def __init__(self, server: LocalServer, sandbox_id: str) -> None:
        self.server = server
        self.faults = server.faults
        self.sandbox_id = sandbox_id
        self.at = (server.base_url, server.api_key)

    def write(self, *lines: bytes) -> None:
        self.server.process(self.sandbox_id).record([(0, line) for line in lines])

    async def read(self, **request: Any) -> bytes:
        return await read_logs(*self.at, sandbox_id=self.sandbox_id, **request)

    def open(self, **request: Any) -> Any:
        return open_logs(*self.at, sandbox_id=self.sandbox_id, follow=True, **request)


@asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[Running]:
    async with LocalServer(LocalSettings(**settings)) as server:
        sandbox_id = await create_sandbox(server.base_url, server.api_key, "sleep", ["600"])
        yield Running(server, sandbox_id)


async def next_data(entries: AsyncIterator[pb.LogEntry]) -> pb.LogEntry:
    while not (entry := await anext(entries)).data:
        pass
    return entry


async def test_silence_is_for_the_streams_that_are_open_when_it_falls() -> None:
    async with running() as local, local.open() as old:
        session = (await anext(old)).log_session_id
        await control(*local.at, "faults", {"silent": True})
        local.write(b"a line\n")
        waiting = asyncio.ensure_future(anext(old))
        async with local.open() as new:
            assert (await next_data(new)).data == b"a line\n"
        for _ in range(3):
            await get_sandbox(*local.at, local.sandbox_id)
        assert not waiting.done()
        async with local.open(resume_log_session_id=session) as resumed:
            assert (await next_data(resumed)).data == b"a line\n"
        waiting.cancel()
        await asyncio.wait([waiting])


async def test_a_silent_stream_speaks_again_when_the_fault_is_lifted() -> None:
    async with running() as local, local.open() as entries:
        await anext(entries)
        local.faults.silent = True
        local.write(b"a line\n")
        waiting = asyncio.ensure_future(anext(entries))
        await get_sandbox(*local.at, local.sandbox_id)
        assert not waiting.done()
        local.faults.silent = False
        assert (await waiting).data == b"a line\n"


async def test_silence_that_falls_again_is_for_newer_streams_too() -> None:
    async with running() as local:
        local.faults.silent = True
        async with local.open() as entries:
            await anext(entries)
            local.faults.silent = False
            local.faults.silent = True
            local.write(b"a line\n")
            waiting = asyncio.ensure_future(anext(entries))
            await get_sandbox(*local.at, local.sandbox_id)
            assert not waiting.done()
            local.faults.reset()
            assert (await waiting).data == b"a line\n"


async def test_a_log_that_is_only_read_is_never_silent() -> None:
    async with running() as local:
        local.write(b"a line\n")
        local.faults.silent = True
        assert await local.read() == b"a line\n"


async def test_a_session_changes_in_the_middle_of_a_stream() -> None:
    async with running() as local, local.open() as entries:
        local.write(b"first\n")
        first = await next_data(entries)
        await control(*local.at, "faults", {"change_session": True})
        local.write(b"second\n")
        second = await next_data(entries)
        local.write(b"third\n")
        third = await next_data(entries)
        assert [each.data for each in (first, second, third)] == [
            b"first\n",
            b"second\n",
            b"third\n",
        ]
        assert second.log_session_id != first.log_session_id
        assert third.log_session_id == second.log_session_id
        assert [each.next_log_offset for each in (first, second, third)] == [6, 7, 13]
        with pytest.raises(StatusError) as caught:
            await local.read(follow=True, resume_log_session_id=first.log_session_id)
        assert caught.value.code == "SESSION_NOT_FOUND"
        at = {"resume_log_session_id": third.log_session_id, "resume_log_offset": 7}
        async with local.open(**at) as resumed:
            assert (await next_data(resumed)).data == b"third\n"


async def test_a_session_changes_once_for_each_time_it_is_told() -> None:
    async with running() as local, local.open() as entries:
        seen: list[str] = []
        for told in (False, True, True, False, True):
            local.faults.change_session = told
            local.write(b"line\n")
            seen.append((await next_data(entries)).log_session_id)
        first, second, third, fourth, fifth = seen
        assert second == third == fourth
        assert len({first, second, fifth}) == 3


async def test_a_session_is_not_changed_before_there_is_data_to_say_so_with() -> None:
    async with running() as local, local.open() as entries:
        local.write(b"line\n")
        entry = await next_data(entries)
        local.faults.change_session = True
        await get_sandbox(*local.at, local.sandbox_id)
        at = {"resume_log_session_id": entry.log_session_id, "resume_log_offset": 5}
        async with local.open(**at) as resumed:
            assert (await anext(resumed)).log_session_id == entry.log_session_id


async def test_a_stream_that_has_sent_nothing_keeps_its_session() -> None:
    async with running() as local:
        local.faults.change_session = True
        local.write(b"line\n")
        async with local.open() as entries:
            announced = await anext(entries)
            assert (await next_data(entries)).log_session_id == announced.log_session_id


async def test_rotation_takes_the_oldest_lines_away() -> None:
    async with running() as local:
        local.write(*(b"line %d\n" % number for number in range(10)))
        size = local.server.process(local.sandbox_id).log.stored_bytes
        answer = await control(*local.at, "rotate", {"keep_bytes": size // 2})
        assert answer == {"dropped_records": 5}
        assert (await local.read()).startswith(b"line 5\n")
        assert await control(*local.at, "rotate") == {"dropped_records": 5}
        assert await local.read() == b""


async def test_a_followed_stream_goes_on_behind_a_rotation() -> None:
    async with running() as local, local.open() as entries:
        local.write(b"old\n")
        assert (await next_data(entries)).data == b"old\n"
        local.server.rotate()
        local.write(b"new\n")
        assert (await next_data(entries)).data == b"new\n"


@pytest.mark.parametrize("body", [b'{"keep_bytes": -1}', b'{"keep_bytes": "all"}', b"["])
async def test_a_rotation_that_makes_no_sense_is_refused(body: bytes) -> None:
    async with running() as local:
        headers = {"Authorization": f"Bearer {local.at[1]}"}
        async with httpx.AsyncClient(headers=headers) as client:
            response = await client.post(f"{local.at[0]}/local/v1/rotate", content=body)
        assert response.status_code == httpx.codes.BAD_REQUEST


async def test_openings_are_counted_by_what_they_ask_for() -> None:
    async with running() as local:
        local.write(b"line\n")
        async with local.open() as entries:
            entry = await next_data(entries)
        at = {"resume_log_session_id": entry.log_session_id, "resume_log_offset": 5}
        async with local.open(**at) as entries:
            await anext(entries)
        with pytest.raises(StatusError):
            await local.read(follow=True, timestamps=True, **at)
        assert await counters(*local.at) == {
            "streams_fresh": 1,
            "streams_resumed": 1,
            "streams_invalid": 1,
            "opening": 0,
            "opening_peak": 1,
        }


async def test_the_most_streams_that_are_opened_at_once_are_known() -> None:
    async with running(open_delay_s=600) as local, AsyncExitStack() as stack:
        opening = [asyncio.ensure_future(stack.enter_async_context(local.open())) for _ in range(3)]
        while (await counters(*local.at))["opening"] < len(opening):
            await asyncio.sleep(0.01)
        for each in opening:
            each.cancel()
        await asyncio.wait(opening)
        while (found := await counters(*local.at))["opening"]:
            await asyncio.sleep(0.01)
        assert found["opening_peak"] == 3
        assert found["streams_fresh"] == 0


async def test_counters_want_the_key() -> None:
    async with running() as local:
        with pytest.raises(httpx.HTTPStatusError):
            await counters(local.at[0], "wrong")


async def test_clients_that_vanish_are_nothing_to_talk_about(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running() as local:
        loop = asyncio.get_running_loop()
        clients = [await vanishing_client(local) for _ in range(5)]
        while local.server.open_streams < len(clients):
            await asyncio.sleep(0.01)
        for client in clients:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        with caplog.at_level(logging.DEBUG):
            while local.server.open_streams:
                local.write(*(b"x" * 100_000 + b"\n" for _ in range(20)))
                await asyncio.sleep(0)
        assert loop.is_running()
        assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


async def vanishing_client(local: Running) -> socket.socket:
    """A connection that asked for a log and does not read it."""
    request = pb.StreamLogsRequest(sandbox_id=local.sandbox_id, follow=True).SerializeToString()
    body = struct.pack(">BI", 0, len(request)) + request
    head = (
        f"POST {SERVICE_PATH}/StreamLogs HTTP/1.1\r\nHost: local\r\n"
        f"Authorization: Bearer {local.at[1]}\r\n"
        f"Content-Type: application/connect+proto\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    client = socket.socket()
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, ("127.0.0.1", int(local.at[0].rsplit(":", 1)[1])))
    await loop.sock_sendall(client, head.encode() + body)
    return client
