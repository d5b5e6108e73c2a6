"""The OTLP sink over HTTP, against a server that does as told."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from sinks.interface import (
    BatchRejectedError,
    Columns,
    PartlyDeliveredError,
    Sink,
    SinkError,
    SinkMisconfiguredError,
    SinkUnavailableError,
    Slice,
    Stream,
)
from sinks.otlp import OtlpSettings, OtlpSink
from sinks.testing import batch_of, end_of, slice_of
from tests.fakes.web_server import Reply, Request, WebServer
from tests.unit.sinks.otlp_support import otlp_sink, partial_success, warnings_in

if TYPE_CHECKING:
    from tests.fakes.web_server import Fault

BATCH = batch_of(slice_of([(n, f"line {n}") for n in range(10)]))
PROTOBUF = {"content-type": "application/x-protobuf"}
HTML = {"content-type": "text/html"}


def texts(request: Request) -> list[str]:
    if request.headers["content-type"] == "application/json":
        logs = orjson.loads(request.body)["resourceLogs"]
        return [r["body"]["stringValue"] for r in logs[0]["scopeLogs"][0]["logRecords"]]
    message = ExportLogsServiceRequest.FromString(request.body)
    return [r.body.string_value for r in message.resource_logs[0].scope_logs[0].log_records]


async def verdict_of(reply: Reply, **more: Any) -> SinkError:
    async with WebServer(reply) as server, otlp_sink(server.url, **more) as sink:
        with pytest.raises(SinkError) as caught:
            await sink.write(BATCH)
        return caught.value


def test_it_is_a_sink() -> None:
    assert isinstance(OtlpSink("backend", OtlpSettings()), Sink)


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
@pytest.mark.parametrize(
    ("protocol", "kind"),
    [("http/protobuf", "application/x-protobuf"), ("http/json", "application/json")],
)
async def test_a_batch_is_one_request_in_every_form(
    protocol: str, kind: str, compression: str
) -> None:
    more = {"protocol": protocol, "compression": compression, "headers": {"api-key": "k"}}
    async with WebServer() as server, otlp_sink(server.url, **more) as sink:
        assert await sink.write(BATCH) == {}
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/v1/logs")
    assert request.headers["content-type"] == kind
    assert request.headers.get("content-encoding", "none") == compression
    assert request.headers["api-key"] == "k"
    assert texts(request) == [f"line {n}" for n in range(10)]


async def test_a_whole_address_is_used_as_it_is() -> None:
    async with (
        WebServer() as server,
        otlp_sink(f"{server.url}/in/sert?a=b", exact=True) as sink,
    ):
        await sink.write(BATCH)
    assert server.requests[0].path == "/in/sert?a=b"


async def test_a_resend_is_the_same_request() -> None:
    async with WebServer(Reply(503)) as server, otlp_sink(server.url) as sink:
        with pytest.raises(SinkUnavailableError):
            await sink.write(BATCH)
        await sink.write(BATCH)
    assert server.requests[0] == server.requests[1]


async def test_an_end_record_alone_makes_no_request() -> None:
    async with WebServer() as server, otlp_sink(server.url) as sink:
        assert await sink.write(batch_of(end_of())) == {}
        assert await sink.write(batch_of()) == {}
    assert server.requests == []


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_what_may_pass_later_comes_again_when_the_server_says(status: int) -> None:
    verdict = await verdict_of(Reply(status, {"retry-after": "17"}, b"busy"))
    assert isinstance(verdict, SinkUnavailableError)
    assert verdict.retry_after_s == 17
    assert "busy" in str(verdict)


@pytest.mark.parametrize(
    ("said", "wish_s"),
    [
        ("Wed, 21 Oct 2026 07:28:30 GMT", 30),
        ("1000000000", 10**9),
        ("-1", None),
        ("soon", None),
    ],
)
async def test_retry_after_may_be_a_date_huge_or_nonsense(said: str, wish_s: int | None) -> None:
    headers = {"retry-after": said, "date": "Wed, 21 Oct 2026 07:28:00 GMT"}
    verdict = await verdict_of(Reply(503, headers))
    assert isinstance(verdict, SinkUnavailableError)
    assert verdict.retry_after_s == wish_s


@pytest.mark.parametrize(("status", "credentials"), [(401, True), (403, True), (404, False)])
async def test_what_somebody_has_to_mend_holds(status: int, credentials: bool) -> None:
    verdict = await verdict_of(Reply(status))
    assert isinstance(verdict, SinkMisconfiguredError)
    assert verdict.credentials == credentials


@pytest.mark.parametrize("status", [400, 405, 408, 409, 415, 422, 500, 501, 505])
async def test_every_other_error_is_a_refusal(status: int) -> None:
    verdict = await verdict_of(Reply(status, body=b"no"))
    assert isinstance(verdict, BatchRejectedError)
    assert (verdict.status, verdict.too_large) == (str(status), False)


async def test_a_request_that_is_too_large_is_to_be_split() -> None:
    verdict = await verdict_of(Reply(413))
    assert isinstance(verdict, BatchRejectedError)
    assert verdict.too_large


async def test_the_operator_may_have_other_statuses_tried_again() -> None:
    verdict = await verdict_of(Reply(500), retry_statuses=[500])
    assert isinstance(verdict, SinkUnavailableError)


@pytest.mark.parametrize("fault", ["reset", "reset_after_body_taken", "cut_answer", "stall"])
async def test_without_an_answer_it_comes_again(fault: Fault) -> None:
    verdict = await verdict_of(Reply(body=b"half an answer", fault=fault), timeout=0.3)
    assert isinstance(verdict, SinkUnavailableError)


async def test_a_login_page_is_no_success() -> None:
    verdict = await verdict_of(Reply(200, HTML, b"<!doctype html><html>Log in</html>"))
    assert isinstance(verdict, SinkMisconfiguredError)
    assert "web page" in str(verdict)


async def test_a_redirection_is_not_followed() -> None:
    verdict = await verdict_of(Reply(302, {"location": "https://login.example.com/x"}))
    assert isinstance(verdict, SinkMisconfiguredError)
    assert "https://login.example.com" in str(verdict)


async def test_records_refused_in_a_success_are_never_sent_again() -> None:
    verdict = await verdict_of(Reply(200, PROTOBUF, partial_success(3, "too old")))
    assert isinstance(verdict, PartlyDeliveredError)
    assert (verdict.unnamed, verdict.again, verdict.refused) == (3, (), {})
    assert verdict.unnamed_refusal.reason == "too old"


async def test_a_single_record_that_is_refused_is_named() -> None:
    reply = Reply(200, PROTOBUF, partial_success(1, "poison"))
    async with WebServer(reply) as server, otlp_sink(server.url) as sink:
        with pytest.raises(PartlyDeliveredError) as caught:
            await sink.write(batch_of(slice_of([(1, "x")])))
    assert caught.value.refused[0].reason == "poison"


async def test_a_warning_in_a_success_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    one, other = (Reply(200, PROTOBUF, partial_success(0, f"old {n}")) for n in "ab")
    async with WebServer(one, one, other, one) as server, otlp_sink(server.url) as sink:
        for _ in range(4):
            assert await sink.write(BATCH) == {}
    said = warnings_in(caplog)
    where = f"sink backend: {server.url} took a request and says:"
    assert said == [f"{where} old a", f"{where} old b"]


async def test_a_server_with_ever_new_warnings_does_not_fill_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    replies = [Reply(200, PROTOBUF, partial_success(0, f"number {n}")) for n in range(30)]
    async with WebServer(*replies) as server, otlp_sink(server.url) as sink:
        for _ in replies:
            await sink.write(BATCH)
    assert len(warnings_in(caplog)) == 20


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, PROTOBUF, b"\xff garbage"),
        Reply(200, {"content-type": "application/json"}, b"{"),
        Reply(202, {"content-type": "text/plain"}, b"ok"),
        Reply(200, {**PROTOBUF, "content-encoding": "gzip"}, b"\x1f\x8b"),
        Reply(200, PROTOBUF, b"\x08\x01" * 10_000, fault="endless_body"),
    ],
)
async def test_a_success_that_cannot_be_read_is_one_with_a_warning(
    reply: Reply, caplog: pytest.LogCaptureFixture
) -> None:
    async with WebServer(reply) as server, otlp_sink(server.url) as sink:
        assert await sink.write(BATCH) == {}
    (said,) = warnings_in(caplog)
    assert "cannot be read" in said


@pytest.mark.parametrize("status", [200, 202, 204])
async def test_an_empty_success_is_one(status: int, caplog: pytest.LogCaptureFixture) -> None:
    async with WebServer(Reply(status)) as server, otlp_sink(server.url) as sink:
        assert await sink.write(BATCH) == {}
    assert warnings_in(caplog) == []


async def test_a_batch_larger_than_the_protocol_allows_is_not_sent() -> None:
    # Twice 33 MiB: each line is one record, and only together they are too many bytes.
    huge = batch_of(slice_of([(n, b"x" * (33 << 20)) for n in range(2)]))
    async with WebServer() as server, otlp_sink(server.url) as sink:
        with pytest.raises(BatchRejectedError, match="not more than 67108864") as caught:
            await sink.write(huge)
    assert caught.value.too_large
    assert server.requests == []


async def test_a_cancelled_write_leaves_the_connection() -> None:
    async with WebServer(Reply(fault="stall")) as server, otlp_sink(server.url) as sink:
        attempt = asyncio.create_task(sink.write(BATCH))
        await server.wait_for(1)
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt
        await server.wait_for_connections(0)
        assert await sink.write(BATCH) == {}


async def test_several_writes_are_under_way_at_once() -> None:
    async with WebServer() as server, otlp_sink(server.url) as sink:
        all_there = asyncio.Event()

        async def answer(request: Request) -> Reply:
            if len(server.requests) == 4:
                all_there.set()
            await all_there.wait()
            return Reply()

        server._handler = answer
        await asyncio.gather(*(sink.write(BATCH) for _ in range(4)))


def numbered(source: Slice) -> Columns:
    """A decoder that another process can find."""
    return Columns([7] * source.line_count, source.raw.splitlines())


async def test_processes_of_their_own_make_the_same_request() -> None:
    source = Slice(Stream("s", "main"), 0, 2, b"one\ntwo\n", 9, numbered)
    async with (
        WebServer() as server,
        otlp_sink(server.url) as here,
        otlp_sink(server.url, workers=1) as there,
    ):
        await here.write(batch_of(source))
        await there.write(batch_of(source))
    assert server.requests[0].raw == server.requests[1].raw


async def check(server: WebServer, **more: Any) -> str:
    return await OtlpSink("backend", OtlpSettings(endpoint=server.url, **more)).check()


@pytest.mark.parametrize(
    ("protocol", "body"), [("http/protobuf", b""), ("http/json", b'{"resourceLogs":[]}')]
)
async def test_check_sends_a_request_without_records(protocol: str, body: bytes) -> None:
    async with WebServer() as server:
        assert await check(server, protocol=protocol) == "takes our requests"
        await server.wait_for_connections(0)
    (request,) = server.requests
    assert (request.path, request.body) == ("/v1/logs", body)


async def test_check_says_what_a_write_would_meet() -> None:
    async with WebServer(Reply(401), Reply(503)) as server:
        with pytest.raises(SinkMisconfiguredError) as refused:
            await check(server)
        assert refused.value.credentials
        with pytest.raises(SinkUnavailableError):
            await check(server)


async def test_check_is_content_with_a_server_that_wants_records() -> None:
    async with WebServer(Reply(400, body=b"no records")) as server:
        said = await check(server)
    assert said.startswith("answers, but takes no request without records")
    assert "no records" in said


async def test_check_tells_of_an_answer_that_is_none() -> None:
    async with WebServer(Reply(200, {"content-type": "text/plain"}, b"hello")) as server:
        assert "cannot be read" in await check(server)


async def test_closing_again_and_before_opening_is_fine() -> None:
    sink = OtlpSink("backend", OtlpSettings())
    await sink.close()
    await sink.close()
