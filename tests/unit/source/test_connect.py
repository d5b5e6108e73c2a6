"""What only a Connect client can meet: broken framing, middleboxes, TLS."""

from __future__ import annotations

import asyncio
import datetime as dt
import gzip
import ipaddress
import json
import ssl
import struct
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from forwarder.errors import (
    CredentialsRefusedError,
    LogStreamError,
    SourceError,
    SourceUnavailableError,
)
from forwarder.source.connect import ConnectSource
from forwarder.source.envelope import FLAG_COMPRESSED, FLAG_END, pack
from forwarder.source.interface import LogRequest
from forwarder.source.messages_pb2 import Sandbox
from tests.fakes.api import Body, ConnectApi, Cut, Hold, NoEnd, Reply, Step, in_band, send

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

STREAM = "application/connect+proto"
HELLO = b"".join(pack(each.SerializeToString()) for each in send(b"hello\n").entries)


@pytest.fixture
async def api() -> AsyncIterator[ConnectApi]:
    async with ConnectApi().serve() as served:
        yield served


@pytest.fixture
async def source(api: ConnectApi) -> AsyncIterator[ConnectSource]:
    made = make(api)
    yield made
    await made.close()


def make(api: ConnectApi, **options: Any) -> ConnectSource:
    return ConnectSource(
        api.base_url, credentials=lambda: {"Authorization": "Bearer CANARY"}, **options
    )


async def read(source: ConnectSource) -> tuple[bytes, SourceError | None]:
    """What a stream gave, and how it failed, if it did."""
    data = b""
    try:
        async with source.read_logs(LogRequest("sbx-1")) as batches:
            async for entries in batches:
                data += b"".join(entry.data for entry in entries)
    except SourceError as error:
        return data, error
    return data, None


# Framing


@pytest.mark.parametrize(
    "steps",
    [
        (send(b"hello\n"), NoEnd()),
        (send(b"hello\n"), Body(pack(b"half a message")[:-3]), NoEnd()),
        (send(b"hello\n"), Body(b"\x00\x00"), NoEnd()),
        (send(b"hello\n"), Cut()),
    ],
)
async def test_a_body_without_the_end_envelope_is_a_broken_connection(
    api: ConnectApi, source: ConnectSource, steps: tuple[Step, ...]
) -> None:
    api.stream(*steps)
    data, error = await read(source)
    assert data == b"hello\n"
    assert type(error) is SourceUnavailableError
    assert error.code == "connection"


async def test_an_empty_body_is_a_broken_connection(api: ConnectApi, source: ConnectSource) -> None:
    api.stream(NoEnd())
    data, error = await read(source)
    assert data == b""
    assert type(error) is SourceUnavailableError


@pytest.mark.parametrize(
    "garbage",
    [pack(b"\xff\xff\xff"), pack(b"x", 0b1000_0000), struct.pack(">BI", 0, 2**32 - 1)],
)
async def test_garbage_ends_the_stream_behind_what_came_before(
    api: ConnectApi, source: ConnectSource, garbage: bytes
) -> None:
    api.stream(Body(HELLO + garbage + HELLO))
    data, error = await read(source)
    assert data == b"hello\n"
    assert type(error) is SourceUnavailableError


async def test_single_bytes_are_put_together(api: ConnectApi, source: ConnectSource) -> None:
    api.stream(Body(HELLO * 20, piece_bytes=1))
    assert await read(source) == (b"hello\n" * 20, None)


async def test_messages_that_arrive_together_are_yielded_together(
    api: ConnectApi, source: ConnectSource
) -> None:
    api.stream(Body(HELLO * 1000), Hold())
    async with source.read_logs(LogRequest("sbx-1")) as batches:
        assert len(await anext(aiter(batches))) > 1


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b'{"error":{}}'])
async def test_an_end_that_cannot_be_read_is_not_an_end(
    api: ConnectApi, source: ConnectSource, payload: bytes
) -> None:
    api.stream(Body(HELLO + pack(payload, FLAG_END)), NoEnd())
    data, error = await read(source)
    assert data == b"hello\n"
    assert type(error) is SourceUnavailableError


