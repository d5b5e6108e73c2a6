"""The scripted HTTP server does what its script says."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx
import pytest
import zstandard
from isal import igzip

from tests.fakes.web_server import Reply, Request, WebServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def chunks() -> AsyncIterator[bytes]:
    yield b"one "
    yield b"two"


async def test_requests_are_recorded_and_answered_in_order_on_one_connection() -> None:
    async with WebServer(Reply(503, {"retry-after": "7"}, b"busy")) as server, client() as web:
        first = await web.post(f"{server.url}/a?b=c", content=b"x", headers={"X-Name": "v"})
        second = await web.post(server.url, content=chunks())
        await server.wait_for(2)
        assert (first.status_code, first.headers["retry-after"], first.content) == (
            *(503, "7", b"busy"),
        )
        assert (second.status_code, second.content) == (200, b"")
        assert [r.path for r in server.requests] == ["/a?b=c", "/"]
        assert [r.raw for r in server.requests] == [b"x", b"one two"]
        assert server.requests[0].headers["x-name"] == "v"
        assert server.connections == 1
    assert server.open_connections == 0


def test_compressed_bodies_are_readable() -> None:
    for name, raw in {
        "gzip": igzip.compress(b"lines"),
        "zstd": zstandard.ZstdCompressor().compress(b"lines"),
        "snappy": b"lines",
    }.items():
        assert Request("POST", "/", {"content-encoding": name}, raw).body == b"lines"


async def test_a_handler_may_wait_before_it_answers() -> None:
    release = asyncio.Event()

    async def late(request: Request) -> Reply:
        await release.wait()
        return Reply(body=request.raw)

    async with WebServer(handler=late) as server, client() as web:
        asked = asyncio.create_task(web.post(server.url, content=b"echo"))
        await server.wait_for(1)
        assert not asked.done()
        release.set()
        assert (await asked).content == b"echo"


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("reset", httpx.ReadError),
        ("reset_after_body_taken", httpx.ReadError),
        ("cut_answer", httpx.RemoteProtocolError),
        ("not_http", httpx.RemoteProtocolError),
    ],
)
async def test_a_broken_answer_is_broken(fault: str, error: type[Exception]) -> None:
    reply = Reply(body=b"answer", fault=fault)  # type: ignore[arg-type]  # parametrized
    async with WebServer(reply) as server, client() as web:
        with pytest.raises(error):
            await web.post(server.url, content=b"x")
        await server.wait_for_connections(0)
        assert len(server.requests) == 1
        assert (server.requests[0].raw == b"") == (fault == "reset")


@pytest.mark.parametrize("fault", ["stall", "stall_in_body", "endless_body"])
async def test_a_stall_lasts_until_the_client_leaves(fault: str) -> None:
    reply = Reply(body=b"answer", fault=fault)  # type: ignore[arg-type]  # parametrized
    async with WebServer(reply) as server, client() as web:
        asked = asyncio.create_task(web.post(server.url, content=b"x"))
        await server.wait_for(1)
        assert server.open_connections == 1
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        await server.wait_for_connections(0)


async def test_a_stall_ends_with_the_server() -> None:
    async with client() as web:
        async with WebServer(Reply(fault="stall")) as server:
            asked = asyncio.create_task(web.post(server.url, content=b"x"))
            await server.wait_for(1)
        with pytest.raises(httpx.RemoteProtocolError):
            await asked


async def test_an_early_answer_comes_though_the_body_was_not_read() -> None:
    async with WebServer(Reply(413, body=b"no", fault="early_answer")) as server, client() as web:
        answer = await web.post(server.url, content=b"x" * 1_000_000)
        assert (answer.status_code, answer.content) == (413, b"no")
        assert server.requests[0].raw == b""


async def test_a_connection_that_is_closed_afterwards_is_replaced() -> None:
    async with WebServer(Reply(fault="close_afterwards")) as server, client() as web:
        assert (await web.get(server.url)).status_code == 200
        assert (await web.get(server.url)).status_code == 200
        assert server.connections == 2


async def test_a_server_can_come_back_under_its_port() -> None:
    async with WebServer() as gone:
        pass
    async with WebServer(port=gone.port) as server, client() as web:
        assert server.url == gone.url
        assert (await web.head(server.url)).status_code == 200


def client() -> httpx.AsyncClient:
    return httpx.AsyncClient(trust_env=False)
