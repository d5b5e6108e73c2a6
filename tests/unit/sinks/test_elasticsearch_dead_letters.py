"""Documents that their index refuses, and the index for those."""

from __future__ import annotations

import orjson
import pytest

from sinks.interface import (
    PartlyDeliveredError,
    SinkError,
    SinkMisconfiguredError,
    SinkUnavailableError,
)
from tests.fakes.web_server import Reply, WebServer
from tests.unit.sinks.bulk_server import (
    BAD,
    BUSY,
    CONFLICT,
    CREATED,
    NO_INDEX,
    opened,
    outcome,
    reply,
    some,
)


async def test_refused_documents_go_to_the_dead_letter_index() -> None:
    replies = [reply(CREATED, BAD, BAD), reply(CREATED, CONFLICT)]
    async with (
        WebServer(*replies) as server,
        opened(server, dead_letter_index="dead-{date}", pipeline="p") as sink,
    ):
        assert await sink.write(some("a", "b", "c")) == {}
    assert [request.path.rpartition("pipeline=")[2] for request in server.requests] == [
        "p",
        "_none",
    ]
    actions = [orjson.loads(line) for line in server.requests[1].body.splitlines()]
    assert actions[0] == {"create": {"_index": "dead-2025.11.23", "_id": "sbx-1/main/0/1"}}
    assert actions[1]["message"] == "b"
    assert actions[1]["error"] == {"type": "document_parsing_exception", "message": "no"}
    assert len(actions) == 4


async def test_what_the_dead_letter_index_refuses_too_stays_refused_for_its_first_reason() -> None:
    worse = {"status": 400, "error": {"type": "other", "reason": "other"}}
    replies = [reply(CREATED, BAD, BAD, BAD, BUSY), reply(CREATED, worse, BUSY)]
    error = await outcome(*replies, texts=5, dead_letter_index="dead")
    assert isinstance(error, PartlyDeliveredError)
    assert list(error.refused) == [2]
    assert error.refused[2].status == "document_parsing_exception"
    assert error.again == (3, 4)


@pytest.mark.parametrize(
    ("second", "verdict"),
    [
        (Reply(503), SinkUnavailableError),
        (Reply(401), SinkUnavailableError),
        (Reply(body=b"?"), SinkUnavailableError),
        (reply(NO_INDEX, NO_INDEX), SinkMisconfiguredError),
    ],
)
async def test_while_the_dead_letter_index_cannot_be_had_refused_documents_wait(
    second: Reply, verdict: type[SinkError]
) -> None:
    error = await outcome(reply(BAD, BAD), second, dead_letter_index="dead")
    assert isinstance(error, verdict)
    error = await outcome(reply(CREATED, BAD), Reply(503), dead_letter_index="dead")
    assert isinstance(error, PartlyDeliveredError)
    assert (error.refused, error.again) == ({}, (1,))


async def test_a_refusal_of_all_the_dead_letters_leaves_them_refused() -> None:
    error = await outcome(reply(CREATED, BAD), Reply(400), dead_letter_index="dead")
    assert isinstance(error, PartlyDeliveredError)
    assert list(error.refused) == [1]
