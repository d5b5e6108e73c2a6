"""HTTP for sinks: one request and one bounded answer.

Redirects are not followed, cookies not kept, answers not decompressed, and proxies of the
environment used for https only. No message ever holds a header's value, nor more of an address than
scheme, host and port: paths and queries can be secrets, too.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx

from sinks.addresses import is_link_local
from sinks.answers import Answer, StatusTable, origin, printable, verdict
from sinks.credentials import concealed, secret_headers, tls_context
from sinks.early_answers import hear_early_answers
from sinks.interface import SinkMisconfiguredError
from sinks.no_answer import no_answer
from sinks.server import TlsSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Mapping

    from sinks.server import ServerSettings

__all__ = [
    "MAX_ANSWER_BYTES",
    "Answer",
    "StatusTable",
    "WebClient",
    "no_answer",
    "origin",
    "printable",
    "secret_headers",
    "tls_context",
    "verdict",
]

#: Of an answer that nobody needs more of; a hostile or broken server may send one without end.
MAX_ANSWER_BYTES = 64 * 1024


class WebClient:
    """Requests of one sink. Use it on one event loop.

    Args:
        settings: Time limits, credentials, how the server is verified.
        is_forbidden: Whether a number must not be connected to, wherever the name came from.
    """

    def __init__(
        self, settings: ServerSettings, *, is_forbidden: Callable[[str], bool] = is_link_local
    ) -> None:
        """Touches nothing until `open`."""
        self._settings = settings
        self._is_forbidden = is_forbidden
        self._pool: _Pool | None = None
        self._is_in_doubt = False

    async def open(self) -> None:
        """Read certificates and get ready; connects at the first request.

        Raises:
            SinkMisconfiguredError: A certificate or key cannot be used, or a proxy's address.
        """
        await self.close()
        for name in ("httpx", "httpcore.http11"):
            logging.getLogger(name).addFilter(_without_secrets)
        context = await _context(self._settings)
        try:
            self._pool = _new_pool(self._settings, context)
        except (ValueError, ImportError, httpx.InvalidURL):
            # Its own message has the proxy's address, maybe with a password.
            text = "the proxy of the environment (https_proxy, all_proxy) is no http:// address"
            raise SinkMisconfiguredError(text) from None

    async def close(self) -> None:
        """Close every connection; may be called again, and before `open`."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.client.aclose()

    async def post(
        self,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> Answer:
        """Send a body; the settings' headers and credentials are added."""
        return await self.request("POST", url, body, headers, max_answer_bytes=max_answer_bytes)

    async def request(
        self,
        method: str,
        url: str,
        body: bytes | AsyncIterable[bytes] | None,
        headers: Mapping[str, str],
        *,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> Answer:
        """Make a request and read its answer, whatever the status.

        What the answer to a refused request repeats of our secrets is taken out of it. A body that
        comes in pieces needs a `content-length` among the headers; an answer that comes before the
        last piece is the answer all the same.

        Raises:
            SinkUnavailableError: No answer, or not in time.
            SinkMisconfiguredError: The certificate does not verify, the name leads to a forbidden
                address, or a secret cannot be read.
        """
        secret = secret_headers(self._settings)
        if self._is_in_doubt:
            await self._renew()
        with self._border(url):
            # The library's own limits begin again with every byte.
            async with asyncio.timeout(self._settings.timeout):
                async with self._response(method, url, body, {**secret, **headers}) as response:
                    answer = await _read(response, max_answer_bytes)
        refused = answer.status >= 300  # noqa: PLR2004 - whatever is no success
        return concealed(answer, [*secret.values(), url]) if refused else answer

    @asynccontextmanager
    async def stream(
        self, url: str, headers: Mapping[str, str]
    ) -> AsyncIterator[tuple[Answer, AsyncIterator[bytes]]]:
        """A GET whose answer may be large: its status and headers, and its body in pieces.

        The body of anything but a success is in the answer, as much of it as `request` reads; then
        there are no pieces. The limit of time ends where the pieces begin; silence has one there,
        too.

        Raises:
            SinkUnavailableError: No answer, or it broke off; also from the pieces.
            SinkMisconfiguredError: As `request`.
        """
        secret = secret_headers(self._settings)
        if self._is_in_doubt:
            await self._renew()
        async with AsyncExitStack() as stack:
            with self._border(url):
                async with asyncio.timeout(self._settings.timeout):
                    response = await stack.enter_async_context(
                        self._response("GET", url, None, {**secret, **headers})
                    )
                    success = response.is_success
                    refused = None if success else await _read(response, MAX_ANSWER_BYTES)
            if refused is not None:
                yield concealed(refused, [*secret.values(), url]), _nothing()
            else:
                answer = Answer(response.status_code, _lower(response), whole=False)
                yield answer, self._pieces(response, url)

    async def _pieces(self, response: httpx.Response, url: str) -> AsyncIterator[bytes]:
        with self._border(url):
            async with aclosing(response.aiter_raw()) as pieces:  # type: ignore[type-var]  # a generator
                async for piece in pieces:
                    yield piece

    @contextmanager
    def _border(self, url: str) -> Iterator[None]:
        """Where the library's errors end."""
        try:
            yield
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
            self._is_in_doubt = self._settings.tls.cert_file is not None
            raise no_answer(error, url) from error

    @asynccontextmanager
    async def _response(
        self,
        method: str,
        url: str,
        body: bytes | AsyncIterable[bytes] | None,
        headers: Mapping[str, str],
    ) -> AsyncIterator[httpx.Response]:
        pool = self._pool
        assert pool is not None, "open comes first"
        pool.users += 1
        ours = {"accept-encoding": "identity", "user-agent": "sandbox-forwarder"}
        extensions = {"trace": self._traced}
        try:
            async with pool.client.stream(
                method,
                url,
                content=body,
                headers=httpx.Headers({**ours, **headers}),
                extensions=extensions,
            ) as response:
                yield response
        except asyncio.CancelledError:
            # The library loses a connection that is cancelled between its beginning and its first
            # request: it counts for ever, and in the end there is none left.
            if pool is self._pool:
                self._pool = _new_pool(self._settings, pool.context)
            raise
        finally:
            pool.users -= 1
            if not pool.users and pool is not self._pool:
                await pool.client.aclose()

    async def _renew(self) -> None:
        """Read the certificates again: some servers close without a word to one that expired."""
        context = await _context(self._settings)
        before, self._pool = self._pool, _new_pool(self._settings, context)
        self._is_in_doubt = False
        if before is not None and not before.users:
            await before.client.aclose()

    async def _traced(self, event: str, info: Mapping[str, Any]) -> None:
        await self._refuse_forbidden(event, info)
        hear_early_answers(event, info)

    async def _refuse_forbidden(self, event: str, info: Mapping[str, Any]) -> None:
        """Look where a connection leads before anything is sent: names can lead anywhere."""
        if not event.endswith(".connect_tcp.complete"):
            return
        stream = info["return_value"]
        address = stream.get_extra_info("server_addr")
        if address is None:  # nobody knows who it was, since it is gone already
            await stream.aclose()
            raise httpx.ConnectError("the connection was closed at once")
        if self._is_forbidden(address[0]):
            await stream.aclose()
            raise SinkMisconfiguredError(
                f"the name in the address leads to {printable(address[0])}, a link-local address,"
                " such as those of metadata services: mend the address"
            )


@dataclass
class _Pool:
    """Connections, and how many requests are under way on them."""

    client: httpx.AsyncClient
    context: ssl.SSLContext
    users: int = 0


def _new_pool(settings: ServerSettings, context: ssl.SSLContext) -> _Pool:
    client = httpx.AsyncClient(
        verify=context,
        timeout=httpx.Timeout(settings.idle_timeout_s, connect=settings.connect_timeout),
        limits=httpx.Limits(max_connections=settings.in_flight + 1),
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        follow_redirects=False,
        trust_env=all(_is_https(url) for url in settings.endpoints.values()),
    )
    return _Pool(client, context)


async def _context(settings: ServerSettings) -> ssl.SSLContext:
    urls = settings.endpoints.values()
    if urls and settings.tls == TlsSettings() and not any(map(_is_https, urls)):
        # Not used, and it trusts nobody: reading the system's authorities takes its time.
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return await asyncio.to_thread(tls_context, settings.tls)


def _is_https(url: str) -> bool:
    return urlsplit(url).scheme == "https"


async def _read(response: httpx.Response, max_bytes: int) -> Answer:
    """At most so much of the body; the connection is given up when there is more."""
    headers = _lower(response)
    body = bytearray()
    whole = True
    async with aclosing(response.aiter_raw()) as pieces:  # type: ignore[type-var]  # a generator
        async for piece in pieces:
            body += piece
            if len(body) > max_bytes:
                del body[max_bytes:]
                whole = False
                break
    if headers.get("content-encoding", "identity").lower() != "identity":
        return Answer(response.status_code, headers, b"", whole=False)
    return Answer(response.status_code, headers, bytes(body), whole)


def _lower(response: httpx.Response) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""


def _without_secrets(record: logging.LogRecord) -> bool:
    """For the HTTP libraries' logs: of addresses only the origin stays, of answers no header."""
    if isinstance(record.args, tuple):
        shown = (origin(str(arg)) if isinstance(arg, httpx.URL) else arg for arg in record.args)
        record.args = tuple(shown)
    record.msg = str(record.msg).partition(" return_value=")[0]
    return True
