"""Settings of a sink that speaks to one server, for tests of what all such sinks share."""

# Not `from __future__ import annotations`: pydantic reads the annotations at run time.

from collections.abc import Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal

from sinks.network import NetworkSettings
from sinks.server import Url
from sinks.web import WebClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class ServerSettings(NetworkSettings):
    """One server, and everything that all have in common."""

    type: Literal["server"] = "server"
    endpoint: Url

    @property
    def endpoints(self) -> Mapping[str, str]:
        return {"endpoint": self.endpoint}


def settings_for(url: str, **more: Any) -> ServerSettings:
    """As a configuration gives them."""
    return ServerSettings.model_validate({"type": "server", "endpoint": url, **more})


@asynccontextmanager
async def client_for(url: str, **more: Any) -> "AsyncIterator[WebClient]":
    """A client that is open."""
    client = WebClient(settings_for(url, **more))
    await client.open()
    try:
        yield client
    finally:
        await client.close()