async def test_nothing_behind_the_end_is_read(api: ConnectApi, source: ConnectSource) -> None:
    api.stream(Body(HELLO + pack(b"{}", FLAG_END) + HELLO), Hold())
    assert await read(source) == (b"hello\n", None)
    await api.left.wait()


async def test_an_in_band_error_ends_the_stream_although_the_server_goes_on(
    api: ConnectApi, source: ConnectSource
) -> None:
    api.stream(send(b"hello\n"), in_band("REPLAY_GAP"), Body(HELLO), Hold())
    data, error = await read(source)
    assert data == b"hello\n"
    assert isinstance(error, LogStreamError)
    await api.left.wait()


# Compression


async def test_compression_is_never_offered(api: ConnectApi, source: ConnectSource) -> None:
    api.stream()
    await read(source)
    headers = api.requests[0].headers
    assert headers["accept-encoding"] == "identity"
    assert headers["connect-accept-encoding"] == "identity"


async def test_a_message_compressed_all_the_same_is_read(
    api: ConnectApi, source: ConnectSource
) -> None:
    message = send(b"hello\n").entries[0].SerializeToString()
    body = pack(gzip.compress(message), FLAG_COMPRESSED) + pack(b"{}", FLAG_END)
    api.stream(Reply(200, {"content-type": STREAM, "connect-content-encoding": "gzip"}, body))
    assert await read(source) == (b"hello\n", None)


async def test_a_compressed_message_that_was_not_announced_is_broken(
    api: ConnectApi, source: ConnectSource
) -> None:
    api.stream(Body(pack(gzip.compress(b"x"), FLAG_COMPRESSED)))
    _, error = await read(source)
    assert type(error) is SourceUnavailableError


async def test_an_answer_that_is_compressed_as_a_whole_is_not_inflated(
    api: ConnectApi, source: ConnectSource
) -> None:
    body = gzip.compress(json.dumps({"sandboxId": "sbx-1"}).encode())
    api.answer(Reply(200, {"content-type": "application/json", "content-encoding": "gzip"}, body))
    with pytest.raises(SourceUnavailableError, match="cannot be read"):
        await source.get_sandbox("sbx-1")


# What is not the API


NOT_THE_API = [
    (Reply(502, {"content-type": "text/html"}, b"<html>Bad Gateway"), SourceUnavailableError),
    (Reply(503, {"content-type": "text/plain", "retry-after": "7"}), SourceUnavailableError),
    (Reply(200, {"content-type": "text/html"}, b"<html>Log in here"), SourceUnavailableError),
    (Reply(200, {}, HELLO), SourceUnavailableError),
    (Reply(404, {"content-type": "text/html"}, b"<html>Not Found"), SourceUnavailableError),
    (Reply(401, {"content-type": "text/plain"}), CredentialsRefusedError),
    (Reply(403, {"content-type": "application/json"}, b'{"x":1}'), CredentialsRefusedError),
    (Reply(500, {"content-type": "application/json"}, b"x" * 1_000_000), SourceUnavailableError),
]


@pytest.mark.parametrize(("reply", "kind"), NOT_THE_API)
async def test_an_answer_that_is_not_the_apis_is_told_apart(
    api: ConnectApi, source: ConnectSource, reply: Reply, kind: type[SourceError]
) -> None:
    api.stream(reply)
    api.answer(reply)
    _, error = await read(source)
    assert type(error) is kind
    assert f"HTTP {reply.status}" in str(error)
    with pytest.raises(kind):
        await source.get_sandbox("sbx-1")


async def test_the_wish_in_a_bare_answer_is_kept(api: ConnectApi, source: ConnectSource) -> None:
    api.stream(Reply(503, {"retry-after": "7"}))
    _, error = await read(source)
    assert error is not None
    assert error.retry_after_s == 7


async def test_a_wrong_base_url_is_not_an_unknown_sandbox(
    api: ConnectApi, source: ConnectSource
) -> None:
    api.answer(Reply(404, {"content-type": "text/plain"}, b"404 page not found"))
    with pytest.raises(SourceUnavailableError, match="is the base URL right"):
        await source.get_sandbox("sbx-1")


