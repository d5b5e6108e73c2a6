"""Who may be meant by a Host header.

A web page can make a browser on this machine ask a name that suddenly resolves to 127.0.0.1 (DNS
rebinding) and read the answer. Such a request carries the attacker's name in its Host header; one
that names an address, or localhost, cannot come from there.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send


def host_allowed(header: str | None) -> bool:
    """Whether a Host header names an address or localhost; only HTTP/1.0 may leave it out."""
    if header is None:
        return True
    name = header.strip().lower()
    if name.startswith("["):
        name, bracket, _ = name[1:].partition("]")
        if not bracket:
            return False
    else:
        name = name.partition(":")[0]
    if name == "localhost":
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class HostGuard:
    """Answers 421 to requests whose Host header is a name of somebody else."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] == "http" and not host_allowed(Headers(scope=scope).get("host")):
            refusal = PlainTextResponse(
                "this endpoint answers to localhost and to addresses only\n", 421
            )
            await refusal(scope, receive, send)
        else:
            await self._app(scope, receive, send)
