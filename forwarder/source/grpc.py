"""The sandbox API over gRPC, for endpoints that refuse Connect (extra `grpc`).

Messages are parsed by the same code as Connect's. Reading costs some thirty times as much for each
message, which is why this is not the default.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError, Message

from forwarder.errors import SourceError, SourceUnavailableError
from forwarder.source.endpoint import SERVICE, auth_headers, parse_endpoint
from forwarder.source.envelope import MAX_MESSAGE_BYTES
from forwarder.source.errors_map import one_line, status_failure, typed_error
from forwarder.source.log_messages import decode_entries, encode_request
from forwarder.source.messages_pb2 import (
    GetSandboxRequest,
    ListSandboxesRequest,
    ListSandboxesResponse,
    Sandbox,
)
from forwarder.source.paging import PAGE_SIZE, all_pages
from forwarder.source.sandbox_json import (
    UnreadableAnswerError,
    page_from_json,
    sandbox_from_json,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from forwarder import model
    from forwarder.source.endpoint import Credentials
    from forwarder.source.interface import LogEntry, LogRequest

#: Servers limit the streams of one connection, and what is over the limit waits without a sign.
#: 100 is the least that HTTP/2 recommends (RFC 9113, 6.5.2).
STREAMS_PER_CHANNEL = 100

#: How gRPC itself words that it will not receive a message; the API never says this.
_TOO_LARGE = "Received message larger than max"

_Answer = TypeVar("_Answer", bound=Message)


class GrpcSource:
    """A `LogSource` over gRPC. Channels are made at the first call, on the running loop.

    Args:
        base_url: `https://host[:port]`, without a path; http:// only to this machine.
        credentials: Gives the headers to send; called for every request.
        connect_timeout_s: For one attempt to connect.
        request_timeout_s: For a whole call. A log stream without `follow` may be silent so long.
        allow_plaintext: Allow http:// to another machine, which shows the key to the network.
        root_certificates: PEM certificates of a private authority.
        max_message_bytes: A larger message is an error.

    Raises:
        ValueError: The base URL cannot be used.
    """

    def __init__(
        self,
        base_url: str,
        *,
        credentials: Credentials,
        connect_timeout_s: float = 10,
        request_timeout_s: float = 30,
        allow_plaintext: bool = False,
        root_certificates: bytes | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        endpoint = parse_endpoint(base_url, allow_plaintext=allow_plaintext)
        if endpoint.path:
            raise ValueError("gRPC cannot use a base URL with a path")
        host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        self._channels = _Channels(
            f"{host}:{endpoint.port}",
            _options(connect_timeout_s, max_message_bytes),
            root_certificates,
            secure=endpoint.secure,
        )
        self._credentials = credentials
        self._request_timeout_s = request_timeout_s

    async def get_sandbox(self, sandbox_id: str) -> model.Sandbox:
        """See `LogSource.get_sandbox`."""
        request = GetSandboxRequest(sandbox_id=sandbox_id)
        answer = await self._call("GetSandbox", request, Sandbox, sandbox_id)
        with _foreign_errors("GetSandbox", sandbox_id):
            return sandbox_from_json(MessageToDict(answer), sandbox_id=sandbox_id)

    async def list_sandboxes(
        self, *, tags: Sequence[str] = (), show_terminated: bool = False
    ) -> list[model.Sandbox]:
        """See `LogSource.list_sandboxes`."""

        async def fetch(token: str) -> tuple[list[model.Sandbox], str]:
            request = ListSandboxesRequest(
                page_size=PAGE_SIZE, page_token=token, tags=tags, show_terminated=show_terminated
            )
            answer = await self._call("ListSandboxes", request, ListSandboxesResponse)
            with _foreign_errors("ListSandboxes", ""):
                return page_from_json(MessageToDict(answer))

        return await all_pages(fetch)

    def read_logs(
        self, request: LogRequest
    ) -> AbstractAsyncContextManager[AsyncIterator[Sequence[LogEntry]]]:
        """See `LogSource.read_logs`, and `ConnectSource.read_logs` for a silent server."""
        return self._read_logs(request)

    async def close(self) -> None:
        """See `LogSource.close`; may be called again."""
        await self._channels.close()

    @asynccontextmanager
    async def _read_logs(
        self, request: LogRequest
    ) -> AsyncIterator[AsyncIterator[Sequence[LogEntry]]]:
        what = f"StreamLogs of {one_line(request.sandbox_id)}"
        silence_s = None if request.follow or request.session_id else self._request_timeout_s
        async with AsyncExitStack() as stack:
            seat = stack.enter_context(self._channels.for_stream())
            with _foreign_errors(what, request.sandbox_id):
                call = seat.channel.unary_stream(f"{SERVICE}/StreamLogs", None, None)(
                    encode_request(request), metadata=self._metadata()
                )
                stack.callback(call.cancel)
                async with asyncio.timeout(silence_s):
                    await call.initial_metadata()
            seat.answered()
            entries = self._entries(call, what, request.sandbox_id, silence_s)
            yield await stack.enter_async_context(aclosing(entries))

    async def _entries(
        self, call: Any, what: str, sandbox_id: str, silence_s: float | None
    ) -> AsyncGenerator[Sequence[LogEntry], None]:
        """The stream's entries, as they come: one at a time."""
        # Not `call.read()`: once the status has come, that no longer gives what came before it.
        payloads = aiter(call)
        while True:
            with _foreign_errors(what, sandbox_id):
                async with asyncio.timeout(silence_s):
                    payload: bytes | None = await anext(payloads, None)
            if payload is None:
                return
            entries, error = decode_entries([payload])
            if entries:
                yield entries
            if error is not None:
                raise error

    async def _call(
        self, method: str, request: Message, kind: type[_Answer], sandbox_id: str = ""
    ) -> _Answer:
        what = f"{method} of {one_line(sandbox_id)}" if sandbox_id else method
        with _foreign_errors(what, sandbox_id):
            call = self._channels.for_calls().unary_unary(f"{SERVICE}/{method}", None, None)
            answer: bytes = await call(
                request.SerializeToString(),
                metadata=self._metadata(),
                timeout=self._request_timeout_s,
            )
            return kind.FromString(answer)

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        headers = auth_headers(self._credentials)
        return tuple((name.lower(), value) for name, value in headers.items())


