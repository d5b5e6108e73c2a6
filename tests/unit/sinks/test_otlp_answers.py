"""What answers say of the records of a request, and what statuses of gRPC mean."""

from __future__ import annotations

import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from sinks.answers import Answer
from sinks.interface import (
    BatchRejectedError,
    Refusal,
    SinkMisconfiguredError,
    SinkUnavailableError,
)
from sinks.otlp.answers import Acceptance, partly_delivered, read_answer
from sinks.otlp.grpc_status import GrpcStatus, retry_delay_s, status_verdict
from sinks.testing import end_of, gap_of, slice_of
from tests.unit.sinks.otlp_support import partial_success

PROTOBUF, JSON = "application/x-protobuf", "application/json; charset=utf-8"
WHERE = "https://otlp.example.com"


def answered(body: bytes, kind: str | None = PROTOBUF, *, whole: bool = True) -> Acceptance:
    headers = {} if kind is None else {"content-type": kind}
    return read_answer(Answer(200, headers, body, whole))


@pytest.mark.parametrize("kind", [PROTOBUF, JSON, "text/plain", None])
def test_nothing_at_all_is_a_full_success(kind: str | None) -> None:
    assert answered(b"", kind) == Acceptance()
    assert answered(b" \r\n", kind) == Acceptance()


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (partial_success(3, "too old"), PROTOBUF),
        (partial_success(3, "too old"), None),
        (b'{"partialSuccess":{"rejectedLogRecords":"3","errorMessage":"too old"}}', JSON),
        (b'{"partialSuccess":{"rejectedLogRecords":3,"errorMessage":"too old"},"x":[]}', JSON),
    ],
)
def test_refused_records_are_read_in_both_forms(body: bytes, kind: str | None) -> None:
    assert answered(body, kind) == Acceptance(3, "too old")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (partial_success(0, "slow down"), PROTOBUF),
        (partial_success(-5, "slow down"), PROTOBUF),
        (b'{"partialSuccess":{"errorMessage":"slow down"}}', JSON),
        (b'{"partialSuccess":{"rejectedLogRecords":"-5","errorMessage":"slow down"}}', JSON),
    ],
)
def test_a_message_without_refused_records_is_a_warning(body: bytes, kind: str) -> None:
    assert answered(body, kind) == Acceptance(0, "slow down")


@pytest.mark.parametrize("body", [b"{}", b'{"partialSuccess":{}}', b'{"partialSuccess":null}'])
def test_an_empty_partial_success_is_a_full_one(body: bytes) -> None:
    assert answered(body, JSON) == Acceptance()


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"\xff\xff\xff", PROTOBUF),
        (b"ok", "text/plain"),
        (b"{", JSON),
        (b"[]", JSON),
        (b"null", JSON),
        (b'{"partialSuccess":7}', JSON),
        (b'{"partialSuccess":{"rejectedLogRecords":"many"}}', JSON),
        (b'{"partialSuccess":{"rejectedLogRecords":[1]}}', JSON),
    ],
)
def test_what_cannot_be_read_is_no_refusal(body: bytes, kind: str) -> None:
    assert answered(body, kind) == Acceptance(readable=False)


def test_half_an_answer_cannot_be_read() -> None:
    assert answered(partial_success(3), whole=False) == Acceptance(readable=False)
    assert answered(b"", whole=False) == Acceptance(readable=False)


@given(st.binary(max_size=60), st.sampled_from([PROTOBUF, JSON]))
def test_any_answer_is_read_or_not(body: bytes, kind: str) -> None:
    acceptance = answered(body, kind)
    assert acceptance.rejected >= 0
    assert acceptance.message.isprintable()


SLICES = [end_of(), slice_of([(n, "x") for n in range(8)]), end_of(), gap_of()]


def test_which_records_were_refused_is_not_known_and_so_they_are_not_named() -> None:
    partly = partly_delivered(Acceptance(3, "too old"), SLICES, WHERE)
    assert partly is not None
    assert (partly.unnamed, partly.refused, partly.again) == (3, {}, ())
    assert partly.unnamed_refusal == Refusal("too old", status="partial_success")
    assert str(partly) == f"{WHERE} refused 3 of 9 records: too old"


@pytest.mark.parametrize("rejected", [9, 10, 2**62])
def test_when_all_were_refused_each_one_is_named(rejected: int) -> None:
    partly = partly_delivered(Acceptance(rejected), SLICES, WHERE)
    assert partly is not None
    # The end records, 0 and 9, were not sent.
    assert list(partly.refused) == [1, 2, 3, 4, 5, 6, 7, 8, 10]
    assert partly.refused[1] == Refusal("no reason given", status="partial_success")
    assert partly.unnamed == 0


def test_without_refused_records_there_is_no_verdict() -> None:
    assert partly_delivered(Acceptance(0, "slow down"), SLICES, WHERE) is None


def details(*messages: object) -> bytes:
    status = Status(code=8)
    for message in messages:
        status.details.add().Pack(message)
    serialised: bytes = status.SerializeToString()
    return serialised


def retry_info(seconds: int, nanos: int = 0) -> bytes:
    info = RetryInfo()
    info.retry_delay.seconds, info.retry_delay.nanos = seconds, nanos
    return details(ErrorInfo(reason="BUSY"), info)


@pytest.mark.parametrize(
    ("given", "delay_s"),
    [
        (retry_info(30), 30),
        (retry_info(0, 500_000_000), 0.5),
        (retry_info(0), 0),
        (retry_info(10**9), 10**9),
        (retry_info(-5), None),
        (details(), None),
        (b"", None),
        (b"\xff" * 40, None),
        (retry_info(30)[:-3], None),
        (retry_info(30) + b"\x1a\x80\x80\x01" + b"x" * (1 << 14), None),
    ],
)
def test_retry_info_is_taken_when_it_makes_sense(given: bytes, delay_s: float | None) -> None:
    assert retry_delay_s(given) == delay_s


