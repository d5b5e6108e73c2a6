"""A sandbox API that is never the bottleneck: whole answers are encoded before it says it is ready.

Connect on HTTP/1.1 for the forwarder, gRPC on a second port for the vendor's CLI. Run as a process
of its own: `python -m benchmarks.server`, the specification as JSON on the first line of standard
input; it prints its ports as JSON when it is ready and lives until its standard input ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from typing import TYPE_CHECKING

from cwsandbox._proto import sandbox_pb2 as api
from google.protobuf import json_format
from google.protobuf.message import DecodeError

from benchmarks import wire
from benchmarks.catalog import SERVICE, ApiError, Catalog, LogPosition
from benchmarks.http1 import Connection, Request
from benchmarks.served import ServedSandbox, ServerSpec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from google.protobuf.message import Message

#: Where a measurement asks what was served; not part of the sandbox API.
REPORT_PATH = "/benchmark/sandboxes/"
OPEN_STREAMS_PATH = "/benchmark/open-streams"


class ConnectServer:
    """The API over Connect, on HTTP/1.1."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, listener: socket.socket) -> None:
        """Serve until cancelled; every connection is closed then."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                sock, _ = await loop.sock_accept(listener)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                task = loop.create_task(self._serve_connection(sock))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve_connection(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(ConnectionError):
            connection = Connection(sock)
            while True:
                await self._answer(connection, await connection.read_request())

    async def _answer(self, connection: Connection, request: Request) -> None:
        if request.method == "GET":
            await self._answer_measurement(connection, request)
        elif request.path == f"/{SERVICE}/StreamLogs":
            await self._answer_stream(connection, request)
        else:
            await self._answer_unary(connection, request)

    async def _answer_measurement(self, connection: Connection, request: Request) -> None:
        answer: object = self._catalog.open_stream_count()
        if request.path.startswith(REPORT_PATH):
            answer = self._catalog.find(request.path.removeprefix(REPORT_PATH)).report()
        await connection.respond(200, "application/json", json.dumps(answer).encode())

    async def _answer_unary(self, connection: Connection, request: Request) -> None:
        is_json = request.headers.get("content-type", "").startswith("application/json")
        try:
            answer = self._call(request.path.rpartition("/")[2], request.body, is_json=is_json)
        except ApiError as error:
            content = json.dumps({"code": error.code, "message": str(error)}).encode()
            status = {"not_found": 404, "unimplemented": 501}.get(error.code, 400)
            await connection.respond(status, "application/json", content)
            return
        if is_json:
            content = json_format.MessageToJson(answer, indent=None).encode()
            await connection.respond(200, "application/json", content)
        else:
            await connection.respond(200, "application/proto", answer.SerializeToString())

    def _call(self, method: str, content: bytes, *, is_json: bool) -> Message:
        try:
            match method:
                case "GetSandbox":
                    get = api.GetSandboxRequest()
                    _parse(get, content, is_json=is_json)
                    return self._catalog.get_sandbox(get)
                case "ListSandboxes":
                    listing = api.ListSandboxesRequest()
                    _parse(listing, content, is_json=is_json)
                    return self._catalog.list_sandboxes(listing)
        except (DecodeError, json_format.ParseError) as error:
            raise ApiError("invalid_argument", str(error)) from error
        raise ApiError("unimplemented", f"{method} is not served here")

    async def _answer_stream(self, connection: Connection, request: Request) -> None:
        await connection.start_chunked("application/connect+proto")
        try:
            wanted = api.StreamLogsRequest.FromString(wire.unwrap_envelope(request.body))
            sandbox, place = self._catalog.open_stream(wanted)
        except ApiError as error:
            await connection.send(wire.end_of_stream(error.code, str(error)))
            return
        except (DecodeError, ValueError) as error:
            await connection.send(wire.end_of_stream("invalid_argument", str(error)))
            return
        await _send_log(connection, sandbox, place, follow=wanted.follow)
        await connection.send(wire.end_of_stream())
        sandbox.served_to_end()


def _parse(message: Message, content: bytes, *, is_json: bool) -> None:
    if is_json:
        json_format.Parse(content or b"{}", message)
    else:
        message.ParseFromString(content)


async def _send_log(
    connection: Connection, sandbox: ServedSandbox, place: LogPosition, *, follow: bool
) -> None:
    position = place.start
    if position == 0 and place.session.start == 0 and sandbox.connect_body is not None:
        await connection.send(sandbox.connect_body)
        return
    while position < len(sandbox.raw) or (follow and await sandbox.growth(position)):
        more = bytes(sandbox.raw[position : position + (1 << 20)])
        if sandbox.message_bytes == wire.ONE_LINE:
            more = more[: more.rfind(b"\n") + 1]
        await connection.send(wire.body(more, sandbox.message_bytes, place.session, position))
        position += len(more)


@contextlib.asynccontextmanager
async def running(spec: ServerSpec) -> AsyncIterator[tuple[Catalog, dict[str, int]]]:
    """The server on free loopback ports; entering returns once everything is prepared."""
    catalog = Catalog(spec)
    async with contextlib.AsyncExitStack() as stack:
        ports = {}
        if spec.with_grpc:
            from benchmarks.grpc_port import serving_grpc

            ports["grpc"] = await stack.enter_async_context(serving_grpc(catalog))
        listener = stack.enter_context(
            socket.create_server(("127.0.0.1", 0), backlog=4096, reuse_port=False)
        )
        listener.setblocking(False)
        ports["http"] = listener.getsockname()[1]
        tasks = [asyncio.create_task(ConnectServer(catalog).serve(listener))]
        tasks += [asyncio.create_task(group.run()) for group in catalog.groups]
        try:
            yield catalog, ports
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def main() -> None:
    """Serve what the first line of standard input asks for, until standard input ends."""
    loop = asyncio.get_running_loop()
    spec = ServerSpec.from_json(json.loads(sys.stdin.readline()))
    async with running(spec) as (_, ports):
        print(json.dumps(ports), flush=True)
        await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
