"""Requests and their answers, against a server that does as told."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import httpx
import pytest

from sinks.addresses import is_loopback
from sinks.interface import SinkMisconfiguredError, SinkUnavailableError
from sinks.web import MAX_ANSWER_BYTES, WebClient
from tests.fakes.network import client_for, settings_for
from tests.fakes.web_server import Reply, Request, WebServer

if TYPE_CHECKING:
    from tests.fakes.web_server import Fault


async def test_a_request_says_who_we_are_and_wants_no_compression() -> None:
    tenant = {"X-Tenant": "seven"}
    reply = Reply(202, {"X-Some": "Thing"}, b"ok")
    async with WebServer(reply) as server, client_for(server.url, headers=tenant) as web:
        answer = await web.post(f"{server.url}/a?b=c", b"body", {"content-type": "text/plain"})
    assert (answer.status, answer.headers["x-some"], answer.body) == (202, "Thing", b"ok")
    assert answer.whole
    request = server.requests[0]
    assert (request.method, request.path, request.raw) == ("POST", "/a?b=c", b"body")
    assert request.headers["user-agent"] == "sandbox-forwarder"
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["x-tenant"] == "seven"
    assert request.headers["content-type"] == "text/plain"
    assert request.headers["content-length"] == "4"
    assert "transfer-encoding" not in request.headers


async def test_a_request_without_a_body_has_none() -> None:
    async with WebServer() as server, client_for(server.url) as web:
        await web.request("OPTIONS", server.url, None, {})
    assert server.requests[0].method == "OPTIONS"
    assert server.requests[0].headers.get("content-length", "0") == "0"


@pytest.mark.parametrize("status", [200, 204, 302, 400, 401, 404, 413, 429, 500, 503, 599])
async def test_every_status_is_an_answer(status: int) -> None:
    async with WebServer(Reply(status)) as server, client_for(server.url) as web:
        assert (await web.post(server.url, b"x", {})).status == status


async def test_redirections_are_not_followed_and_cookies_not_kept() -> None:
    async with WebServer() as elsewhere:
        redirect = Reply(307, {"location": elsewhere.url, "set-cookie": "a=b; Path=/"})
        async with WebServer(redirect) as server, client_for(server.url) as web:
            assert (await web.post(server.url, b"x", {})).status == 307
            await web.post(server.url, b"x", {})
        assert elsewhere.requests == []
        assert "cookie" not in server.requests[1].headers


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("reset", "does not answer"),
        ("reset_after_body_taken", "does not answer"),
        ("cut_answer", "does not answer"),
        ("not_http", "does not answer"),
    ],
)
async def test_without_an_answer_the_same_comes_again_later(fault: Fault, why: str) -> None:
    reply = Reply(body=b"\x1b[2J not an answer", fault=fault)
    async with WebServer(reply) as server, client_for(server.url) as web:
        with pytest.raises(SinkUnavailableError, match=why) as caught:
            await web.post(server.url, b"x", {})
        assert str(caught.value).isprintable()
        assert server.url in str(caught.value)
        assert (await web.post(server.url, b"x", {})).status == 200


async def test_a_server_that_is_gone_does_not_answer() -> None:
    async with WebServer() as gone:
        pass
    async with client_for(gone.url) as web:
        with pytest.raises(SinkUnavailableError, match="does not answer"):
            await web.post(gone.url, b"x", {})


@pytest.mark.parametrize("fault", ["stall", "stall_in_body"])
async def test_a_stall_ends_with_the_time_limit(fault: Fault) -> None:
    reply = Reply(body=b"answer", fault=fault)
    async with WebServer(reply) as server, client_for(server.url, timeout="50ms") as web:
        with pytest.raises(SinkUnavailableError, match="in time"):
            await web.post(server.url, b"x", {})
        await server.wait_for_connections(0)


async def test_the_time_limit_is_for_the_whole_answer_however_it_drips() -> None:
    drip = Reply(200, {"transfer-encoding": "chunked"}, b"1\r\nx\r\n" * 500, "endless_body")
    async with WebServer(drip) as server, client_for(server.url, timeout="50ms") as web:
        with pytest.raises(SinkUnavailableError, match="in time"):
            await web.request("POST", server.url, b"x", {}, max_answer_bytes=1 << 40)


async def test_an_endless_answer_is_cut_and_its_connection_given_up() -> None:
    endless = Reply(503, fault="endless_body")
    async with WebServer(endless) as server, client_for(server.url) as web:
        answer = await web.post(server.url, b"x", {})
        await server.wait_for_connections(0)
        assert (answer.status, len(answer.body), answer.whole) == (503, MAX_ANSWER_BYTES, False)
        assert (await web.post(server.url, b"x", {})).status == 200


async def test_endless_headers_are_no_answer() -> None:
    bare = Reply(body=b"HTTP/1.1 200 OK\r\nx-long: " + b"x" * 300_000, fault="not_http")
    async with WebServer(bare) as server, client_for(server.url) as web:
        with pytest.raises(SinkUnavailableError):
            await web.post(server.url, b"x", {})


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "br", "x" * 1000])
async def test_a_compressed_answer_is_not_decompressed(encoding: str) -> None:
    bomb = Reply(400, {"content-encoding": encoding}, b"\x1f\x8b\x08 whatever it would become")
    async with WebServer(bomb) as server, client_for(server.url) as web:
        answer = await web.post(server.url, b"x", {})
    assert (answer.status, answer.body, answer.whole) == (400, b"", False)


async def test_an_answer_before_the_body_was_read_is_the_answer() -> None:
    early = Reply(413, body=b"too much", fault="early_answer")
    async with WebServer(early) as server, client_for(server.url) as web:
        answer = await web.post(server.url, b"x" * 2_000_000, {})
    assert (answer.status, answer.body) == (413, b"too much")


async def test_connections_are_used_again_and_replaced_when_the_server_closed_them() -> None:
    replies = (Reply(), Reply(fault="close_afterwards"))
    async with WebServer(*replies) as server, client_for(server.url) as web:
        for _ in range(2):
            await web.post(server.url, b"x", {})
        assert server.connections == 1
        await server.wait_for_connections(0)
        assert (await web.post(server.url, b"x", {})).status == 200
        assert server.connections == 2


async def test_as_many_requests_as_may_be_in_flight_run_at_once() -> None:
    release = asyncio.Event()

    async def held(request: Request) -> Reply:
        await release.wait()
        return Reply(body=request.raw)

    async with WebServer(handler=held) as server, client_for(server.url, in_flight=5) as web:
        asked = [asyncio.create_task(web.post(server.url, b"%d" % n, {})) for n in range(5)]
        await server.wait_for(5)
        release.set()
        assert [(await task).body for task in asked] == [b"%d" % n for n in range(5)]


async def test_a_cancelled_request_harms_no_other_that_is_under_way() -> None:
    release = asyncio.Event()

    async def held(request: Request) -> Reply:
        await release.wait()
        return Reply(body=request.raw)

    async with WebServer(handler=held) as server, client_for(server.url) as web:
        asked = [asyncio.create_task(web.post(server.url, b"%d" % n, {})) for n in range(3)]
        await server.wait_for(3)
        asked[0].cancel()
        await asyncio.gather(asked[0], return_exceptions=True)
        assert not asked[1].done()
        release.set()
        assert [(await task).body for task in asked[1:]] == [b"1", b"2"]
        assert (await web.post(server.url, b"x", {})).status == 200
        await server.wait_for_connections(1)


async def test_cancelled_requests_leave_room_for_others() -> None:
    faults: list[Fault] = ["stall", "stall_in_body"]
    async with WebServer() as server, client_for(server.url, in_flight=2) as web:
        for turn in range(12):
            server.replies.append(Reply(body=b"answer", fault=faults[turn % 2]))
            asked = asyncio.create_task(web.post(server.url, b"x", {}))
            await server.wait_for(turn + 1)
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
        await server.wait_for_connections(0)
        both = (web.post(server.url, b"x", {}), web.post(server.url, b"x", {}))
        assert [answer.status for answer in await asyncio.gather(*both)] == [200, 200]


@pytest.mark.parametrize("turns", range(24))
async def test_a_request_cancelled_anywhere_leaves_room_for_others(turns: int) -> None:
    async with WebServer() as server, client_for(server.url, in_flight=1, timeout="5s") as web:
        for _ in range(4):
            asked = asyncio.create_task(web.post(server.url, b"x" * 100_000, {}))
            for _ in range(turns):
                await asyncio.sleep(0)
            asked.cancel()
            with suppress(asyncio.CancelledError):
                await asked
        assert (await web.post(server.url, b"x", {})).status == 200


async def test_it_can_be_opened_and_closed_again() -> None:
    async with WebServer() as server:
        web = WebClient(settings_for(server.url))
        await web.close()
        for _ in range(2):
            await web.open()
            assert (await web.post(server.url, b"x", {})).status == 200
        await web.close()
        await web.close()
        await server.wait_for_connections(0)


async def test_a_name_that_leads_to_a_forbidden_address_is_sent_nothing() -> None:
    async with WebServer() as server:
        url = server.url.replace("127.0.0.1", "localhost")
        web = WebClient(settings_for(url), is_forbidden=is_loopback)
        await web.open()
        with pytest.raises(SinkMisconfiguredError, match="link-local"):
            await web.post(url, b"x", {})
        await server.wait_for_connections(0)
        assert server.connections == 1
        assert server.requests == []
        await web.close()


class GoneStream:
    """A connection whose other end cannot be asked for any more."""

    is_closed = False

    def get_extra_info(self, _: str) -> None:
        return None

    async def aclose(self) -> None:
        self.is_closed = True


async def test_a_connection_that_is_gone_at_once_is_no_connection() -> None:
    web, stream = WebClient(settings_for("http://127.0.0.1:9")), GoneStream()
    with pytest.raises(httpx.ConnectError):
        await web._refuse_forbidden("connection.connect_tcp.complete", {"return_value": stream})
    assert stream.is_closed


@pytest.mark.parametrize("host", [f"{'a' * 64}.example", "a..b", "-"])
async def test_a_name_that_is_none_is_no_crash(host: str) -> None:
    url = f"http://{host}:9/"
    async with client_for(url) as web:
        with pytest.raises((SinkMisconfiguredError, SinkUnavailableError)):
            await web.post(url, b"x", {})


async def test_the_proxy_of_the_environment_is_not_for_plain_http(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with WebServer() as proxy, WebServer() as server:
        for name in ("http_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        async with client_for(server.url) as web:
            assert (await web.post(server.url, b"x", {})).status == 200
        assert proxy.requests == []


async def test_for_https_the_proxy_of_the_environment_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with WebServer(Reply(407, body=b"who are you")) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url.replace("//", "//user:canary@"))
        url = "https://logs.example.com/"
        async with client_for(url) as web:
            with pytest.raises(SinkUnavailableError, match="proxy of the environment") as caught:
                await web.post(url, b"x", {})
        assert "canary" not in str(caught.value)
        request = proxy.requests[0]
        assert (request.method, request.path) == ("CONNECT", "logs.example.com:443")
        assert request.raw == b""


async def test_a_proxy_that_is_no_address_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "ftp://user:canary@proxy")
    web = WebClient(settings_for("https://logs.example.com/"))
    with pytest.raises(SinkMisconfiguredError, match="https_proxy") as caught:
        await web.open()
    assert "canary" not in str(caught.value)
    await web.close()
