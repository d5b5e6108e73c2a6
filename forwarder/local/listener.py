"""The service's port: hypercorn's protocols on sockets of our own, so that we can break them."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.typing import ConnectionState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Application = Callable[[Any, Any, Any, Any], Awaitable[None]]

LOOPBACK = "127.0.0.1"
_BACKLOG = 1024
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_KEEP_ALIVE_S = 300


class Connection:
    """One client's TCP connection."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    def reset(self) -> None:
        """RST: what was not sent yet is lost, and the client notices at once."""
        sock = self._writer.get_extra_info("socket")
        if sock is not None:
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._writer.transport.abort()


class _HttpConnection(TCPServer):
    """Hypercorn's handler of one connection, which ends when its client has gone.

    Its own would stay for the whole keep-alive time, waiting for another request.
    """

    _client_gone = False

    async def _read_data(self) -> None:
        await super()._read_data()
        self._client_gone = True
        await self.idle_task.stop()

    async def protocol_send(self, event: Event) -> None:
        """Send, or begin to wait for the next request, which nobody will make any more."""
        if isinstance(event, RawData) and self.writer.transport.is_closing():
            # asyncio would take the bytes, and warn of each write that has nowhere to go.
            await self.protocol.handle(Closed())
        elif not (self._client_gone and isinstance(event, Updated)):
            await super().protocol_send(event)


class Listener:
    """Listens on a loopback port, can stop and listen again, and knows its connections.

    Args:
        app: Called as `app(connection, scope, receive, send)` for every request.
    """

    def __init__(self, app: Application, port: int, max_concurrent_streams: int) -> None:
        self._app = app
        self._wanted_port = port
        self._config = _config(max_concurrent_streams)
        self._context = WorkerContext(None)
        self._server: asyncio.Server | None = None
        self._reserved: socket.socket | None = None
        self._connections: dict[Connection, asyncio.Task[None]] = {}

    @property
    def port(self) -> int:
        """The port, known once it listens."""
        assert self._reserved is not None
        return int(self._reserved.getsockname()[1])

    async def open(self) -> None:
        """Begin to listen.

        Raises:
            OSError: The port is taken.
        """
        if self._reserved is None:
            # Bound but never listening: while the service is down the port refuses connections,
            # and nobody else gets it.
            self._reserved = _bound(self._wanted_port)
        self._server = await asyncio.start_server(
            self._accept, sock=_bound(self.port), backlog=_BACKLOG
        )

    async def close(self, spare: Connection | None = None) -> None:
        """Stop listening and reset every connection but `spare`; returns when they are gone."""
        if self._server is not None:
            self._server.close()
            self._server = None
        doomed = {c: task for c, task in self._connections.items() if c is not spare}
        for connection in doomed:
            connection.reset()
        if doomed:
            _, slow = await asyncio.wait(doomed.values(), timeout=1)
            for task in slow:
                task.cancel()
            await asyncio.gather(*slow, return_exceptions=True)

    def release(self) -> None:
        """Give the port back."""
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(writer)
        task = asyncio.get_running_loop().create_task(self._serve(connection, reader, writer))
        self._connections[connection] = task
        task.add_done_callback(lambda _: self._connections.pop(connection, None))

    async def _serve(
        self, connection: Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await self._app(connection, scope, receive, send)

        await _HttpConnection(
            ASGIWrapper(app),
            asyncio.get_running_loop(),
            self._config,
            self._context,
            ConnectionState({}),
            reader,
            writer,
        )


def _bound(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((LOOPBACK, port))
    except OSError:
        sock.close()
        raise
    sock.settimeout(0)
    return sock


def _config(max_concurrent_streams: int) -> Config:
    config = Config()
    config.errorlog = logging.getLogger("forwarder.local")
    config.accesslog = None
    config.h2_max_concurrent_streams = max_concurrent_streams
    config.keep_alive_timeout = _KEEP_ALIVE_S
    # Hypercorn ends an HTTP/2 connection, with all its streams, after so many requests.
    config.keep_alive_max_requests = 2**31
    return config
