"""The stored logs of a sandbox: `GET /v1/sandboxes/{id}/logs`, JSON pages with the bearer key.

Query: `pageSize`, `pageToken`, `container` (all optional; without a container, those of all).
"""

from __future__ import annotations

import base64
import binascii
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from connectrpc.errors import ConnectError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from forwarder.local.archive import NS_PER_S, StoredEvent, stored_page, without_last
from forwarder.local.errors import NOT_IMPLEMENTED, api_error, invalid, not_found
from forwarder.local.logstore import format_stamp

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

    from forwarder.local.api import Gatekeeper
    from forwarder.local.sandbox import Sandbox
    from forwarder.local.sandboxes import SandboxRegistry
    from forwarder.local.settings import LocalSettings

PREFIX = "/v1/sandboxes/"
METHOD = "ListSandboxLogs"
LOGS_NOT_ENABLED = "CWSANDBOX_LOGS_NOT_ENABLED"
RETENTION_S = 30 * 24 * 3600

_DEFAULT_PAGE_SIZE = 100
_MAX_PAGE_SIZE = 1000
_TOKEN = re.compile(r"(\d+):(.+)", re.DOTALL)

#: The statuses that the Connect protocol gives to its codes; any other code is a 500.
_STATUSES: Mapping[str, int] = {
    "canceled": 499,
    "invalid_argument": 400,
    "deadline_exceeded": 504,
    "not_found": 404,
    "already_exists": 409,
    "permission_denied": 403,
    "resource_exhausted": 429,
    "failed_precondition": 400,
    "aborted": 409,
    "out_of_range": 400,
    "unimplemented": 501,
    "unavailable": 503,
    "unauthenticated": 401,
}


class StoredLogs:
    """The endpoint's handler."""

    def __init__(
        self, settings: LocalSettings, sandboxes: SandboxRegistry, gatekeeper: Gatekeeper
    ) -> None:
        self._settings = settings
        self._sandboxes = sandboxes
        self._gatekeeper = gatekeeper
        self._entries, self._time, self._text = settings.stored_field_names.split(",")

    def application(self) -> Starlette:
        """The endpoint as an ASGI application."""
        return Starlette(
            routes=[Route(f"{PREFIX}{{sandbox_id}}/logs", self._list, methods=["GET"])],
            exception_handlers={HTTPException: _bare, ConnectError: _connect_error},
        )

    async def _list(self, request: Request) -> Response:
        refusal = self._gatekeeper.refusal(METHOD, request.headers.get("authorization", ""))
        if refusal is not None:
            raise refusal
        self._check_offered()
        sandbox = self._sandboxes.get(request.path_params["sandbox_id"])
        if sandbox is None:
            raise not_found(request.path_params["sandbox_id"])
        return JSONResponse(self._page(sandbox, request.query_params))

    def _check_offered(self) -> None:
        match self._settings.stored_logs:
            case "off":
                message = "the local service stores no logs"
                raise api_error("unimplemented", message, reason=NOT_IMPLEMENTED)
            case "unimplemented":
                raise HTTPException(HTTPStatus.NOT_FOUND)
            case "not_enabled":
                message = "stored logs are not enabled for this account"
                raise api_error("failed_precondition", message, reason=LOGS_NOT_ENABLED)

    def _page(self, sandbox: Sandbox, query: Mapping[str, str]) -> dict[str, Any]:
        size = min(_number(query, "pageSize") or _DEFAULT_PAGE_SIZE, _MAX_PAGE_SIZE)
        after = _place(query.get("pageToken", ""))
        page, more = stored_page(self._events(sandbox, query.get("container", "")), after, size)
        answer: dict[str, Any] = {self._entries: [self._entry(event) for event in page]}
        if more:
            answer["nextPageToken"] = _token(page[-1])
        if sandbox.end_time_ns:
            answer["retentionExpiresAt"] = _time(sandbox.end_time_ns + RETENTION_S * NS_PER_S)
        return answer

    def _events(self, sandbox: Sandbox, container: str) -> list[StoredEvent]:
        archives = [archive for name, _, archive in sandbox.containers() if container in {"", name}]
        if container and not archives:
            raise invalid(f"container: the sandbox has no container {container}")
        events = [event for archive in archives for event in archive.events()]
        return without_last(events, self._settings.stored_misses_last_s * sandbox.has_ended)

    def _entry(self, event: StoredEvent) -> dict[str, str]:
        return {
            self._time: _time(event.stamp_ns),
            "eventId": event.event_id,
            "container": event.container,
            self._text: event.text.decode("utf-8", "replace"),
        }


def _number(query: Mapping[str, str], name: str) -> int:
    try:
        number = int(query.get(name, "0"))
    except ValueError:
        number = -1
    if number < 0:
        raise invalid(f"{name}: a number is wanted")
    return number


def _place(token: str) -> tuple[int, str] | None:
    """The stamp and id of the event that a page token stands behind."""
    if not token:
        return None
    try:
        found = _TOKEN.fullmatch(base64.urlsafe_b64decode(token).decode())
    except (binascii.Error, ValueError):
        found = None
    if found is None:
        raise invalid("pageToken: not one of ours")
    return int(found[1]), found[2]


def _token(event: StoredEvent) -> str:
    return base64.urlsafe_b64encode(f"{event.stamp_ns}:{event.event_id}".encode()).decode()


def _time(stamp_ns: int) -> str:
    """RFC 3339 with as many digits as are needed, as proto JSON has it: 0, 3, 6 or 9."""
    text = format_stamp(stamp_ns).decode().rstrip("Z ")
    seconds, _, fraction = text.partition(".")
    while fraction.endswith("000"):
        fraction = fraction[:-3]
    return f"{seconds}.{fraction}Z" if fraction else f"{seconds}Z"


def _connect_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ConnectError)
    details = [
        {
            "type": detail.type_name,
            "value": base64.b64encode(detail.message_bytes).decode().rstrip("="),
        }
        for detail in error.details
    ]
    body = {"code": error.code.value, "message": error.message, "details": details}
    return JSONResponse(body, status_code=_STATUSES.get(error.code.value, 500))


def _bare(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return PlainTextResponse("404 page not found", status_code=error.status_code)
