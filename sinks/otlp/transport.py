"""How requests reach the server. gRPC's transport is a module of its own: its library is an extra.

A transport makes one attempt, and returns what the server says of a request that it took.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from sinks.answers import StatusTable, verdict
from sinks.compress import encoding_headers
from sinks.otlp.answers import MAX_ANSWER_BYTES, read_answer
from sinks.web import WebClient

if TYPE_CHECKING:
    from sinks.otlp.answers import Acceptance
    from sinks.otlp.settings import OtlpSettings

#: The specification's; everything else is a refusal, 500 too.
_STATUSES = StatusTable(retry=frozenset({429, 502, 503, 504}))


class Transport(Protocol):
    """One way to the server; `open` comes first, `close` may come at any time."""

    async def open(self) -> None:
        """Read certificates and get ready.

        Raises:
            SinkMisconfiguredError: They cannot be used.
        """
        ...

    async def export(self, body: bytes) -> Acceptance:
        """Send a request and wait for the answer; cancelling gives it up.

        Raises:
            SinkUnavailableError: Not now.
            BatchRejectedError: Not this request.
            SinkMisconfiguredError: Not before somebody mends something.
        """
        ...

    async def close(self) -> None:
        """Let go of every connection; may be called again."""
        ...


class HttpTransport:
    """OTLP over HTTP."""

    def __init__(self, settings: OtlpSettings) -> None:
        self._settings = settings
        self._client = WebClient(settings)
        form = "json" if settings.encoding.form == "json" else "x-protobuf"
        self._headers = {
            "content-type": f"application/{form}",
            **encoding_headers(settings.encoding.compression),
        }

    async def open(self) -> None:
        """See `Transport.open`."""
        await self._client.open()

    async def export(self, body: bytes) -> Acceptance:
        """See `Transport.export`."""
        url = self._settings.url
        answer = await self._client.post(
            url, body, self._headers, max_answer_bytes=MAX_ANSWER_BYTES
        )
        wrong = verdict(answer, _STATUSES, url=url, retry_statuses=self._settings.retry_statuses)
        if wrong is not None:
            raise wrong
        return read_answer(answer)

    async def close(self) -> None:
        """See `Transport.close`."""
        await self._client.close()


def transport_of(settings: OtlpSettings) -> Transport:
    """The transport that the settings ask for; nothing is opened."""
    if settings.protocol != "grpc":
        return HttpTransport(settings)
    from sinks.otlp.grpc_transport import GrpcTransport

    return GrpcTransport(settings)
