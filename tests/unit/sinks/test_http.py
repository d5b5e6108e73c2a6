"""The http sink, against an endpoint that answers as told."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import hmac
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from pydantic import ValidationError

from sinks.http import HttpSettings, HttpSink
from sinks.interface import (
    BatchRejectedError,
    Checkable,
    Sink,
    SinkError,
    SinkMisconfiguredError,
    SinkUnavailableError,
)
from sinks.testing import MemoryState, batch_of, end_of, gap_of, slice_of
from tests.fakes.encoders import picklable_slice
from tests.fakes.web_server import Reply, WebServer

if TYPE_CHECKING:
    from pathlib import Path

NOW_S = 1_800_000_000.9
BATCH = batch_of(slice_of([(1, "one"), (2, "two")]))


def settings_of(server: WebServer | str, **more: Any) -> HttpSettings:
    endpoint = server if isinstance(server, str) else f"{server.url}/hook?key=canary"
    return HttpSettings.model_validate({"type": "http", "endpoint": endpoint, **more})


async def opened(server: WebServer, **more: Any) -> HttpSink:
    sink = HttpSink("hook", settings_of(server, **more), now_s=lambda: NOW_S)
    await sink.open(MemoryState())
    return sink


async def write(server: WebServer, batch: Any = BATCH, **more: Any) -> SinkError | None:
    """One attempt by a new sink; the verdict."""
    sink = await opened(server, **more)
    verdict = None
    try:
        await sink.write(batch)
    except SinkError as error:
        verdict = error
    await sink.close()
    assert "canary" not in str(verdict)
    return verdict


def test_it_is_a_sink_that_can_be_checked() -> None:
    sink = HttpSink("hook", settings_of("https://h.example"))
    assert isinstance(sink, Sink)
    assert isinstance(sink, Checkable)


async def test_a_batch_is_one_request_to_the_endpoint_as_it_is_written() -> None:
    async with WebServer() as server:
        assert await write(server, headers={"X-Team": "a"}) is None
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/hook?key=canary")
    assert request.headers["content-type"] == "application/x-ndjson"
    assert request.headers["x-team"] == "a"
    assert "content-encoding" not in request.headers
    assert "x-signature" not in request.headers
    assert [orjson.loads(line)["text"] for line in request.raw.splitlines()] == ["one", "two"]


async def test_method_format_and_compression_are_as_set() -> None:
    async with WebServer() as server:
        more = {"method": "PUT", "format": "json_array", "compression": "gzip"}
        assert await write(server, **more) is None
        assert await write(server, content_type="application/json; charset=utf-8") is None
    first, second = server.requests
    assert (first.method, first.headers["content-encoding"]) == ("PUT", "gzip")
    assert first.headers["content-type"] == "application/json"
    assert [record["text"] for record in orjson.loads(gzip.decompress(first.raw))] == ["one", "two"]
    assert second.headers["content-type"] == "application/json; charset=utf-8"


async def test_gaps_are_sent_and_what_has_no_record_is_not() -> None:
    async with WebServer() as server:
        assert await write(server, batch_of()) is None
        assert await write(server, batch_of(end_of())) is None
        assert server.requests == []
        assert await write(server, batch_of(gap_of())) is None
    assert "gap" in orjson.loads(server.requests[0].raw)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 206])
async def test_every_2xx_is_a_success(status: int) -> None:
    async with WebServer(Reply(status, body=b"\x00 whatever")) as server:
        assert await write(server) is None


@pytest.mark.parametrize("status", [408, 425, 429, 500, 501, 502, 503, 504, 507, 599])
async def test_what_passes_is_tried_again(status: int) -> None:
    async with WebServer(Reply(status, {"retry-after": "17"}, b"busy")) as server:
        error = await write(server)
    assert isinstance(error, SinkUnavailableError)
    assert error.retry_after_s == 17.0
    assert f"answered {status}: busy" in str(error)


@pytest.mark.parametrize(
    ("status", "credentials"),
    [(401, True), (403, True), (407, True), (404, False), (410, False), (301, False), (308, False)],
)
async def test_what_somebody_has_to_mend_is_held(status: int, credentials: bool) -> None:
    async with WebServer(Reply(status, body=b"no")) as server:
        error = await write(server)
    assert isinstance(error, SinkMisconfiguredError)
    assert error.credentials is credentials


@pytest.mark.parametrize("status", [400, 402, 405, 406, 409, 411, 415, 422, 431, 451])
async def test_what_is_refused_is_refused(status: int) -> None:
    async with WebServer(Reply(status, body=b"bad field")) as server:
        error = await write(server)
    assert isinstance(error, BatchRejectedError)
    assert (error.status, error.too_large) == (str(status), False)
    assert "bad field" in str(error)


async def test_what_is_too_large_is_said_to_be() -> None:
    async with WebServer(Reply(413)) as server:
        error = await write(server)
    assert isinstance(error, BatchRejectedError)
    assert error.too_large


async def test_an_operator_may_have_a_refusal_tried_again() -> None:
    async with WebServer(Reply(409)) as server:
        assert isinstance(await write(server, retry_statuses=[409]), SinkUnavailableError)


async def test_a_web_page_is_not_the_endpoint() -> None:
    page = Reply(200, {"content-type": "text/html"}, b"<!doctype html><form>Log in")
    async with WebServer(page) as server:
        error = await write(server)
    assert isinstance(error, SinkMisconfiguredError)
    assert "web page" in str(error)


async def test_no_answer_is_tried_again() -> None:
    async with WebServer(Reply(fault="reset_after_body_taken")) as server:
        assert isinstance(await write(server), SinkUnavailableError)
        assert await write(server) is None
    first, second = server.requests
    assert first.raw == second.raw


async def test_the_key_is_the_same_at_every_resend_and_whatever_the_compression() -> None:
    async with WebServer() as server:
        await write(server)
        await write(server, compression="zstd", idempotency_header="X-Batch")
        await write(server, batch_of(slice_of([(1, "one")])))
    first, second, other = server.requests
    key = first.headers["idempotency-key"]
    assert second.headers["x-batch"] == key
    assert "idempotency-key" not in second.headers
    assert other.headers["idempotency-key"] != key


def test_batches_are_fixed_so_that_keys_stay_after_a_crash() -> None:
    plan = settings_of("https://h.example", in_flight=3).plan
    assert plan.fixed
    assert plan.in_flight == 3


async def test_the_signature_is_of_the_body_as_sent(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("rotated\n")
    async with WebServer() as server:
        names = {"signature_header": "X-Sig", "timestamp_header": "X-Time"}
        assert await write(server, signing_secret="given", compression="gzip") is None
        assert await write(server, signing_secret_file=str(file), **names) is None
    first, second = server.requests
    assert first.headers["x-signature-timestamp"] == second.headers["x-time"] == "1800000000"
    assert first.headers["x-signature"] == signature("given", first.raw)
    assert second.headers["x-sig"] == signature("rotated", second.raw)


def signature(secret: str, raw: bytes) -> str:
    digest = hmac.new(secret.encode(), b"1800000000." + raw, hashlib.sha256)
    return f"sha256={digest.hexdigest()}"


async def test_without_its_signing_secret_it_sends_nothing(tmp_path: Path) -> None:
    async with WebServer() as server:
        error = await write(server, signing_secret_file=str(tmp_path / "missing"))
    assert isinstance(error, SinkMisconfiguredError)
    assert error.credentials
    assert "signing_secret_file" in str(error)
    assert server.requests == []


async def test_workers_send_the_same_body() -> None:
    batch = batch_of(picklable_slice(b"one", b"\xff"), picklable_slice(b"three"))
    async with WebServer() as server:
        assert await write(server, batch) is None
        assert await write(server, batch, workers=1) is None
    first, second = server.requests
    assert first.raw == second.raw


async def test_as_many_batches_as_may_be_in_flight_are() -> None:
    release = asyncio.Event()

    async def hold(_: object) -> Reply:
        await release.wait()
        return Reply()

    async with WebServer(handler=hold) as server:
        sink = await opened(server, in_flight=3)
        batches = [batch_of(slice_of([(n, str(n))], first_line=n)) for n in range(3)]
        writes = [asyncio.create_task(sink.write(batch)) for batch in batches]
        await server.wait_for(3)
        release.set()
        assert await asyncio.gather(*writes) == [{}, {}, {}]
        await sink.close()


async def test_a_cancelled_write_can_be_made_again() -> None:
    async with WebServer(Reply(fault="stall")) as server:
        sink = await opened(server)
        attempt = asyncio.create_task(sink.write(BATCH))
        await server.wait_for(1)
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt
        assert await sink.write(BATCH) == {}
        await sink.close()
    assert server.requests[0].raw == server.requests[1].raw


@pytest.mark.parametrize("status", [200, 204, 301, 404, 405, 500])
async def test_a_check_sends_no_line_and_promises_nothing(status: int) -> None:
    async with WebServer(Reply(status)) as server:
        said = await HttpSink("hook", settings_of(server)).check()
    (request,) = server.requests
    assert (request.method, request.raw) == ("OPTIONS", b"")
    assert f"answers {status} to OPTIONS; whether it takes lines shows" in said
    assert "canary" not in said


async def test_a_check_mentions_a_web_page() -> None:
    async with WebServer(Reply(200, {"content-type": "text/html"}, b"<html>")) as server:
        more = {"check_method": "GET", "signing_secret": "x"}
        assert "with a web page" in await HttpSink("hook", settings_of(server, **more)).check()


@pytest.mark.parametrize("status", [401, 403])
async def test_a_check_finds_credentials_that_are_refused(status: int) -> None:
    async with WebServer(Reply(status)) as server:
        more = {"check_method": "HEAD", "bearer_token": "canary"}
        with pytest.raises(SinkMisconfiguredError, match="credentials") as caught:
            await HttpSink("hook", settings_of(server, **more)).check()
    assert caught.value.credentials
    assert server.requests[0].headers["authorization"] == "Bearer canary"


async def test_a_check_finds_an_endpoint_that_does_not_answer(tmp_path: Path) -> None:
    async with WebServer() as gone:
        pass
    with pytest.raises(SinkUnavailableError, match="does not answer"):
        await HttpSink("hook", settings_of(gone)).check()
    secret = {"signing_secret_file": str(tmp_path / "missing")}
    with pytest.raises(SinkMisconfiguredError, match="signing_secret_file"):
        await HttpSink("hook", settings_of(gone, **secret)).check()


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"method": "GET"}, "POST"),
        ({"format": "xml"}, "ndjson"),
        *(
            ({"content_type": "json"}, "media type"),
            ({"content_type": "a/b\r\nX: y"}, "media type"),
        ),
        ({"headers": {"Content-type": "a/b"}}, 'use "content_type"'),
        ({"signing_secret": "a", "signing_secret_file": "/b"}, "exclude each other"),
        ({"signature_header": "X: y"}, "not the name of a header"),
        ({"timestamp_header": "Host"}, "set by the sink itself"),
        ({"idempotency_header": "x-signature"}, "name of another header"),
        ({"idempotency_header": "Content-Type"}, "name of another header"),
        ({"headers": {"x-Signature": "a"}}, "name of another header"),
        (
            {"headers": {"authorization": "a"}, "signature_header": "Authorization"},
            "name of another",
        ),
        ({"check_method": "DELETE"}, "OPTIONS"),
    ],
)
def test_wrong_settings_are_refused(more: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        settings_of("https://h.example", **more)


def test_plain_http_to_another_machine_must_be_wanted() -> None:
    with pytest.raises(ValidationError, match="in the clear"):
        settings_of("http://h.example", bearer_token="x")
    settings_of("http://h.example")
