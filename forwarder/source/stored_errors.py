"""The errors of a REST endpoint, in each of the forms in which such an API writes them; pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from forwarder.source.errors_map import (
    CODE_NAMES,
    CONNECT_CODES,
    ERROR_DOMAIN,
    Failure,
    connect_failure,
)

_DURATION = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)s", re.ASCII)
_NOT_FOUND_STATUS = 404


def rest_failure(answer: object, status: int) -> Failure | None:
    """Read an error answer: `{"code", ...}` with a Connect code or a number, or `{"error": ...}`.

    The number is what gRPC gateways write, `error` is what AIP-193 asks for. Their details are JSON
    objects with an `@type`; Connect's are read as anywhere else.

    Args:
        answer: The parsed JSON.
        status: The HTTP status.

    Returns:
        None when this is no error of the API: also for the answer that a gateway gives where it
        has no such path, `not_found` without a reason.
    """
    failure = connect_failure(answer)
    if failure is not None:
        return failure
    error = answer.get("error", answer) if isinstance(answer, Mapping) else None
    if not isinstance(error, Mapping):
        return None
    code = _code(error)
    if not code:
        return None
    reason, retry_after_s = _details(error.get("details"))
    if code == "not_found" and not reason and status == _NOT_FOUND_STATUS:
        return None
    message = error.get("message")
    return Failure(code, message if isinstance(message, str) else "", reason, retry_after_s)


def _code(error: Mapping[Any, Any]) -> str:
    """The Connect code, by the status' name or number; empty when there is neither."""
    for name in (error.get("status"), error.get("code")):
        code = name.lower().replace("cancelled", "canceled") if isinstance(name, str) else ""
        if code in CONNECT_CODES:
            return code
    number = error.get("code")
    if isinstance(number, int) and not isinstance(number, bool) and 1 <= number <= len(CODE_NAMES):
        return CODE_NAMES[number - 1]
    return ""


def _details(details: object) -> tuple[str, float | None]:
    reason = ""
    retry_after_s: float | None = None
    for detail in details if isinstance(details, list) else ():
        if not isinstance(detail, Mapping):
            continue
        kind = str(detail.get("@type")).rpartition("/")[2]
        if kind == "google.rpc.ErrorInfo" and isinstance(detail.get("reason"), str):
            # A middlebox may add an ErrorInfo of its own: the API's is the one that counts.
            if not reason or detail.get("domain") == ERROR_DOMAIN:
                reason = detail["reason"]
        elif kind == "google.rpc.RetryInfo":
            delay = _DURATION.fullmatch(str(detail.get("retryDelay")))
            retry_after_s = float(delay[1]) if delay else retry_after_s
    return reason, retry_after_s
