"""The admin endpoint as its clients meet it: over a real socket."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpx
import pytest

from forwarder.admin import server as admin
from forwarder.admin.health import Health
from forwarder.admin.server import AdminServer
from forwarder.errors import SpoolUnavailableError
from forwarder.metrics import Metrics
from tests.unit.admin.clocks import HandClock
from tests.unit.admin.overviews import overview, sink, stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from forwarder.spool.interface import SpoolOverview


PAGES = ("/livez", "/readyz", "/metrics", "/status")


class Daemon:
    """What the endpoint asks for its answers."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.metrics = Metrics(taken_lines=7)
        self.answered = True
        self.error: Exception | None = None
        self.answers = asyncio.Event()
        self.answers.set()
        self.reads = 0

    async def overview(self) -> SpoolOverview:
        self.reads += 1
        await self.answers.wait()
        if self.error is not None:
            raise self.error
        return overview(sinks=[sink()], streams=[stream()])

    def server(self, address: tuple[str, int] = ("127.0.0.1", 0)) -> AdminServer:
        health = Health(
            started=lambda: True,
            api_answered=lambda: self.answered,
            spool_writable=lambda: not self.metrics.spool_refusing,
        )
        return AdminServer(
            address,
            snapshot=self.overview,
            metrics=self.metrics,
            health=health,
            clock=self.clock,
        )


@asynccontextmanager
async def serving(server: AdminServer) -> AsyncIterator[tuple[str, int]]:
    running = asyncio.create_task(server.run())
    try:
        await server.listening.wait()
        assert server.bound is not None
        yield server.bound
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@asynccontextmanager
async def browsing(daemon: Daemon) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        serving(daemon.server()) as (host, port),
        httpx.AsyncClient(base_url=f"http://{host}:{port}", trust_env=False) as client,
    ):
        yield client


