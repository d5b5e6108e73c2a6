"""The OTLP sink: records to an OpenTelemetry collector, or to whatever else takes OTLP."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from sinks.answers import origin
from sinks.interface import BatchRejectedError
from sinks.otlp.answers import partly_delivered
from sinks.otlp.encoding import empty_body, encode_body
from sinks.otlp.transport import transport_of
from sinks.workers import Encoders

if TYPE_CHECKING:
    from sinks.interface import Batch, SinkState, StateChanges
    from sinks.otlp.answers import Acceptance
    from sinks.otlp.settings import OtlpSettings

_log = logging.getLogger(__name__)

#: So many different warnings of one server are told; a number in them must not fill the log.
_MAX_WARNINGS = 20

_UNREADABLE = "the answer to a request that was taken cannot be read"


class OtlpSink:
    """Exports lines and gap records as log records. It keeps no state.

    Durable means what the server means by its answer; many a collector answers before it has
    passed on what it took.
    """

    def __init__(self, name: str, settings: OtlpSettings) -> None:
        self._name = name
        self._encoding = settings.encoding
        self._where = origin(settings.url)
        self._transport = transport_of(settings)
        self._encoders = Encoders(settings.workers)
        self._warned: set[str] = set()

    async def open(self, state: SinkState) -> None:
        """Read certificates; the first request connects.

        Raises:
            SinkMisconfiguredError: A certificate or key cannot be used.
        """
        del state
        await self._transport.open()

    async def write(self, batch: Batch) -> StateChanges:
        """Send one request with everything but the end records; none when nothing is left.

        Raises:
            SinkUnavailableError: Not now, or no answer: then it may be there already.
            BatchRejectedError: The server takes no such request, or it is too large.
            PartlyDeliveredError: The server refused some records, which never come again.
            SinkMisconfiguredError: Credentials, address or certificate have to be mended.
        """
        body = await self._encoders.run(encode_body, batch.slices, self._encoding)
        if body is None:
            return {}
        acceptance = await self._transport.export(body)
        partly = partly_delivered(acceptance, batch.slices, self._where)
        if partly is not None:
            raise partly
        self._warn(acceptance)
        return {}

    async def check(self) -> str:
        """Send a request without records, which is allowed and tells the same as others.

        Raises:
            SinkUnavailableError: The server does not answer.
            SinkMisconfiguredError: Credentials, address or certificate have to be mended.
        """
        await self._transport.open()
        try:
            acceptance = await self._transport.export(empty_body(self._encoding))
        except BatchRejectedError as refused:
            return f"answers, but takes no request without records: {refused}"
        finally:
            await self._transport.close()
        return "takes our requests" if acceptance.readable else f"answers, but {_UNREADABLE}"

    async def close(self) -> None:
        """Let go of connections and processes; may be called again, and before `open`."""
        await self._transport.close()
        await self._encoders.close()

    def _warn(self, acceptance: Acceptance) -> None:
        """Tell the log what the server has to say, each thing once."""
        message = acceptance.message if acceptance.readable else _UNREADABLE
        if not message or message in self._warned or len(self._warned) >= _MAX_WARNINGS:
            return
        self._warned.add(message)
        _log.warning("sink %s: %s took a request and says: %s", self._name, self._where, message)
