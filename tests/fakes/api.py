"""A scripted sandbox API: it does what a real one does rarely, or never, and does it on cue.

`ConnectApi` and `GrpcApi` run the same scripts, so that one suite can hold both clients to them.
`Reply`, `Body` and `NoEnd` break the Connect protocol itself; only `ConnectApi` knows them.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections import deque
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
import grpc.aio
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message

# The package ships type stubs but no py.typed marker.
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from forwarder.source.envelope import FLAG_END, HEADER_BYTES, pack
from forwarder.source.messages_pb2 import (
    GetSandboxRequest,
    ListSandboxesRequest,
    LogEntry,
    StreamLogsRequest,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Mapping

SERVICE = "coreweave.sandbox.v1.SandboxService"

REQUESTS: Mapping[str, type[Message]] = {
    "GetSandbox": GetSandboxRequest,
    "ListSandboxes": ListSandboxesRequest,
    "StreamLogs": StreamLogsRequest,
}


@dataclass(frozen=True)
class Send:
    """Messages of a log stream, written together."""

    entries: tuple[LogEntry, ...]


@dataclass(frozen=True)
class Fail:
    """An error of the API: the answer of a call, or the end of a log stream."""

    code: str
    message: str = "as scripted"
    details: tuple[Message, ...] = ()


@dataclass(frozen=True)
class Hold:
    """Say nothing more until the client leaves."""


@dataclass(frozen=True)
class Mute:
    """Take a StreamLogs request and do not even begin to answer it until the client leaves."""


@dataclass(frozen=True)
class Cut:
    """Lose the connection."""


@dataclass(frozen=True)
class Reply:
    """A whole HTTP answer, whatever it is."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class Body:
    """Bytes of a stream's body, written in pieces of a size (0: all at once)."""

    data: bytes
    piece_bytes: int = 0


@dataclass(frozen=True)
class NoEnd:
    """End the body as HTTP wants it, but without the end-of-stream message."""


Step: TypeAlias = Send | Fail | Hold | Mute | Cut | Reply | Body | NoEnd
Answer: TypeAlias = Message | Fail | Hold | Cut | Reply


@dataclass(frozen=True)
class Request:
    """What a client asked."""

    method: str
    headers: Mapping[str, str]
    message: Any


def entry(data: bytes, session: str = "", offset: int = 0) -> LogEntry:
    """One message of a log stream."""
    return LogEntry(data=data, log_session_id=session, next_log_offset=offset)


def send(*pieces: bytes) -> Send:
    """Messages that hold these bytes."""
    return Send(tuple(entry(piece) for piece in pieces))


def in_band(code: str, message: str = "as scripted") -> Send:
    """The in-band error that ends a log stream."""
    failed = LogEntry()
    failed.error.code = code
    failed.error.message = message
    return Send((failed,))


def error_info(reason: str, domain: str = "cwsandbox.com") -> Message:
    """An error detail with a reason."""
    info: Message = ErrorInfo(reason=reason, domain=domain)
    return info


def retry_info(delay_s: float) -> Message:
    """An error detail with a retry delay."""
    info = RetryInfo()
    info.retry_delay.FromNanoseconds(int(delay_s * 1_000_000_000))
    detail: Message = info
    return detail


class FakeApi:
    """The script and the record; a transport is added by a subclass.

    Attributes:
        streams: What the coming StreamLogs requests get, in order; a script that runs out ends
            the stream cleanly.
        answers: What the coming calls get, in order.
        requests: What was asked so far.
        holding: Set when a `Hold` is reached.
        left: Set when the client left during a `Hold`.
    """

    def __init__(self) -> None:
        self.base_url = ""
        self.streams: deque[tuple[Step, ...]] = deque()
        self.answers: deque[Answer] = deque()
        self.requests: list[Request] = []
        self.holding = asyncio.Event()
        self.left = asyncio.Event()

    def stream(self, *steps: Step) -> None:
        """Script the next StreamLogs request."""
        self.streams.append(steps)

    def answer(self, *answers: Answer) -> None:
        """Script the next calls."""
        self.answers.extend(answers)


