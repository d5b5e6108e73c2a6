"""The Elasticsearch and OpenSearch sink: bulk requests that only create, over plain HTTP.

Every document has its record id as `_id`, so a record that comes again meets a conflict, and a
conflict is success: whatever is unclear is simply sent again. With `document_ids: false` the server
makes ids of its own, and what is sent again can be there twice.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sinks.answers import Answer, StatusTable, origin, verdict
from sinks.bulk.answers import Verdicts, after_fallback, as_error, read_verdicts
from sinks.bulk.connection import Connection
from sinks.bulk.documents import document_records, encode_bulk, encode_fallback
from sinks.bulk.inspection import Inspection
from sinks.bulk.settings import ElasticsearchSettings
from sinks.compress import encoding_headers
from sinks.interface import (
    BatchRejectedError,
    SinkError,
    SinkMisconfiguredError,
    SinkUnavailableError,
)
from sinks.workers import Encoders

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sinks.bulk.documents import BulkOptions
    from sinks.interface import Batch, SinkState, Slice, StateChanges

__all__ = ["ElasticsearchSettings", "ElasticsearchSink"]

_BAD_REQUEST = 400
#: A 500 of the whole request says nothing against its records, and a resend does no harm.
_TABLE = StatusTable(
    retry=frozenset({408, 429, 500, 502, 503, 504}),
    # Methods, content types and encodings are never a record's fault.
    hold=frozenset({401, 403, 404, 405, 406, 407, 410, 415}),
)
_ANSWER_BYTES = 64 << 10
#: An item is about 30 bytes; with an error some hundred, and its reason has no bound.
_ANSWER_BYTES_PER_ITEM = 2 << 10


class ElasticsearchSink:
    """Adds documents to an index or a data stream. It keeps no state of its own."""

    def __init__(self, name: str, settings: ElasticsearchSettings) -> None:
        self._name = name
        self._settings = settings
        self._options = settings.options
        self._fallback = settings.fallback_options
        self._url = settings.bulk_url
        self._where = origin(self._url)
        self._connection = Connection(settings)
        self._encoders = Encoders(settings.workers)

    async def open(self, state: SinkState) -> None:
        """Read certificates and get ready; nothing is sent.

        Raises:
            SinkMisconfiguredError: A certificate or the API key cannot be used.
        """
        del state
        await self._connection.open()

    async def write(self, batch: Batch) -> StateChanges:
        """Create a document for each line and gap record.

        Returning means that each is in the translog of its shard and of every copy in sync with
        it; it is on their disks, too, unless the index has `translog.durability: async`.

        Raises:
            SinkUnavailableError: No answer, none that tells, or not now.
            BatchRejectedError: The whole request was refused, or is too large.
            PartlyDeliveredError: Some documents are there, and others not.
            SinkMisconfiguredError: Credentials, address, index or pipeline have to be mended.
        """
        records = document_records(batch.slices)
        body = await self._encoders.run(encode_bulk, batch.slices, self._options)
        if body == b"":
            return {}
        verdicts = await self._send(self._url, body, len(records), self._options)
        if verdicts.refused and self._fallback is not None:
            verdicts = await self._set_aside(batch.slices, records, verdicts, self._fallback)
        error = as_error(verdicts, records, where=self._where)
        if error is not None:
            raise error
        return {}

    async def close(self) -> None:
        """Close connections and end the encoders' processes; may be called again."""
        await self._connection.close()
        await self._encoders.close()

    async def check(self) -> str:
        """Ask for the version and, where the server tells, whether we may create documents.

        Raises:
            SinkUnavailableError: It does not answer.
            SinkMisconfiguredError: It is no such server, or refuses our credentials.
        """
        await self._connection.open()
        try:
            return await Inspection(self._connection, self._settings).run()
        finally:
            await self.close()

    async def _send(
        self, url: str, body: bytes | None, count: int, options: BulkOptions
    ) -> Verdicts:
        """One request, and what the server says of each document in it."""
        if body is None:
            text = f"more than {options.max_body_bytes} bytes, which no server takes by default"
            raise BatchRejectedError(text, status="413", too_large=True)
        kind = {"content-type": "application/x-ndjson"}
        answer = await self._connection.request(
            "POST",
            url,
            body,
            {**kind, **encoding_headers(options.compression)},
            max_answer_bytes=_ANSWER_BYTES + _ANSWER_BYTES_PER_ITEM * count,
        )
        error = self._meaning(answer)
        if error is not None:
            raise error
        verdicts = None
        if answer.whole:
            own_ids = options.document_ids
            verdicts = await asyncio.to_thread(read_verdicts, answer.body, count, own_ids=own_ids)
        if verdicts is None:
            raise SinkUnavailableError(
                f"{self._where} answered {answer.status} without saying what became of {count}"
                " documents: they are sent again"
            )
        return verdicts

    def _meaning(self, answer: Answer) -> SinkError | None:
        error = verdict(answer, _TABLE, url=self._url, retry_statuses=self._settings.retry_statuses)
        # A parameter that the server does not know is ours or the operator's, not a record's.
        if answer.status == _BAD_REQUEST and b"unrecognized parameter" in answer.body:
            return SinkMisconfiguredError(f"{error}; mend the query of the endpoint")
        return error

    async def _set_aside(
        self,
        slices: Sequence[Slice],
        records: Sequence[int],
        first: Verdicts,
        options: BulkOptions,
    ) -> Verdicts:
        """Send refused records once more, to the dead letter index; what became of all then."""
        refused = {records[position]: why for position, why in first.refused.items()}
        body = await self._encoders.run(encode_fallback, slices, refused, options)
        try:
            url = self._settings.fallback_url
            second = await self._send(url, body, len(refused), options)
        except BatchRejectedError:
            return first
        except SinkError as error:
            second = Verdicts(again=list(range(len(refused))), retry_reason=str(error))
        return after_fallback(first, second)
