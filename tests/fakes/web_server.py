"""A scripted HTTP/1.1 server on raw streams: it does what real servers do rarely, and on cue.

It records every request, and answers with the next scripted reply, else with what a handler says,
else with a default. It keeps connections alive, takes bodies with a length and in chunks, and never
waits for time to pass: a stall lasts until the client or this server leaves.
"""

from __future__ import annotations

import asyncio
import gzip
import inspect
import socket
import struct
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal, Self, TypeAlias

import zstandard

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Mapping

Fault: TypeAlias = Literal[
    "",
    "stall",  # the request is taken, and nothing is answered
    "stall_in_body",  # half of the answer's body comes, and no more
    "reset",  # the connection is reset as soon as the head of the request is there
    "reset_after_body_taken",  # the request is taken whole, then the connection is reset
    "cut_answer",  # half of the answer's body comes, then the connection is closed
    "endless_body",  # the answer's body comes again and again
    "early_answer",  # the whole answer comes before the body is read; that is thrown away
    "early_answer_and_gone",  # the same, but nothing of the body is read, and the server leaves
    "deaf",  # the body of the request is never read, and nothing is answered
    "close_afterwards",  # the answer does not say so, but the connection is closed behind it
    "not_http",  # the body comes bare, then the connection is closed
]

#: What happens before the body of the request is read.
_EARLY: frozenset[Fault] = frozenset({"reset", "early_answer", "early_answer_and_gone", "deaf"})

_MAX_HEAD_BYTES = 1 << 20
#: Everything that is sent before the client has to read: more than any limit on answers.
_ENDLESS_PIECE = b"x" * 65_536


@dataclass(frozen=True)
class Reply:
    """One answer, and what goes wrong with it."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    fault: Fault = ""


@dataclass(frozen=True)
class Request:
    """One request.

    Attributes:
        path: With its query, as sent.
        headers: Names in lower case.
        raw: The body as sent, without the framing of chunks; empty when it was not read.
        body: The body, decompressed when its content-encoding is gzip or zstd.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    raw: bytes = b""

    @property
    def body(self) -> bytes:
        match self.headers.get("content-encoding"):
            case "gzip":
                return gzip.decompress(self.raw)
            case "zstd":
                return zstandard.ZstdDecompressor().decompressobj().decompress(self.raw)
            case _:
                return self.raw


