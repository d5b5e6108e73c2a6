"""Every fault of the local service does what it says, and so does its control endpoint."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal

import grpc
import httpx
import pytest
from cwsandbox._proto import sandbox_pb2 as pb
from cwsandbox._proto.sandbox_pb2_grpc import SandboxServiceStub

from forwarder.local.server import LocalServer
from forwarder.local.settings import LocalSettings, StatusFault
from tests.fakes.local import (
    BodyCutError,
    StatusError,
    control,
    create_sandbox,
    get_sandbox,
    open_logs,
    read_logs,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TEXT = b"0123456789abcde\n" * 4


class Running:
    """A service with a sandbox whose log holds `TEXT`, and which prints nothing else."""

    def __init__(self, server: LocalServer, sandbox_id: str) -> None:
        self.server = server
        self.faults = server.faults
        self.sandbox_id = sandbox_id
        self.at = (server.base_url, server.api_key)
        self.write(TEXT)

    def write(self, text: bytes) -> None:
        lines = text.splitlines(keepends=True)
        self.server.process(self.sandbox_id).record([(0, line) for line in lines])

    async def read(self, **request: Any) -> bytes:
        return await read_logs(*self.at, sandbox_id=self.sandbox_id, **request)

    def open(self, **request: Any) -> Any:
        return open_logs(*self.at, sandbox_id=self.sandbox_id, follow=True, **request)

    async def collect(self, seen: list[pb.LogEntry], **request: Any) -> None:
        """Follow until the stream ends, keeping every message."""
        async with self.open(**request) as entries:
            async for entry in entries:
                seen.append(entry)  # noqa: PERF401 - what came before an error is kept

    async def broken(self, error: type[Exception], **request: Any) -> bytes:
        """What came before a follow stream broke in this way."""
        seen: list[pb.LogEntry] = []
        with pytest.raises(error):
            await self.collect(seen, **request)
        return b"".join(entry.data for entry in seen)


@pytest.fixture
async def local() -> AsyncIterator[Running]:
    async with LocalServer(LocalSettings()) as server:
        sandbox_id = await create_sandbox(server.base_url, server.api_key, "sleep", ["600"])
        yield Running(server, sandbox_id)


@asynccontextmanager
async def grpc_stream(local: Running) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(local.at[0].removeprefix("http://")) as channel:
        stub: Any = SandboxServiceStub(channel)  # type: ignore[no-untyped-call]  # the vendor's
        request = pb.StreamLogsRequest(sandbox_id=local.sandbox_id, follow=True)
        yield stub.StreamLogs(request, metadata=(("authorization", f"Bearer {local.at[1]}"),))


async def test_messages_come_in_pieces(local: Running) -> None:
    local.faults.piece_bytes = 3
    async with open_logs(*local.at, sandbox_id=local.sandbox_id) as entries:
        pieces = [entry.data async for entry in entries if entry.data]
    assert b"".join(pieces) == TEXT
    assert {len(piece) for piece in pieces} == {3, len(TEXT) % 3}


async def test_a_body_is_cut_after_so_many_bytes(local: Running) -> None:
    local.faults.cut_after_bytes = 20
    assert await local.broken(BodyCutError) == TEXT[:20]


async def test_a_body_is_cut_after_so_many_messages(local: Running) -> None:
    local.faults.merge({"piece_bytes": 5, "cut_after_messages": 3})
    assert await local.broken(BodyCutError) == TEXT[:15]


async def test_a_cut_over_grpc_is_an_error_not_an_end(local: Running) -> None:
    local.faults.cut_after_bytes = 20
    async with grpc_stream(local) as call:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in call:
                pass
    assert caught.value.code() in {grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL}


async def test_a_stream_ends_cleanly_too_early(local: Running) -> None:
    local.faults.end_after_bytes = 20
    assert await local.read(follow=True) == TEXT[:20]


async def test_an_in_band_error_ends_the_stream(local: Running) -> None:
    local.faults.merge({"error_after_bytes": 20, "error_code": "RUNNER_DRAINING"})
    seen: list[pb.LogEntry] = []
    await local.collect(seen)
    assert b"".join(entry.data for entry in seen) == TEXT[:20]
    assert seen[-1].error.code == "RUNNER_DRAINING"


async def test_data_after_an_in_band_error(local: Running) -> None:
    local.faults.merge({"error_after_bytes": 0, "data_after_error": True})
    seen: list[pb.LogEntry] = []
    await local.collect(seen)
    assert seen[-2].error.code == "STREAM_INTERRUPTED"
    assert seen[-1].data == b"data after the end\n"


async def test_a_transport_status_in_the_middle(local: Running) -> None:
    local.faults.merge({"status_after_bytes": 20, "status_code": "internal"})
    assert await local.broken(StatusError) == TEXT[:20]
    async with grpc_stream(local) as call:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in call:
                pass
    assert caught.value.code() == grpc.StatusCode.INTERNAL


async def test_the_next_calls_of_a_method_fail_and_then_no_more(local: Running) -> None:
    fault = StatusFault("resource_exhausted", 2, "CWSANDBOX_RUNNER_OVERLOADED", 1.5)
    local.faults.statuses = {"GetSandbox": fault}
    for _ in range(2):
        with pytest.raises(StatusError) as caught:
            await get_sandbox(*local.at, local.sandbox_id)
        error = caught.value
        assert (error.code, error.reason) == ("resource_exhausted", "CWSANDBOX_RUNNER_OVERLOADED")
        assert error.retry_delay_s == 1.5
        assert await local.read() == TEXT
    assert (await get_sandbox(*local.at, local.sandbox_id))["sandboxId"] == local.sandbox_id


async def test_log_streams_can_be_refused_too(local: Running) -> None:
    local.faults.statuses = {"StreamLogs": StatusFault("unavailable")}
    with pytest.raises(StatusError) as caught:
        await local.read()
    assert caught.value.code == "unavailable"
    assert await local.read() == TEXT


@pytest.mark.parametrize("code", ["unauthenticated", "permission_denied"])
async def test_credentials_are_refused(
    local: Running, code: Literal["unauthenticated", "permission_denied"]
) -> None:
    local.faults.refuse_credentials = code
    with pytest.raises(StatusError) as caught:
        await get_sandbox(*local.at, local.sandbox_id)
    assert caught.value.code == code


async def test_a_stall_sends_nothing_until_it_is_lifted(local: Running) -> None:
    local.faults.stall = True
    async with local.open() as entries:
        assert (await anext(entries)).data == b""
        waiting = asyncio.ensure_future(anext(entries))
        for _ in range(3):
            await get_sandbox(*local.at, local.sandbox_id)
        assert not waiting.done()
        local.faults.stall = False
        assert (await waiting).data == TEXT


async def test_a_resume_replays_more_than_was_asked(local: Running) -> None:
    async with local.open() as entries:
        await anext(entries)
        first = await anext(entries)
    local.faults.merge({"replay_extra_bytes": 6, "end_after_bytes": 6})
    seen: list[pb.LogEntry] = []
    await local.collect(
        seen, resume_log_session_id=first.log_session_id, resume_log_offset=len(TEXT)
    )
    assert b"".join(entry.data for entry in seen) == TEXT[-6:]
    assert seen[-1].next_log_offset == len(TEXT)


@pytest.mark.parametrize(
    ("fault", "offset"),
    [
        ({"offset_shift": 10}, len(TEXT) + 10),
        ({"offset_shift": -10}, len(TEXT) - 10),
        ({"offset_shift": -1000}, 0),
        ({"offset_value": 2**64 - 1}, 2**64 - 1),
        ({"offset_value": 0}, 0),
    ],
)
async def test_offsets_lie(local: Running, fault: dict[str, int], offset: int) -> None:
    local.faults.merge({**fault, "end_after_bytes": len(TEXT)})
    seen: list[pb.LogEntry] = []
    await local.collect(seen)
    assert seen[-1].next_log_offset == offset


async def test_a_server_without_sessions(local: Running) -> None:
    local.faults.merge({"hide_session": True, "end_after_bytes": len(TEXT)})
    seen: list[pb.LogEntry] = []
    await local.collect(seen)
    assert {(entry.log_session_id, entry.next_log_offset) for entry in seen} == {("", 0)}


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"how": "reset"}, httpx.TransportError),
        ({"how": "cut"}, BodyCutError),
        ({"how": "status", "code": "aborted"}, StatusError),
    ],
)
async def test_open_streams_break_on_request(
    local: Running, body: dict[str, str], error: type[Exception]
) -> None:
    async with local.open() as entries:
        await anext(entries)
        assert (await anext(entries)).data == TEXT
        assert await control(*local.at, "break", body) == {"broken": 1}
        with pytest.raises(error):
            await anext(entries)


async def test_open_streams_end_on_request_cleanly_or_in_band(local: Running) -> None:
    async with local.open() as clean:
        await anext(clean)
        assert (await anext(clean)).data == TEXT
        await control(*local.at, "break", {"how": "clean_end"})
        assert [entry async for entry in clean] == []
    async with local.open() as failing:
        await anext(failing)
        assert (await anext(failing)).data == TEXT
        await control(*local.at, "break", {"how": "error", "code": "REPLAY_GAP"})
        assert [entry.error.code async for entry in failing] == ["REPLAY_GAP"]


async def test_a_stalled_stream_breaks_too(local: Running) -> None:
    local.faults.stall = True
    async with local.open() as entries:
        await anext(entries)
        local.server.break_streams("cut")
        with pytest.raises(BodyCutError):
            await anext(entries)


async def test_forgotten_sessions_cannot_be_resumed_while_open_streams_go_on(
    local: Running,
) -> None:
    async with local.open() as entries:
        await anext(entries)
        first = await anext(entries)
        await control(*local.at, "forget-sessions")
        local.write(b"more\n")
        assert (await anext(entries)).data == b"more\n"
    with pytest.raises(StatusError) as caught:
        await local.read(follow=True, resume_log_session_id=first.log_session_id)
    assert caught.value.code == "SESSION_NOT_FOUND"


async def test_faults_are_set_and_read_over_http(local: Running) -> None:
    answer = await control(*local.at, "faults", {"stall": True})
    assert answer["stall"]
    assert local.faults.stall
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {local.at[1]}"}) as client:
        read = await client.get(f"{local.at[0]}/local/v1/faults")
    assert read.json() == local.faults.as_json()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("faults", b'{"odd": 1}'),
        ("faults", b"["),
        ("faults", b"[]"),
        ("break", b'{"how": "odd"}'),
        ("break", b'{"how": "status", "code": "odd"}'),
        ("restart", b'{"down_s": "long"}'),
        ("restart", b'{"down_s": -1}'),
    ],
)
async def test_a_control_request_that_makes_no_sense_is_refused(
    local: Running, path: str, body: bytes
) -> None:
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {local.at[1]}"}) as client:
        response = await client.post(f"{local.at[0]}/local/v1/{path}", content=body)
    assert response.status_code == httpx.codes.BAD_REQUEST
    assert response.json()["error"]


async def test_a_restart_drops_connections_and_sessions_and_keeps_sandboxes_and_logs(
    local: Running,
) -> None:
    port = local.server.base_url
    async with local.open() as entries:
        await anext(entries)
        first = await anext(entries)
        await local.server.restart()
        with pytest.raises(httpx.TransportError):
            await anext(entries)
    assert local.server.base_url == port
    assert await local.read() == TEXT
    with pytest.raises(StatusError) as caught:
        await local.read(follow=True, resume_log_session_id=first.log_session_id)
    assert caught.value.code == "SESSION_NOT_FOUND"


async def test_a_restart_on_request_answers_before_it_begins_and_comes_back(
    local: Running,
) -> None:
    async with local.open() as entries:
        await anext(entries)
        assert (await anext(entries)).data == TEXT
        await control(*local.at, "restart", {"down_s": 0.05})
        with pytest.raises(httpx.TransportError):
            await anext(entries)
    while await is_refused(local):
        await asyncio.sleep(0.01)
    assert await local.read() == TEXT


async def test_while_it_is_down_connections_are_refused(local: Running) -> None:
    down = asyncio.ensure_future(local.server.restart(down_s=600))
    while not await is_refused(local):
        await asyncio.sleep(0.01)
    down.cancel()
    await asyncio.wait([down])
    assert await is_refused(local)
    await local.server.restart()
    assert await local.read() == TEXT


async def is_refused(local: Running) -> bool:
    try:
        await local.read()
    except httpx.TransportError:
        return True
    return False
