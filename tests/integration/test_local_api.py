"""What the local service answers, whatever the protocol."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import httpx
import pytest
from cwsandbox._proto import sandbox_pb2 as pb
from cwsandbox._proto.sandbox_pb2_grpc import SandboxServiceStub
from google.protobuf.json_format import MessageToDict

from forwarder.local.server import LocalServer
from forwarder.local.settings import LocalSettings
from tests.fakes.local import (
    SERVICE_PATH,
    StatusError,
    call,
    create_sandbox,
    delete_sandbox,
    get_sandbox,
    read_logs,
    shell_sandbox,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def server() -> AsyncIterator[LocalServer]:
    async with LocalServer(LocalSettings()) as running:
        yield running


@pytest.fixture
def at(server: LocalServer) -> tuple[str, str]:
    return server.base_url, server.api_key


@pytest.fixture
async def stub(server: LocalServer) -> AsyncIterator[Any]:
    target = server.base_url.removeprefix("http://")
    async with grpc.aio.insecure_channel(target) as channel:
        yield SandboxServiceStub(channel)  # type: ignore[no-untyped-call]  # the vendor's stubs


def bearer(server: LocalServer) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {server.api_key}"),)


async def refused(base_url: str, api_key: str, method: str, body: dict[str, Any]) -> StatusError:
    with pytest.raises(StatusError) as caught:
        await call(base_url, api_key, method, body)
    return caught.value


async def test_grpc_connect_and_json_answer_alike(
    server: LocalServer, at: tuple[str, str], stub: Any
) -> None:
    sandbox_id = await shell_sandbox(*at, "seq 1000; echo done >&2", tags=["alike"])
    await server.wait_ended(sandbox_id)

    json_answer = await get_sandbox(*at, sandbox_id)
    grpc_answer = await stub.GetSandbox(
        pb.GetSandboxRequest(sandbox_id=sandbox_id), metadata=bearer(server)
    )
    async with httpx.AsyncClient(headers=dict(bearer(server))) as client:
        response = await client.post(
            f"{server.base_url}{SERVICE_PATH}/GetSandbox",
            content=pb.GetSandboxRequest(sandbox_id=sandbox_id).SerializeToString(),
            headers={"Content-Type": "application/proto"},
        )
    assert MessageToDict(grpc_answer) == json_answer
    assert pb.Sandbox.FromString(response.content) == grpc_answer
    assert json_answer["status"]["state"] == "STATE_COMPLETED"

    request = pb.StreamLogsRequest(sandbox_id=sandbox_id, timestamps=True)
    grpc_log = b"".join([e.data async for e in stub.StreamLogs(request, metadata=bearer(server))])
    assert grpc_log == server.process(sandbox_id).log.stamped()
    assert await read_logs(*at, sandbox_id=sandbox_id, timestamps=True) == grpc_log


async def test_an_unknown_sandbox_is_not_found_with_the_vendors_reason(
    server: LocalServer, at: tuple[str, str], stub: Any
) -> None:
    error = await refused(*at, "GetSandbox", {"sandboxId": "sbx-none"})
    assert (error.code, error.reason) == ("not_found", "CWSANDBOX_SANDBOX_NOT_FOUND")
    assert error.domain == "cwsandbox.com"
    with pytest.raises(StatusError) as caught:
        await read_logs(*at, sandbox_id="sbx-none")
    assert caught.value.reason == "CWSANDBOX_SANDBOX_NOT_FOUND"
    with pytest.raises(grpc.aio.AioRpcError) as grpc_caught:
        await stub.GetSandbox(pb.GetSandboxRequest(sandbox_id="x"), metadata=bearer(server))
    assert grpc_caught.value.code() == grpc.StatusCode.NOT_FOUND
    trailers: Any = grpc_caught.value.trailing_metadata()
    details = trailers["grpc-status-details-bin"]
    assert b"CWSANDBOX_SANDBOX_NOT_FOUND" in bytes(details)


@pytest.mark.parametrize("method", ["GetSandbox", "ListSandboxes", "CreateSandbox", "Exec"])
async def test_nothing_is_answered_without_the_key(at: tuple[str, str], method: str) -> None:
    assert (await refused(at[0], "wrong", method, {})).code == "unauthenticated"


async def test_log_streams_and_the_control_endpoint_want_the_key_too(at: tuple[str, str]) -> None:
    with pytest.raises(StatusError) as caught:
        await read_logs(at[0], "wrong", sandbox_id="x")
    assert caught.value.code == "unauthenticated"
    async with httpx.AsyncClient(base_url=at[0]) as client:
        assert (await client.get("/local/v1/faults")).status_code == httpx.codes.UNAUTHORIZED
        for path in ("faults", "break", "forget-sessions", "restart"):
            response = await client.post(f"/local/v1/{path}", json={"how": "cut"})
            assert response.status_code == httpx.codes.UNAUTHORIZED


@pytest.mark.parametrize("method", ["ConnectSandbox", "Exec", "ReadFile", "PurgeSandboxes"])
async def test_what_the_service_lacks_is_unimplemented(at: tuple[str, str], method: str) -> None:
    error = await refused(*at, method, {})
    assert (error.code, error.reason) == ("unimplemented", "CWSANDBOX_NOT_IMPLEMENTED")


async def test_streaming_exec_is_unimplemented_over_grpc(server: LocalServer, stub: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in stub.StreamExec(iter([pb.ExecStreamRequest()]), metadata=bearer(server)):
            pass
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_a_list_holds_the_sandboxes_that_have_all_of_the_tags(at: tuple[str, str]) -> None:
    both = await shell_sandbox(*at, "sleep 600", tags=["a", "b"])
    one = await shell_sandbox(*at, "sleep 600", tags=["a"])
    assert await listed(at, tags=["a"]) == [both, one]
    assert await listed(at, tags=["a", "b"]) == [both]
    assert await listed(at, tags=["a", "c"]) == []
    assert await listed(at, runnerIds=["elsewhere"]) == []
    assert await listed(at, runnerIds=["local-runner"]) == [both, one]


async def test_ended_sandboxes_are_listed_on_request_or_by_state(at: tuple[str, str]) -> None:
    ended = await shell_sandbox(*at, "sleep 600")
    running = await shell_sandbox(*at, "sleep 600")
    await delete_sandbox(*at, ended)
    assert await listed(at) == [running]
    assert await listed(at, showTerminated=True) == [ended, running]
    assert await listed(at, state="STATE_TERMINATED") == [ended]
    assert await listed(at, state="STATE_RUNNING", showTerminated=True) == [running]


async def test_pages_follow_each_other_in_either_direction(at: tuple[str, str]) -> None:
    ids = [await shell_sandbox(*at, "sleep 600") for _ in range(5)]
    for direction, wanted in (("ASCENDING", ids), ("DESCENDING", ids[::-1])):
        pages: list[list[str]] = []
        token = ""
        while token or not pages:
            body = {
                "pageSize": 2,
                "pageToken": token,
                "sortDirection": f"SORT_DIRECTION_{direction}",
            }
            answer = await call(*at, "ListSandboxes", body)
            pages.append([sandbox["sandboxId"] for sandbox in answer["sandboxes"]])
            token = answer.get("nextPageToken", "")
        assert [len(page) for page in pages] == [2, 2, 1]
        assert [sandbox_id for page in pages for sandbox_id in page] == wanted
    for wrong in ({"pageToken": "%%%"}, {"pageToken": "AAAA"}, {"pageSize": -1}):
        assert (await refused(*at, "ListSandboxes", wrong)).code == "invalid_argument"


async def test_deleting_stops_the_process_and_keeps_the_log(
    server: LocalServer, at: tuple[str, str]
) -> None:
    script = 'trap "echo bye; exit 3" TERM; echo ready; while :; do sleep 0.05; done'
    sandbox_id = await shell_sandbox(*at, script)
    process = server.process(sandbox_id)
    await server.wait_printed(sandbox_id, b"ready\n")
    await delete_sandbox(*at, sandbox_id, grace_s=20)
    answer = await get_sandbox(*at, sandbox_id)
    assert process.ended.is_set()
    assert answer["status"]["state"] == "STATE_TERMINATED"
    assert answer["status"]["exitCode"] == 3
    assert await read_logs(*at, sandbox_id=sandbox_id) == b"ready\nbye\n"


async def test_a_delete_whose_caller_has_gone_still_kills_after_the_grace_period(
    server: LocalServer, at: tuple[str, str]
) -> None:
    sandbox_id = await shell_sandbox(*at, 'trap "" TERM; echo ready; while :; do sleep 60; done')
    await server.wait_printed(sandbox_id, b"ready\n")
    caller = asyncio.ensure_future(delete_sandbox(*at, sandbox_id, grace_s=1))
    while await state(at, sandbox_id) != "STATE_TERMINATING":
        await asyncio.sleep(0.01)
    caller.cancel()
    await server.wait_ended(sandbox_id)
    assert await state(at, sandbox_id) == "STATE_TERMINATED"


async def test_deleting_what_is_not_there_is_an_error_unless_allowed(at: tuple[str, str]) -> None:
    assert (await refused(*at, "DeleteSandbox", {"sandboxId": "x"})).code == "not_found"
    assert await call(*at, "DeleteSandbox", {"sandboxId": "x", "allowMissing": True}) == {}


async def test_states_and_exit_codes_tell_how_a_sandbox_ended(
    server: LocalServer, at: tuple[str, str]
) -> None:
    failing = await shell_sandbox(*at, "exit 5")
    missing = await create_sandbox(*at, "no-such-program")
    for sandbox_id in (failing, missing):
        await server.wait_ended(sandbox_id)
    status = (await get_sandbox(*at, failing))["status"]
    assert (status["state"], status["exitCode"]) == ("STATE_FAILED", 5)
    assert status["containerStatuses"] == [{"name": "main", "state": "STATE_FAILED", "exitCode": 5}]
    status = (await get_sandbox(*at, missing))["status"]
    assert (status["state"], status["exitCode"]) == ("STATE_FAILED", 127)
    assert "no-such-program" in status["stateReason"]


async def test_a_request_id_seen_before_starts_nothing_new(at: tuple[str, str]) -> None:
    body = {
        "requestId": "once",
        "sandbox": {"spec": {"containers": [{"command": "sleep", "args": ["600"]}]}},
    }
    first = await call(*at, "CreateSandbox", body)
    assert (await call(*at, "CreateSandbox", body))["sandboxId"] == first["sandboxId"]
    assert await listed(at) == [first["sandboxId"]]


@pytest.mark.parametrize("containers", [[], [{"name": "a"}, {"name": "a"}]])
async def test_a_sandbox_needs_containers_with_names_of_their_own(
    at: tuple[str, str], containers: list[dict[str, str]]
) -> None:
    error = await refused(*at, "CreateSandbox", {"sandbox": {"spec": {"containers": containers}}})
    assert error.code == "invalid_argument"


async def test_containers_have_logs_of_their_own_and_end_with_the_primary(
    server: LocalServer, at: tuple[str, str]
) -> None:
    containers = [
        {"name": "side", "command": "sh", "args": ["-c", "echo side; sleep 600"]},
        {"name": "app", "command": "sh", "args": ["-c", "echo app; sleep 0.3"], "primary": True},
    ]
    answer = await call(*at, "CreateSandbox", {"sandbox": {"spec": {"containers": containers}}})
    sandbox_id = answer["sandboxId"]
    await server.wait_ended(sandbox_id)
    assert await read_logs(*at, sandbox_id=sandbox_id) == b"app\n"
    assert await read_logs(*at, sandbox_id=sandbox_id, container="side") == b"side\n"
    with pytest.raises(StatusError) as caught:
        await read_logs(*at, sandbox_id=sandbox_id, container="other")
    assert caught.value.code == "invalid_argument"
    assert (await get_sandbox(*at, sandbox_id))["status"]["state"] == "STATE_COMPLETED"


async def test_the_maximum_lifetime_ends_a_sandbox(
    server: LocalServer, at: tuple[str, str]
) -> None:
    spec = {"containers": [{"command": "sleep", "args": ["600"]}], "maxLifetimeSeconds": 1}
    sandbox_id = (await call(*at, "CreateSandbox", {"sandbox": {"spec": spec}}))["sandboxId"]
    await server.wait_ended(sandbox_id)
    assert (await get_sandbox(*at, sandbox_id))["status"]["state"] == "STATE_TERMINATED"


async def test_only_so_many_ended_sandboxes_are_remembered() -> None:
    async with LocalServer(LocalSettings(max_ended_sandboxes=1)) as server:
        at = (server.base_url, server.api_key)
        ids = []
        for _ in range(3):
            ids.append(await shell_sandbox(*at, "true"))
            await server.wait_ended(ids[-1])
        newest = await shell_sandbox(*at, "sleep 600")
        assert await listed(at, showTerminated=True) == [ids[-1], newest]


async def state(at: tuple[str, str], sandbox_id: str) -> str:
    answer = await get_sandbox(*at, sandbox_id)
    return str(answer["status"]["state"])


async def listed(at: tuple[str, str], **request: Any) -> list[str]:
    answer = await call(*at, "ListSandboxes", request)
    return [sandbox["sandboxId"] for sandbox in answer.get("sandboxes", [])]
