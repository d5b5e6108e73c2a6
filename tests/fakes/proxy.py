"""A TCP proxy that misbehaves as told, in front of any service on this machine."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from types import TracebackType

LOOPBACK = "127.0.0.1"
_BACKLOG = 4096
_READ_BYTES = 1 << 16
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What happens to the bytes of a connection; by default they pass.

    Attributes:
        answers: Whether the service is connected at all; else the connection is accepted, and
            nothing ever comes.
        stalled: Nothing is passed on, soon nothing is read any more, and nothing is closed.
        swallow_after_bytes: After so many bytes from the service the rest disappears, both ways;
            the connection stays.
        delay_s: How long every read waits before it is passed on.
        bytes_per_s: The most that passes in each direction; None is no limit.
        piece_bytes: The most that is written at once.
    """

    answers: bool = True
    stalled: bool = False
    swallow_after_bytes: int | None = None
    delay_s: float = 0.0
    bytes_per_s: float | None = None
    piece_bytes: int = _READ_BYTES


PASS = Behaviour()
STALL = Behaviour(stalled=True)
MUTE = Behaviour(answers=False)
ONE_BYTE_WRITES = Behaviour(piece_bytes=1)


class TcpProxy:
    """The proxy, as an async context manager; leaving cuts every connection.

    Args:
        upstream: The service's address, such as `http://127.0.0.1:8080`.

    Attributes:
        connections: How many were accepted so far.
        idle_cut_s: Connections over which nothing came for so long are closed, as a load balancer
            does; None never. It counts for connections from now on.
    """

    def __init__(self, upstream: str) -> None:
        address = urlsplit(upstream)
        assert address.hostname is not None
        assert address.port is not None
        self._upstream = (address.hostname, address.port)
        self._behaviour = PASS
        self._server: asyncio.Server | None = None
        self._open: set[_Connection] = set()
        self._opened_s: list[float] = []
        self.idle_cut_s: float | None = None

    @property
    def base_url(self) -> str:
        """Where the proxy is."""
        assert self._server is not None
        return f"http://{LOOPBACK}:{self._server.sockets[0].getsockname()[1]}"

    @property
    def connections(self) -> int:
        """How many were accepted so far."""
        return len(self._opened_s)

    @property
    def open_connections(self) -> int:
        """How many there are now."""
        return len(self._open)

    def peak_per_s(self, since: int = 0) -> int:
        """The most that were opened within any second, of those after the first `since`."""
        window: collections.deque[float] = collections.deque()
        peak = 0
        for moment_s in self._opened_s[since:]:
            window.append(moment_s)
            while window[0] <= moment_s - 1.0:
                window.popleft()
            peak = max(peak, len(window))
        return peak

    def behave(self, behaviour: Behaviour, *, existing: bool = True) -> None:
        """Treat new connections so from now on, and those that exist as well.

        What a connection has done already stays: who was accepted without being connected to the
        service never is.
        """
        self._behaviour = behaviour
        if existing:
            for connection in self._open:
                connection.behave(behaviour)

    def cut(self, how: Literal["reset", "close"] = "reset") -> int:
        """End every connection now, with RST or with FIN; returns how many there were."""
        for connection in tuple(self._open):
            connection.end(how)
        return len(self._open)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._accept, LOOPBACK, 0, backlog=_BACKLOG, limit=_READ_BYTES
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        while self._open:
            self.cut()
            await asyncio.gather(*(one.ended.wait() for one in self._open))
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._opened_s.append(asyncio.get_running_loop().time())
        connection = _Connection(reader, writer, self._behaviour, self.idle_cut_s)
        self._open.add(connection)
        try:
            await connection.serve(self._upstream)
        finally:
            connection.ended.set()
            self._open.discard(connection)


class _Connection:
    """One client's connection, with the one to the service behind it."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        behaviour: Behaviour,
        idle_cut_s: float | None,
    ) -> None:
        self.ended = asyncio.Event()
        self._reader = reader
        self._writer = writer
        self._behaviour = behaviour
        self._idle_cut_s = idle_cut_s
        self._changed = asyncio.Condition()
        self._ending = asyncio.Event()
        self._how: Literal["reset", "close"] = "close"
        self._heard_s = asyncio.get_running_loop().time()
        self._answered_bytes = 0
        self._waking: set[asyncio.Task[None]] = set()

    def behave(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        task = asyncio.create_task(self._wake())
        self._waking.add(task)
        task.add_done_callback(self._waking.discard)

    def end(self, how: Literal["reset", "close"]) -> None:
        self._how = how
        self._ending.set()

    async def serve(self, upstream: tuple[str, int]) -> None:
        """Pass bytes on until one side ends it, or we are told to."""
        passing = asyncio.create_task(self._pass(upstream))
        ends = [passing, asyncio.create_task(self._ending.wait())]
        if self._idle_cut_s is not None:
            ends.append(asyncio.create_task(self._wait_idle(self._idle_cut_s)))
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in ends:
                task.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
            _end(self._writer, self._how)

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _wait_idle(self, idle_s: float) -> None:
        loop = asyncio.get_running_loop()
        while (left_s := self._heard_s + idle_s - loop.time()) > 0:
            await asyncio.sleep(left_s)

    async def _pass(self, upstream: tuple[str, int]) -> None:
        if not self._behaviour.answers:
            await asyncio.Event().wait()
        # A service that is away is a connection that ends at once.
        with contextlib.suppress(ConnectionError):
            reader, writer = await asyncio.open_connection(*upstream, limit=_READ_BYTES)
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._pump(self._reader, writer, answers=False))
                    both.create_task(self._pump(reader, self._writer, answers=True))
            except* ConnectionError:
                self._how = "reset"
            finally:
                _end(writer, self._how)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        while True:
            await self._unstalled()
            data = await reader.read(_READ_BYTES)
            await self._unstalled()
            self._heard_s = asyncio.get_running_loop().time()
            if self._behaviour.delay_s:
                await asyncio.sleep(self._behaviour.delay_s)
            if not data:
                break
            if answers:
                self._answered_bytes += len(data)
            await self._write(writer, data[: len(data) - self._swallowed(len(data), answers)])
        # Behind a black hole nobody sees the end of a connection either.
        if self._behaviour.swallow_after_bytes is not None:
            await asyncio.Event().wait()
        if writer.can_write_eof():
            writer.write_eof()

    def _swallowed(self, size: int, answers: bool) -> int:
        """How many of the newest bytes disappear."""
        if self._behaviour.swallow_after_bytes is None:
            return 0
        beyond = max(0, self._answered_bytes - self._behaviour.swallow_after_bytes)
        return min(size, beyond) if answers or not beyond else size

    async def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        while data:
            await self._unstalled()
            piece = data[: self._behaviour.piece_bytes]
            data = data[len(piece) :]
            writer.write(piece)
            await writer.drain()
            if self._behaviour.bytes_per_s is not None:
                await asyncio.sleep(len(piece) / self._behaviour.bytes_per_s)
            elif data:
                await asyncio.sleep(0)  # a write of its own, on the wire too

    async def _unstalled(self) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: not self._behaviour.stalled)


def _end(writer: asyncio.StreamWriter, how: Literal["reset", "close"]) -> None:
    """Close a connection, with RST or with FIN."""
    sock = writer.get_extra_info("socket")
    if how == "reset" and sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        writer.transport.abort()
    else:
        writer.close()
