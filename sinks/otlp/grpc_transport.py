"""OTLP over gRPC (extra `grpc`).

Requests pass through as the bytes that they are. Nothing is retried here, nor by the library: that
is the engine's business. Proxies of the environment are used for https only.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import grpc
import grpc.aio

from sinks.answers import origin, printable
from sinks.credentials import telling_pieces
from sinks.interface import SinkMisconfiguredError, SinkUnavailableError
from sinks.otlp.answers import MAX_ANSWER_BYTES, UNREADABLE, read_protobuf
from sinks.otlp.grpc_status import GrpcStatus, status_verdict
from sinks.web import secret_headers, tls_context

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sinks.otlp.answers import Acceptance
    from sinks.otlp.settings import OtlpSettings
    from sinks.server import TlsSettings

_METHOD = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
_DETAILS = "grpc-status-details-bin"

#: One byte more than anybody else's limit, so that the library's message tells ours from theirs.
_MAX_RECEIVE_BYTES = MAX_ANSWER_BYTES + 1
_ANSWER_TOO_LARGE = f"vs. {_MAX_RECEIVE_BYTES})"
#: The library ends a call itself when a server's headers or trailers are larger than this.
_MAX_METADATA_BYTES = 16 * 1024


class GrpcTransport:
    """One channel to the server. It belongs to the event loop on which it was opened."""

    def __init__(self, settings: OtlpSettings) -> None:
        self._settings = settings
        self._where = origin(settings.url)
        self._channel: grpc.aio.Channel | None = None

    async def open(self) -> None:
        """See `Transport.open`; connects at the first request."""
        await self.close()
        settings = self._settings
        url = urlsplit(settings.url)
        host = url.hostname or ""
        host = f"[{host}]" if ":" in host else host
        secure = url.scheme == "https"
        target = f"dns:{host}:{url.port or (443 if secure else 80)}"
        options = _options(settings, secure=secure)
        compressed = settings.compression == "gzip"
        kind = grpc.Compression.Gzip if compressed else grpc.Compression.NoCompression
        if secure:
            credentials = await asyncio.to_thread(_credentials, settings.tls)
            self._channel = grpc.aio.secure_channel(target, credentials, options, kind)
        else:
            self._channel = grpc.aio.insecure_channel(target, options, kind)

    async def export(self, body: bytes) -> Acceptance:
        """See `Transport.export`."""
        assert self._channel is not None, "open comes first"
        secret = secret_headers(self._settings)
        call: Any = self._channel.unary_unary(_METHOD, None, None)(
            body, metadata=tuple(secret.items()), timeout=self._settings.timeout
        )
        try:
            answer: bytes | None = await call
        except grpc.aio.AioRpcError as error:
            return self._answer_to(error, secret.values())
        except (grpc.RpcError, grpc.aio.BaseError, OSError) as error:
            raise SinkUnavailableError(f"{self._where}: {printable(str(error))}") from error
        except asyncio.CancelledError as error:
            # The library cancels whoever waits for a call on a channel that is closed.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise SinkUnavailableError(f"{self._where}: the connection was closed") from error
        finally:
            call.cancel()
        # Nothing at all stands for an OK without a message.
        return UNREADABLE if answer is None else read_protobuf(answer)

    async def close(self) -> None:
        """See `Transport.close`."""
        channel, self._channel = self._channel, None
        if channel is not None:
            with suppress(grpc.RpcError, grpc.aio.BaseError):
                await channel.close(None)

    def _answer_to(self, error: grpc.aio.AioRpcError, secrets: Iterable[str]) -> Acceptance:
        """What a status other than OK means: an exception, save where the data was taken."""
        code, message = error.code().name, _concealed(error.details() or "", secrets)
        if code == "RESOURCE_EXHAUSTED" and _ANSWER_TOO_LARGE in message:
            return UNREADABLE
        status = GrpcStatus(code, message, _details(error))
        raise status_verdict(status, self._where, self._settings.grpc.retry_codes) from error


def _concealed(message: str, secrets: Iterable[str]) -> str:
    """The message without what it repeats of ours: some servers say which token they refuse."""
    for secret in secrets:
        for piece in sorted(telling_pieces(secret), key=len, reverse=True):
            message = message.replace(piece, "***")
    return message


def _details(error: grpc.aio.AioRpcError) -> bytes:
    trailers: Any = error.trailing_metadata() or ()
    found = next((value for key, value in trailers if key == _DETAILS), b"")
    return found if isinstance(found, bytes) else b""


def _options(settings: OtlpSettings, *, secure: bool) -> list[tuple[str, int | str]]:
    return [
        ("grpc.primary_user_agent", "sandbox-forwarder"),
        ("grpc.enable_http_proxy", int(secure)),
        ("grpc.enable_retries", 0),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", _MAX_RECEIVE_BYTES),
        ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", _MAX_METADATA_BYTES),
        # A vanished peer is noticed while a call waits; servers end connections that ping more.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 2),
        # Another sink of the same address has another certificate, maybe.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.min_reconnect_backoff_ms", int(settings.connect_timeout * 1000)),
        # Backoff is the engine's: a call must not fail for two minutes because of an old failure.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 2_000),
    ]


def _credentials(tls: TlsSettings) -> grpc.ChannelCredentials:
    """The certificates, read and tried before the library has them: it would only crash on them."""
    tls_context(tls)
    roots = tls.ca_file or ssl.get_default_verify_paths().cafile
    try:
        authorities = None if roots is None else Path(roots).read_bytes()
        if tls.cert_file is None:
            return grpc.ssl_channel_credentials(authorities)
        certificate = tls.cert_file.read_bytes()
        key = certificate if tls.key_file is None else tls.key_file.read_bytes()
    except OSError as error:
        text = f"tls: {error.filename}: {error.strerror}"
        raise SinkMisconfiguredError(text, credentials=True) from None
    return grpc.ssl_channel_credentials(authorities, key, certificate)
