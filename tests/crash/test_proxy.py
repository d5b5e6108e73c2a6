"""What lies between the daemon and the API: connections that are cut, and cut all at once.

Before that, the proxy that does it is held to its own word.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import pytest

from forwarder.local.server import LocalServer
from forwarder.local.settings import LocalSettings
from tests.crash.scene import KEEPS_ALL, TAG, cycles, seeded, talkative
from tests.fakes.daemon import file_sink, running, until, write_config
from tests.fakes.local import call
from tests.fakes.proxy import MUTE, ONE_BYTE_WRITES, PASS, STALL, Behaviour, TcpProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

RESETS = 40
IDLE_CUTS = 10
STREAMS = 200
CONTAINERS = 8  # of each sandbox

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def echo_behind_proxy(behaviour: Behaviour = PASS) -> AsyncIterator[tuple[TcpProxy, Ends]]:
    """A proxy in front of a service that echoes, and one connection to it."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(echo, "127.0.0.1") as server:
        upstream = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with TcpProxy(upstream) as proxy:
            proxy.behave(behaviour)
            address = urlsplit(proxy.base_url)
            ends = await asyncio.open_connection(address.hostname, address.port)
            try:
                yield proxy, ends
            finally:
                ends[1].close()


async def said(ends: Ends, data: bytes) -> bytes:
    """What the echo of some bytes is."""
    ends[1].write(data)
    return await ends[0].readexactly(len(data))


@pytest.mark.parametrize(
    "behaviour", [PASS, ONE_BYTE_WRITES, Behaviour(delay_s=0.001), Behaviour(bytes_per_s=1e6)]
)
async def test_bytes_pass_as_they_are_however_slowly(behaviour: Behaviour) -> None:
    async with echo_behind_proxy(behaviour) as (proxy, ends):
        assert await said(ends, b"hello, world" * 50) == b"hello, world" * 50
        assert (proxy.connections, proxy.open_connections, proxy.peak_per_s()) == (1, 1, 1)


async def test_a_stalled_connection_goes_on_where_it_was() -> None:
    async with echo_behind_proxy() as (proxy, ends):
        assert await said(ends, b"before") == b"before"
        proxy.behave(STALL)
        answer = asyncio.create_task(said(ends, b"after"))
        done, _ = await asyncio.wait([answer], timeout=0.05)
        assert not done
        proxy.behave(PASS)
        assert await answer == b"after"


async def test_only_new_connections_are_treated_otherwise_if_so_wanted() -> None:
    async with echo_behind_proxy() as (proxy, ends):
        assert await said(ends, b"before") == b"before"
        proxy.behave(STALL, existing=False)
        assert await said(ends, b"after") == b"after"


async def test_a_mute_proxy_accepts_and_never_answers() -> None:
    async with echo_behind_proxy(MUTE) as (proxy, ends):
        done, waiting = await asyncio.wait(
            [asyncio.create_task(said(ends, b"anybody?"))], timeout=0.05
        )
        assert not done
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            await waiting.pop()


async def test_behind_a_black_hole_everything_disappears_and_the_connection_stays() -> None:
    async with echo_behind_proxy(Behaviour(swallow_after_bytes=8)) as (proxy, ends):
        ends[1].write(b"0123456789")
        assert await ends[0].readexactly(8) == b"01234567"
        ends[1].write(b"more")
        done, waiting = await asyncio.wait([asyncio.create_task(ends[0].read(1))], timeout=0.05)
        assert not done
        proxy.cut("close")
        assert await waiting.pop() == b""


@pytest.mark.parametrize("how", ["reset", "close"])
async def test_a_cut_ends_the_connection_as_told(how: Literal["reset", "close"]) -> None:
    async with echo_behind_proxy() as (proxy, ends):
        assert await said(ends, b"before") == b"before"
        assert proxy.cut(how) == 1
        if how == "close":
            assert await ends[0].read() == b""
        else:
            with pytest.raises(ConnectionResetError):
                await ends[0].read()