class WebServer:
    """The server; it listens on 127.0.0.1 while the `async with` lasts, and its tasks end there.

    Args:
        replies: Used first, one for each request in order of arrival.
        default: The answer when there is no reply left and no handler.
        handler: Makes the answer from the request when there is no reply left. It may wait.
        tls: Speak TLS with this context; the certificate needs the address 127.0.0.1.
        port: Listen on this port, say that of a server before; 0 for a free one.

    Attributes:
        requests: Every request whose head was read, in order.
        replies: What is still to be answered; a test may add to it.
        connections: How many were ever accepted.
        open_connections: How many are open now.
    """

    def __init__(
        self,
        *replies: Reply,
        default: Reply | None = None,
        handler: Callable[[Request], Reply | Awaitable[Reply]] | None = None,
        tls: ssl.SSLContext | None = None,
        port: int = 0,
    ) -> None:
        self.requests: list[Request] = []
        self.replies = deque(replies)
        self.connections = 0
        self.port = port
        self._default = Reply() if default is None else default
        self._handler = handler
        self._tls = tls
        self._news = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """The address, without a slash at its end."""
        return f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self.port}"

    @property
    def open_connections(self) -> int:
        return len(self._tasks)

    async def wait_for(self, count: int) -> None:
        """Wait until so many requests have come; such as were answered before count, too."""
        async with self._news:
            await self._news.wait_for(lambda: len(self.requests) >= count)

    async def wait_for_connections(self, count: int) -> None:
        """Wait until so many connections are open, no more and no fewer."""
        async with self._news:
            await self._news.wait_for(lambda: len(self._tasks) == count)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._connected, "127.0.0.1", self.port, ssl=self._tls, limit=_MAX_HEAD_BYTES
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connections += 1
        self._tasks.add(task)
        await self._tell()
        try:
            while await self._one(reader, writer):
                pass
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # the client left, or the server does
        finally:
            self._tasks.discard(task)
            writer.close()
            with suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()
            await self._tell()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Take one request and answer it; whether the connection lives on."""
        head = await _head(reader)
        if head is None:
            return False
        scripted = self._scripted(head)
        if scripted is not None and scripted.fault in _EARLY:
            await self._record(head)
            return await _answer(reader, writer, scripted, head)
        request = Request(head.method, head.path, head.headers, await _body(reader, head.headers))
        await self._record(request)
        return await _answer(reader, writer, scripted or await self._reply(request), request)

    async def _record(self, request: Request) -> None:
        self.requests.append(request)
        await self._tell()

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()

    def _scripted(self, head: Request) -> Reply | None:
        """What is answered whatever the body; a subclass may choose by the head."""
        del head
        return self.replies.popleft() if self.replies else None

    async def _reply(self, request: Request) -> Reply:
        if self._handler is None:
            return self._default
        made = self._handler(request)
        return await made if inspect.isawaitable(made) else made


async def _head(reader: asyncio.StreamReader) -> Request | None:
    try:
        text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = text[:-4].split("\r\n")
    method, path, _ = first.split(" ")
    pairs = (line.split(":", 1) for line in lines)
    return Request(method, path, {name.lower(): value.strip() for name, value in pairs})


async def _body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() != "chunked":
        return await reader.readexactly(int(headers.get("content-length", "0")))
    body = bytearray()
    while size := int((await reader.readline()).split(b";")[0], 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readuntil(b"\r\n")  # trailers are not expected
    return bytes(body)


async def _answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, reply: Reply, request: Request
) -> bool:
    """Send the answer as scripted; whether the connection lives on."""
    match reply.fault:
        case "stall":
            await _until_the_client_leaves(reader)
        case "deaf":
            await asyncio.Event().wait()  # until this server leaves
        case "reset" | "reset_after_body_taken":
            return _reset(writer)
        case "not_http":
            writer.write(reply.body)
        case "stall_in_body" | "cut_answer":
            writer.write(_answer_head(reply) + reply.body[: len(reply.body) // 2])
            await writer.drain()
            if reply.fault == "stall_in_body":
                await _until_the_client_leaves(reader)
        case "endless_body":
            writer.write(_answer_head(reply, length=None))
            while True:
                writer.write(reply.body or _ENDLESS_PIECE)
                await writer.drain()
        case _:
            body = b"" if request.method == "HEAD" else reply.body
            writer.write(_answer_head(reply) + body)
    await writer.drain()
    if reply.fault == "early_answer":
        await _until_the_client_leaves(reader)
    asked = {request.headers.get("connection"), _header(reply, "connection")}
    return reply.fault == "" and "close" not in asked


def _answer_head(reply: Reply, *, length: bool | None = True) -> bytes:
    phrase = HTTPStatus(reply.status).phrase if reply.status in set(HTTPStatus) else "Scripted"
    lines = [f"HTTP/1.1 {reply.status} {phrase}"]
    lines += [f"{name}: {value}" for name, value in reply.headers.items()]
    if reply.fault.startswith("early_answer"):
        lines.append("connection: close")
    bodyless = reply.status in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}
    if length and not bodyless and not _header(reply, "content-length"):
        lines.append(f"content-length: {len(reply.body)}")
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1")


def _header(reply: Reply, wanted: str) -> str:
    return next((v for name, v in reply.headers.items() if name.lower() == wanted), "")


def _reset(writer: asyncio.StreamWriter) -> bool:
    """Close so that the client sees a reset, and not an end."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    return False


async def _until_the_client_leaves(reader: asyncio.StreamReader) -> None:
    while await reader.read(65_536):
        pass
