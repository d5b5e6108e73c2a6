"""The stored logs of a sandbox over REST: what can still be read after its end.

Nobody has seen the real endpoint (API reference, stored logs), so a client must expect that it is
absent, not enabled for the account, or not what we think it is.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import orjson

from forwarder.errors import InvalidRequestError, SourceError
from forwarder.source.endpoint import auth_headers, parse_endpoint
from forwarder.source.errors_map import Failure, http_failure, one_line, retry_after, typed_error
from forwarder.source.paging import MAX_PAGES
from forwarder.source.sandbox_json import UnreadableAnswerError
from forwarder.source.stored_errors import rest_failure
from forwarder.source.stored_json import StoredPage, stored_page_from_json
from forwarder.source.transport import LazyClient, foreign_errors

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from forwarder.source.endpoint import Credentials
    from forwarder.source.stored_lines import StoredLine

LOGS_NOT_ENABLED = "CWSANDBOX_LOGS_NOT_ENABLED"
LOGS_DELETED = "CWSANDBOX_LOGS_DELETED"

PAGE_SIZE = 1000
MAX_PAGE_BYTES = 64 * 1024 * 1024

#: Answers of something that has no such endpoint: no such path, or not to be read like this.
_ABSENT = frozenset({404, 405, 410, 501})
#: What a proxy or an overloaded server answers, with a page of HTML or without.
_PASSING = frozenset({401, 403, 408, 425, 429})
_SERVER_ERROR = 500


class StoredLogsUnavailableError(SourceError):
    """The stored logs cannot be had, and asking again for this sandbox is of no use.

    Attributes:
        for_good: Whether that holds for every sandbox, so that nobody needs to ask again as long
            as the process runs; else only for this one.
    """

    def __init__(self, message: str, *, code: str, reason: str = "", for_good: bool = True) -> None:
        super().__init__(message, code=code, reason=reason)
        self.for_good = for_good


class StoredLogs:
    """Reads stored logs. It keeps one HTTP client, made at the first call.

    Args:
        base_url: `https://host[:port][/path]`; http:// only to this machine.
        credentials: Gives the headers to send; called for every request.
        request_timeout_s: For one page.
        connect_timeout_s: For name lookup, connection and TLS handshake together.
        allow_plaintext: Allow http:// to another machine, which shows the key to the network.
        ssl_context: Replaces the usual certificate verification, for a private authority.
        max_page_bytes: A larger page is not read.

    Raises:
        ValueError: The base URL cannot be used.
    """

    def __init__(
        self,
        base_url: str,
        *,
        credentials: Credentials,
        request_timeout_s: float = 30,
        connect_timeout_s: float = 10,
        allow_plaintext: bool = False,
        ssl_context: ssl.SSLContext | None = None,
        max_page_bytes: int = MAX_PAGE_BYTES,
    ) -> None:
        self._endpoint = parse_endpoint(base_url, allow_plaintext=allow_plaintext)
        self._credentials = credentials
        self._request_timeout_s = request_timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._max_page_bytes = max_page_bytes
        self._client = LazyClient(ssl_context, secure=self._endpoint.secure)

    async def lines(
        self, sandbox_id: str, container: str, *, since_ns: int
    ) -> AsyncGenerator[Sequence[StoredLine], None]:
        """Iterate over the stored lines, page by page, in the order of (stamp, event id).

        Storing is best effort and weakly consistent: lines may be missing at the end, and a line
        that is stored late may show only when the iteration is begun anew.

        Believe the lines only when the iteration has ended normally: that an answer is not
        understood may show on any page. Leave early through `contextlib.aclosing`.

        Args:
            sandbox_id: Whose log.
            container: Only this container's lines. Empty asks for the sandbox's lines, whatever
                the server takes that for; lines that name different containers are refused.
            since_ns: Lines with a lower stamp are passed over. A page of nothing else is not
                yielded; all pages are read, because how to ask for less is not known.

        Raises:
            StoredLogsUnavailableError: There is nothing to be had here. See `for_good`.
            SandboxNotFoundError: The API does not know this sandbox.
            CredentialsRefusedError: The key may not read this.
            SourceUnavailableError: An outage or a limit: come back later.
        """
        what = f"ListSandboxLogs of {one_line(sandbox_id)}"
        named = container
        seen = {""}
        token = ""
        first_id = ""
        for _ in range(MAX_PAGES):
            page = await self._page(what, sandbox_id, container, token)
            if page.first_id and page.first_id == first_id:
                raise _not_understood(what, "a page brings the one before it again")
            first_id, token = page.first_id, page.next_token
            named = _one_container(what, page, named, asked=container)
            wanted = [
                line
                for where, line in page.lines
                if line.stamp_ns >= since_ns and (not container or where in {"", container})
            ]
            if wanted:
                yield wanted
            if not token:
                return
            if token in seen:
                raise _not_understood(what, "a page token is repeated")
            seen.add(token)
        raise _not_understood(what, f"there are over {MAX_PAGES} pages")

    async def close(self) -> None:
        """Close every connection; may be called again."""
        await self._client.close()

    async def _page(self, what: str, sandbox_id: str, container: str, token: str) -> StoredPage:
        query = {"pageSize": str(PAGE_SIZE)}
        if token:
            query["pageToken"] = token
        if container:
            query["container"] = container
        with foreign_errors(what):
            async with asyncio.timeout(self._request_timeout_s):
                response, body = await self._get(sandbox_id, query)
        if response.status_code != httpx.codes.OK:
            raise _refusal(response, body, what, sandbox_id)
        try:
            return stored_page_from_json(orjson.loads(body))
        except (orjson.JSONDecodeError, UnreadableAnswerError) as error:
            raise _not_understood(what, one_line(str(error))) from error

    async def _get(self, sandbox_id: str, query: Mapping[str, str]) -> tuple[httpx.Response, bytes]:
        """The answer and its body, of which nothing is read over the limit."""
        headers = {
            **auth_headers(self._credentials),
            "accept": "application/json",
            "accept-encoding": "identity",
            "user-agent": "sandbox-forwarder",
        }
        timeout = httpx.Timeout(self._request_timeout_s, connect=self._connect_timeout_s)
        url = f"{self._endpoint.url}/v1/sandboxes/{quote(sandbox_id, safe='')}/logs"
        client = self._client.get()
        request = client.build_request("GET", url, params=query, headers=headers, timeout=timeout)
        response = await client.send(request, stream=True)
        body = bytearray()
        try:
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > self._max_page_bytes:
                    raise StoredLogsUnavailableError(
                        f"a page of the stored logs of {one_line(sandbox_id)} is too large",
                        code="resource_exhausted",
                        for_good=False,
                    )
        finally:
            await response.aclose()
        return response, bytes(body)


def _one_container(what: str, page: StoredPage, named: str, *, asked: str) -> str:
    """The container of which the lines have been so far; empty where none was named."""
    if asked:
        return asked
    for where, _ in page.lines:
        if where and named and where != named:
            raise StoredLogsUnavailableError(
                f"{what} gives the lines of several containers; ask for one by its name",
                code="unimplemented",
                for_good=False,
            )
        named = where or named
    return named


def _refusal(response: httpx.Response, body: bytes, what: str, sandbox_id: str) -> SourceError:
    """What an answer means that is not a page."""
    try:
        answer: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        answer = None
    failure = rest_failure(answer, response.status_code)
    if failure is None:
        return _bare_refusal(response, body, what)
    if failure.retry_after_s is None:
        delay_s = retry_after(response.headers)
        failure = Failure(failure.code, failure.message, failure.reason, delay_s)
    return _meaning(failure, what, sandbox_id)


def _bare_refusal(response: httpx.Response, body: bytes, what: str) -> SourceError:
    """What an answer means that is not the API's."""
    status = response.status_code
    html = "html" in response.headers.get("content-type", "")
    passing = status in _PASSING or (status >= _SERVER_ERROR and status not in _ABSENT)
    if status in _ABSENT or (html and not passing):
        return StoredLogsUnavailableError(
            f"{what} failed: HTTP {status}: there is no such endpoint", code="unimplemented"
        )
    return typed_error(http_failure(status, response.headers, body), what)


def _meaning(failure: Failure, what: str, sandbox_id: str) -> SourceError:
    error = typed_error(failure, what, sandbox_id=sandbox_id)
    if failure.reason == LOGS_NOT_ENABLED:
        message = f"{what} failed: stored logs are not enabled for this account"
    elif failure.reason == LOGS_DELETED:
        message = f"{what} failed: its stored logs were deleted"
    elif isinstance(error, InvalidRequestError):
        message = str(error)
    else:
        return error
    # A request that is refused may be wrong for this sandbox alone: its container, for example.
    for_good = failure.reason == LOGS_NOT_ENABLED or failure.code == "unimplemented"
    return StoredLogsUnavailableError(
        message, code=failure.code, reason=failure.reason, for_good=for_good
    )


def _not_understood(what: str, why: str) -> StoredLogsUnavailableError:
    return StoredLogsUnavailableError(
        f"{what} failed: the answer is not understood: {why}", code="internal"
    )
