"""The control endpoint: faults over HTTP, for tests that run the service as a process.

GET /local/v1/faults · POST /local/v1/faults (JSON, merged) · POST /local/v1/break {"how", "code"} ·
POST /local/v1/forget-sessions · POST /local/v1/restart {"down_s"} · POST /local/v1/rotate
{"keep_bytes"} · POST /local/v1/restart-container {"sandbox_id", "container"} · GET
/local/v1/counters. The same bearer key as the API.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Route

from forwarder.local.sandbox import SandboxOverError, UnknownContainerError
from forwarder.local.settings import CONNECT_CODES
from forwarder.local.streams import HOWS

if TYPE_CHECKING:
    from starlette.requests import Request

    from forwarder.local.api import Gatekeeper
    from forwarder.local.settings import Faults
    from forwarder.local.streams import Counters, How

PREFIX = "/local/v1/"


class Controlled(Protocol):
    """What the endpoint controls."""

    @property
    def faults(self) -> Faults:
        """The faults, as they are now."""
        ...

    def break_streams(self, how: How, code: str = "") -> int:
        """Break every open log stream."""
        ...

    def forget_sessions(self) -> None:
        """Lose every log session."""
        ...

    def restart_soon(self, down_s: float) -> None:
        """Begin a restart that spares the connection of the request under way."""
        ...

    @property
    def counters(self) -> Counters:
        """What clients did."""
        ...

    def rotate(self, keep_bytes: int = 0) -> int:
        """Drop the oldest part of every log."""
        ...

    async def restart_container(self, sandbox_id: str, container: str = "") -> int:
        """Restart a container's process."""
        ...


class Control:
    """The endpoint's handlers."""

    def __init__(self, server: Controlled, gatekeeper: Gatekeeper) -> None:
        self._server = server
        self._gatekeeper = gatekeeper

    def application(self) -> Starlette:
        """The endpoint as an ASGI application."""
        return Starlette(
            routes=[
                Route(f"{PREFIX}faults", self._read_faults, methods=["GET"]),
                Route(f"{PREFIX}faults", self._merge_faults, methods=["POST"]),
                Route(f"{PREFIX}break", self._break, methods=["POST"]),
                Route(f"{PREFIX}forget-sessions", self._forget_sessions, methods=["POST"]),
                Route(f"{PREFIX}restart", self._restart, methods=["POST"]),
                Route(f"{PREFIX}rotate", self._rotate, methods=["POST"]),
                Route(f"{PREFIX}restart-container", self._restart_container, methods=["POST"]),
                Route(f"{PREFIX}counters", self._read_counters, methods=["GET"]),
            ],
            exception_handlers={HTTPException: _plain_error},
        )

    async def _read_faults(self, request: Request) -> JSONResponse:
        self._admit(request)
        return JSONResponse(self._server.faults.as_json())

    async def _merge_faults(self, request: Request) -> JSONResponse:
        changes = await self._body(request)
        try:
            self._server.faults.merge(changes)
        except ValueError as error:
            raise HTTPException(HTTPStatus.BAD_REQUEST, str(error)) from error
        return JSONResponse(self._server.faults.as_json())

    async def _break(self, request: Request) -> JSONResponse:
        body = await self._body(request)
        how, code = body.get("how"), str(body.get("code", ""))
        if how not in HOWS:
            raise HTTPException(HTTPStatus.BAD_REQUEST, f"how: one of {', '.join(HOWS)}")
        if how == "status" and code not in CONNECT_CODES:
            raise HTTPException(HTTPStatus.BAD_REQUEST, f"code: {code!r} is not a Connect code")
        return JSONResponse({"broken": self._server.break_streams(how, code)})

    async def _forget_sessions(self, request: Request) -> JSONResponse:
        self._admit(request)
        self._server.forget_sessions()
        return JSONResponse({})

    async def _restart(self, request: Request) -> JSONResponse:
        down_s = (await self._body(request)).get("down_s", 0)
        if not isinstance(down_s, int | float) or down_s < 0:
            raise HTTPException(HTTPStatus.BAD_REQUEST, "down_s: seconds are wanted")
        self._server.restart_soon(down_s)
        return JSONResponse({}, status_code=HTTPStatus.ACCEPTED)

    async def _rotate(self, request: Request) -> JSONResponse:
        keep_bytes = (await self._body(request)).get("keep_bytes", 0)
        if not isinstance(keep_bytes, int) or keep_bytes < 0:
            raise HTTPException(HTTPStatus.BAD_REQUEST, "keep_bytes: a size is wanted")
        return JSONResponse({"dropped_records": self._server.rotate(keep_bytes)})

    async def _restart_container(self, request: Request) -> JSONResponse:
        body = await self._body(request)
        sandbox_id, container = str(body.get("sandbox_id")), str(body.get("container", ""))
        try:
            restarts = await self._server.restart_container(sandbox_id, container)
        except (KeyError, UnknownContainerError) as error:
            raise HTTPException(HTTPStatus.NOT_FOUND, f"there is no {error}") from error
        except SandboxOverError as error:
            raise HTTPException(HTTPStatus.CONFLICT, f"{error} does not run") from error
        return JSONResponse({"restart_count": restarts})

    async def _read_counters(self, request: Request) -> JSONResponse:
        self._admit(request)
        return JSONResponse(asdict(self._server.counters))

    def _admit(self, request: Request) -> None:
        if not self._gatekeeper.admits(request.headers.get("authorization", "")):
            raise HTTPException(HTTPStatus.UNAUTHORIZED, "the API key is wanted")

    async def _body(self, request: Request) -> dict[str, Any]:
        self._admit(request)
        try:
            body = json.loads(await request.body() or b"{}")
        except ValueError as error:
            raise HTTPException(HTTPStatus.BAD_REQUEST, f"not JSON: {error}") from error
        if not isinstance(body, dict):
            raise HTTPException(HTTPStatus.BAD_REQUEST, "a JSON object is wanted")
        return body


def _plain_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, status_code=error.status_code)
