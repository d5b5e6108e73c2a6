"""Who is believed to be the server, and who we are to it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from sinks.interface import SinkError, SinkMisconfiguredError
from sinks.web import WebClient
from tests.fakes.certificates import Authority, Pair
from tests.fakes.network import client_for, settings_for
from tests.fakes.web_server import WebServer

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"), "another authority")


@pytest.fixture(scope="module")
def server_pair(authority: Authority) -> Pair:
    return authority.issue("server")


async def refusal(server: WebServer, tls: dict[str, Any]) -> SinkMisconfiguredError:
    async with client_for(server.url, tls=tls) as web:
        with pytest.raises(SinkMisconfiguredError) as caught:
            await web.post(server.url, b"secret lines", {"authorization": "secret"})
    assert server.requests == []
    return caught.value


async def test_an_own_authority_is_believed(authority: Authority, server_pair: Pair) -> None:
    tls = {"ca_file": str(authority.file)}
    context = authority.server_context(server_pair)
    async with WebServer(tls=context) as server, client_for(server.url, tls=tls) as web:
        assert (await web.post(server.url, b"x", {})).status == 200


async def test_a_certificate_of_nobody_we_know_is_refused(
    authority: Authority, stranger: Authority, server_pair: Pair
) -> None:
    async with WebServer(tls=authority.server_context(server_pair)) as server:
        for tls in ({}, {"ca_file": str(stranger.file)}):
            error = await refusal(server, tls)
            assert "does not verify" in str(error)
            assert "set tls.ca_file" in str(error)


async def test_a_certificate_for_somebody_else_is_refused(authority: Authority) -> None:
    other = authority.issue("elsewhere", address="127.0.0.9")
    async with WebServer(tls=authority.server_context(other)) as server:
        error = await refusal(server, {"ca_file": str(authority.file)})
    assert "the address in the configuration" in str(error)


async def test_a_certificate_that_has_expired_is_refused(authority: Authority) -> None:
    old = authority.issue("expired", days=-1)
    async with WebServer(tls=authority.server_context(old)) as server:
        error = await refusal(server, {"ca_file": str(authority.file)})
    assert "has expired; it has to be renewed there" in str(error)


async def test_old_versions_of_tls_are_not_spoken(authority: Authority, server_pair: Pair) -> None:
    context = authority.server_context(server_pair)
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    async with WebServer(tls=context) as server:
        async with client_for(server.url, tls={"ca_file": str(authority.file)}) as web:
            with pytest.raises(Exception, match="does not answer"):
                await web.post(server.url, b"x", {})
        assert server.requests == []


async def test_whoever_wants_to_believe_anybody_can(
    authority: Authority, server_pair: Pair
) -> None:
    context, tls = authority.server_context(server_pair), {"insecure_skip_verify": True}
    async with WebServer(tls=context) as server, client_for(server.url, tls=tls) as web:
        assert (await web.post(server.url, b"x", {})).status == 200


async def test_a_server_that_wants_our_certificate_gets_it(
    authority: Authority, server_pair: Pair
) -> None:
    ours = authority.issue("client")
    context = authority.server_context(server_pair, wants_certificate=True)
    tls = {
        "ca_file": str(authority.file),
        "cert_file": str(ours.certificate),
        "key_file": str(ours.key),
    }
    async with WebServer(tls=context) as server, client_for(server.url, tls=tls) as web:
        assert (await web.post(server.url, b"x", {})).status == 200


async def test_certificate_and_key_may_stand_in_one_file(
    authority: Authority, server_pair: Pair, tmp_path: Path
) -> None:
    ours = authority.issue("client-in-one-file")
    both = tmp_path / "both.pem"
    both.write_bytes(ours.key.read_bytes() + ours.certificate.read_bytes())
    context = authority.server_context(server_pair, wants_certificate=True)
    tls = {"ca_file": str(authority.file), "cert_file": str(both)}
    async with WebServer(tls=context) as server, client_for(server.url, tls=tls) as web:
        assert (await web.post(server.url, b"x", {})).status == 200


def one_handshake(listener: socket.socket, context: ssl.SSLContext) -> None:
    """A server of OpenSSL's own: asyncio's does not say why it refuses a handshake."""
    connection, _ = listener.accept()
    with connection.dup() as still_open:
        with suppress(OSError), context.wrap_socket(connection, server_side=True) as tls:
            tls.recv(1)
        while still_open.recv(4096):  # a close now would take the alert back
            pass


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("shows", ["nothing", "another authority's", "an expired one"])
async def test_a_server_that_refuses_our_certificate_says_that_it_is_ours(
    authority: Authority,
    stranger: Authority,
    server_pair: Pair,
    version: ssl.TLSVersion,
    shows: str,
) -> None:
    context = authority.server_context(server_pair, wants_certificate=True)
    context.minimum_version = context.maximum_version = version
    tls = {"ca_file": str(authority.file)}
    if shows != "nothing":
        expired = shows == "an expired one"
        signer, days = (authority, -1) if expired else (stranger, 1)
        ours = signer.issue("client", days=days)
        tls |= {"cert_file": str(ours.certificate), "key_file": str(ours.key)}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        server = asyncio.create_task(asyncio.to_thread(one_handshake, listener, context))
        async with client_for(url, tls=tls) as web:
            with pytest.raises(SinkMisconfiguredError, match="certificate") as caught:
                await web.post(url, b"x", {})
        await server
    assert caught.value.credentials


async def test_a_server_that_does_not_speak_tls_is_the_wrong_address() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, client_for(url) as web:
        with pytest.raises(SinkMisconfiguredError, match="does not speak TLS"):
            await web.post(url, b"x", {})


async def test_a_renewed_certificate_is_taken_after_a_failure_without_being_told(
    authority: Authority, stranger: Authority, server_pair: Pair, tmp_path: Path
) -> None:
    before, renewed = stranger.issue("before"), authority.issue("renewed")
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    tls = {"ca_file": str(authority.file), "cert_file": str(certificate), "key_file": str(key)}
    context = authority.server_context(server_pair, wants_certificate=True)
    async with WebServer(tls=context) as server:
        put(before, certificate, key)
        async with client_for(server.url, tls=tls) as web:
            with pytest.raises(SinkError):
                await web.post(server.url, b"x", {})
            put(renewed, certificate, key)
            assert (await web.post(server.url, b"x", {})).status == 200


def put(pair: Pair, certificate: Path, key: Path) -> None:
    certificate.write_bytes(pair.certificate.read_bytes())
    key.write_bytes(pair.key.read_bytes())


async def holds(tls: dict[str, Any]) -> str:
    web = WebClient(settings_for("https://logs.example.com", tls=tls))
    with pytest.raises(SinkMisconfiguredError) as caught:
        await web.open()
    assert caught.value.credentials
    return str(caught.value)


async def test_files_that_hold_no_certificate_hold_the_sink(
    authority: Authority, tmp_path: Path
) -> None:
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("canary")
    ours = authority.issue("ours")
    missing = str(tmp_path / "missing.pem")
    assert "tls.ca_file" in await holds({"ca_file": str(garbage)})
    assert "No such file" in await holds({"ca_file": missing})
    assert "tls.cert_file" in await holds({"cert_file": missing})
    assert "tls.cert_file" in await holds({"cert_file": str(garbage)})
    text = await holds({"cert_file": str(ours.certificate), "key_file": str(garbage)})
    assert "tls.key_file" in text
    assert "canary" not in text


async def test_certificates_that_are_set_are_read_for_plain_http_too() -> None:
    web = WebClient(settings_for("http://127.0.0.1:9", tls={"ca_file": "/missing"}))
    with pytest.raises(SinkMisconfiguredError, match="No such file"):
        await web.open()


async def test_a_key_with_a_password_is_not_asked_for_on_the_terminal(
    authority: Authority, tmp_path: Path
) -> None:
    ours = authority.issue("locked")
    key = load_pem_private_key(ours.key.read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word"))
    )
    text = await holds({"cert_file": str(ours.certificate), "key_file": str(locked)})
    assert "without a password" in text
