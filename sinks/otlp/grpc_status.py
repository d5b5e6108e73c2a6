"""How calls over gRPC fail, and what that means to the engine. Pure.

Some failures are the server's words and some the client library's own: what it says of connections,
of certificates, and of servers that speak no gRPC, it says in the message alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]  # no stubs
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]  # no stubs

from sinks.answers import printable
from sinks.interface import (
    BatchRejectedError,
    SinkError,
    SinkMisconfiguredError,
    SinkUnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Collection

_MAX_DETAILS_BYTES = 16 * 1024

_RETRIED = frozenset(
    {"CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"}
)
_HELD = {
    "UNAUTHENTICATED": "it refuses our credentials",
    "PERMISSION_DENIED": "it refuses our credentials",
    "UNIMPLEMENTED": "nothing takes logs there: mend the address",
}
_CREDENTIALS = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED"})

#: The statuses that the library gives to what it finds out itself.
_LIBRARY_CODES = frozenset({"UNAVAILABLE", "UNKNOWN", "INTERNAL"})
#: What it says then, and what to do about it.
_TO_MEND = (
    (
        re.compile(
            "CERTIFICATE_VERIFY_FAILED|certificate signature failure|Hostname Verification"
            "|not in peer certificate"
        ),
        "its certificate does not verify: set tls.ca_file to its authority's certificate",
    ),
    (re.compile("WRONG_VERSION_NUMBER"), "it does not speak TLS: mend the address"),
    (
        re.compile(
            r"http2 header with status: (?!413|429|502|503|504)\d\d\d|Failed parsing HTTP/2"
            r"|Data frame with END_STREAM flag received|No status received"
        ),
        "it does not speak gRPC: mend the address",
    ),
)
#: What the library says of a call whose stream was cut: no answer, whatever code it gives that.
_CUT_OFF = re.compile(r"RST_STREAM|Stream removed")
_TOO_LARGE = re.compile(
    "larger than max|too large|too big|(?:message|size).{0,40}exceed|http2 header with status: 413",
    re.IGNORECASE,
)
#: What the library says when it gives up an answer because of its headers or trailers.
_METADATA_TOO_LARGE = "metadata size exceeds"

_NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class GrpcStatus:
    """How a call over gRPC ended.

    Attributes:
        code: The status's name, such as `UNAVAILABLE`.
        message: What the server says of it, or gRPC itself.
        details: What came as `grpc-status-details-bin`.
    """

    code: str
    message: str
    details: bytes = b""


def status_verdict(status: GrpcStatus, where: str, retry_codes: Collection[str] = ()) -> SinkError:
    """What a status other than OK means.

    Args:
        status: The status.
        where: The server, for the message.
        retry_codes: What the operator wants to be tried again besides.
    """
    code, said = status.code, _said(status, where)
    if (advice := _advice(status)) is not None:
        return SinkMisconfiguredError(f"{said}; {advice}", credentials=code in _CREDENTIALS)
    retry_after_s = retry_delay_s(status.details)
    if _is_temporary(status, retry_after_s, retry_codes):
        return SinkUnavailableError(said, retry_after_s=retry_after_s)
    # RESOURCE_EXHAUSTED without a time to come again: it is the message that is too large.
    too_large = code == "RESOURCE_EXHAUSTED" or _TOO_LARGE.search(status.message) is not None
    return BatchRejectedError(said, status=code, too_large=too_large)


def _said(status: GrpcStatus, where: str) -> str:
    why = f": {printable(status.message)}" if status.message else ""
    if status.code == "UNAVAILABLE" and status.message.startswith("failed to connect"):
        return f"{where} does not answer{why}"
    return f"{where} answered {status.code}{why}"


def _advice(status: GrpcStatus) -> str | None:
    """What somebody has to mend; None when it is nothing of the kind."""
    if status.code in _LIBRARY_CODES:
        for pattern, advice in _TO_MEND:
            if pattern.search(status.message):
                return advice
    return _HELD.get(status.code)


def _is_temporary(
    status: GrpcStatus, retry_after_s: float | None, retry_codes: Collection[str]
) -> bool:
    if status.code in _RETRIED or _CUT_OFF.search(status.message):
        return True
    if status.code != "RESOURCE_EXHAUSTED":
        return status.code in retry_codes
    if retry_after_s is not None or _METADATA_TOO_LARGE in status.message:
        return True
    return status.code in retry_codes and not _TOO_LARGE.search(status.message)


def retry_delay_s(details: bytes) -> float | None:
    """The wish of a `google.rpc.RetryInfo` among a status's details; None without a sensible one.

    Args:
        details: A serialised `google.rpc.Status`; the server's, and not to be trusted.
    """
    if len(details) > _MAX_DETAILS_BYTES:
        return None
    try:
        for detail in Status.FromString(details).details:
            if detail.Is(RetryInfo.DESCRIPTOR):
                info = RetryInfo.FromString(detail.value)
                delay_s: float = info.retry_delay.seconds + info.retry_delay.nanos / _NS_PER_S
                return delay_s if delay_s >= 0 else None
    except DecodeError:
        pass
    return None
