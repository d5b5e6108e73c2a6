"""What servers answer, and what that means to the engine. Pure.

No message holds more of an address than scheme, host and port: paths and queries can be secrets.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING

from sinks.addresses import split_url
from sinks.interface import (
    BatchRejectedError,
    SinkError,
    SinkMisconfiguredError,
    SinkUnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_MAX_EXCERPT = 300
_MAX_RETRY_AFTER_DIGITS = 15

_WEB_PAGE = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype\s+html|html)\b", re.IGNORECASE)
#: What servers say with status 400, of which no record is guilty: those that speak TLS on that
#: port, and nginx to whom shows no certificate, or one that it does not take.
#: Each in the place where the server itself says it: elsewhere it may be a record's text, repeated.
_WANTS_TLS = re.compile(
    rb"\s*Client sent an HTTP request to an HTTPS server\.?\s*$"  # Go
    rb"|.{0,200}<title>400 The plain HTTP request was sent to HTTPS port</title>"  # nginx
    rb"|<!DOCTYPE HTML.{0,400}speaking plain HTTP to an SSL-enabled server port"  # Apache
    rb"|\s*Bad Request\s+This combination of host and port requires TLS\.\s*$",  # Tomcat
    re.IGNORECASE | re.DOTALL,
)
#: VictoriaLogs and its relatives answer 400, and not 404, where there is nothing.
_NOTHING_THERE = re.compile(rb"\s*(?:[^\n]{0,200}: )?unsupported path requested", re.IGNORECASE)
_WANTS_CERTIFICATE = re.compile(rb"SSL certificate (?:was sent|error)", re.IGNORECASE)


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
        """Whether it is for a person's eyes: a login page in place of the service.

        The type alone does not say so: many servers call every answer, also an empty one, HTML.
        """
        kind = self.headers.get("content-type", "").lower()
        html = kind.startswith(("text/html", "application/xhtml"))
        tagged = self.body.lstrip().startswith(b"<") or not self.whole
        return (html and tagged) or _WEB_PAGE.match(self.body) is not None

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
#: Held by every protocol: nobody asked for a proxy between us and the service.
_PROXY_WANTS_LOGIN = 407


def verdict(
    answer: Answer, table: StatusTable, *, url: str, retry_statuses: Collection[int] = ()
) -> SinkError | None:
    """What an answer means by its status; None for a success that is not a web page.

    Args:
        answer: The answer.
        table: The protocol's.
        url: Where it came from.
        retry_statuses: What the operator wants to be tried again besides.
    """
    status = answer.status
    said = f"{origin(url)} answered {status}" + (f": {answer.excerpt}" if answer.excerpt else "")
    # RFC 9110, 15: a status of no known class is to be taken for a server's trouble.
    if status in table.retry or status in retry_statuses or status >= 600:  # noqa: PLR2004
        return SinkUnavailableError(said, retry_after_s=answer.retry_after_s)
    if status in table.hold or status == _PROXY_WANTS_LOGIN:
        refused = status in _CREDENTIALS
        what = "it refuses our credentials" if refused else "mend the address"
        return SinkMisconfiguredError(f"{said}; {what}", credentials=refused)
    if status >= 400:  # noqa: PLR2004 - errors
        if (connection := wrong_connection(answer, url)) is not None:
            return connection
        too_large = status in table.too_large
        return BatchRejectedError(said, status=str(status), too_large=too_large)
    return _not_the_service(answer, url)


def wrong_connection(answer: Answer, url: str) -> SinkError | None:
    """What is wrong with how we came, when that is all that the server refuses."""
    if answer.status != HTTPStatus.BAD_REQUEST:
        return None
    if _NOTHING_THERE.match(answer.body):
        return SinkMisconfiguredError(f"{origin(url)} has nothing at that path: mend the address")
    if _WANTS_TLS.match(answer.body):
        return SinkMisconfiguredError(f"{origin(url)} wants https://: mend the address")
    if _WANTS_CERTIFICATE.search(answer.body):
        text = f"{origin(url)} wants another certificate of ours: see tls.cert_file"
        return SinkMisconfiguredError(text, credentials=True)
    return None


def _not_the_service(answer: Answer, url: str) -> SinkError | None:
    """What is wrong with an answer that is no error, and yet not the service's."""
    if answer.status >= 300:  # noqa: PLR2004 - redirections
        target = origin(answer.headers.get("location", "")) or "elsewhere"
        text = f"{origin(url)} sends us to {target}, which is not followed: mend the address"
        return SinkMisconfiguredError(text)
    if answer.status < 200:  # noqa: PLR2004 - such as 101, which nobody asked for
        text = f"{origin(url)} answered {answer.status}, which is no answer: mend the address"
        return SinkMisconfiguredError(text)
    if answer.is_web_page:
        return SinkMisconfiguredError(
            f"{origin(url)} answers with a web page, as a login or a proxy does, and not with the"
            " service: mend the address or the credentials"
        )
    return None


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
