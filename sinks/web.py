"""HTTP for sinks: one request, one bounded answer, and what both mean to the engine.

Redirects are not followed, cookies not kept, answers not decompressed, and proxies of the
environment used for https only. No message ever holds a header's value, nor more of an address than
scheme, host and port: paths and queries can be secrets, too.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from base64 import b64encode
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx

from sinks.addresses import split_url
from sinks.interface import (
    BatchRejectedError,
    SinkError,
    SinkMisconfiguredError,
    SinkUnavailableError,
)
from sinks.network import HeaderFile
from sinks.settings import SecretSource, SecretUnavailableError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from sinks.network import NetworkSettings, TlsSettings

#: Of an answer that nobody needs more of; a hostile or broken server may send one without end.
MAX_ANSWER_BYTES = 64 * 1024
_MAX_EXCERPT = 300
_MAX_RETRY_AFTER_DIGITS = 15

_WEB_PAGE = re.compile(rb"\s*<(?:!doctype\s+html|html)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said.

    Attributes:
        headers: Names in lower case.
        body: As much of it as was asked for; empty when it came compressed, which nobody asked for.
        whole: Whether that is all of it.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = b""
    whole: bool = True

    @property
    def is_web_page(self) -> bool:
        """Whether it is for a person's eyes: a login page in place of the service."""
        kind = self.headers.get("content-type", "")
        return kind.lower().startswith("text/html") or _WEB_PAGE.match(self.body) is not None

    @property
    def excerpt(self) -> str:
        """The body for a message: one line, safe to print, not long."""
        return printable(self.body.decode("utf-8", "replace"))

    @property
    def retry_after_s(self) -> float | None:
        """`Retry-After` in seconds from now, if it is a sensible one (RFC 9110, 10.2.3).

        A date counts from the answer's own `Date`: neither clock need be right.
        """
        value = self.headers.get("retry-after", "").strip()
        if value.isascii() and value.isdigit():
            return float(value[:_MAX_RETRY_AFTER_DIGITS])
        try:
            wanted = parsedate_to_datetime(value)
            now = parsedate_to_datetime(self.headers.get("date", ""))
            return max((wanted - now).total_seconds(), 0.0)
        except (ValueError, TypeError, OverflowError):
            return None


@dataclass(frozen=True, slots=True)
class StatusTable:
    """What a protocol's statuses mean. Every one from 400 that is not here is a refusal.

    Attributes:
        retry: The same again later.
        hold: Somebody has to mend something first.
        too_large: Smaller pieces may pass.
    """

    retry: frozenset[int]
    hold: frozenset[int] = frozenset({401, 403, 404})
    too_large: frozenset[int] = frozenset({413})


_CREDENTIALS = frozenset({401, 403, 407})


def verdict(
    answer: Answer, table: StatusTable, *, url: str, retry_statuses: Collection[int] = ()
) -> SinkError | None:
    """What an answer means by its status; None for a success that is none of a web page.

    Args:
        answer: The answer.
        table: The protocol's.
        url: Where it came from.
        retry_statuses: What the operator wants to be tried again besides.
    """
    status = answer.status
    said = f"{origin(url)} answered {status}" + (f": {answer.excerpt}" if answer.excerpt else "")
    if status in table.retry or status in retry_statuses:
        return SinkUnavailableError(said, retry_after_s=answer.retry_after_s)
    if status in table.hold:
        refused = status in _CREDENTIALS
        what = "it refuses our credentials" if refused else "mend the address"
        return SinkMisconfiguredError(f"{said}; {what}", credentials=refused)
    if status >= 400:  # noqa: PLR2004 - errors
        too_large = status in table.too_large
        return BatchRejectedError(said, status=str(status), too_large=too_large)
    return _not_the_service(answer, url)


def _not_the_service(answer: Answer, url: str) -> SinkError | None:
    """What is wrong with an answer that is no error, and yet not the service's."""
    if answer.status >= 300:  # noqa: PLR2004 - redirections
        target = origin(answer.headers.get("location", "")) or "elsewhere"
        text = f"{origin(url)} sends us to {target}, which is not followed: mend the address"
        return SinkMisconfiguredError(text)
    if answer.is_web_page:
        return SinkMisconfiguredError(
            f"{origin(url)} answers with a web page, as a login or a proxy does, and not with the"
            " service: mend the address or the credentials"
        )
    return None


