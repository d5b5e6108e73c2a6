"""An OpenSearch index, for the suite of what every sink promises."""

from __future__ import annotations

from base64 import b64decode
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx

from sinks.elasticsearch import ElasticsearchSettings, ElasticsearchSink
from sinks.testing import STREAM

if TYPE_CHECKING:
    from sinks.interface import Sink, Stream
    from tests.servers.opensearch import OpenSearch


class ElasticsearchIndex:
    """An index of its own for each test; what was written is refreshed before it is read."""

    def __init__(self, server: OpenSearch) -> None:
        self.server = server
        self.index = f"contract-{uuid4().hex}"

    def new_sink(self) -> Sink:
        settings = ElasticsearchSettings(endpoint=self.server.base_url, index=self.index)
        return ElasticsearchSink("contract", settings)

    def records(self, stream: Stream) -> list[dict[str, Any]]:
        """The stream's documents in their order, gap records among them."""
        try:
            self.server.refresh(self.index)
            found = [hit["_source"] for hit in self.server.search(self.index)]
        except httpx.HTTPStatusError as error:
            if error.response.status_code == HTTPStatus.NOT_FOUND:
                return []
            raise
        return sorted(
            (x for x in found if (x["cwsandbox"]["id"], x["container"]["name"]) == stream.identity),
            key=_place,
        )

    def texts(self, stream: Stream = STREAM) -> list[bytes]:
        texts: list[bytes] = []
        for record in self.records(stream):
            ours = record["cwsandbox"]
            if "gap" in ours:
                continue
            exact = ours.get("message_base64")
            text = record["message"].encode() if exact is None else b64decode(exact)
            if ours.get("part", 0) > 1:
                texts[-1] += text
            else:
                texts.append(text)
        return texts

    def gaps(self, stream: Stream = STREAM) -> list[dict[str, Any]]:
        ours = [record["cwsandbox"] for record in self.records(stream)]
        return [record["gap"] for record in ours if "gap" in record]


def _place(record: dict[str, Any]) -> tuple[int, ...]:
    ours = record["cwsandbox"]
    return (
        ours["generation"],
        record["event"]["sequence"],
        ours.get("part", 0),
        ours.get("gap", {}).get("filled_ns", 0),
    )