@given(st.binary(max_size=80))
def test_any_details_can_be_read(given: bytes) -> None:
    delay_s = retry_delay_s(given)
    assert delay_s is None or delay_s >= 0


@pytest.mark.parametrize(
    "code",
    ["CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"],
)
def test_what_may_pass_later_comes_again(code: str) -> None:
    verdict = status_verdict(GrpcStatus(code, "busy", retry_info(30)), WHERE)
    assert isinstance(verdict, SinkUnavailableError)
    assert verdict.retry_after_s == 30
    assert str(verdict) == f"{WHERE} answered {code}: busy"


@pytest.mark.parametrize(
    ("code", "credentials"),
    [("UNAUTHENTICATED", True), ("PERMISSION_DENIED", True), ("UNIMPLEMENTED", False)],
)
def test_what_somebody_has_to_mend_holds(code: str, credentials: bool) -> None:
    verdict = status_verdict(GrpcStatus(code, ""), WHERE)
    assert isinstance(verdict, SinkMisconfiguredError)
    assert verdict.credentials == credentials


@pytest.mark.parametrize(
    "code",
    [
        *("UNKNOWN", "INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION"),
        *("INTERNAL", "A_CODE_OF_TOMORROW"),
    ],
)
def test_everything_else_is_a_refusal_unless_the_operator_says_otherwise(code: str) -> None:
    verdict = status_verdict(GrpcStatus(code, "bad\nrecord"), WHERE)
    assert isinstance(verdict, BatchRejectedError)
    assert (verdict.status, verdict.too_large) == (code, False)
    assert str(verdict) == f"{WHERE} answered {code}: bad record"
    again = status_verdict(GrpcStatus(code, "bad"), WHERE, (code,))
    assert isinstance(again, SinkUnavailableError)


def test_exhaustion_is_a_matter_of_time_only_with_a_time() -> None:
    later = status_verdict(GrpcStatus("RESOURCE_EXHAUSTED", "quota", retry_info(7)), WHERE)
    assert isinstance(later, SinkUnavailableError)
    assert later.retry_after_s == 7
    size = status_verdict(GrpcStatus("RESOURCE_EXHAUSTED", "quota"), WHERE)
    assert isinstance(size, BatchRejectedError)
    assert size.too_large


@pytest.mark.parametrize(
    "message",
    [
        "grpc: received message larger than max (5000000 vs. 4194304)",
        "Received message larger than max (5 vs. 4)",
        "request too large",
        "message size 5 exceeds the limit",
    ],
)
def test_what_is_too_large_does_not_become_smaller_by_waiting(message: str) -> None:
    status = GrpcStatus("RESOURCE_EXHAUSTED", message)
    verdict = status_verdict(status, WHERE, ("RESOURCE_EXHAUSTED",))
    assert isinstance(verdict, BatchRejectedError)
    assert verdict.too_large


def test_exhaustion_may_be_made_to_wait() -> None:
    verdict = status_verdict(
        GrpcStatus("RESOURCE_EXHAUSTED", "quota"), WHERE, ("RESOURCE_EXHAUSTED",)
    )
    assert isinstance(verdict, SinkUnavailableError)


@pytest.mark.parametrize(
    ("code", "message", "advice"),
    [
        ("UNKNOWN", "Received http2 header with status: 302", "does not speak gRPC"),
        ("UNAVAILABLE", "Tls handshake failed: CERTIFICATE_VERIFY_FAILED", "set tls.ca_file"),
        ("UNAVAILABLE", "Hostname Verification Check failed.", "set tls.ca_file"),
        ("UNAVAILABLE", "Tls handshake failed: WRONG_VERSION_NUMBER", "does not speak TLS"),
    ],
)
def test_what_the_library_finds_out_itself_is_said_with_what_to_do(
    code: str, message: str, advice: str
) -> None:
    verdict = status_verdict(GrpcStatus(code, message), WHERE)
    assert isinstance(verdict, SinkMisconfiguredError)
    assert advice in str(verdict)


def test_a_proxy_that_finds_a_request_too_large_is_understood() -> None:
    message = "Received http2 header with status: 413"
    verdict = status_verdict(GrpcStatus("UNKNOWN", message), WHERE)
    assert isinstance(verdict, BatchRejectedError)
    assert verdict.too_large


def test_a_long_message_of_a_server_is_cut_and_made_printable() -> None:
    verdict = status_verdict(GrpcStatus("INTERNAL", "\x1b[2J" + "x" * 100_000), WHERE)
    assert len(str(verdict)) < 500
    assert str(verdict).isprintable()


@pytest.mark.parametrize(
    "status",
    [
        GrpcStatus("INTERNAL", "Received http2 header with status: 400"),
        GrpcStatus("UNKNOWN", "No status received"),
    ],
)
def test_what_does_not_speak_grpc_costs_no_records(status: GrpcStatus) -> None:
    assert isinstance(status_verdict(status, WHERE), SinkMisconfiguredError)


@pytest.mark.parametrize("code", ["INTERNAL", "RESOURCE_EXHAUSTED", "UNKNOWN"])
def test_a_stream_that_was_cut_is_no_answer(code: str) -> None:
    status = GrpcStatus(code, "Received RST_STREAM with error code 2")
    assert isinstance(status_verdict(status, WHERE), SinkUnavailableError)
