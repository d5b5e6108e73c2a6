"""Checks of addresses and header values, on their text alone: nothing is resolved or opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sinks.addresses import is_header_text, split_url
from sinks.settings import problem

if TYPE_CHECKING:
    from sinks.settings import Secret

_MAX_PORT: Final = 65_535


def check_header_text(value: str) -> str:
    """Refuse what cannot be a header's value."""
    if not is_header_text(value):
        raise problem("expected printable ASCII without spaces")
    return value


def check_header_secret(value: Secret) -> Secret:
    """Refuse a secret that cannot be a header's value."""
    check_header_text(value.reveal())
    return value


def check_base_url(value: str) -> str:
    """Refuse what is no http(s) URL of a service; a slash at its end is removed."""
    url = split_url(value)
    if url is None:
        raise problem('expected a URL such as "https://api.cwsandbox.com"')
    if url.username is not None or url.password is not None:
        raise problem("a URL must not hold credentials; use api_key or api_key_file")
    if url.query or url.fragment:
        raise problem('a base URL has no "?" and no "#"')
    return value.rstrip("/")


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