async def test_a_redirect_is_not_followed(api: ConnectApi, source: ConnectSource) -> None:
    api.answer(Reply(307, {"location": f"{api.base_url}/elsewhere/GetSandbox"}))
    with pytest.raises(SourceUnavailableError, match="HTTP 307"):
        await source.get_sandbox("sbx-1")
    assert len(api.requests) == 1


async def test_a_cookie_is_not_kept(api: ConnectApi, source: ConnectSource) -> None:
    body = b'{"sandboxId": "sbx-1"}'
    reply = Reply(200, {"content-type": "application/json", "set-cookie": "a=b; Path=/"}, body)
    api.answer(reply, reply)
    await source.get_sandbox("sbx-1")
    await source.get_sandbox("sbx-1")
    assert "cookie" not in api.requests[1].headers


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff"])
async def test_an_answer_that_cannot_be_read_is_an_outage(
    api: ConnectApi, source: ConnectSource, body: bytes
) -> None:
    api.answer(*[Reply(200, {"content-type": "application/json; charset=utf-8"}, body)] * 2)
    with pytest.raises(SourceUnavailableError):
        await source.get_sandbox("sbx-1")
    with pytest.raises(SourceUnavailableError):
        await source.list_sandboxes()


async def test_an_answer_over_the_limit_is_given_up(api: ConnectApi) -> None:
    source = make(api, max_message_bytes=1000)
    api.answer(Reply(200, {"content-type": "application/json"}, b" " * 1001))
    with pytest.raises(SourceUnavailableError) as caught:
        await source.get_sandbox("sbx-1")
    assert caught.value.reason == "MESSAGE_TOO_LARGE"
    await source.close()


async def test_a_server_that_speaks_something_else_is_an_outage() -> None:
    def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.com ESMTP\r\n")
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        source = ConnectSource(f"http://127.0.0.1:{port}", credentials=dict)
        with pytest.raises(SourceUnavailableError):
            await source.get_sandbox("sbx-1")
        await source.close()


async def test_a_base_url_may_have_a_path(api: ConnectApi) -> None:
    source = ConnectSource(f"{api.base_url}/prefix/", credentials=dict)
    api.answer(Sandbox(sandbox_id="sbx-1"))
    assert (await source.get_sandbox("sbx-1")).id == "sbx-1"
    await source.close()


async def test_the_key_is_in_no_message(
    api: ConnectApi, source: ConnectSource, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    api.answer(Reply(401), Cut())
    for kind in (CredentialsRefusedError, SourceUnavailableError):
        with pytest.raises(kind) as caught:
            await source.get_sandbox("sbx-1")
        assert "CANARY" not in f"{caught.value!r} {caught.value.__cause__!r}"
    assert "CANARY" not in caplog.text
    assert api.requests[0].headers["authorization"] == "Bearer CANARY"


# TLS


def server_context(folder: Path) -> tuple[ssl.SSLContext, str]:
    """A certificate of our own for 127.0.0.1, and the file that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(address, critical=False)
        .sign(key, hashes.SHA256())
    )
    file = folder / "certificate.pem"
    file.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)
    return context, str(file)


async def test_an_unknown_certificate_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    context, _ = server_context(tmp_path)
    async with ConnectApi().serve(context) as api:
        source = make(api)
        with pytest.raises(SourceUnavailableError, match=r"[Cc]ertificate"):
            await source.get_sandbox("sbx-1")
        await source.close()
        assert api.requests == []


async def test_a_private_authority_can_be_trusted(tmp_path: Path) -> None:
    context, file = server_context(tmp_path)
    async with ConnectApi().serve(context) as api:
        source = make(api, ssl_context=ssl.create_default_context(cafile=file))
        api.stream(send(b"hello\n"))
        assert await read(source) == (b"hello\n", None)
        await source.close()


async def test_a_certificate_for_another_name_is_refused(tmp_path: Path) -> None:
    context, file = server_context(tmp_path)
    async with ConnectApi().serve(context) as api:
        api.base_url = api.base_url.replace("127.0.0.1", "localhost")
        source = make(api, ssl_context=ssl.create_default_context(cafile=file))
        with pytest.raises(SourceUnavailableError, match=r"[Cc]ertificate"):
            await source.get_sandbox("sbx-1")
        await source.close()
        assert api.requests == []
