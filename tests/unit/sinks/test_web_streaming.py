"""Bodies that come in pieces, and answers that are taken in pieces."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from sinks.addresses import is_loopback
from sinks.interface import SinkMisconfiguredError, SinkUnavailableError
from sinks.web import MAX_ANSWER_BYTES, WebClient
from tests.fakes.certificates import Authority
from tests.fakes.network import client_for, settings_for
from tests.fakes.web_server import Reply, WebServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.fakes.web_server import Fault

#: More than the system takes without anybody reading it.
_LARGE_BYTES = 24 << 20
_PIECE = b"x" * 65_536


async def _pieces(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield _PIECE


async def _whole(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


async def test_a_body_may_come_in_pieces_and_has_its_length() -> None:
    length = {"content-length": str(3 * len(_PIECE))}
    async with WebServer() as server, client_for(server.url) as web:
        assert (await web.request("PUT", server.url, _pieces(3), length)).status == 200
    sent = server.requests[0]
    assert sent.raw == 3 * _PIECE
    assert "transfer-encoding" not in sent.headers


async def test_a_body_that_fails_on_our_side_is_not_sent_to_its_end() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield _PIECE
        raise SinkUnavailableError("the file is gone")

    length = {"content-length": str(3 * len(_PIECE))}
    async with WebServer() as server, client_for(server.url) as web:
        with pytest.raises(SinkUnavailableError, match="the file is gone"):
            await web.request("PUT", server.url, broken(), length)
        await server.wait_for_connections(0)
        assert (await web.request("PUT", server.url, b"x", {})).status == 200
    assert len(server.requests) == 1


async def _endless() -> AsyncIterator[bytes]:
    while True:
        yield _PIECE


@pytest.mark.parametrize("tls", [False, True])
async def test_an_answer_before_the_end_of_the_body_is_the_answer(
    tmp_path: Path, *, tls: bool
) -> None:
    authority = Authority(tmp_path)
    context = authority.server_context(authority.issue("server")) if tls else None
    trust = {"tls": {"ca_file": str(authority.file)}} if tls else {}
    refusal = Reply(403, {}, b"because", "early_answer")
    length = {"content-length": str(1 << 50)}
    async with WebServer(refusal, tls=context) as server, client_for(server.url, **trust) as web:
        answer = await web.request("PUT", server.url, _endless(), length)
        assert (answer.status, answer.body) == (403, b"because")
        await server.wait_for_connections(0)
        assert (await web.request("PUT", server.url, b"x", {})).status == 200


async def test_an_interim_answer_is_not_the_answer() -> None:
    size_bytes = 4 * len(_PIECE)
    interim = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(len(_PIECE))
        writer.write(b"HTTP/1.1 102 Processing\r\n\r\n")
        interim.set()
        await reader.readexactly(size_bytes - len(_PIECE))
        writer.write(b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async def body() -> AsyncIterator[bytes]:
        yield _PIECE
        await interim.wait()
        for _ in range(3):
            yield _PIECE

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 20)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, client_for(url) as web:
        answer = await web.request("PUT", url, body(), {"content-length": str(size_bytes)})
    assert answer.status == 201


async def test_an_answer_of_a_server_that_left_in_the_middle_of_the_body_is_read() -> None:
    refusal = Reply(403, {}, b"because", "early_answer_and_gone")
    async with WebServer(refusal) as server, client_for(server.url) as web:

        async def body() -> AsyncIterator[bytes]:
            yield _PIECE
            await server.wait_for(1)
            await server.wait_for_connections(0)
            for _ in range(_LARGE_BYTES // len(_PIECE) - 1):
                yield _PIECE

        length = {"content-length": str(_LARGE_BYTES)}
        answer = await web.request("PUT", server.url, body(), length)
    assert (answer.status, answer.body) == (403, b"because")


async def test_a_server_that_does_not_read_is_given_up() -> None:
    length = {"content-length": str(_LARGE_BYTES)}
    deaf = Reply(fault="deaf")
    async with WebServer(deaf) as server, client_for(server.url, timeout="100ms") as web:
        with pytest.raises(SinkUnavailableError, match="in time"):
            await web.request("PUT", server.url, _pieces(_LARGE_BYTES // len(_PIECE)), length)


async def test_a_large_answer_comes_in_pieces() -> None:
    content = bytes(range(256)) * 10_000
    reply = Reply(200, {"X-Some": "Thing"}, content)
    async with WebServer(reply) as server, client_for(server.url, headers={"a": "b"}) as web:
        async with web.stream(f"{server.url}/k", {"c": "d"}) as (answer, pieces):
            assert (answer.status, answer.headers["x-some"]) == (200, "Thing")
            assert await _whole(pieces) == content
        sent = server.requests[0]
        assert (sent.method, sent.path) == ("GET", "/k")
        assert (sent.headers["a"], sent.headers["c"]) == ("b", "d")
        assert sent.headers["accept-encoding"] == "identity"
        await web.request("GET", server.url, None, {})
    assert server.connections == 1


async def test_an_answer_need_not_be_read_to_its_end() -> None:
    async with WebServer(Reply(fault="endless_body")) as server, client_for(server.url) as web:
        async with web.stream(server.url, {}) as (_, pieces):
            assert await anext(pieces)
        await server.wait_for_connections(0)
        assert (await web.request("GET", server.url, None, {})).status == 200


async def test_a_refusal_has_its_body_and_no_pieces() -> None:
    reply = Reply(403, {}, b"because of token-of-ours")
    settings = {"bearer_token": "token-of-ours"}
    async with (
        WebServer(reply) as server,
        client_for(server.url, **settings) as web,
        web.stream(server.url, {}) as (answer, pieces),
    ):
        assert (answer.status, answer.body, answer.whole) == (403, b"because of ***", True)
        assert await _whole(pieces) == b""


async def test_a_refusal_without_end_is_cut() -> None:
    endless = Reply(500, fault="endless_body")
    async with WebServer(endless) as server, client_for(server.url) as web:
        async with web.stream(server.url, {}) as (answer, _):
            assert (len(answer.body), answer.whole) == (MAX_ANSWER_BYTES, False)
        await server.wait_for_connections(0)


async def test_a_refusal_that_drips_ends_with_the_time_limit() -> None:
    drip = Reply(500, {"transfer-encoding": "chunked"}, b"1\r\nx\r\n", "endless_body")
    slow = {"timeout": "50ms"}
    async with WebServer(drip) as server, client_for(server.url, **slow) as web:
        with pytest.raises(SinkUnavailableError, match="in time"):
            await web.stream(server.url, {}).__aenter__()


@pytest.mark.parametrize("status", [301, 302, 307])
async def test_a_redirection_is_an_answer_and_not_followed(status: int) -> None:
    async with WebServer() as elsewhere:
        reply = Reply(status, {"location": elsewhere.url})
        async with (
            WebServer(reply) as server,
            client_for(server.url) as web,
            web.stream(server.url, {}) as (answer, _),
        ):
            assert answer.status == status
        assert elsewhere.requests == []


@pytest.mark.parametrize("fault", ["cut_answer", "stall_in_body"])
async def test_an_answer_that_breaks_off_says_so(fault: Fault) -> None:
    reply = Reply(200, {}, b"0123456789" * 1000, fault)
    async with (
        WebServer(reply) as server,
        client_for(server.url, timeout="100ms") as web,
        web.stream(server.url, {}) as (answer, pieces),
    ):
        assert answer.status == 200
        with pytest.raises(SinkUnavailableError, match="does not answer"):
            await _whole(pieces)


@pytest.mark.parametrize("fault", ["stall", "reset"])
async def test_no_answer_at_all_says_so(fault: Fault) -> None:
    async with (
        WebServer(Reply(fault=fault)) as server,
        client_for(server.url, timeout="100ms") as web,
    ):
        with pytest.raises(SinkUnavailableError, match="does not answer"):
            await web.stream(server.url, {}).__aenter__()


async def test_pieces_are_not_asked_of_a_forbidden_address() -> None:
    async with WebServer() as server:
        url = server.url.replace("127.0.0.1", "localhost")
        web = WebClient(settings_for(url), is_forbidden=is_loopback)
        await web.open()
        with pytest.raises(SinkMisconfiguredError, match="link-local"):
            await web.stream(url, {}).__aenter__()
        await web.close()
        assert server.requests == []


async def test_a_reader_that_is_cancelled_leaves_no_connection_behind() -> None:
    reply = Reply(200, {}, b"0123456789", "stall_in_body")
    async with WebServer(reply) as server, client_for(server.url) as web:
        begun = asyncio.Event()

        async def read() -> None:
            async with web.stream(server.url, {}) as (_, pieces):
                async for _ in pieces:
                    begun.set()

        task = asyncio.create_task(read())
        await begun.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await server.wait_for_connections(0)
        assert (await web.request("GET", server.url, None, {})).status == 200
