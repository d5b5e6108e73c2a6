"""A sink against a scripted server that answers bulk requests, in the words of real ones."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import orjson

from sinks.elasticsearch import ElasticsearchSettings, ElasticsearchSink
from sinks.interface import Sink, SinkError
from sinks.testing import MemoryState, batch_of, slice_of
from tests.fakes.web_server import Reply, Request, WebServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sinks.interface import Batch

NOW_NS = 1_763_899_200_000_000_001
CREATED: dict[str, Any] = {"status": 201}
CONFLICT = {"status": 409, "error": {"type": "version_conflict_engine_exception"}}
BUSY = {"status": 429, "error": {"type": "es_rejected_execution_exception"}}
BAD = {"status": 400, "error": {"type": "document_parsing_exception", "reason": "no"}}
NO_INDEX = {"status": 404, "error": {"type": "index_not_found_exception"}}


def reply(*items: object, **more: Any) -> Reply:
    return Reply(body=answer(*items), **more)


def answer(*items: object) -> bytes:
    errors = any(item != CREATED for item in items)
    return orjson.dumps({"errors": errors, "items": [{"create": item} for item in items]})


def all_created(request: Request) -> Reply:
    return reply(*[CREATED] * (request.body.count(b"\n") // 2))


@asynccontextmanager
async def opened(server: WebServer, **given: Any) -> AsyncIterator[Sink]:
    settings = ElasticsearchSettings.model_validate({"endpoint": server.url, **given})
    sink = ElasticsearchSink("es", settings)
    try:
        await sink.open(MemoryState())
        yield sink
    finally:
        await sink.close()


def some(*texts: str) -> Batch:
    return batch_of(slice_of([(NOW_NS + i, text) for i, text in enumerate(texts)]))


async def outcome(*replies: Reply, texts: int = 2, **given: Any) -> SinkError | None:
    """What `write` raises when the server answers so."""
    async with WebServer(*replies) as server, opened(server, **given) as sink:
        try:
            await sink.write(some(*["x"] * texts))
        except SinkError as error:
            return error
        return None
