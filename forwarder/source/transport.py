"""HTTP for thousands of log streams: one httpx client over aiohttp, and the border around both.

This is the only module that knows aiohttp. Its exceptions, httpx's and the operating system's are
translated in one place, `foreign_errors`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING

import aiohttp
import httpx
from aiohttp.http_exceptions import HttpProcessingError
from httpx_aiohttp import AiohttpTransport
from httpx_aiohttp.transport import AiohttpResponseStream

from forwarder.errors import SourceUnavailableError
from forwarder.source.errors_map import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator


#: The largest piece handed over at once. aiohttp stops reading a connection at twice this, so it
#: also bounds what a stream holds whose reader is busy.
READ_BYTES = 128 * 1024

#: Probing a silent connection from the 20th second, a vanished peer is noticed after 40 seconds.
_SOCKET_OPTIONS = (
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 20),
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 5),
    (socket.IPPROTO_TCP, "TCP_KEEPCNT", 4),
    (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", 40_000),
)

#: Everything that a request can raise and that is not ours. OSError covers sockets, TLS
#: (ssl.SSLError) and timeouts (TimeoutError); EOFError is asyncio.IncompleteReadError.
_FOREIGN = (
    httpx.HTTPError,
    httpx.InvalidURL,
    httpx.StreamError,
    aiohttp.ClientError,
    aiohttp.EofStream,
    HttpProcessingError,
    OSError,
    EOFError,
)


class LazyClient:
    """One HTTP client, made at the first call and closed for good."""

    def __init__(self, ssl_context: ssl.SSLContext | None, *, secure: bool) -> None:
        """See `new_client`."""
        self._ssl_context = ssl_context
        self._secure = secure
        self._client: httpx.AsyncClient | None = None
        self._closed = False

    def get(self) -> httpx.AsyncClient:
        """The client.

        Raises:
            SourceUnavailableError: It was closed.
        """
        if self._closed:
            raise SourceUnavailableError("the source is closed", code="connection")
        if self._client is None:
            self._client = new_client(self._ssl_context, secure=self._secure)
        return self._client

    async def close(self) -> None:
        """Close every connection; may be called again."""
        self._closed = True
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(SourceUnavailableError), foreign_errors("closing"):
                await client.aclose()


@contextlib.contextmanager
def foreign_errors(what: str) -> Iterator[None]:
    """Turn every foreign exception into SourceUnavailableError; cancellation passes.

    Args:
        what: What was asked of the API, for the message.
    """
    try:
        yield
    except _FOREIGN as error:
        raise SourceUnavailableError(
            f"{what} failed: {_describe(error)}", code="connection"
        ) from error


def _describe(error: BaseException) -> str:
    """The cause, where there is one: httpx-aiohttp calls a lost connection a ConnectTimeout."""
    if isinstance(error, httpx.HTTPError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, aiohttp.ClientConnectorError):
        host = f"[{error.host}]" if ":" in error.host else error.host
        return f"cannot connect to {host}:{error.port}: {_why(error)}"
    return f"{type(error).__name__}: {one_line(str(error))}" if str(error) else type(error).__name__


def _why(error: aiohttp.ClientConnectorError) -> str:
    """Why there is no connection, in the system's words."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return one_line(str(error.certificate_error))
    cause = error.os_error
    if isinstance(cause, socket.gaierror):
        return one_line(cause.strerror or str(cause)).lower()
    if cause.errno is None or isinstance(cause, ssl.SSLError):
        return one_line(str(cause))
    return os.strerror(cause.errno).lower()


def new_client(ssl_context: ssl.SSLContext | None, *, secure: bool) -> httpx.AsyncClient:
    """One client for everything: no connection limit, no redirects, no cookies.

    Must be called, used and closed on one event loop.

    Args:
        ssl_context: None for the usual verification (`SSL_CERT_FILE` is obeyed).
        secure: Whether requests go out over TLS. Only then are the environment's proxies used: to
            a proxy, a plain http request would show the key.
    """
    if ssl_context is None:
        ssl_context = httpx.create_ssl_context()
        ssl_context.set_alpn_protocols(["http/1.1"])

    def new_session() -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(ssl=ssl_context, limit=0, socket_factory=_new_socket)
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=READ_BYTES,
            trust_env=secure,
        )

    return httpx.AsyncClient(
        transport=_LargeReads(verify=ssl_context, client=new_session),
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        follow_redirects=False,
        trust_env=False,
    )


class _LargeReads(AiohttpTransport):
    """Hands a body over in the pieces in which it arrives.

    The adapter's own 16 KiB pieces nearly halve the throughput of 16 KiB messages.
    """

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        if isinstance(response.stream, AiohttpResponseStream):
            response.stream.CHUNK_SIZE = READ_BYTES
        return response


def _new_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A socket whose half-open connection is noticed, however long a log is silent."""
    family, kind, protocol, *_ = address
    sock = socket.socket(family, kind, protocol)
    for level, name, value in _SOCKET_OPTIONS:
        option = getattr(socket, name, None)  # not every system has every option
        if option is not None:
            sock.setsockopt(level, option, value)
    return sock
