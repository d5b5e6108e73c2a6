"""What the API's errors mean, as pure functions and one table.

Everything is decided by code and reason, never by text. What nobody knows is an outage: retrying
it is safe, and giving up on it would lose lines.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import orjson
from google.protobuf.message import DecodeError

# The package ships type stubs but no py.typed marker.
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from forwarder.errors import (
    CredentialsRefusedError,
    InvalidRequestError,
    SandboxNotFoundError,
    SandboxNotRunningError,
    SourceError,
    SourceUnavailableError,
)

ERROR_DOMAIN = "cwsandbox.com"
NOT_FOUND = "CWSANDBOX_SANDBOX_NOT_FOUND"
NOT_RUNNING = "CWSANDBOX_SANDBOX_NOT_RUNNING"

#: (code, reason) or, for any other reason, (code, None). `failed_precondition` for a reason that is
#: not NOT_RUNNING speaks of the server's state, not of our request, and may pass: it is retried.
#: `not_found` for another reason (a runner, a container) says nothing about the sandbox.
_MEANING: Mapping[tuple[str, str | None], type[SourceError]] = {
    ("unauthenticated", None): CredentialsRefusedError,
    ("permission_denied", None): CredentialsRefusedError,
    ("not_found", ""): SandboxNotFoundError,
    ("not_found", NOT_FOUND): SandboxNotFoundError,
    ("failed_precondition", NOT_RUNNING): SandboxNotRunningError,
    ("invalid_argument", None): InvalidRequestError,
    ("out_of_range", None): InvalidRequestError,
    ("unimplemented", None): InvalidRequestError,
}

#: The names of `google.rpc.Code`, in the order of their numbers, which begin with 1.
CODE_NAMES = (
    "canceled",
    "unknown",
    "invalid_argument",
    "deadline_exceeded",
    "not_found",
    "already_exists",
    "permission_denied",
    "resource_exhausted",
    "failed_precondition",
    "aborted",
    "out_of_range",
    "unimplemented",
    "internal",
    "unavailable",
    "data_loss",
    "unauthenticated",
)
CONNECT_CODES = frozenset(CODE_NAMES)

#: The codes that the Connect protocol gives to bare HTTP statuses.
_HTTP_CODES: Mapping[int, str] = {
    400: "internal",
    401: "unauthenticated",
    403: "permission_denied",
    404: "unimplemented",
    429: "unavailable",
    502: "unavailable",
    503: "unavailable",
    504: "unavailable",
}

_MAX_TEXT = 500


@dataclass(frozen=True, slots=True)
class Failure:
    """An error of the API, whatever transport carried it. See `SourceError` for the fields."""

    code: str
    message: str = ""
    reason: str = ""
    retry_after_s: float | None = None


def typed_error(failure: Failure, what: str, *, sandbox_id: str = "") -> SourceError:
    """The error to raise for a failure.

    Args:
        failure: What the API said.
        what: What was asked, for the message.
        sandbox_id: The sandbox that was asked for. Without one, `not_found` cannot mean a sandbox.
    """
    kind = _MEANING.get((failure.code, failure.reason)) or _MEANING.get((failure.code, None))
    if kind is None or (kind is SandboxNotFoundError and not sandbox_id):
        kind = SourceUnavailableError
    label = f"{failure.code}/{failure.reason}" if failure.reason else failure.code
    text = f": {one_line(failure.message)}" if failure.message else ""
    return kind(
        f"{what} failed: {label}{text}",
        code=failure.code,
        reason=failure.reason,
        retry_after_s=failure.retry_after_s,
    )


def one_line(text: str) -> str:
    """A server's text made safe for a log line or a terminal: printable, and of bounded length."""
    clipped = text[:_MAX_TEXT]
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in clipped)


def connect_failure(error: object) -> Failure | None:
    """Read a Connect error, the parsed JSON object `{"code", "message", "details"}`.

    Returns:
        None when this is not a Connect error: a proxy's JSON, for example.
    """
    code = error.get("code") if isinstance(error, Mapping) else None
    if not isinstance(error, Mapping) or not isinstance(code, str) or code not in CONNECT_CODES:
        return None
    message = error.get("message")
    details = error.get("details")
    reason, retry_after_s = _read_details(_connect_details(details))
    return Failure(
        code=code,
        message=message if isinstance(message, str) else "",
        reason=reason,
        retry_after_s=retry_after_s,
    )