class WebClient:
    """Requests of one sink. Use it on one event loop."""

    def __init__(self, settings: NetworkSettings) -> None:
        """Touches nothing until `open`."""
        self._settings = settings
        self._client: httpx.AsyncClient | None = None

    async def open(self) -> None:
        """Read certificates and get ready; connects at the first request.

        Raises:
            SinkMisconfiguredError: A certificate or key cannot be used.
        """
        await self.close()
        settings = self._settings
        context = await asyncio.to_thread(tls_context, settings.tls)
        secure = all(urlsplit(url).scheme == "https" for url in settings.endpoints.values())
        self._client = httpx.AsyncClient(
            verify=context,
            timeout=httpx.Timeout(settings.timeout, connect=settings.connect_timeout),
            limits=httpx.Limits(max_connections=settings.in_flight + 1),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            follow_redirects=False,
            trust_env=secure,
        )

    async def close(self) -> None:
        """Close every connection; may be called again, and before `open`."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

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
        body: bytes | None,
        headers: Mapping[str, str],
        *,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> Answer:
        """Make a request and read its answer, whatever the status.

        Raises:
            SinkUnavailableError: No answer, or not in time.
            SinkMisconfiguredError: The certificate does not verify, or a secret cannot be read.
        """
        assert self._client is not None, "open comes first"
        ours = {"accept-encoding": "identity", "user-agent": "sandbox-forwarder"}
        sent = {**ours, **secret_headers(self._settings), **headers}
        try:
            async with self._client.stream(method, url, content=body, headers=sent) as response:
                return await _read(response, max_answer_bytes)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ssl.SSLError) as error:
            raise no_answer(error, url) from error


async def _read(response: httpx.Response, max_bytes: int) -> Answer:
    """At most so much of the body; the connection is given up when there is more."""
    headers = {name.lower(): value for name, value in response.headers.items()}
    body = bytearray()
    whole = True
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > max_bytes:
            del body[max_bytes:]
            whole = False
            break
    if headers.get("content-encoding", "identity").lower() != "identity":
        return Answer(response.status_code, headers, b"", whole=False)
    return Answer(response.status_code, headers, bytes(body), whole)


def no_answer(error: Exception, url: str) -> SinkError:
    """What it means that a request got no answer."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            why = printable(cause.verify_message)
            return SinkMisconfiguredError(
                f"the certificate of {origin(url)} does not verify: {why}; set tls.ca_file to its"
                " authority's certificate"
            )
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.TimeoutException):
        return SinkUnavailableError(f"{origin(url)} does not answer in time")
    why = printable(str(error)) or type(error).__name__
    return SinkUnavailableError(f"{origin(url)} does not answer: {why}")


def tls_context(settings: TlsSettings) -> ssl.SSLContext:
    """How servers are verified, and what we show them.

    Raises:
        SinkMisconfiguredError: A file cannot be read, or holds no certificate or key.
    """
    what = f"tls.ca_file: {settings.ca_file}"
    try:
        cafile = None if settings.ca_file is None else str(settings.ca_file)
        context = ssl.create_default_context(cafile=cafile)
        if settings.cert_file is not None:
            what = f"tls.cert_file: {settings.cert_file}"
            context.load_cert_chain(settings.cert_file, settings.key_file)
    except OSError as error:  # ssl.SSLError is one
        why = printable(error.strerror or str(error))
        raise SinkMisconfiguredError(f"{what}: {why}", credentials=True) from None
    if settings.insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def secret_headers(settings: NetworkSettings) -> dict[str, str]:
    """The operator's headers and credentials, names in lower case; files are read now.

    Raises:
        SinkMisconfiguredError: A file cannot be read, or what is in it is no header's value.
    """
    headers = {}
    for name, value in settings.headers.items():
        in_file = isinstance(value, HeaderFile)
        key = f"headers.{name}.file" if in_file else f"headers.{name}"
        source = SecretSource(
            key,
            None if isinstance(value, HeaderFile) else value,
            value.file if isinstance(value, HeaderFile) else None,
        )
        headers[name.lower()] = _header_value(source)
    if (token := settings.secret("bearer_token")) is not None:
        headers["authorization"] = f"Bearer {_header_value(token)}"
    if (password := settings.secret("password")) is not None:
        pair = f"{settings.username}:{_read_secret(password)}"
        headers["authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
    return headers


def _header_value(source: SecretSource) -> str:
    value = _read_secret(source)
    # What an HTTP library refuses it refuses with a message that repeats the value.
    if not all(" " <= character <= "~" for character in value):
        text = f"{source.key}: expected printable ASCII on one line"
        raise SinkMisconfiguredError(text, credentials=True)
    return value


def _read_secret(source: SecretSource) -> str:
    try:
        return source.read()
    except SecretUnavailableError as error:
        raise SinkMisconfiguredError(str(error), credentials=True) from None


def origin(url: str) -> str:
    """What of an address may be shown: scheme, host and port; nothing of what is no such address.

    A server's text is taken, too: what it says of itself is made safe to print.
    """
    parts = split_url(url)
    if parts is None:
        return ""
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return printable(f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port else ""))


def printable(text: str) -> str:
    """A server's words for a log line or a terminal: one line, of bounded length."""
    clipped = " ".join(text[: 4 * _MAX_EXCERPT].split())
    clipped = clipped if len(clipped) <= _MAX_EXCERPT else f"{clipped[: _MAX_EXCERPT - 3]}..."
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in clipped)
