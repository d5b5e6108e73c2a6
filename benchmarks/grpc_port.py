"""The same sandboxes over gRPC, for the vendor's CLI: serialized messages go out as they are."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import grpc.aio
from cwsandbox._proto import sandbox_pb2 as api

from benchmarks import wire
from benchmarks.catalog import SERVICE, ApiError, Catalog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    Context = grpc.aio.ServicerContext[Any, Any]


async def _abort(context: Context, error: ApiError) -> NoReturn:
    await context.abort(grpc.StatusCode[error.code.upper()], str(error))
    raise AssertionError("abort raises")


class _Handlers:
    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def get_sandbox(self, request: api.GetSandboxRequest, context: Context) -> api.Sandbox:
        try:
            return self._catalog.get_sandbox(request)
        except ApiError as error:
            await _abort(context, error)

    async def list_sandboxes(
        self, request: api.ListSandboxesRequest, _context: Context
    ) -> api.ListSandboxesResponse:
        return self._catalog.list_sandboxes(request)

    async def stream_logs(
        self, request: api.StreamLogsRequest, context: Context
    ) -> AsyncIterator[bytes]:
        try:
            sandbox, place = self._catalog.open_stream(request)
        except ApiError as error:
            await _abort(context, error)
        if place.start == 0 and sandbox.grpc_entries is not None:
            for entry in sandbox.grpc_entries:
                yield entry
        else:
            rest = sandbox.raw[place.start :]
            for entry in wire.entries(rest, sandbox.message_bytes, place.session, place.start):
                yield entry
        sandbox.served_to_end()


@contextlib.asynccontextmanager
async def serving_grpc(catalog: Catalog) -> AsyncIterator[int]:
    """Serve on a free loopback port, which entering returns.

    Methods that are not here, ConnectSandbox above all, answer UNIMPLEMENTED: the CLI then takes
    the gateway path for its data, which is this port.
    """
    handlers = _Handlers(catalog)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                SERVICE,
                {
                    "GetSandbox": grpc.unary_unary_rpc_method_handler(
                        handlers.get_sandbox,
                        request_deserializer=api.GetSandboxRequest.FromString,
                        response_serializer=api.Sandbox.SerializeToString,
                    ),
                    "ListSandboxes": grpc.unary_unary_rpc_method_handler(
                        handlers.list_sandboxes,
                        request_deserializer=api.ListSandboxesRequest.FromString,
                        response_serializer=api.ListSandboxesResponse.SerializeToString,
                    ),
                    "StreamLogs": grpc.unary_stream_rpc_method_handler(
                        handlers.stream_logs,
                        request_deserializer=api.StreamLogsRequest.FromString,
                    ),
                },
            ),
        )
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(grace=0)
