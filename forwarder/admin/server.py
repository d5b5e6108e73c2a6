"""The admin endpoint: health, metrics and status over HTTP, for reading only.

It answers whoever can connect, so it listens on loopback unless told otherwise, shows nothing that
is secret, changes nothing, and spends little: requests, connections and time are limited. Nothing
that goes wrong here stops the forwarding.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from types import MappingProxyType
from typing import TYPE_CHECKING

import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from forwarder.admin.hosts import HostGuard
from forwarder.admin.metrics import CONTENT_TYPE, Exposition, Sample
from forwarder.admin.parts import document_json
from forwarder.admin.snapshots import Snapshots
from forwarder.admin.status import status_document
from forwarder.errors import SpoolError
from sinks.addresses import is_loopback

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Mapping

    from starlette.requests import Request
    from starlette.types import ASGIApp

    from forwarder.admin.health import Health
    from forwarder.clock import Clock
    from forwarder.metrics import Metrics
    from forwarder.spool.interface import SpoolOverview

_log = structlog.get_logger()

#: Connections at a time; the next one is closed at once.
MAX_CONNECTIONS = 64

#: A connection is for one request, and is cut after this time whatever it does.
CONNECTION_S = 30.0

#: Request line and headers together.
MAX_HEAD_BYTES = 16 << 10

#: How often an address that is taken is tried again.
BIND_RETRY_S = 30.0

#: On every answer, whatever it is.
_HEADERS = [
    ("Connection", "close"),
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
]


class AdminServer:
    """Serves `/livez`, `/readyz`, `/metrics` and `/status`.

    Attributes:
        bound: Where it listens, with the port that was chosen for port 0; None while it does not.
        listening: Set once `bound` is known.
    """

    def __init__(
        self,
        address: tuple[str, int],
        *,
        snapshot: Callable[[], Awaitable[SpoolOverview]],
        metrics: Metrics,
        health: Health,
        clock: Clock,
        letter_limits: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Prepare to serve; nothing is opened before `run`.

        Args:
            address: Host and port; port 0 for any free one.
            snapshot: `Spool.overview`; asked at most once a second.
            metrics: The engine's counters.
            health: What readiness depends on.
            clock: Time.
            letter_limits: By sink, the most that its dead letters may take.
        """
        self.bound: tuple[str, int] | None = None
        self.listening = asyncio.Event()
        self._address = address
        self._metrics = metrics
        self._health = health
        self._clock = clock
        self._letter_limits = letter_limits
        self._snapshots = Snapshots(snapshot, clock=clock)
        self._exposition = Exposition()

    async def run(self) -> None:
        """Serve until cancelled; every connection is closed then. To be called once.

        Nothing raises here. An address that cannot be had is told once and tried again every half
        minute, and so is whatever else may go wrong.
        """
        told = False
        try:
            while True:
                try:
                    with await _bind(self._address) as listener:
                        await self._serve(listener)
                except OSError as error:
                    if not told:
                        self._tell(error)
                    told = True
                except Exception:  # noqa: BLE001 - the top of a task: forwarding must go on
                    _log.exception("admin endpoint met a bug, starting it again")
                await self._clock.sleep(BIND_RETRY_S)
        finally:
            self._exposition.close()

    def _tell(self, error: OSError) -> None:
        host, port = self._address
        _log.warning(
            "admin endpoint cannot listen; forwarding goes on without it, and it is tried again",
            host=host,
            port=port,
            error=str(error),
            retry_s=BIND_RETRY_S,
        )

    async def _serve(self, listener: socket.socket) -> None:
        host, port = listener.getsockname()[:2]
        self.bound = (host, port)
        self.listening.set()
        _log.info("admin endpoint", host=host, port=port)
        server = _Server(_config(self._app()))
        serving = asyncio.create_task(server.serve(sockets=[listener]), name="admin http")
        try:
            await asyncio.shield(serving)
        finally:
            server.should_exit = True
            # Who waits for a disk that hangs is answered now, and does not hold up the stop.
            await self._snapshots.close()
            self.bound = None
            self.listening.clear()
            await serving
            server.abort_connections()

    def _app(self) -> ASGIApp:
        routes = [
            Route("/livez", _livez, methods=["GET"]),
            Route("/readyz", self._readyz, methods=["GET"]),
            Route("/metrics", self._get_metrics, methods=["GET"]),
            Route("/status", self._get_status, methods=["GET"]),
        ]
        app = Starlette(routes=routes)
        # Who opens the endpoint to other machines is reached by names that we cannot know.
        return HostGuard(app) if is_loopback(self._address[0]) else app

    # What is served ------------------------------------------------------------------------------

    async def _readyz(self, _: Request) -> Response:
        reasons = self._health.reasons()
        content = {"ready": not reasons, "reasons": reasons}
        return JSONResponse(content, 503 if reasons else 200)

    async def _get_metrics(self, _: Request) -> Response:
        """The counters of the process are shown even when the spool cannot be read."""
        overview: SpoolOverview | None
        try:
            overview = await self._snapshots.get()
        except SpoolError as error:
            _log.debug("metrics without the spool's numbers", error=str(error))
            overview = None
        # Without an await in between: all numbers of one answer are from one moment.
        sample = Sample(
            self._metrics,
            overview,
            ready=not self._health.reasons(),
            now_ns=self._clock.time_ns(),
        )
        return Response(self._exposition.render(sample), media_type=CONTENT_TYPE)

    async def _get_status(self, _: Request) -> Response:
        try:
            overview = await self._snapshots.get()
        except SpoolError as error:
            return JSONResponse({"error": str(error)}, 503)
        now_ns = self._clock.time_ns()
        # Thousands of streams take many milliseconds: not on the loop that forwards.
        body = await asyncio.to_thread(
            lambda: document_json(
                status_document(
                    overview,
                    daemon_pid=os.getpid(),
                    now_ns=now_ns,
                    letter_limits=self._letter_limits,
                )
            )
        )
        return Response(body, media_type="application/json")