async def test_an_idle_connection_is_closed_and_a_busy_one_is_not() -> None:
    async with echo_behind_proxy() as (proxy, _):
        proxy.idle_cut_s = 0.2
        address = urlsplit(proxy.base_url)
        ends = await asyncio.open_connection(address.hostname, address.port)
        for _ in range(30):
            assert await said(ends, b"tick") == b"tick"
            await asyncio.sleep(0.01)
        assert await ends[0].read() == b""
        ends[1].close()


@pytest.mark.slow
async def test_resets_at_random_moments_and_slow_wires_cost_no_line_and_repeat_none(
    tmp_path: Path,
) -> None:
    rng = seeded()
    behaviours = (PASS, PASS, PASS, ONE_BYTE_WRITES, Behaviour(delay_s=0.005))
    async with (
        talkative(tmp_path, KEEPS_ALL, 3, "--burst-lines", "2") as scene,
        TcpProxy(scene.server.base_url) as proxy,
    ):
        home = scene.home(tmp_path / "daemon", base_url=proxy.base_url)
        async with running(home.config, forked=True) as daemon:
            for _ in range(cycles(RESETS)):
                await home.grows(rng, daemon)
                await asyncio.sleep(rng.uniform(0, 0.03))
                proxy.behave(rng.choice(behaviours), existing=rng.random() < 0.5)
                proxy.cut(rng.choice(("reset", "reset", "close")))
            proxy.behave(PASS)
            await scene.fall_silent()
        await home.run_to_end()
        await home.check()
        print(f"{proxy.connections} connections, at most {proxy.peak_per_s()} within a second")


async def test_idle_connections_that_are_cut_are_opened_again_and_miss_nothing(
    tmp_path: Path,
) -> None:
    async with (
        talkative(tmp_path, LocalSettings(), 2, "--burst-lines", "1", "--pause-s", "0.5") as scene,
        TcpProxy(scene.server.base_url) as proxy,
    ):
        proxy.idle_cut_s = 0.1
        home = scene.home(tmp_path / "daemon", base_url=proxy.base_url)
        async with running(home.config, forked=True):
            await until(lambda: proxy.connections >= IDLE_CUTS, "reconnects")
            await scene.fall_silent()
        await home.run_to_end()
        await home.check()


@pytest.mark.slow
async def test_two_hundred_streams_that_are_cut_at_once_all_come_back(tmp_path: Path) -> None:
    go, out = tmp_path / "go", tmp_path / "out"
    script = f"echo begins; while [ ! -e {go} ]; do sleep 1; done; echo ends"
    # The first container's end is the sandbox's: the others are to have seen the file by then.
    containers = [
        {"name": f"c{number}", "command": "sh", "args": ["-c", f"{script}; sleep {last_s}"]}
        for number, last_s in enumerate((2, *[0] * (CONTAINERS - 1)))
    ]
    body = {"sandbox": {"spec": {"containers": containers, "tags": [TAG]}}}
    async with LocalServer(LocalSettings()) as server, TcpProxy(server.base_url) as proxy:
        for _ in range(STREAMS // CONTAINERS):
            await call(server.base_url, server.api_key, "CreateSandbox", body)
        config = write_config(
            tmp_path / "daemon",
            base_url=proxy.base_url,
            api_key=server.api_key,
            sandboxes=[{"tags": [TAG], "containers": "all"}],
            sinks={"text": file_sink(out / "{sandbox_id}-{container}.log")},
        )
        async with running(config, "--until-complete", forked=True) as daemon:
            await until(lambda: server.open_streams == STREAMS, "all to be followed")
            before = proxy.connections
            proxy.cut()
            await until(lambda: server.open_streams == 0, "all to be gone")
            await until(lambda: server.open_streams == STREAMS, "all to come back")
            print(f"{proxy.connections - before} opened, {proxy.peak_per_s(before)} in a second")
            go.touch()
            assert await daemon.wait() == 0, daemon.log
        files = list(out.iterdir())
        assert len(files) == STREAMS
        for file in files:
            sandbox_id, _, container = file.stem.rpartition("-")
            expected = server.process(sandbox_id, container).log.stamped()
            assert expected.count(b"\n") == 2
            assert file.read_bytes() == expected
