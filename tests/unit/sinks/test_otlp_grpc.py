"""The OTLP sink over gRPC, against a server that does as told."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from sinks.interface import (
    BatchRejectedError,
    PartlyDeliveredError,
    SinkError,
    SinkMisconfiguredError,
    SinkUnavailableError,
)
from sinks.otlp import OtlpSettings, OtlpSink
from sinks.otlp.protobuf import encode_protobuf
from sinks.service import ServiceSettings
from sinks.testing import MemoryState, batch_of, end_of, slice_of
from tests.fakes.certificates import Authority
from tests.fakes.otlp_grpc_server import GrpcReply, OtlpGrpcServer
from tests.fakes.web_server import WebServer
from tests.unit.sinks.otlp_support import otlp_sink, partial_success, warnings_in

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

BATCH = batch_of(slice_of([(n, f"line {n}") for n in range(10)]))
Code = grpc.StatusCode


def serving(*replies: GrpcReply) -> OtlpGrpcServer:
    return OtlpGrpcServer(deque(replies))


def grpc_sink(url: str, **more: Any) -> AbstractAsyncContextManager[OtlpSink]:
    return otlp_sink(url, protocol="grpc", **more)


async def verdict_of(reply: GrpcReply, **more: Any) -> SinkError:
    async with serving(reply) as server, grpc_sink(server.url, **more) as sink:
        with pytest.raises(SinkError) as caught:
            await sink.write(BATCH)
        return caught.value


@pytest.mark.parametrize("compression", ["gzip", "none"])
async def test_a_batch_is_one_call_with_headers_as_metadata(compression: str) -> None:
    more: dict[str, Any] = {"compression": compression, "headers": {"X-Tenant": "seven"}}
    async with serving() as server, grpc_sink(server.url, bearer_token="t0ken", **more) as sink:
        assert await sink.write(BATCH) == {}
    (request,) = server.requests
    message = ExportLogsServiceRequest.FromString(request.body)
    records = message.resource_logs[0].scope_logs[0].log_records
    assert [r.body.string_value for r in records] == [f"line {n}" for n in range(10)]
    assert request.metadata["x-tenant"] == "seven"
    assert request.metadata["authorization"] == "Bearer t0ken"
    assert request.metadata["user-agent"].startswith("sandbox-forwarder")


async def test_an_end_record_alone_makes_no_call() -> None:
    async with serving() as server, grpc_sink(server.url) as sink:
        assert await sink.write(batch_of(end_of())) == {}
    assert server.requests == []


def with_retry_info(seconds: int) -> tuple[tuple[str, bytes], ...]:
    status = Status(code=8)
    status.details.add().Pack(RetryInfo(retry_delay=Duration(seconds=seconds)))
    return (("grpc-status-details-bin", status.SerializeToString()),)


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED])
async def test_retry_info_comes_through(code: grpc.StatusCode) -> None:
    verdict = await verdict_of(GrpcReply(code, "busy", trailers=with_retry_info(30)))
    assert isinstance(verdict, SinkUnavailableError)
    assert verdict.retry_after_s == 30


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (Code.CANCELLED, SinkUnavailableError),
        (Code.DEADLINE_EXCEEDED, SinkUnavailableError),
        (Code.ABORTED, SinkUnavailableError),
        (Code.OUT_OF_RANGE, SinkUnavailableError),
        (Code.DATA_LOSS, SinkUnavailableError),
        (Code.UNAUTHENTICATED, SinkMisconfiguredError),
        (Code.PERMISSION_DENIED, SinkMisconfiguredError),
        (Code.UNIMPLEMENTED, SinkMisconfiguredError),
        (Code.INVALID_ARGUMENT, BatchRejectedError),
        (Code.INTERNAL, BatchRejectedError),
        (Code.UNKNOWN, BatchRejectedError),
        (Code.RESOURCE_EXHAUSTED, BatchRejectedError),
    ],
)
async def test_every_status_has_its_verdict(code: grpc.StatusCode, kind: type[SinkError]) -> None:
    assert type(await verdict_of(GrpcReply(code, "why"))) is kind


async def test_the_operator_may_have_other_statuses_tried_again() -> None:
    verdict = await verdict_of(GrpcReply(Code.INTERNAL), grpc={"retry_codes": ["INTERNAL"]})
    assert isinstance(verdict, SinkUnavailableError)


async def test_what_a_server_repeats_of_our_secrets_is_concealed() -> None:
    reply = GrpcReply(Code.UNAUTHENTICATED, "unknown token correct-horse")
    verdict = await verdict_of(reply, bearer_token="correct-horse")
    assert "unknown token ***" in str(verdict)
    assert isinstance(verdict, SinkMisconfiguredError)
    assert verdict.credentials


async def test_records_refused_in_a_success_are_never_sent_again() -> None:
    verdict = await verdict_of(GrpcReply(body=partial_success(3, "too old")))
    assert isinstance(verdict, PartlyDeliveredError)
    assert (verdict.unnamed, verdict.unnamed_refusal.reason) == (3, "too old")


@pytest.mark.parametrize("body", [b"\xff garbage", b"\0" * ((4 << 20) + 2)])
async def test_a_success_that_cannot_be_read_is_one_with_a_warning(
    body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(GrpcReply(body=body)) as server, grpc_sink(server.url) as sink:
        assert await sink.write(BATCH) == {}
    (said,) = warnings_in(caplog)
    assert "cannot be read" in said


@pytest.mark.parametrize("size", [40, 12_000, 100_000])
async def test_details_of_any_size_and_form_are_survived(size: int) -> None:
    trailers = (("grpc-status-details-bin", b"\xff" * size),)
    async with (
        serving(GrpcReply(Code.UNAVAILABLE, "busy", trailers=trailers)) as server,
        grpc_sink(server.url) as sink,
    ):
        with pytest.raises(SinkUnavailableError) as caught:
            await sink.write(BATCH)
        assert caught.value.retry_after_s is None
        assert len(str(caught.value)) < 500
        assert await sink.write(BATCH) == {}


async def test_a_message_larger_than_servers_take_is_not_sent() -> None:
    source = slice_of([(1, b"x" * 70_000)])
    size = len(encode_protobuf([source], ServiceSettings(), detect_severity=False))
    async with serving() as server:
        async with grpc_sink(server.url, grpc={"max_message": 65_536}) as sink:
            with pytest.raises(BatchRejectedError, match=f"{size} bytes; not more than") as caught:
                await sink.write(batch_of(source))
            assert caught.value.too_large
            assert server.requests == []
        async with grpc_sink(server.url, grpc={"max_message": size}) as sink:
            await sink.write(batch_of(source))
    assert len(server.requests[0].body) == size


async def test_a_call_without_an_answer_ends_in_time() -> None:
    verdict = await verdict_of(GrpcReply(stall=True), timeout=0.2)
    assert isinstance(verdict, SinkUnavailableError)
    assert "DEADLINE_EXCEEDED" in str(verdict)


async def test_a_cancelled_write_cancels_the_call() -> None:
    async with serving(GrpcReply(stall=True)) as server, grpc_sink(server.url) as sink:
        attempt = asyncio.create_task(sink.write(BATCH))
        await server.arrived.wait()
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt
        await server.cancelled.wait()
        assert await sink.write(BATCH) == {}


async def test_a_sink_that_is_closed_ends_the_writes_under_way() -> None:
    async with serving(GrpcReply(stall=True)) as server, grpc_sink(server.url) as sink:
        attempt = asyncio.create_task(sink.write(BATCH))
        await server.arrived.wait()
        await sink.close()
        with pytest.raises(SinkUnavailableError):
            await attempt


async def test_it_can_be_opened_again() -> None:
    async with serving() as server, grpc_sink(server.url) as sink:
        await sink.write(BATCH)
        await sink.close()
        await sink.close()
        await sink.open(MemoryState())
        await sink.write(BATCH)
    assert len(server.requests) == 2


async def test_a_server_that_is_gone_does_not_answer() -> None:
    async with serving() as server:
        pass
    async with grpc_sink(server.url) as sink:
        with pytest.raises(SinkUnavailableError, match="does not answer: failed to connect"):
            await sink.write(BATCH)


async def test_a_server_that_speaks_http_1_is_said_to_be_no_grpc() -> None:
    async with WebServer() as server, grpc_sink(server.url) as sink:
        with pytest.raises(SinkMisconfiguredError, match="does not speak gRPC"):
            await sink.write(BATCH)


async def test_check_sends_a_request_without_records() -> None:
    async with serving(GrpcReply(), GrpcReply(Code.UNAUTHENTICATED)) as server:
        settings = OtlpSettings(protocol="grpc", endpoint=server.url)
        assert await OtlpSink("backend", settings).check() == "takes our requests"
        with pytest.raises(SinkMisconfiguredError):
            await OtlpSink("backend", settings).check()
    assert server.requests[0].body == b""


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def secure(authority: Authority) -> OtlpGrpcServer:
    """A server that wants a certificate of its clients."""
    pair = authority.issue("server")
    files = (pair.key.read_bytes(), pair.certificate.read_bytes())
    trusted = authority.file.read_bytes()
    credentials = grpc.ssl_server_credentials([files], trusted, require_client_auth=True)
    return OtlpGrpcServer(credentials=credentials)


async def test_both_sides_show_certificates(authority: Authority, tmp_path: Path) -> None:
    client = authority.issue("client")
    both = tmp_path / "both.pem"
    both.write_bytes(client.certificate.read_bytes() + client.key.read_bytes())
    ca = {"ca_file": str(authority.file)}
    apart = {"cert_file": str(client.certificate), "key_file": str(client.key)}
    async with secure(authority) as server:
        for tls in (ca | apart, ca | {"cert_file": str(both)}):
            async with grpc_sink(server.url, tls=tls, bearer_token="t0ken") as sink:
                await sink.write(BATCH)
        async with grpc_sink(server.url, tls=ca) as sink:
            with pytest.raises(SinkUnavailableError):
                await sink.write(BATCH)
    assert len(server.requests) == 2


async def test_a_certificate_that_does_not_verify_holds(authority: Authority) -> None:
    async with secure(authority) as server, grpc_sink(server.url) as sink:
        with pytest.raises(SinkMisconfiguredError, match=r"set tls\.ca_file"):
            await sink.write(BATCH)


async def test_a_server_without_tls_is_said_to_have_none(authority: Authority) -> None:
    tls = {"ca_file": str(authority.file)}
    async with (
        serving() as server,
        grpc_sink(server.url.replace("http:", "https:"), tls=tls) as sink,
    ):
        with pytest.raises(SinkMisconfiguredError, match="does not speak TLS"):
            await sink.write(BATCH)


async def test_a_certificate_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    more = {"protocol": "grpc", "tls": {"ca_file": str(tmp_path / "none.pem")}}
    sink = OtlpSink("x", OtlpSettings.model_validate({"endpoint": "https://127.0.0.1:1", **more}))
    with pytest.raises(SinkMisconfiguredError, match=r"tls\.ca_file: .*none\.pem"):
        await sink.open(MemoryState())
    await sink.close()
