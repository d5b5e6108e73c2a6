"""One request and its connection: what a handler needs in order to break them on purpose."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from forwarder.local.listener import Connection


class Exchange:
    """A request that is being answered.

    Attributes:
        connection: The TCP connection below it.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._cut = False

    def reset(self) -> None:
        """Reset the connection; over HTTP/2 every other request on it goes down too."""
        self.connection.reset()

    def cut(self) -> None:
        """From now on nothing of the protocol's end is sent: the body stops, the response ends."""
        self._cut = True

    def sender(
        self, send: Callable[[Any], Awaitable[None]]
    ) -> Callable[[MutableMapping[str, Any]], Awaitable[None]]:
        """The ASGI `send` for this request."""

        async def send_unless_cut(message: MutableMapping[str, Any]) -> None:
            if self._cut and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            elif self._cut and message["type"] == "http.response.trailers":
                # HTTP/2 has no empty trailers; without a grpc-status they end nothing.
                message = {**message, "headers": [(b"cut", b"on purpose")]}
            await send(message)

        return send_unless_cut


CURRENT: ContextVar[Exchange] = ContextVar("exchange")