async def exchange(address: tuple[str, int], request: bytes) -> bytes:
    """Send bytes as they are, and read until the other side has closed."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(request)
        await writer.drain()
        return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


async def closed(reader: asyncio.StreamReader) -> bool:
    """Wait until the other side has closed without an answer; whether it was without one."""
    try:
        return await reader.read() == b""
    except ConnectionResetError:
        return True


async def test_a_loop_that_turns_is_alive_whatever_else_is_broken() -> None:
    daemon = Daemon()
    daemon.answered = False
    daemon.error = SpoolUnavailableError("no room")
    async with browsing(daemon) as client:
        answer = await client.get("/livez")
    assert (answer.status_code, answer.text) == (200, "ok\n")
    assert daemon.reads == 0


async def test_readiness_is_told_with_its_reasons_and_follows_the_truth() -> None:
    daemon = Daemon()
    async with browsing(daemon) as client:
        ready = await client.get("/readyz")
        daemon.metrics.spool_refusing = True
        unready = await client.get("/readyz")
        daemon.metrics.spool_refusing = False
        again = await client.get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"ready": True, "reasons": []})
    assert unready.status_code == 503
    assert unready.json() == {
        "ready": False,
        "reasons": ["the spool cannot be written: reading has stopped"],
    }
    assert again.status_code == 200


async def test_metrics_are_what_prometheus_reads() -> None:
    async with browsing(Daemon()) as client:
        answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "\nsandbox_forwarder_lines_taken_total 7.0\n" in answer.text
    assert 'sandbox_forwarder_sink_lines_delivered_total{sink="archive"} 50.0\n' in answer.text
    assert "sandbox_forwarder_ready 1.0\n" in answer.text


async def test_status_is_the_document_of_this_daemon() -> None:
    async with browsing(Daemon()) as client:
        answer = await client.get("/status")
    assert answer.headers["content-type"] == "application/json"
    document = answer.json()
    assert document["daemon"] == {"running": True, "pid": os.getpid()}
    assert document["sinks"][0]["pending"] == 44
    assert document["streams"][0]["sandbox_id"] == "sbx-1"


async def test_a_spool_that_cannot_be_read_costs_its_own_numbers_only() -> None:
    daemon = Daemon()
    daemon.error = SpoolUnavailableError("the database is busy")
    async with browsing(daemon) as client:
        metrics, status = await client.get("/metrics"), await client.get("/status")
    assert metrics.status_code == 200
    assert "sandbox_forwarder_lines_taken_total 7.0\n" in metrics.text
    assert "sandbox_forwarder_spool_readable 0.0\n" in metrics.text
    assert status.status_code == 503
    assert status.json() == {"error": "the database is busy"}


async def test_scraping_often_reads_the_spool_once_a_second() -> None:
    daemon = Daemon()
    async with browsing(daemon) as client:
        for _ in range(5):
            await client.get("/metrics")
            await client.get("/status")
        assert daemon.reads == 1
        daemon.clock.advance(1.0)
        await client.get("/metrics")
        assert daemon.reads == 2


async def test_every_page_can_be_asked_for_its_head() -> None:
    async with browsing(Daemon()) as client:
        for path in PAGES:
            answer = await client.head(path)
            assert (answer.status_code, answer.content) == (200, b"")


async def test_nothing_but_reading_is_possible() -> None:
    async with browsing(Daemon()) as client:
        for path in PAGES:
            for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
                assert (await client.request(method, path)).status_code == 405


@pytest.mark.parametrize("path", ["/nothing", "/status"])
async def test_every_answer_ends_its_connection_and_is_kept_by_nobody(path: str) -> None:
    async with browsing(Daemon()) as client:
        headers = (await client.get(path)).headers
    assert headers["connection"] == "close"
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert "server" not in headers
    assert "access-control-allow-origin" not in headers


async def test_there_is_nothing_else() -> None:
    async with browsing(Daemon()) as client:
        for path in ("/", "/nothing", "/../etc/passwd", "/metrics/x", "/debug/pprof", "/config"):
            assert (await client.get(path)).status_code == 404


async def test_a_name_that_was_rebound_to_this_machine_is_refused() -> None:
    async with browsing(Daemon()) as client:
        refused = await client.get("/status", headers={"Host": "attacker.example"})
        allowed = await client.get("/status", headers={"Host": "localhost:1"})
    assert refused.status_code == 421
    assert b"sbx-1" not in refused.content
    assert allowed.status_code == 200


async def test_who_opens_the_endpoint_to_others_is_reached_by_any_name() -> None:
    async with (
        serving(Daemon().server(("0.0.0.0", 0))) as (_, port),
        httpx.AsyncClient(trust_env=False) as client,
    ):
        url = f"http://127.0.0.1:{port}/livez"
        answer = await client.get(url, headers={"Host": "forwarder.monitoring.svc"})
    assert answer.status_code == 200


async def test_an_old_client_without_a_host_header_is_answered() -> None:
    async with serving(Daemon().server()) as address:
        answer = await exchange(address, b"GET /livez HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"ok\n")


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # somebody speaks TLS
        b"GET / HTTP/1.1\r\n\r\n",  # no Host
        b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: attacker.example\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost : 127.0.0.1\r\n\r\n",
        b"\0" * 1000 + b"\r\n\r\n",
        b"POST /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_refused_and_the_endpoint_lives_on(garbage: bytes) -> None:
    async with serving(Daemon().server()) as address:
        assert (await exchange(address, garbage)).startswith(b"HTTP/1.1 400")
        assert b"200 OK" in await exchange(address, b"GET /livez HTTP/1.0\r\n\r\n")


async def test_a_head_without_an_end_is_refused_before_it_fills_the_memory() -> None:
    async with serving(Daemon().server()) as address:
        endless = b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * (64 << 10)
        reader, writer = await asyncio.open_connection(*address)
        writer.write(endless)
        assert b"400" in await reader.readline()
        writer.transport.abort()


async def test_a_connection_that_never_asks_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "CONNECTION_S", 0.05)
    async with serving(Daemon().server()) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET /livez HTTP/1.1\r\n")
        assert await closed(reader)
        writer.transport.abort()


async def test_more_connections_than_allowed_are_closed_and_the_place_becomes_free() -> None:
    async with serving(Daemon().server()) as address:
        held = [await asyncio.open_connection(*address) for _ in range(admin.MAX_CONNECTIONS)]
        reader, writer = await asyncio.open_connection(*address)
        assert await closed(reader)
        writer.transport.abort()
        for _, one in held:
            one.transport.abort()
        while True:
            try:
                answer = await exchange(address, b"GET /livez HTTP/1.0\r\n\r\n")
            except ConnectionResetError:
                continue
            if b"200 OK" in answer:
                break


async def test_a_port_that_is_taken_is_told_once_and_had_as_soon_as_it_is_free(
    capsys: pytest.CaptureFixture[str],
) -> None:
    daemon = Daemon()
    with socket.create_server(("127.0.0.1", 0)) as other:
        server = daemon.server(other.getsockname())
        running = asyncio.create_task(server.run())
        for _ in range(3):
            await daemon.clock.sleeping.wait()
            assert server.bound is None
            daemon.clock.advance(admin.BIND_RETRY_S)
            await asyncio.sleep(0)
        await daemon.clock.sleeping.wait()
        address = other.getsockname()
    daemon.clock.advance(admin.BIND_RETRY_S)
    await server.listening.wait()
    assert server.bound == address
    assert b"200 OK" in await exchange(address, b"GET /livez HTTP/1.0\r\n\r\n")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert capsys.readouterr().out.count("admin endpoint cannot listen") == 1


async def test_an_address_that_is_not_ours_stops_nothing() -> None:
    daemon = Daemon()
    server = daemon.server(("192.0.2.1", 9465))
    running = asyncio.create_task(server.run())
    await daemon.clock.sleeping.wait()
    assert not running.done()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_stopping_closes_the_port_and_what_is_still_open() -> None:
    daemon = Daemon()
    daemon.answers.clear()
    async with serving(daemon.server()) as address:
        idle = await asyncio.open_connection(*address)
        asking = await asyncio.open_connection(*address)
        asking[1].write(b"GET /status HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        while not daemon.reads:
            await asyncio.sleep(0)
    assert await closed(idle[0])
    assert (await asking[0].read()).startswith(b"HTTP/1.1 503")
    for _, writer in (idle, asking):
        writer.transport.abort()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*address)
    assert len(asyncio.all_tasks()) == 1


async def test_the_signals_stay_the_daemons() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    async with serving(Daemon().server()):
        during = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    assert before == during


async def test_status_of_hostile_names_is_json_in_ascii() -> None:
    daemon = Daemon()

    async def hostile() -> SpoolOverview:
        return overview(streams=[stream("\x1b]0;x\x07\u202e\x9b")])

    server = AdminServer(
        ("127.0.0.1", 0),
        snapshot=hostile,
        metrics=daemon.metrics,
        health=Health(lambda: True, lambda: True, lambda: True),
        clock=daemon.clock,
    )
    async with serving(server) as address:
        answer = await exchange(address, b"GET /status HTTP/1.0\r\n\r\n")
    body = answer.partition(b"\r\n\r\n")[2]
    assert body.isascii()
    assert b"\x1b" not in body
    assert json.loads(body)["streams"][0]["sandbox_id"] == "\x1b]0;x\x07\u202e\x9b"
