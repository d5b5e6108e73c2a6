"""The Loki sink against a scripted server: one attempt, and the truth about it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from sinks.interface import (
    Batch,
    BatchRejectedError,
    Checkable,
    PartlyDeliveredError,
    Sink,
    SinkError,
    SinkMisconfiguredError,
    SinkUnavailableError,
    Stream,
)
from sinks.loki import LokiSettings, LokiSink
from sinks.loki import sink as loki_sink
from sinks.testing import MemoryState, batch_of, end_of, gap_of, slice_of
from tests.fakes.web_server import Reply, Request, WebServer
from tests.unit.sinks.loki_messages import decode_numbered, entries, parsed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

NOW_NS = 1_763_899_200_000_000_000
DAY_NS = 86_400_000_000_000
STORED = Reply(204)


def services(*names: str) -> list[Any]:
    """A line of each of these services; each service is a Loki stream."""
    return [
        slice_of([(NOW_NS, name)], stream=Stream(f"sbx-{n}", "main", tags=(f"service:{name}",)))
        for n, name in enumerate(names)
    ]


def some(*texts: str, at_ns: int = NOW_NS) -> Batch:
    return batch_of(slice_of([(at_ns + i, text) for i, text in enumerate(texts)]))


@asynccontextmanager
async def opened(server: WebServer, **given: Any) -> AsyncIterator[LokiSink]:
    sink = new_sink(server, **given)
    await sink.open(MemoryState())
    try:
        yield sink
    finally:
        await sink.close()


def new_sink(server: WebServer, **given: Any) -> LokiSink:
    settings = {"type": "loki", "endpoint": server.url, **given}
    return LokiSink("x", LokiSettings.model_validate(settings), now_ns=lambda: NOW_NS)


async def verdict(batch: Batch, *replies: Reply, **given: Any) -> SinkError:
    async with WebServer(*replies, default=STORED) as server, opened(server, **given) as sink:
        with pytest.raises(SinkError) as caught:
            await sink.write(batch)
    return caught.value


def by_line(replies: dict[str, Reply]) -> Callable[[Request], Reply]:
    """Answer each request by the text of its first line."""

    def answer(request: Request) -> Reply:
        return replies.get(entries(request.raw)[0][1], STORED)

    return answer


async def partly(batch: Batch, replies: dict[str, Reply], **given: Any) -> PartlyDeliveredError:
    async with (
        WebServer(handler=by_line(replies)) as server,
        opened(server, **given) as sink,
    ):
        with pytest.raises(PartlyDeliveredError) as caught:
            await sink.write(batch)
    return caught.value


async def test_it_is_a_sink_that_can_be_checked() -> None:
    async with WebServer() as server:
        assert isinstance(new_sink(server), Sink)
        assert isinstance(new_sink(server), Checkable)


async def test_a_batch_is_pushed_with_tenant_and_credentials() -> None:
    given = {"tenant": "team-a", "username": "12", "password": "secret"}
    async with WebServer(default=STORED) as server, opened(server, **given) as sink:
        assert await sink.write(some("one", "two")) == {}
        (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/loki/api/v1/push")
    assert request.headers["x-scope-orgid"] == "team-a"
    assert request.headers["authorization"] == "Basic MTI6c2VjcmV0"
    assert request.headers["content-type"] == "application/x-protobuf"
    assert "content-encoding" not in request.headers
    assert [line for _, line, _ in entries(request.raw)] == ["one", "two"]


async def test_json_goes_with_gzip() -> None:
    async with WebServer(default=STORED) as server, opened(server, format="json") as sink:
        await sink.write(some("one"))
        (request,) = server.requests
    assert request.headers["content-type"] == "application/json"
    assert request.headers["content-encoding"] == "gzip"
    (stream,) = orjson.loads(request.body)["streams"]
    assert stream["stream"] == {"job": "sandbox-forwarder", "service_name": "unknown_service"}
    assert stream["values"][0][:2] == [str(NOW_NS), "one"]


async def test_a_worker_process_makes_the_same_request() -> None:
    # What a test's slices are made of cannot go to another process.
    (source,) = some("one", "two").slices
    batch = batch_of(replace(source, decode=decode_numbered))
    async with WebServer(default=STORED) as server:
        for workers in (0, 1):
            async with opened(server, workers=workers) as sink:
                await sink.write(batch)
        here, there = server.requests
    assert here.raw == there.raw
    assert [line for _, line, _ in entries(there.raw)] == ["line 0", "line 1"]


async def test_nothing_is_sent_when_there_is_nothing_to_send() -> None:
    async with WebServer(default=STORED) as server, opened(server) as sink:
        assert await sink.write(batch_of()) == {}
        assert await sink.write(batch_of(end_of())) == {}
        assert server.requests == []


async def test_each_loki_stream_has_a_request_and_all_are_one_delivery() -> None:
    async with WebServer(default=STORED) as server, opened(server) as sink:
        assert await sink.write(batch_of(*services("a", "b", "c"))) == {}
        lines = sorted(entries(request.raw)[0][1] for request in server.requests)
    assert lines == ["a", "b", "c"]


async def test_no_more_requests_are_under_way_than_the_settings_say() -> None:
    release = asyncio.Event()

    async def wait(request: Request) -> Reply:
        await release.wait()
        return STORED

    async with WebServer(handler=wait) as server, opened(server, in_flight=2) as sink:
        batches = [batch_of(*services(f"a{n}", f"b{n}", f"c{n}")) for n in range(2)]
        writes = [asyncio.create_task(sink.write(batch)) for batch in batches]
        await server.wait_for(2)
        assert len(server.requests) == 2
        release.set()
        assert await asyncio.gather(*writes) == [{}, {}]
        assert len(server.requests) == 6


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply(503), SinkUnavailableError),
        (Reply(500), SinkUnavailableError),
        (Reply(429, {"retry-after": "3"}), SinkUnavailableError),
        (Reply(204, fault="stall"), SinkUnavailableError),
        (Reply(204, fault="reset"), SinkUnavailableError),
        (Reply(204, fault="reset_after_body_taken"), SinkUnavailableError),
        (Reply(204, fault="not_http", body=b"\0" * 64), SinkUnavailableError),
        (Reply(413), BatchRejectedError),
        (Reply(401), SinkMisconfiguredError),
        (Reply(404), SinkMisconfiguredError),
        (Reply(501), SinkMisconfiguredError),
        (Reply(260, body=b"blocked"), SinkMisconfiguredError),
        (Reply(200, body=b"<html>"), SinkMisconfiguredError),
        (Reply(302, {"location": "http://elsewhere/"}), SinkMisconfiguredError),
        (Reply(400, body=b"no"), PartlyDeliveredError),
        (Reply(400, fault="endless_body"), PartlyDeliveredError),
        (Reply(503, fault="endless_body"), SinkUnavailableError),
    ],
)
async def test_each_answer_has_its_verdict(reply: Reply, kind: type[SinkError]) -> None:
    assert type(await verdict(some("a", "b"), reply, timeout="500ms")) is kind


async def test_a_400_refuses_all_records_of_its_request_and_none_comes_again() -> None:
    error = await partly(batch_of(*services("a", "b")), {"b": Reply(400, body=b"bad stream")})
    assert error.again == ()
    assert list(error.refused) == [1]
    assert error.refused[1].maybe_stored
    assert "bad stream" in error.refused[1].reason
    assert error.refused[1].status == "400"


async def test_records_that_are_named_are_the_only_ones_refused() -> None:
    message = (
        b"entry with timestamp 2025-11-23 12:00:00.000000001 +0000 UTC ignored, reason: 'behind',\n"
        b"user 'fake', total ignored: 1 out of 3 for stream: {}"
    )
    error = await partly(some("a", "b", "c"), {"a": Reply(400, body=message)})
    assert {i: refusal.maybe_stored for i, refusal in error.refused.items()} == {1: False}


@pytest.mark.parametrize(
    "reply", [Reply(503, {"retry-after": "9"}), Reply(401), Reply(413), Reply(422)]
)
async def test_a_request_that_fails_comes_again_by_itself_when_another_was_stored(
    reply: Reply,
) -> None:
    batch = batch_of(*services("a", "b"))
    error = await partly(batch, {"b": reply}, in_flight=1)
    assert (error.refused, error.again) == ({}, (1,))
    assert error.retry_after_s == (9 if reply.status == 503 else None)
    assert str(reply.status) in str(error)


async def test_what_a_request_refused_for_good_is_told_although_another_failed() -> None:
    replies = {"a": Reply(400, body=b"no"), "b": Reply(503)}
    error = await partly(batch_of(*services("a", "b")), replies, in_flight=1)
    assert (list(error.refused), error.again) == ([0], (1,))


async def test_after_a_failure_of_the_server_the_other_requests_are_not_tried() -> None:
    batch = batch_of(*services("a", "b", "c"))
    async with WebServer(STORED, Reply(503)) as server, opened(server, in_flight=1) as sink:
        with pytest.raises(PartlyDeliveredError) as caught:
            await sink.write(batch)
        assert len(server.requests) == 2
    assert caught.value.again == (1, 2)


async def test_when_time_has_run_out_what_was_not_sent_comes_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(LokiSettings, "last_request_s", -1.0)
    async with WebServer() as server, opened(server) as sink:
        with pytest.raises(PartlyDeliveredError) as caught:
            await sink.write(batch_of(*services("a", "b")))
        assert server.requests == []
    assert (caught.value.again, caught.value.refused) == ((0, 1), {})


async def test_when_all_requests_fail_the_most_urgent_failure_is_told() -> None:
    batch = batch_of(*services("a", "b"))
    gate = asyncio.Event()
    seen: list[Request] = []

    async def answer(request: Request) -> Reply:
        seen.append(request)
        if len(seen) == 2:
            gate.set()
        await gate.wait()
        return Reply(413) if entries(request.raw)[0][1] == "a" else Reply(403)

    async with WebServer(handler=answer) as server, opened(server) as sink:
        with pytest.raises(SinkMisconfiguredError):
            await sink.write(batch)


async def test_lines_that_are_too_old_are_told_when_the_others_are_stored() -> None:
    old = slice_of([(NOW_NS - 8 * DAY_NS, "old")])
    error = await partly(batch_of(end_of(), old, slice_of([(NOW_NS, "new")], first_line=1)), {})
    assert {i: refusal.status for i, refusal in error.refused.items()} == {1: "too_old"}
    assert error.again == ()


async def test_lines_that_are_too_old_are_told_alone_when_nothing_is_left_to_send() -> None:
    async with WebServer() as server, opened(server) as sink:
        with pytest.raises(PartlyDeliveredError) as caught:
            await sink.write(some("old", at_ns=NOW_NS - 8 * DAY_NS))
        assert server.requests == []
    assert list(caught.value.refused) == [0]


async def test_nothing_is_set_aside_while_the_server_is_down() -> None:
    batch = batch_of(slice_of([(NOW_NS - 8 * DAY_NS, "old"), (NOW_NS, "new")]))
    assert isinstance(await verdict(batch, Reply(503)), SinkUnavailableError)


async def test_a_rate_limit_that_let_some_lines_pass_is_waited_for() -> None:
    message = (
        b"entry with timestamp 2025-11-23 12:00:00.000000001 +0000 UTC ignored,"
        b" reason: 'Per stream rate limit exceeded (limit: 3MB/sec)',\n"
        b"user 'fake', total ignored: 1 out of 2 for stream: {}"
    )
    error = await partly(some("a", "b"), {"a": Reply(400, body=message)})
    assert (error.refused, error.again) == ({}, (1,))
    assert "rate limit" in str(error)


async def test_a_hold_is_told_at_once_when_nothing_was_stored() -> None:
    message = (
        b"entry with timestamp 2025-11-23 12:00:00 +0000 UTC ignored,"
        b" reason: 'Per stream rate limit exceeded (limit: 3MB/sec)',\n"
        b"user 'fake', total ignored: 1 out of 1 for stream: {}"
    )
    replies = [Reply(400, body=message), Reply(401)]
    error = await verdict(batch_of(*services("a", "b")), *replies, in_flight=1)
    assert isinstance(error, SinkMisconfiguredError)


async def test_a_request_that_would_be_too_large_is_not_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loki_sink, "MAX_REQUEST_BYTES", 100)
    async with WebServer() as server, opened(server) as sink:
        with pytest.raises(BatchRejectedError) as caught:
            await sink.write(some("a"))
        assert server.requests == []
    assert caught.value.too_large


async def test_a_resend_is_the_same_request() -> None:
    gap = gap_of(first_line=2, from_stamp_ns=NOW_NS)
    batch = batch_of(slice_of([(NOW_NS, "a"), (NOW_NS, "a")]), gap)
    async with WebServer(Reply(503), default=STORED) as server:
        async with opened(server) as sink:
            with pytest.raises(SinkUnavailableError):
                await sink.write(batch)
        async with opened(server) as sink:
            await sink.write(batch)
        first, second = server.requests
    assert first.raw == second.raw
    assert len(parsed(first.raw).streams[0].entries) == 3


@pytest.mark.parametrize("form", ["protobuf", "json"])
async def test_the_check_sends_a_request_without_lines(form: str) -> None:
    said = b"error at least one valid stream is required for ingestion"
    async with WebServer(Reply(422, body=said)) as server:
        given = {"format": form, "compression": "none"}
        assert await new_sink(server, **given).check() == "answers"
        (request,) = server.requests
    if form == "protobuf":
        assert len(parsed(request.raw).streams) == 0
    else:
        assert orjson.loads(request.raw) == {"streams": []}


async def test_the_check_tells_that_credentials_are_refused() -> None:
    async with WebServer(Reply(401)) as server:
        with pytest.raises(SinkMisconfiguredError) as caught:
            await new_sink(server, bearer_token="canary").check()
    assert caught.value.credentials
    assert "canary" not in str(caught.value)


async def test_the_check_says_when_credentials_are_taken() -> None:
    async with WebServer(default=STORED) as server:
        sink = new_sink(server, bearer_token="x")
        assert await sink.check() == "answers, and takes our credentials"


def test_batches_go_one_after_the_other_and_have_time_for_several_requests() -> None:
    given = {"type": "loki", "endpoint": "http://x", "timeout": "3s", "in_flight": 2}
    plan = LokiSettings.model_validate(given).plan
    assert (plan.timeout_s, plan.in_flight) == (30.0, 1)
    assert (plan.max_records, plan.max_bytes) == (5_000, 1 << 20)


def test_who_sets_one_limit_of_batches_keeps_the_others() -> None:
    given = {"endpoint": "http://x", "batch": {"max_age": "5s"}}
    plan = LokiSettings.model_validate(given).plan
    assert (plan.max_records, plan.max_bytes, plan.max_age_s) == (5_000, 1 << 20, 5.0)