class ConnectApi(FakeApi):
    """The script over HTTP/1.1 and Connect, written by hand so that it can be written wrongly."""

    def __init__(self) -> None:
        super().__init__()
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def serve(self, ssl_context: ssl.SSLContext | None = None) -> AsyncIterator[ConnectApi]:
        """Listen on a free port of this machine."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=ssl_context)
        port = server.sockets[0].getsockname()[1]
        self.base_url = f"http{'s' if ssl_context else ''}://127.0.0.1:{port}"
        try:
            yield self
        finally:
            server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await server.wait_closed()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._connection(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                while await self._exchange(reader, writer):
                    pass
        finally:
            writer.close()
            with suppress(ConnectionError, OSError):
                await writer.wait_closed()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; returns whether the connection lives on."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method = head[0].split(" ")[1].rpartition("/")[2]
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        headers |= {
            name.lower(): value
            for name, value in (line.split(": ", 1) for line in head[1:] if line)
        }
        content = await reader.readexactly(int(headers.get("content-length", "0")))
        if method == "StreamLogs":
            message = REQUESTS[method].FromString(content[HEADER_BYTES:])
            self.requests.append(Request(method, headers, message))
            return await self._run(self.streams.popleft(), reader, writer)
        message = ParseDict(json.loads(content), REQUESTS[method]())
        self.requests.append(Request(method, headers, message))
        return await self._call(self.answers.popleft(), reader, writer)

    async def _call(
        self, answer: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        match answer:
            case Fail():
                answer = Reply(
                    400, {"content-type": "application/json"}, json.dumps(_connect(answer)).encode()
                )
            case Message():
                body = json.dumps(MessageToDict(answer)).encode()
                answer = Reply(200, {"content-type": "application/json"}, body)
            case Hold() | Cut() | Reply():
                pass
        return await self._step(answer, reader, writer)

    async def _run(
        self,
        steps: tuple[Step, ...],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        if not any(isinstance(step, Reply | Mute) for step in steps):
            writer.write(stream_head())
        for step in steps:
            match step:
                case Send(entries):
                    write_chunk(writer, b"".join(pack(e.SerializeToString()) for e in entries))
                case Body(data, size):
                    for at in range(0, len(data), size or len(data)):
                        write_chunk(writer, data[at : at + (size or len(data))])
                        await writer.drain()
                case Fail():
                    end = json.dumps({"error": _connect(step)}).encode()
                    write_chunk(writer, pack(end, FLAG_END))
                    writer.write(b"0\r\n\r\n")
                    return True
                case NoEnd():
                    writer.write(b"0\r\n\r\n")
                    return True
                case _:
                    return await self._step(step, reader, writer)
        write_chunk(writer, pack(b"{}", FLAG_END))
        writer.write(b"0\r\n\r\n")
        return True

    async def _step(
        self, step: object, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """The steps that calls and streams share."""
        match step:
            case Reply(status, headers, body):
                fields = {"content-length": str(len(body)), **headers}
                head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
                writer.write(f"HTTP/1.1 {status} Scripted\r\n{head}\r\n".encode() + body)
                return True
            case Hold() | Mute():
                await writer.drain()
                self.holding.set()
                await reader.read()
                self.left.set()
        await writer.drain()
        return False


def stream_head(**headers: str) -> bytes:
    """The head of a log stream's answer."""
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return (
        "HTTP/1.1 200 OK\r\ncontent-type: application/connect+proto\r\n"
        f"transfer-encoding: chunked\r\n{more}\r\n"
    ).encode()


def write_chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    """One piece of a chunked body."""
    if data:
        writer.write(b"%x\r\n%b\r\n" % (len(data), data))


def _connect(failure: Fail) -> dict[str, object]:
    """A Connect error; the values of details have no padding, as the protocol wants it."""
    details = [
        {
            "type": detail.DESCRIPTOR.full_name,
            "value": base64.b64encode(detail.SerializeToString()).decode().rstrip("="),
        }
        for detail in failure.details
    ]
    return {"code": failure.code, "message": failure.message, "details": details}


class GrpcApi(FakeApi):
    """The script over gRPC."""

    def __init__(self) -> None:
        super().__init__()
        self._server = grpc.aio.server()
        self._stops: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[GrpcApi]:
        """Listen on a free port of this machine."""
        parse: Callable[[str], Any] = lambda method: REQUESTS[method].FromString  # noqa: E731
        calls = {
            method: grpc.unary_unary_rpc_method_handler(
                self._unary(method), request_deserializer=parse(method), response_serializer=_dump
            )
            for method in ("GetSandbox", "ListSandboxes")
        }
        logs = grpc.unary_stream_rpc_method_handler(
            self._logs, request_deserializer=parse("StreamLogs"), response_serializer=_dump
        )
        handlers = grpc.method_handlers_generic_handler(SERVICE, {**calls, "StreamLogs": logs})
        self._server.add_generic_rpc_handlers((handlers,))
        self.base_url = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        try:
            yield self
        finally:
            await asyncio.gather(*self._stops)
            await self._server.stop(None)

    def _note(self, method: str, message: Message, context: Any) -> None:
        headers = {str(key): str(value) for key, value in context.invocation_metadata()}
        self.requests.append(Request(method, headers, message))

    def _unary(self, method: str) -> Callable[[Message, Any], Any]:
        async def handle(message: Message, context: Any) -> Message | None:
            self._note(method, message, context)
            answer = self.answers.popleft()
            if isinstance(answer, Message):
                return answer
            await self._step(answer, context)
            return None

        return handle

    async def _logs(self, message: Message, context: Any) -> AsyncIterator[Message]:
        self._note("StreamLogs", message, context)
        steps = self.streams.popleft()
        if steps and not isinstance(steps[0], Fail | Mute):
            await context.send_initial_metadata(())
        for step in steps:
            if isinstance(step, Send):
                for each in step.entries:
                    yield each
            else:
                await self._step(step, context)

    async def _step(self, step: object, context: Any) -> None:
        match step:
            case Fail(code, message, details):
                status = Status(message=message)
                for detail in details:
                    status.details.add().Pack(detail)
                # The official runtimes send the trailer only when there are details.
                trailers = (("grpc-status-details-bin", status.SerializeToString()),)
                name = "CANCELLED" if code == "canceled" else code.upper()
                await context.abort(grpc.StatusCode[name], message, trailers if details else ())
            case Hold() | Mute() | Cut():
                if isinstance(step, Cut):
                    self._stops.add(asyncio.ensure_future(self._server.stop(None)))
                self.holding.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    self.left.set()
            case _:
                raise NotImplementedError(f"gRPC cannot be told to {step}")


def _dump(message: Message) -> bytes:
    return message.SerializeToString()
