"""The Elasticsearch sink against a scripted server: requests, statuses, items, faults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import pytest

from sinks.interface import (
    BatchRejectedError,
    PartlyDeliveredError,
    SinkError,
    SinkMisconfiguredError,
    SinkUnavailableError,
)
from sinks.testing import batch_of, end_of, gap_of, slice_of
from tests.fakes.web_server import Reply, WebServer
from tests.unit.sinks.bulk_server import (
    BAD,
    BUSY,
    CONFLICT,
    CREATED,
    NO_INDEX,
    NOW_NS,
    all_created,
    answer,
    opened,
    outcome,
    reply,
    some,
)

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_batch_is_one_bulk_request() -> None:
    async with WebServer(handler=all_created) as server, opened(server) as sink:
        assert await sink.write(some("a", "b")) == {}
    (request,) = server.requests
    assert request.method == "POST"
    assert request.path.startswith("/_bulk?filter_path=")
    assert request.headers["content-type"] == "application/x-ndjson"
    assert request.headers["content-encoding"] == "gzip"
    assert int(request.headers["content-length"]) == len(request.raw)
    assert "transfer-encoding" not in request.headers
    assert request.body.endswith(b"\n")
    lines = [orjson.loads(line) for line in request.body.splitlines()]
    assert [line["create"]["_id"] for line in lines[::2]] == ["sbx-1/main/0/0", "sbx-1/main/0/1"]
    assert [line["message"] for line in lines[1::2]] == ["a", "b"]


async def test_the_same_batch_is_the_same_request() -> None:
    async with WebServer(handler=all_created) as server, opened(server) as sink:
        await sink.write(some("a"))
        await sink.write(some("a"))
    first, second = server.requests
    assert first.raw == second.raw


async def test_workers_encode_as_the_daemon_does() -> None:
    async with WebServer(handler=all_created) as server:
        # Lambdas do not go to another process; the engine's slices do.
        source = gap_of(first_line=3, from_stamp_ns=NOW_NS)
        source.decode = _no_columns
        for workers in (0, 1):
            async with opened(server, workers=workers) as sink:
                await sink.write(batch_of(source))
    first, second = server.requests
    assert first.raw == second.raw


def _no_columns(_: object) -> Any:
    raise AssertionError("a gap record has no columns")


async def test_nothing_is_sent_for_a_batch_without_documents() -> None:
    async with WebServer() as server, opened(server) as sink:
        assert await sink.write(batch_of()) == {}
        assert await sink.write(batch_of(end_of())) == {}
    assert server.requests == []


async def test_a_body_that_no_server_takes_is_split_before_it_is_sent() -> None:
    text = "\0" * (18 << 20)  # six bytes each, as JSON
    async with WebServer() as server, opened(server) as sink:
        with pytest.raises(BatchRejectedError) as caught:
            await sink.write(some(text))
    assert caught.value.too_large
    assert server.requests == []


@pytest.mark.parametrize(
    ("given", "header"),
    [
        ({"api_key": "YTpi"}, "ApiKey YTpi"),
        ({"api_key": "a:b"}, "ApiKey YTpi"),
        ({"username": "u", "password": "p"}, "Basic dTpw"),
        ({"bearer_token": "t"}, "Bearer t"),
    ],
)
async def test_credentials_are_sent(given: dict[str, Any], header: str) -> None:
    async with WebServer(handler=all_created) as server, opened(server, **given) as sink:
        await sink.write(some("a"))
    assert server.requests[0].headers["authorization"] == header


async def test_a_key_s_file_is_read_at_every_use(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("b25l\n")
    async with (
        WebServer(handler=all_created) as server,
        opened(server, api_key_file=str(file)) as sink,
    ):
        await sink.write(some("a"))
        file.write_text("dHdv\n")
        await sink.write(some("a"))
    sent = [request.headers["authorization"] for request in server.requests]
    assert sent == ["ApiKey b25l", "ApiKey dHdv"]


@pytest.mark.parametrize("content", ["", "two\nlines", "not a key"])
async def test_a_key_that_cannot_be_one_holds_the_sink_and_is_not_shown(
    tmp_path: Path, content: str
) -> None:
    file = tmp_path / "key"
    file.write_text(content)
    async with WebServer() as server:
        with pytest.raises(SinkMisconfiguredError, match="api_key_file") as caught:
            async with opened(server, api_key_file=str(file)):
                pass
    assert caught.value.credentials
    assert not content or content not in str(caught.value)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_a_server_that_cannot_now_gets_the_same_again(status: int) -> None:
    error = await outcome(Reply(status, {"retry-after": "7"}, b'{"error":"x"}'))
    assert isinstance(error, SinkUnavailableError)
    assert error.retry_after_s == 7.0


async def test_too_much_at_once_is_split() -> None:
    error = await outcome(Reply(413))
    assert isinstance(error, BatchRejectedError)
    assert error.too_large


@pytest.mark.parametrize("status", [401, 403, 404, 405, 406, 407, 410, 415])
async def test_what_is_no_record_s_fault_holds_the_sink(status: int) -> None:
    error = await outcome(Reply(status, body=b'{"error":"x"}'))
    assert isinstance(error, SinkMisconfiguredError)
    assert error.credentials == (status in {401, 403, 407})


@pytest.mark.parametrize("status", [400, 409, 422])
async def test_a_request_that_is_refused_as_a_whole_is_rejected(status: int) -> None:
    error = await outcome(Reply(status, body=b'{"error":{"type":"parse_exception"}}'))
    assert isinstance(error, BatchRejectedError)
    assert error.status == str(status)
    assert not error.too_large


async def test_a_status_that_the_operator_names_is_tried_again() -> None:
    error = await outcome(Reply(400), retry_statuses=[400])
    assert isinstance(error, SinkUnavailableError)


async def test_a_parameter_that_the_server_does_not_know_holds_the_sink() -> None:
    body = b'{"error":{"reason":"request [/_bulk] contains unrecognized parameter: [a]"}}'
    error = await outcome(Reply(400, body=body))
    assert isinstance(error, SinkMisconfiguredError)
    assert "mend the query of the endpoint" in str(error)


async def test_a_web_page_holds_the_sink() -> None:
    error = await outcome(Reply(headers={"content-type": "text/html"}, body=b"<html>log in"))
    assert isinstance(error, SinkMisconfiguredError)


async def test_a_redirection_is_not_followed() -> None:
    error = await outcome(Reply(302, {"location": "https://elsewhere/?token=SECRET"}))
    assert isinstance(error, SinkMisconfiguredError)
    assert "SECRET" not in str(error)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"ok",
        b"{}",
        answer(CREATED),
        answer(CREATED, CREATED, CREATED),
        b"\xff\x00",
        b"[" * 9000,
    ],
)
@pytest.mark.parametrize("document_ids", [True, False])
async def test_a_success_that_does_not_tell_is_no_success(body: bytes, document_ids: bool) -> None:
    error = await outcome(Reply(body=body), document_ids=document_ids)
    assert isinstance(error, SinkUnavailableError)
    assert "without saying what became of 2 documents" in str(error)


async def test_an_endless_answer_is_cut_and_tells_nothing() -> None:
    error = await outcome(Reply(fault="endless_body"))
    assert isinstance(error, SinkUnavailableError)


async def test_an_answer_that_says_no_errors_and_goes_on_for_ever_tells_nothing() -> None:
    piece = answer(CREATED, CREATED) + b" " * 200_000
    error = await outcome(Reply(body=piece, fault="endless_body"))
    assert isinstance(error, SinkUnavailableError)


@pytest.mark.parametrize("fault", ["reset", "reset_after_body_taken", "cut_answer", "not_http"])
async def test_a_broken_connection_gets_the_same_again(fault: Any) -> None:
    error = await outcome(reply(CREATED, CREATED, fault=fault))
    assert isinstance(error, SinkUnavailableError)


async def test_a_server_that_answers_too_much_at_once_before_reading_is_believed() -> None:
    error = await outcome(Reply(413, fault="early_answer"))
    assert isinstance(error, BatchRejectedError)


async def test_created_and_already_there_is_success() -> None:
    assert await outcome(reply(CREATED, CREATED)) is None
    assert await outcome(reply(CONFLICT, CREATED)) is None
    assert await outcome(Reply(body=b'{"took":3,"errors":false}')) is None


async def test_a_conflict_without_ids_of_ours_comes_again() -> None:
    error = await outcome(reply(CREATED, CONFLICT), document_ids=False)
    assert isinstance(error, PartlyDeliveredError)
    assert error.again == (1,)


async def test_each_document_has_its_own_fate() -> None:
    error = await outcome(reply(CREATED, BAD, BUSY, CONFLICT, NO_INDEX), texts=5)
    assert isinstance(error, PartlyDeliveredError)
    assert list(error.refused) == [1]
    assert error.refused[1].status == "document_parsing_exception"
    assert error.again == (2, 4)


async def test_documents_are_told_by_their_record_with_ends_among_them() -> None:
    line = slice_of([(NOW_NS, "x")])
    batch = batch_of(end_of(), line, gap_of(first_line=1), end_of(), line)
    async with WebServer(reply(CREATED, BAD, BUSY)) as server, opened(server) as sink:
        with pytest.raises(PartlyDeliveredError) as caught:
            await sink.write(batch)
    assert list(caught.value.refused) == [2]
    assert caught.value.again == (4,)


async def test_when_nothing_was_taken_the_whole_batch_waits() -> None:
    assert isinstance(await outcome(reply(BUSY, BUSY)), SinkUnavailableError)
    assert isinstance(await outcome(reply(NO_INDEX, BUSY)), SinkMisconfiguredError)


@pytest.mark.parametrize("status", [400, 403, 503])
async def test_no_message_holds_a_secret_or_a_path(status: int) -> None:
    secrets = [b"SECRET-PATH-1", b"SECRET-TOKEN-1", b"U0VDUkVULUtFWQ=="]
    async with WebServer(default=Reply(status, body=b" ".join(secrets))) as server:
        url = f"{server.url}/SECRET-PATH-1?token=SECRET-TOKEN-1"
        async with opened(server, endpoint=url, api_key="U0VDUkVULUtFWQ==") as sink:
            with pytest.raises(SinkError) as caught:
                await sink.write(some("SECRET-TEXT"))
    assert "SECRET" not in str(caught.value)
    assert "U0VD" not in str(caught.value)


async def test_close_may_come_at_any_time() -> None:
    async with WebServer() as server, opened(server) as sink:
        await sink.close()