async def _livez(_: Request) -> Response:
    """An answer is all there is to say: the event loop turns."""
    return PlainTextResponse("ok\n")


async def _bind(address: tuple[str, int]) -> socket.socket:
    """A socket bound to the first of the host's addresses that can be had.

    Raises:
        OSError: None can.
    """
    host, port = address
    found = await asyncio.get_running_loop().getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    failure: OSError | None = None
    for family, kind, protocol, _, where in found:
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setblocking(False)  # noqa: FBT003 - the socket module's own signature
            # Not a port that somebody listens on, only one whose old connections linger.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(where)
            # Listening is what fails when two share an address, so it is part of getting it.
            listener.listen(MAX_CONNECTIONS)
        except OSError as error:
            listener.close()
            failure = error
        else:
            return listener
    raise failure or OSError(f"{host} has no address")


def _config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=_Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        # At "warning" uvicorn tells every malformed request: whoever connects could fill our log.
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        headers=_HEADERS,
        backlog=MAX_CONNECTIONS,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=1,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
    )


class _Server(uvicorn.Server):
    """uvicorn as a part of a program that has a life of its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave the signals alone: they are the daemon's."""
        yield

    def abort_connections(self) -> None:
        """Cut what is still open."""
        for connection in list(self.server_state.connections):
            if isinstance(connection, H11Protocol):
                connection.transport.abort()


class _Connection(H11Protocol):
    """A connection with an end: whoever opens many, or sends slowly, holds nothing for long."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(  # type: ignore[override]  # the base narrows its own base's type likewise
        self, transport: asyncio.Transport
    ) -> None:
        """Accept the connection, unless there are too many."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
            return
        self._deadline = self.loop.call_later(CONNECTION_S, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline with the connection."""
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)
