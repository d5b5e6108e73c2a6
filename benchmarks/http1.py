"""As much of HTTP/1.1 as the benchmark server needs, on a bare non-blocking socket.

`loop.sock_sendall` hands the kernel slices of the one prepared body; the stream classes would copy
what the socket does not take at once.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

_REASONS = {200: "OK", 404: "Not Found", 400: "Bad Request", 501: "Not Implemented"}


@dataclass(frozen=True, slots=True)
class Request:
    """One request; header names are lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class Connection:
    """One client connection, kept alive between requests."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()

    async def read_request(self) -> Request:
        """Wait for the next request.

        Raises:
            ConnectionError: The client is gone.
        """
        head = (await self._read_until(b"\r\n\r\n")).decode("latin-1")
        first, *rest = head.split("\r\n")
        method, path, _ = first.split(" ", 2)
        headers = {}
        for line in rest:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        if "chunked" in headers.get("transfer-encoding", ""):
            request_body = await self._read_chunked()
        else:
            request_body = await self._read_exactly(int(headers.get("content-length", "0")))
        return Request(method, path, headers, request_body)

    async def respond(self, status: int, content_type: str, content: bytes) -> None:
        """Send a whole answer."""
        await self.send(
            f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}\r\n"
            f"content-type: {content_type}\r\ncontent-length: {len(content)}\r\n\r\n".encode()
            + content
        )

    async def start_chunked(self, content_type: str) -> None:
        """Send the head of an answer whose chunks follow."""
        await self.send(
            f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\n"
            "transfer-encoding: chunked\r\n\r\n".encode()
        )

    async def send(self, content: bytes | bytearray | memoryview) -> None:
        """Send it all, at the client's pace, without copying it."""
        await self._loop.sock_sendall(self._sock, content)

    async def _read_chunked(self) -> bytes:
        whole = bytearray()
        while size := int((await self._read_until(b"\r\n")).split(b";")[0], 16):
            whole += await self._read_exactly(size)
            await self._read_exactly(2)
        await self._read_until(b"\r\n")
        return bytes(whole)

    async def _read_until(self, mark: bytes) -> bytes:
        while (found := self._buffer.find(mark)) < 0:
            await self._receive()
        taken = bytes(self._buffer[:found])
        del self._buffer[: found + len(mark)]
        return taken

    async def _read_exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            await self._receive()
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    async def _receive(self) -> None:
        received = await self._loop.sock_recv(self._sock, 1 << 16)
        if not received:
            raise ConnectionResetError("the client closed the connection")
        self._buffer += received
