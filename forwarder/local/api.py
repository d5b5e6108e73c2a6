"""The service as an ASGI application: who may call, which methods there are, how they are coded."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any

from connectrpc.compat import google_protobuf_codecs
from connectrpc.compression.gzip import GzipCompression
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc.server import ConnectASGIApplication, Endpoint
from cwsandbox._proto import sandbox_pb2 as pb
from google.protobuf.message_factory import GetMessageClass

from forwarder.local.errors import NOT_IMPLEMENTED, api_error
from forwarder.local.service import SandboxService

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from connectrpc.errors import ConnectError
    from connectrpc.request import RequestContext

    from forwarder.local.settings import Faults

_SERVICE = pb.DESCRIPTOR.services_by_name["SandboxService"]


class Gatekeeper:
    """Before every call: the key, and the faults that refuse calls."""

    def __init__(self, api_key: str, faults: Faults) -> None:
        self._expected = f"Bearer {api_key}"
        self._faults = faults

    def admits(self, authorization: str) -> bool:
        """Whether this Authorization header carries the key."""
        return hmac.compare_digest(authorization.encode(), self._expected.encode())

    async def on_start(self, ctx: RequestContext[Any, Any]) -> None:
        """Refuse the call or let it pass."""
        authorization = ctx.request_headers.get("authorization") or ""
        error = self.refusal(ctx.method.name, authorization)
        if error is not None:
            raise error

    async def on_end(
        self, token: None, ctx: RequestContext[Any, Any], error: Exception | None, /
    ) -> None:
        """Nothing to undo."""

    def refusal(self, method: str, authorization: str) -> ConnectError | None:
        """Why a call is refused; None when it may pass. It may use up a fault of the method."""
        return self._stranger(authorization) or self._fault(method)

    def _stranger(self, authorization: str) -> ConnectError | None:
        if self._faults.refuse_credentials:
            return api_error(self._faults.refuse_credentials, "the credentials are refused")
        if not self.admits(authorization):
            return api_error("unauthenticated", "Authorization: Bearer with the API key is wanted")
        return None

    def _fault(self, method: str) -> ConnectError | None:
        status = self._faults.statuses.get(method)
        if status is None or status.calls <= 0:
            return None
        status.calls -= 1
        return api_error(
            status.code,
            f"{method} fails on purpose: {status.code}",
            reason=status.reason,
            retry_delay_s=status.retry_delay_s,
        )


class ApiApplication(ConnectASGIApplication[SandboxService]):
    """The service as an ASGI application: gRPC, gRPC-Web and Connect, binary and JSON."""

    def __init__(
        self, service: SandboxService, gatekeeper: Gatekeeper, *, compression: bool
    ) -> None:
        super().__init__(
            service=service,
            endpoints=_endpoints,
            interceptors=[gatekeeper],
            compressions=[GzipCompression()] if compression else [],
            codecs=google_protobuf_codecs(),
        )

    @property
    def path(self) -> str:
        """Where the service's methods live."""
        return f"/{_SERVICE.full_name}"


def _endpoints(service: SandboxService) -> Mapping[str, Any]:
    """Every method of the API; those that the service lacks answer `unimplemented`."""
    unary = {
        "CreateSandbox": service.create_sandbox,
        "GetSandbox": service.get_sandbox,
        "ListSandboxes": service.list_sandboxes,
        "DeleteSandbox": service.delete_sandbox,
    }
    endpoints: dict[str, Any] = {}
    for method in _SERVICE.methods:
        path = f"/{_SERVICE.full_name}/{method.name}"
        if method.name == "StreamLogs":
            endpoints[path] = Endpoint.server_stream(
                _method(method, StreamType.SERVER_STREAM), service.stream_logs
            )
        elif method.server_streaming:
            endpoints[path] = Endpoint.bidi_stream(
                _method(method, StreamType.BIDI_STREAM), _unimplemented_stream
            )
        else:
            handler: Any = unary.get(method.name, _unimplemented)
            endpoints[path] = Endpoint.unary(_method(method, StreamType.UNARY), handler)
    return endpoints


def _method(method: Any, stream_type: StreamType) -> MethodInfo[Any, Any]:
    return MethodInfo(
        name=method.name,
        service_name=_SERVICE.full_name,
        input=GetMessageClass(method.input_type),
        output=GetMessageClass(method.output_type),
        idempotency_level=IdempotencyLevel.UNKNOWN,
        stream_type=stream_type,
    )


async def _unimplemented(_: Any, ctx: RequestContext[Any, Any]) -> Any:
    raise _lacking(ctx)


async def _unimplemented_stream(
    _: AsyncIterator[Any], ctx: RequestContext[Any, Any]
) -> AsyncIterator[Any]:
    raise _lacking(ctx)
    yield


def _lacking(ctx: RequestContext[Any, Any]) -> ConnectError:
    message = f"the local service has no {ctx.method.name}"
    return api_error("unimplemented", message, reason=NOT_IMPLEMENTED)
