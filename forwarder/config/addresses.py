"""Checks of addresses and header values, on their text alone: nothing is resolved or opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urlsplit

from forwarder.loopback import is_loopback
from sinks.settings import problem

if TYPE_CHECKING:
    from sinks.settings import Secret

_MAX_PORT: Final = 65_535


def is_header_text(value: str) -> bool:
    """Whether an HTTP library takes it as a header's value.

    What it would refuse, it would refuse with a message that repeats the value.
    """
    return bool(value) and all("!" <= character <= "~" for character in value)


def check_header_text(value: str) -> str:
    """Refuse what cannot be a header's value."""
    if not is_header_text(value):
        raise problem("expected printable ASCII without spaces")
    return value


def check_header_secret(value: Secret) -> Secret:
    """Refuse a secret that cannot be a header's value."""
    check_header_text(value.reveal())
    return value


def is_plaintext_remote(url: str) -> bool:
    """Whether what is sent to the URL can be read on its way to another machine."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")


def check_base_url(value: str) -> str:
    """Refuse what is no http(s) URL of a service; a slash at its end is removed."""
    url = _split_url(value)
    if url is None or url.scheme not in {"http", "https"}:
        raise problem('expected a URL such as "https://api.cwsandbox.com"')
    if url.username is not None or url.password is not None:
        raise problem("a URL must not hold credentials; use api_key or api_key_file")
    if url.query or url.fragment:
        raise problem('a base URL has no "?" and no "#"')
    return value.rstrip("/")


def _split_url(value: str) -> SplitResult | None:
    # urlsplit silently removes tabs and newlines.
    if not is_header_text(value):
        return None
    try:
        url = urlsplit(value)
        # Reading the port is what checks it.
        return url if url.hostname and url.port != 0 else None
    except ValueError:
        return None


def split_listen(value: str) -> tuple[str, int] | None:
    """Host and port of `host:port` or `[v6]:port`; None when it is neither."""
    host, _, port = value.rpartition(":")
    if not is_header_text(host) or not port.isascii() or not port.isdigit():
        return None
    bracketed = host.startswith("[") and host.endswith("]")
    if (":" in host) != bracketed or len(port) > len(str(_MAX_PORT)) or int(port) > _MAX_PORT:
        return None
    return host.strip("[]"), int(port)


def check_listen(value: str) -> str:
    """Refuse what is neither an address to listen on nor `off`."""
    if value != "off" and split_listen(value) is None:
        raise problem('expected host:port, such as "127.0.0.1:9465", or "off"')
    return value
