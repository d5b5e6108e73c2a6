"""Bodies that come in pieces, and answers that are taken in pieces."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from sinks.addresses import is_loopback
from sinks.interface import SinkMisconfiguredError, SinkUnavailableError
from sinks.web import MAX_ANSWER_BYTES, WebClient
from tests.fakes.network import client_for, settings_for
from tests.fakes.web_server import Reply, WebServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

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


async def test_an_answer_before_the_end_of_the_body_is_the_answer() -> None:
    refusal = Reply(403, {}, b"because", "early_answer")
    length = {"content-length": str(_LARGE_BYTES)}
    async with WebServer(refusal) as server, client_for(server.url) as web:
        body = _pieces(_LARGE_BYTES // len(_PIECE))
        answer = await web.request("PUT", server.url, body, length)
    assert (answer.status, answer.body) == (403, b"because")


async def test_an_answer_of_a_server_that_left_in_the_middle_of_the_body_is_read() -> None:
    refusal = Reply(403, {}, b"because", "early_answer_and_gone")
    async with WebServer(refusal) as server, client_for(server.url) as web:

        async def body() -> AsyncIterator[bytes]:
            yield _PIECE
            await server.wait_for(1)
            await server.wait_for_connections(0)
            # The first piece to a connection that nobody reads is taken; one of the next is not.
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
    async with WebServer(reply) as server, client_for(server.url, **settings) as web:
        async with web.stream(server.url, {}) as (answer, pieces):
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
        # As much as comes in this time is less than what ends it.
        server_body = web.stream(server.url, {})
        with pytest.raises(SinkUnavailableError, match="in time"):
            await server_body.__aenter__()


@pytest.mark.parametrize("status", [301, 302, 307])
async def test_a_redirection_is_an_answer_and_not_followed(status: int) -> None:
    async with WebServer() as elsewhere:
        reply = Reply(status, {"location": elsewhere.url})
        async with WebServer(reply) as server, client_for(server.url) as web:
            async with web.stream(server.url, {}) as (answer, _):
                assert answer.status == status
        assert elsewhere.requests == []


@pytest.mark.parametrize("fault", ["cut_answer", "stall_in_body"])
async def test_an_answer_that_breaks_off_says_so(fault: Fault) -> None:
    reply = Reply(200, {}, b"0123456789" * 1000, fault)
    async with WebServer(reply) as server, client_for(server.url, timeout="100ms") as web:
        async with web.stream(server.url, {}) as (answer, pieces):
            assert answer.status == 200
            with pytest.raises(SinkUnavailableError, match="does not answer"):
                await _whole(pieces)


@pytest.mark.parametrize("fault", ["stall", "reset"])
async def test_no_answer_at_all_says_so(fault: Fault) -> None:
    async with WebServer(Reply(fault=fault)) as server:
        async with client_for(server.url, timeout="100ms") as web:
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
