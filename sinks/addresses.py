"""Addresses and header values, judged by their text alone: nothing is resolved or opened."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

if TYPE_CHECKING:
    from collections.abc import Sequence


#: Amazon's over IPv6, which is no link-local address.
_METADATA = frozenset({ipaddress.ip_address("fd00:ec2::254")})


def is_loopback(host: str) -> bool:
    """Whether the name or number means this machine; a name is not looked up."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    number = _number(host)
    return number is not None and number.is_loopback


def is_link_local(host: str) -> bool:
    """Whether the number is one of the addresses that cloud metadata services listen on.

    A name that leads to one is found out when the connection is made.
    """
    number = _number(host)
    return number is not None and (number.is_link_local or number in _METADATA)


def _number(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        number = ipaddress.ip_address(host)
    except ValueError:
        return None
    # `::ffff:169.254.169.254` is that address to the kernel.
    mapped = number.ipv4_mapped if isinstance(number, ipaddress.IPv6Address) else None
    return number if mapped is None else mapped


def is_header_text(value: str) -> bool:
    """Whether an HTTP library takes it as a header's value.

    What it would refuse, it would refuse with a message that repeats the value.
    """
    return bool(value) and all("!" <= character <= "~" for character in value)


def is_plaintext_remote(url: str) -> bool:
    """Whether what is sent to the URL can be read on its way to another machine."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")


def split_url(value: str, *, schemes: Sequence[str] = ("http", "https")) -> SplitResult | None:
    """The parts of a URL with a host and, if any, a possible port; None when it is none."""
    # urlsplit silently removes tabs and newlines.
    if not is_header_text(value):
        return None
    try:
        url = urlsplit(value)
        # Reading the port is what checks it.
        return url if url.scheme in schemes and url.hostname and url.port != 0 else None
    except ValueError:
        return None