def end_failure(payload: bytes) -> Failure | None:
    """Read an end-of-stream message; None means that the stream ended cleanly."""
    try:
        end = orjson.loads(payload)
    except orjson.JSONDecodeError:
        end = None
    if not isinstance(end, dict):
        return Failure("internal", "the end-of-stream message cannot be read")
    error = end.get("error")
    if error is None:
        return None
    return connect_failure(error) or Failure("unknown", "the stream ended with an unknown error")


def http_failure(status: int, headers: Mapping[str, str], body: bytes) -> Failure:
    """Read an HTTP answer that is not the wanted one.

    A Connect error counts as one whatever its status is. Anything else came from something in
    between, so only its status is used: a bare 404 means that this is not the API's base URL, and
    never that a sandbox is unknown.
    """
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        answer = None
    retry_after_s = retry_after(headers)
    failure = connect_failure(answer)
    if failure is None:
        return _bare_failure(status, headers, retry_after_s)
    if failure.retry_after_s is None and retry_after_s is not None:
        return Failure(failure.code, failure.message, failure.reason, retry_after_s)
    return failure


def _bare_failure(status: int, headers: Mapping[str, str], retry_after_s: float | None) -> Failure:
    kind = headers.get("content-type", "no content type")
    message = f"HTTP {status} ({kind}) is not an answer of the sandbox API"
    code = _HTTP_CODES.get(status, "unknown")
    if status == 404:  # noqa: PLR2004 - the one status with a cause worth naming
        # Not `unimplemented`: that would be the API refusing the request for good.
        return Failure("unavailable", f"{message}; is the base URL right?", "", retry_after_s)
    return Failure(code, message, "", retry_after_s)


def status_failure(code: str, message: str, details: bytes | None) -> Failure:
    """Read a gRPC status.

    Args:
        code: The status name in lower case, in gRPC's spelling.
        message: The status message.
        details: The `grpc-status-details-bin` trailer, a `google.rpc.Status`, if there is one.
    """
    pairs: list[tuple[str, bytes]] = []
    if details is not None:
        try:
            pairs = [(any_.type_url, any_.value) for any_ in Status.FromString(details).details]
        except DecodeError:
            pairs = []
    reason, retry_after_s = _read_details(pairs)
    return Failure("canceled" if code == "cancelled" else code, message, reason, retry_after_s)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The `Retry-After` header in seconds.

    A date is read against the answer's own `Date`, so that the local clock does not matter.
    """
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    if value.isascii() and value.isdigit():
        return _sane_delay(float(value))
    try:
        wanted = parsedate_to_datetime(value)
        now = parsedate_to_datetime(headers.get("date", ""))
        return _sane_delay((wanted - now).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


def _connect_details(details: object) -> list[tuple[str, bytes]]:
    """The readable ones of a Connect error's details, as (type, serialized message)."""
    if not isinstance(details, Sequence) or isinstance(details, str):
        return []
    pairs: list[tuple[str, bytes]] = []
    for detail in details:
        kind: Any = detail.get("type") if isinstance(detail, Mapping) else None
        value: Any = detail.get("value") if isinstance(detail, Mapping) else None
        if isinstance(kind, str) and isinstance(value, str):
            padded = value.rstrip("=") + "=" * (-len(value.rstrip("=")) % 4)
            try:
                pairs.append((kind, base64.b64decode(padded, validate=True)))
            except (binascii.Error, ValueError):
                continue
    return pairs


def _read_details(pairs: Sequence[tuple[str, bytes]]) -> tuple[str, float | None]:
    """The reason and the retry delay; details that are unknown or damaged are passed over."""
    reason = ""
    retry_after_s: float | None = None
    for kind, value in pairs:
        name = kind.rpartition("/")[2]
        try:
            if name == "google.rpc.ErrorInfo":
                info = ErrorInfo.FromString(value)
                # A middlebox may add an ErrorInfo of its own: the API's is the one that counts.
                if not reason or info.domain == ERROR_DOMAIN:
                    reason = info.reason
            elif name == "google.rpc.RetryInfo":
                delay = RetryInfo.FromString(value).retry_delay
                retry_after_s = _sane_delay(delay.seconds + delay.nanos / 1e9)
        except DecodeError:
            continue
    return reason, retry_after_s


def _sane_delay(delay_s: float) -> float | None:
    return delay_s if math.isfinite(delay_s) and delay_s >= 0 else None