@dataclass(slots=True)
class _StreamChannel:
    """A channel and the streams on it.

    Attributes:
        taken: Streams that are open, or wait to be.
        answered: Those of them that the server has answered.
        limit: How many it may have.
    """

    channel: grpc.aio.Channel
    taken: int = 0
    answered: int = 0
    limit: int = STREAMS_PER_CHANNEL


class _Seat:
    """One stream's place on a channel."""

    def __init__(self, place: _StreamChannel) -> None:
        self.channel = place.channel
        self._place = place
        self._answered = False
        place.taken += 1

    def answered(self) -> None:
        """The server lets the stream in."""
        self._answered = True
        self._place.answered += 1

    def leave(self) -> None:
        """The stream has ended."""
        self._place.taken -= 1
        self._place.answered -= self._answered

    def tired(self) -> None:
        """Nobody waits for an answer any more: the connection has no room for it.

        A server may allow fewer streams to a connection than we thought, and then the surplus waits
        without a sign. So the channel gets no more streams than those that were let in.
        """
        if not self._answered and self._place.answered:
            self._place.limit = self._place.answered


class _Channels:
    """Channels to one server: one for calls, and one for every so many open streams."""

    def __init__(
        self,
        target: str,
        options: Sequence[tuple[str, int]],
        root_certificates: bytes | None,
        *,
        secure: bool,
    ) -> None:
        self._target = target
        self._options = options
        self._root_certificates = root_certificates
        self._secure = secure
        self._calls: grpc.aio.Channel | None = None
        self._streams: list[_StreamChannel] = []
        self._closed = False

    def for_calls(self) -> grpc.aio.Channel:
        """The channel that no stream can block."""
        if self._calls is None:
            self._calls = self._new()
        return self._calls

    @contextmanager
    def for_stream(self) -> Iterator[_Seat]:
        """A channel with room for a stream, which is taken until the context is left."""
        place = next((p for p in self._streams if p.taken < p.limit), None)
        if place is None:
            place = _StreamChannel(self._new())
            self._streams.append(place)
        seat = _Seat(place)
        try:
            yield seat
        except asyncio.CancelledError:
            seat.tired()
            raise
        finally:
            seat.leave()

    async def close(self) -> None:
        """Close every channel; streams that are open on them end."""
        self._closed = True
        channels = [place.channel for place in self._streams]
        if self._calls is not None:
            channels.append(self._calls)
        self._calls = None
        self._streams = []
        for channel in channels:
            with suppress(grpc.RpcError, grpc.aio.BaseError):
                await channel.close(None)

    def _new(self) -> grpc.aio.Channel:
        if self._closed:
            raise SourceUnavailableError("the source is closed", code="connection")
        if not self._secure:
            return grpc.aio.insecure_channel(self._target, options=self._options)
        certificates = grpc.ssl_channel_credentials(self._root_certificates)
        return grpc.aio.secure_channel(self._target, certificates, options=self._options)


def _options(connect_timeout_s: float, max_message_bytes: int) -> tuple[tuple[str, int], ...]:
    return (
        ("grpc.max_receive_message_length", max_message_bytes),
        # A vanished peer is noticed in 30 s. Without the three after the first it took 110 s.
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.ping_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
        # Otherwise gRPC buffers megabytes for each stream whose reader is slow.
        ("grpc.http2.bdp_probe", 0),
        # Channels to one server would share one connection, and with it its stream limit.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.min_reconnect_backoff_ms", int(connect_timeout_s * 1000)),
        # Backoff is the engine's: a call must not fail for two minutes because of an old failure.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 2_000),
    )


@contextmanager
def _foreign_errors(what: str, sandbox_id: str) -> Iterator[None]:
    """Turn every foreign exception into a SourceError; cancellation passes."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise _from_status(error, what, sandbox_id) from error
    except (DecodeError, UnreadableAnswerError) as error:
        raise SourceUnavailableError(
            f"{what} failed: the answer cannot be read: {one_line(str(error))}", code="internal"
        ) from error
    except (grpc.RpcError, grpc.aio.BaseError, OSError) as error:
        raise SourceUnavailableError(
            f"{what} failed: {type(error).__name__}: {one_line(str(error))}", code="connection"
        ) from error
    except asyncio.CancelledError as error:
        # grpc.aio cancels whoever waits for a call on a channel that is closed.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise SourceUnavailableError(f"{what} failed: closed", code="canceled") from error


def _from_status(error: grpc.aio.AioRpcError, what: str, sandbox_id: str) -> SourceError:
    trailers: Any = error.trailing_metadata() or ()
    details = next((value for key, value in trailers if key == "grpc-status-details-bin"), None)
    failure = status_failure(error.code().name.lower(), error.details() or "", details)
    if failure.code == "resource_exhausted" and _TOO_LARGE in failure.message:
        failure = replace(failure, reason="MESSAGE_TOO_LARGE")
    return typed_error(failure, what, sandbox_id=sandbox_id)
