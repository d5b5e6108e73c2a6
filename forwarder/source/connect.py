"""The sandbox API over Connect: HTTP/1.1, JSON for calls, envelopes for log streams."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn

import httpx
import orjson

from forwarder.errors import SourceError, SourceUnavailableError
from forwarder.source.endpoint import SERVICE, auth_headers, parse_endpoint
from forwarder.source.envelope import MAX_MESSAGE_BYTES, Broken, End, EnvelopeReader, pack
from forwarder.source.errors_map import end_failure, http_failure, one_line, typed_error
from forwarder.source.log_messages import decode_entries, encode_request
from forwarder.source.paging import PAGE_SIZE, all_pages
from forwarder.source.sandbox_json import (
    UnreadableAnswerError,
    page_from_json,
    sandbox_from_json,
)
from forwarder.source.transport import LazyClient, foreign_errors

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from forwarder.model import Sandbox
    from forwarder.source.endpoint import Credentials
    from forwarder.source.interface import LogEntry, LogRequest

_JSON = "application/json"
_STREAM = "application/connect+proto"

#: Enough for any error; more of an error's body is not read.
_MAX_ERROR_BYTES = 64 * 1024


class ConnectSource:
    """A `LogSource` over Connect. It keeps one HTTP client, made at the first call.

    Args:
        base_url: `https://host[:port][/path]`; http:// only to this machine.
        credentials: Gives the headers to send; called for every request.
        connect_timeout_s: For name lookup, connection and TLS handshake together.
        request_timeout_s: For a whole call. In a log stream without `follow` it is the longest
            silence. A followed log may be silent for ever; a vanished peer is noticed by TCP.
        allow_plaintext: Allow http:// to another machine, which shows the key to the network.
        ssl_context: Replaces the usual certificate verification, for a private authority.
        max_message_bytes: A larger message of a log stream is an error.

    Raises:
        ValueError: The base URL cannot be used.
    """

    def __init__(
        self,
        base_url: str,
        *,
        credentials: Credentials,
        connect_timeout_s: float = 10,
        request_timeout_s: float = 30,
        allow_plaintext: bool = False,
        ssl_context: ssl.SSLContext | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        self._endpoint = parse_endpoint(base_url, allow_plaintext=allow_plaintext)
        self._credentials = credentials
        self._connect_timeout_s = connect_timeout_s
        self._request_timeout_s = request_timeout_s
        self._max_message_bytes = max_message_bytes
        self._client = LazyClient(ssl_context, secure=self._endpoint.secure)
        self._urls: dict[str, httpx.URL] = {}

    async def get_sandbox(self, sandbox_id: str) -> Sandbox:
        """See `LogSource.get_sandbox`."""
        answer = await self._call("GetSandbox", {"sandboxId": sandbox_id}, sandbox_id)
        try:
            return sandbox_from_json(answer, sandbox_id=sandbox_id)
        except UnreadableAnswerError as error:
            _unreadable("GetSandbox", error)

    async def list_sandboxes(
        self, *, tags: Sequence[str] = (), show_terminated: bool = False
    ) -> list[Sandbox]:
        """See `LogSource.list_sandboxes`."""

        async def fetch(token: str) -> tuple[list[Sandbox], str]:
            request: dict[str, object] = {"pageSize": PAGE_SIZE}
            if token:
                request["pageToken"] = token
            if tags:
                request["tags"] = list(tags)
            if show_terminated:
                request["showTerminated"] = True
            try:
                return page_from_json(await self._call("ListSandboxes", request))
            except UnreadableAnswerError as error:
                _unreadable("ListSandboxes", error)

        return await all_pages(fetch)

    def read_logs(
        self, request: LogRequest
    ) -> AbstractAsyncContextManager[AsyncIterator[Sequence[LogEntry]]]:
        """See `LogSource.read_logs`.

        A server may hold back its answer until there is a first message, so entering a followed
        stream may last as long as the log is silent. Entering can be cancelled, and leaving closes
        the connection at once.
        """
        return self._read_logs(request)

    async def close(self) -> None:
        """See `LogSource.close`; may be called again."""
        await self._client.close()

    @asynccontextmanager
    async def _read_logs(
        self, request: LogRequest
    ) -> AsyncIterator[AsyncIterator[Sequence[LogEntry]]]:
        what = f"StreamLogs of {one_line(request.sandbox_id)}"
        silence_s = None if request.follow or request.session_id else self._request_timeout_s
        async with AsyncExitStack() as stack:
            response = await self._open(
                stack, "StreamLogs", _STREAM, pack(encode_request(request)), silence_s
            )
            if response.status_code != httpx.codes.OK or _media_type(response) != _STREAM:
                await self._refuse(response, what, request.sandbox_id)
            entries = self._entries(response, what, request.sandbox_id)
            yield await stack.enter_async_context(aclosing(entries))

    async def _open(
        self,
        stack: AsyncExitStack,
        method: str,
        content_type: str,
        content: bytes,
        silence_s: float | None,
    ) -> httpx.Response:
        """Send a request and wait for the answer's head; `stack` closes the answer."""
        headers = {
            **auth_headers(self._credentials),
            "content-type": content_type,
            "connect-protocol-version": "1",
            # Neither the body nor its messages: inflating costs more than it saves on a log.
            "accept-encoding": "identity",
            "connect-accept-encoding": "identity",
            "user-agent": "sandbox-forwarder",
        }
        timeout = httpx.Timeout(
            connect=self._connect_timeout_s,
            pool=self._connect_timeout_s,
            write=self._request_timeout_s,
            read=silence_s,
        )
        url = self._url(method)
        with foreign_errors(method):
            request = self._client.get().build_request(
                "POST", url, content=content, headers=headers, timeout=timeout
            )
            response = await self._client.get().send(request, stream=True)
        stack.push_async_callback(_close_response, response)
        return response

    def _url(self, method: str) -> httpx.URL:
        """Parsed once: a thousand silent streams are opened again every minute."""
        if method not in self._urls:
            self._urls[method] = httpx.URL(f"{self._endpoint.url}{SERVICE}/{method}")
        return self._urls[method]

    async def _call(self, method: str, message: Mapping[str, object], sandbox_id: str = "") -> Any:
        """One unary call; returns the parsed JSON of a successful answer."""
        what = f"{method} of {one_line(sandbox_id)}" if sandbox_id else method
        with foreign_errors(what):
            async with asyncio.timeout(self._request_timeout_s), AsyncExitStack() as stack:
                response = await self._open(stack, method, _JSON, orjson.dumps(message), None)
                if response.status_code != httpx.codes.OK or _media_type(response) != _JSON:
                    await self._refuse(response, what, sandbox_id)
                body = await _read_body(response, self._max_message_bytes)
        if len(body) > self._max_message_bytes:
            raise SourceUnavailableError(
                f"{what} failed: the answer is too large",
                code="resource_exhausted",
                reason="MESSAGE_TOO_LARGE",
            )
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError as error:
            _unreadable(what, error)

    async def _refuse(self, response: httpx.Response, what: str, sandbox_id: str) -> NoReturn:
        """Raise what an answer means that is not the one wanted."""
        with foreign_errors(what):
            async with asyncio.timeout(self._request_timeout_s):
                body = await _read_body(response, _MAX_ERROR_BYTES)
        failure = http_failure(response.status_code, response.headers, body)
        raise typed_error(failure, what, sandbox_id=sandbox_id)

    async def _entries(
        self, response: httpx.Response, what: str, sandbox_id: str
    ) -> AsyncGenerator[Sequence[LogEntry], None]:
        """The stream's entries, one list for each piece of the body.

        Bytes that had arrived but were not yet asked for when a connection breaks may be lost
        here: they are re-read with the rest, because the position has not moved past them.
        """
        reader = EnvelopeReader(
            gzip=response.headers.get("connect-content-encoding") == "gzip",
            max_message_bytes=self._max_message_bytes,
        )
        with foreign_errors(what):
            async for chunk in response.aiter_raw():
                entries, error = decode_entries(reader.feed(chunk))
                if entries:
                    yield entries
                if error is not None:
                    raise error
                if reader.outcome is not None:
                    break
        error = _end_error(reader.outcome, what, sandbox_id)
        if error is not None:
            raise error


