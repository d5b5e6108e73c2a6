"""The API's errors: a Connect code, and why in `google.rpc` details, as AIP-193 has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from connectrpc.code import Code
from connectrpc.errors import ConnectError, ErrorDetail
from google.protobuf.duration_pb2 import Duration

# The package ships type stubs but no py.typed marker.
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo  # type: ignore[import-untyped]
from protobuf.wkt import Any as AnyMessage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.message import Message

DOMAIN = "cwsandbox.com"
NOT_FOUND = "CWSANDBOX_SANDBOX_NOT_FOUND"
NOT_RUNNING = "CWSANDBOX_SANDBOX_NOT_RUNNING"
NOT_IMPLEMENTED = "CWSANDBOX_NOT_IMPLEMENTED"
INVALID_REQUEST = "CWSANDBOX_INVALID_REQUEST"


def api_error(
    code: str,
    message: str,
    *,
    reason: str = "",
    metadata: Mapping[str, str] | None = None,
    retry_delay_s: float | None = None,
) -> ConnectError:
    """An error for the caller; `reason` and `retry_delay_s` travel as details when given."""
    details = []
    if reason:
        details.append(_detail(ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata or {})))
    if retry_delay_s is not None:
        delay = Duration()
        delay.FromNanoseconds(round(retry_delay_s * 1e9))
        details.append(_detail(RetryInfo(retry_delay=delay)))
    return ConnectError(Code(code), message, details)


def not_found(sandbox_id: str) -> ConnectError:
    """The service does not know this sandbox."""
    return api_error(
        "not_found",
        f"sandbox {sandbox_id!r} not found",
        reason=NOT_FOUND,
        metadata={"sandbox_id": sandbox_id},
    )


def not_running(sandbox_id: str) -> ConnectError:
    """The sandbox's state does not allow the call."""
    return api_error(
        "failed_precondition",
        f"sandbox {sandbox_id!r} is not running",
        reason=NOT_RUNNING,
        metadata={"sandbox_id": sandbox_id},
    )


def invalid(message: str) -> ConnectError:
    """The request itself is wrong."""
    return api_error("invalid_argument", message, reason=INVALID_REQUEST)


def _detail(message: Message) -> ErrorDetail:
    # The runtime has a protobuf implementation of its own, so details are packed by hand.
    return ErrorDetail(
        AnyMessage(
            type_url=f"type.googleapis.com/{message.DESCRIPTOR.full_name}",
            value=message.SerializeToString(),
        )
    )
