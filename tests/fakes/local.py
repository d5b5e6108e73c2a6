"""The local sandbox service for tests: started as a process, spoken to over plain HTTP."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
from cwsandbox._proto import sandbox_pb2 as pb

# The package ships type stubs but no py.typed marker.
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

SERVICE_PATH = "/coreweave.sandbox.v1.SandboxService"
END_OF_STREAM = 0b10


@dataclass(frozen=True, slots=True)
class LocalService:
    """Where a running service is, whether it runs in this process or in its own."""

    base_url: str
    api_key: str
    pid: int = 0

    @property
    def environment(self) -> dict[str, str]:
        """What the vendor's SDK and CLI, and the forwarder, read."""
        return {"CWSANDBOX_BASE_URL": self.base_url, "CWSANDBOX_API_KEY": self.api_key}


@asynccontextmanager
async def local_service(*options: str) -> AsyncIterator[LocalService]:
    """The service as a subprocess, ready; `options` as of `python -m forwarder.local`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "forwarder.local",
        "--json",
        *options,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        facts = json.loads(await process.stdout.readline())
        yield LocalService(**facts)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


class BodyCutError(Exception):
    """A log stream's body ended without the end of the stream."""


class StatusError(Exception):
    """A call was refused, or a log stream ended, with a transport status.

    Attributes:
        code: The Connect code.
        reason: `google.rpc.ErrorInfo.reason`, or empty.
        domain: `google.rpc.ErrorInfo.domain`, or empty.
        retry_delay_s: `google.rpc.RetryInfo.retry_delay`, 0 when not given.
    """

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(error.get("message", ""))
        self.code = str(error["code"])
        info = _detail(error, ErrorInfo)
        self.reason: str = info.reason
        self.domain: str = info.domain
        delay: float = _detail(error, RetryInfo).retry_delay.ToNanoseconds() / 1e9
        self.retry_delay_s = delay


async def call(base_url: str, api_key: str, method: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """One unary call as curl would make it; an error answer raises `StatusError`."""
    async with httpx.AsyncClient(headers=_authorization(api_key), timeout=30) as client:
        response = await client.post(f"{base_url}{SERVICE_PATH}/{method}", json=dict(body))
        answer: dict[str, Any] = response.json()
        if response.is_error:
            raise StatusError(answer)
        return answer


async def create_sandbox(
    base_url: str,
    api_key: str,
    command: str,
    args: Sequence[str] = (),
    *,
    tags: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    display_name: str = "",
) -> str:
    """Create a sandbox that runs this command; returns its id."""
    container = {
        "name": "main",
        "command": command,
        "args": list(args),
        "environmentVariables": dict(environment or {}),
    }
    spec = {"containers": [container], "tags": list(tags)}
    body = {"sandbox": {"spec": spec, "displayName": display_name}}
    answer = await call(base_url, api_key, "CreateSandbox", body)
    sandbox_id: str = answer["sandboxId"]
    return sandbox_id


async def shell_sandbox(
    base_url: str, api_key: str, script: str, *, tags: Sequence[str] = ()
) -> str:
    """Create a sandbox that runs a shell script; returns its id."""
    return await create_sandbox(base_url, api_key, "sh", ("-c", script), tags=tags)


async def get_sandbox(base_url: str, api_key: str, sandbox_id: str) -> dict[str, Any]:
    """What the API says of a sandbox, as JSON."""
    return await call(base_url, api_key, "GetSandbox", {"sandboxId": sandbox_id})


async def delete_sandbox(base_url: str, api_key: str, sandbox_id: str, grace_s: int = 0) -> None:
    """Stop a sandbox; returns when its processes have ended."""
    body = {"sandboxId": sandbox_id, "gracePeriodSeconds": grace_s}
    await call(base_url, api_key, "DeleteSandbox", body)


async def control(
    base_url: str, api_key: str, path: str, body: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """POST to the service's control endpoint, e.g. `control(url, key, "break", {"how": "cut"})`."""
    async with httpx.AsyncClient(headers=_authorization(api_key), timeout=30) as client:
        response = await client.post(f"{base_url}/local/v1/{path}", json=dict(body or {}))
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer


async def counters(base_url: str, api_key: str) -> dict[str, int]:
    """What clients did since the service began, see `forwarder.local.streams.Counters`."""
    async with httpx.AsyncClient(headers=_authorization(api_key), timeout=30) as client:
        response = await client.get(f"{base_url}/local/v1/counters")
        response.raise_for_status()
        answer: dict[str, int] = response.json()
        return answer


async def stored_page(base_url: str, api_key: str, sandbox_id: str, **query: Any) -> dict[str, Any]:
    """One page of the stored logs; an error answer raises `StatusError`."""
    url = f"{base_url}/v1/sandboxes/{sandbox_id}/logs"
    async with httpx.AsyncClient(headers=_authorization(api_key), timeout=30) as client:
        response = await client.get(url, params=query)
        answer: dict[str, Any] = response.json()
        if response.is_error:
            raise StatusError(answer)
        return answer


@asynccontextmanager
async def open_logs(
    base_url: str, api_key: str, **request: Any
) -> AsyncIterator[AsyncIterator[pb.LogEntry]]:
    """A log stream over Connect, message by message, without any client of ours or the vendor's.

    `request` holds the fields of `StreamLogsRequest`. The iterator raises `StatusError`,
    `BodyCutError`, or `httpx.TransportError` when the connection itself broke.
    """
    message = pb.StreamLogsRequest(**request).SerializeToString()
    headers = {**_authorization(api_key), "Content-Type": "application/connect+proto"}
    body = struct.pack(">BI", 0, len(message)) + message
    url = f"{base_url}{SERVICE_PATH}/StreamLogs"
    async with (
        httpx.AsyncClient(headers=headers, timeout=30) as client,
        client.stream("POST", url, content=body) as response,
    ):
        assert response.status_code == httpx.codes.OK, await response.aread()
        yield _entries(response)


async def read_logs(base_url: str, api_key: str, **request: Any) -> bytes:
    """All data of a log stream, to its clean end; an in-band error raises `StatusError`."""
    async with open_logs(base_url, api_key, **request) as entries:
        data = bytearray()
        async for entry in entries:
            if entry.HasField("error"):
                raise StatusError({"code": entry.error.code})
            data += entry.data
        return bytes(data)


async def _entries(response: httpx.Response) -> AsyncIterator[pb.LogEntry]:
    buffer = bytearray()
    async for chunk in response.aiter_raw():
        buffer += chunk
        while (envelope := _envelope(buffer)) is not None:
            flags, payload = envelope
            if flags & END_OF_STREAM:
                if error := json.loads(payload).get("error"):
                    raise StatusError(error)
                return
            yield pb.LogEntry.FromString(payload)
    raise BodyCutError


def _envelope(buffer: bytearray) -> tuple[int, bytes] | None:
    """Take one envelope off the buffer, if it is there."""
    if len(buffer) < 5:
        return None
    flags, size = struct.unpack_from(">BI", buffer)
    if len(buffer) < 5 + size:
        return None
    payload = bytes(buffer[5 : 5 + size])
    del buffer[: 5 + size]
    return flags, payload


def _detail(error: Mapping[str, Any], kind: Any) -> Any:
    """The error's detail of this message type, or an empty one."""
    for detail in error.get("details", ()):
        if detail["type"] == kind.DESCRIPTOR.full_name:
            return kind.FromString(base64.b64decode(detail["value"] + "=="))
    return kind()


def _authorization(api_key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key}"}
