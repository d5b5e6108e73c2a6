"""A destination for OTLP over HTTP that costs next to nothing: it keeps every body and answers 200.

It shares the cores with what is measured, so it reads straight into the memory where a body stays,
and looks into none; that is done after the measurement, by `benchmarks.delivered`. Run as a process
of its own: `python -m benchmarks.destination` prints its port, which refuses connections until a
line comes on standard input, and lives until its standard input ends.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from typing import cast

import uvloop

from benchmarks.delivered import Body

#: Where the measurement gets back what was kept; not part of OTLP.
KEPT_PATH = "/benchmark/kept"

_MAX_HEAD_BYTES = 1 << 16
_HEAD_END = b"\r\n\r\n"
#: Without a body: a full success.
_TAKEN = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n"


class Receiver(asyncio.BufferedProtocol):
    """One connection. A head and its body are read into buffers of their own, without a copy."""

    def __init__(self, kept: list[Body]) -> None:
        self._kept = kept
        self._head = bytearray(_MAX_HEAD_BYTES)
        self._body: bytearray | None = None
        self._filled = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes.
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return memoryview(self._head if self._body is None else self._body)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        if self._body is None:
            self._read_head()
        if self._body is not None and self._filled == len(self._body):
            self._kept.append(Body(time.time_ns(), self._body))
            self._begin_anew(_TAKEN)

    def _read_head(self) -> None:
        end = self._head.find(_HEAD_END, 0, self._filled)
        if end < 0:
            if self._filled == len(self._head):
                self._close()
            return
        first, *rest = self._head[:end].decode("latin-1").split("\r\n")
        if first.startswith(f"GET {KEPT_PATH} "):
            self._begin_anew(_whole(self._kept))
            return
        headers = dict(line.lower().split(":", 1) for line in rest)
        surplus = self._head[end + len(_HEAD_END) : self._filled]
        size_bytes = int(headers.get("content-length", "-1"))
        if not first.startswith("POST ") or not len(surplus) <= size_bytes:
            # Neither chunks nor a second request behind the first: nothing here sends them.
            self._close()
            return
        self._body = bytearray(size_bytes)
        self._body[: len(surplus)] = surplus
        self._filled = len(surplus)

    def _begin_anew(self, answer: bytes) -> None:
        assert self._transport is not None
        self._body, self._filled = None, 0
        self._transport.write(answer)

    def _close(self) -> None:
        assert self._transport is not None
        self._transport.abort()


def _whole(kept: list[Body]) -> bytes:
    content = b"".join(body.framed() for body in kept)
    head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(content)}\r\n\r\n"
    return head.encode() + content


async def serve(listener: socket.socket) -> asyncio.Server:
    """Take connections from now on."""
    kept: list[Body] = []
    return await asyncio.get_running_loop().create_server(lambda: Receiver(kept), sock=listener)


async def main() -> None:
    """Have a port, then take connections, then end, each when standard input says so."""
    loop = asyncio.get_running_loop()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        print(listener.getsockname()[1], flush=True)
        if not await loop.run_in_executor(None, sys.stdin.readline):
            return
        async with await serve(listener):
            print("listening", flush=True)
            await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(main())
