"""Where the API is and with what we come: the base URL and the credentials, checked once."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from forwarder.errors import CredentialsRefusedError
from sinks.addresses import is_loopback

#: Gives the headers to send with a request. It is called for every request, so that a rotated key
#: file is seen; it may raise OSError or ValueError when there is nothing to read.
Credentials = Callable[[], Mapping[str, str]]

SERVICE = "/coreweave.sandbox.v1.SandboxService"

_HEADER_VALUE = re.compile(r"[\x21-\x7e]+( [\x21-\x7e]+)*")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A checked base URL.

    Attributes:
        url: Without a slash at the end.
        path: The part of the URL behind the host, empty for most.
    """

    url: str
    host: str
    port: int
    path: str
    secure: bool


def parse_endpoint(base_url: str, *, allow_plaintext: bool) -> Endpoint:
    """Check a base URL.

    Raises:
        ValueError: It is not a usable http(s) URL, or it would send the key in the clear.
    """
    try:
        parts = urlsplit(base_url)
        port = parts.port
        host = (parts.hostname or "").encode("idna").decode("ascii")
    except ValueError as error:
        raise ValueError(f"the base URL cannot be read: {error}") from None
    if parts.scheme not in {"http", "https"} or not host:
        raise ValueError("the base URL must look like https://host[:port]")
    if parts.username is not None or parts.password is not None:
        raise ValueError("the base URL must not hold credentials; use the API key settings")
    if parts.query or parts.fragment:
        raise ValueError("the base URL must not have a query or a fragment")
    secure = parts.scheme == "https"
    if not (secure or allow_plaintext or is_loopback(host)):
        raise ValueError(
            f"http://{host} would send the API key in the clear: use https, or allow plaintext"
        )
    return Endpoint(
        url=base_url.rstrip("/"),
        host=host,
        port=port or (443 if secure else 80),
        path=parts.path.rstrip("/"),
        secure=secure,
    )


def auth_headers(credentials: Credentials) -> dict[str, str]:
    """The credentials as headers that can be sent; no error ever shows their values.

    Raises:
        CredentialsRefusedError: They cannot be read, or cannot be sent.
    """
    try:
        headers = dict(credentials())
    except (OSError, ValueError) as error:
        # A ValueError's text may quote the key.
        cause = str(error) if isinstance(error, OSError) else type(error).__name__
        raise CredentialsRefusedError(
            f"the credentials cannot be read: {cause}", code="unauthenticated"
        ) from (error if isinstance(error, OSError) else None)
    for name, value in headers.items():
        if not _HEADER_VALUE.fullmatch(value):
            raise CredentialsRefusedError(
                f"the credentials cannot be sent: {name} is empty or holds a character that a "
                "header cannot carry (a line break, for example)",
                code="unauthenticated",
            )
    return headers