def _end_error(outcome: End | Broken | None, what: str, sandbox_id: str) -> SourceError | None:
    """What the end of a body means; None for a clean end."""
    match outcome:
        case End(payload):
            failure = end_failure(payload)
            return typed_error(failure, what, sandbox_id=sandbox_id) if failure else None
        case Broken(message, code, reason):
            return SourceUnavailableError(f"{what} broke: {message}", code=code, reason=reason)
        case None:
            return SourceUnavailableError(
                f"{what} broke: the body ended without an end-of-stream message", code="connection"
            )


async def _read_body(response: httpx.Response, limit_bytes: int) -> bytes:
    """A body, given up once it is longer than the limit; empty when it is compressed.

    We ask for none, so a compressed body is not from the API, and nothing inflates it.
    """
    if response.headers.get("content-encoding", "identity") != "identity":
        return b""
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > limit_bytes:
            break
    return bytes(body)


async def _close_response(response: httpx.Response) -> None:
    """Close; what goes wrong then says nothing about what was read."""
    with suppress(SourceUnavailableError), foreign_errors("closing"):
        await response.aclose()


def _media_type(response: httpx.Response) -> str:
    content_type: str = response.headers.get("content-type", "")
    return content_type.partition(";")[0].strip().lower()


def _unreadable(what: str, error: ValueError) -> NoReturn:
    raise SourceUnavailableError(
        f"{what} failed: the answer cannot be read: {one_line(str(error))}", code="internal"
    ) from error
