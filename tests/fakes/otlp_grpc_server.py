"""A scripted server of OTLP's logs service over gRPC: every status, detail and trailer, on cue."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import grpc
import grpc.aio

if TYPE_CHECKING:
    from collections.abc import Mapping

_METHOD = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"


@dataclass(frozen=True)
class GrpcReply:
    """One answer.

    Attributes:
        body: The serialised response of an OK.
        trailers: Sent with the status; names ending in `-bin` have bytes.
        stall: Never answer; ends when the client leaves.
    """

    code: grpc.StatusCode = grpc.StatusCode.OK
    message: str = ""
    body: bytes = b""
    trailers: tuple[tuple[str, str | bytes], ...] = ()
    stall: bool = False


@dataclass(frozen=True)
class GrpcRequest:
    """One request: its metadata, names in lower case, and the message as it came."""

    metadata: Mapping[str, str]
    body: bytes


@dataclass
class OtlpGrpcServer:
    """It listens on 127.0.0.1 while the `async with` lasts; OK when no reply is left.

    Attributes:
        requests: Every request that was read, in order.
        cancelled: Set when a call that stalls was cancelled by its client.
    """

    replies: deque[GrpcReply] = field(default_factory=deque)
    credentials: grpc.ServerCredentials | None = None
    requests: list[GrpcRequest] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0

    @property
    def url(self) -> str:
        return f"{'http' if self.credentials is None else 'https'}://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
        handler = grpc.method_handlers_generic_handler(
            _METHOD.split("/")[1], {"Export": grpc.unary_unary_rpc_method_handler(self._export)}
        )
        self._server.add_generic_rpc_handlers((handler,))
        if self.credentials is None:
            self.port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            self.port = self._server.add_secure_port("127.0.0.1:0", self.credentials)
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(None)

    async def _export(self, body: bytes, context: Any) -> bytes:
        metadata = {key: value for key, value in context.invocation_metadata()}  # noqa: C416 - pairs
        self.requests.append(GrpcRequest(metadata, body))
        self.arrived.set()
        reply = self.replies.popleft() if self.replies else GrpcReply()
        if reply.stall:
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled.set()
        if reply.code is not grpc.StatusCode.OK:
            await context.abort(reply.code, reply.message, reply.trailers)
        context.set_trailing_metadata(reply.trailers)
        return reply.body
