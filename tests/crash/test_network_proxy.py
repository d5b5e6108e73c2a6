"""What lies between the daemon and its destinations: answers lost, nobody there, a trickle, a day.

All four sinks run in one daemon, each behind a proxy of its own.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from forwarder.local.server import LocalServer
from forwarder.local.settings import LocalSettings
from forwarder.spool.files import StateDir
from forwarder.spool.overview import overview_of
from tests.crash.scene import KEEPS_ALL, TAG, Scene, cycles, seeded, talkative
from tests.fakes.daemon import run_to_end, running, until, write_config
from tests.fakes.destinations import Collected, Indexed, Kept, Pushed, judge
from tests.fakes.keeper import Keeper
from tests.fakes.local import shell_sandbox
from tests.fakes.proxy import MUTE, ONE_BYTE_WRITES, PASS, STALL, Behaviour, TcpProxy
from tests.fakes.web_server import WebServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from forwarder.spool.interface import SinkOverview
    from tests.fakes.destinations import Destination
    from tests.servers import Collector, Loki, OpenSearch

BATCH_RECORDS = 40
LOST_ANSWERS = 2
TROUBLES = 6
PRINTED = 3_000
PRINTS = f"seq {PRINTED}"

#: The request passes, and of the answer nothing does.
NO_ANSWER_PASSES = Behaviour(swallow_after_bytes=0)
CUT_ANSWER = Behaviour(swallow_after_bytes=20)
TRICKLE = Behaviour(bytes_per_s=100_000.0, piece_bytes=100)


@dataclass
class Between:
    """Four destinations, each behind its proxy."""

    keeper: Keeper
    destinations: dict[str, Destination]
    proxies: dict[str, TcpProxy]

    def config(self, directory: Path, scene: Scene, **settings: Any) -> Path:
        """A daemon's configuration; the settings are those of every sink."""
        return write_config(
            directory,
            base_url=scene.server.base_url,
            api_key=scene.server.api_key,
            sandboxes=[{"tags": [TAG]}],
            sinks={
                name: {
                    **destination.sink(),
                    "endpoint": self.proxies[name].base_url,
                    "batch": {"max_records": BATCH_RECORDS, "max_age": "20ms"},
                    **settings,
                }
                for name, destination in self.destinations.items()
            },
        )

    def behave(self, behaviour: Behaviour) -> None:
        """All of them, on new connections; those that there are end."""
        for proxy in self.proxies.values():
            proxy.behave(behaviour)
            proxy.cut()

    async def judge(self, scene: Scene) -> Counter[str]:
        """Compare all that was delivered; returns what came more than once, by destination."""
        again = Counter[str]()
        for sandbox_id, log in (await scene.logs()).items():
            for name, destination in self.destinations.items():
                again[name] += judge(destination, sandbox_id, log)
        return again


@pytest.fixture
async def between(
    collector: Collector, opensearch: OpenSearch, loki: Loki
) -> AsyncIterator[Between]:
    keeper = Keeper()
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(WebServer(handler=keeper))
        destinations: dict[str, Destination] = {
            "otlp": Collected(collector),
            "elasticsearch": Indexed(opensearch),
            "loki": Pushed(loki),
            "http": Kept(keeper, server.url),
        }
        proxies = {
            name: await stack.enter_async_context(TcpProxy(one.sink()["endpoint"]))
            for name, one in destinations.items()
        }
        yield Between(keeper, destinations, proxies)


async def finish(config: Path, scene: Scene) -> None:
    """Let the sandboxes end, and deliver all the rest."""
    await scene.fall_silent()
    code, daemon = await run_to_end(config, "--until-complete", forked=True)
    assert code == 0, daemon.log


async def test_a_batch_whose_answer_was_lost_is_sent_again_with_the_same_ids_and_nothing_more(
    tmp_path: Path, between: Between
) -> None:
    async with talkative(tmp_path, KEEPS_ALL, 1) as scene:
        config = between.config(tmp_path / "daemon", scene, in_flight=1)
        async with running(config, forked=True) as daemon:
            for _ in range(LOST_ANSWERS):
                await between.keeper.grown()
                between.behave(NO_ANSWER_PASSES)
                await between.keeper.grown()
                between.behave(PASS)
                await between.keeper.grown()
            daemon.terminate()
            assert await daemon.wait() == 0, daemon.log
        await finish(config, scene)
        again = await between.judge(scene)
    # A cut may meet a request that was taken, too: two a fault.
    most = 2 * LOST_ANSWERS * BATCH_RECORDS
    assert again["http"] > 0
    assert max(again["http"], again["otlp"]) <= most, again
    assert between.keeper.changed_batches() == []


async def test_whatever_lies_between_everything_arrives_in_the_end(
    tmp_path: Path, between: Between
) -> None:
    rng = seeded()
    troubles = [ONE_BYTE_WRITES, TRICKLE, CUT_ANSWER, STALL, MUTE, NO_ANSWER_PASSES]
    async with talkative(tmp_path, KEEPS_ALL, 1) as scene:
        config = between.config(tmp_path / "daemon", scene, timeout="300ms")
        async with running(config, forked=True) as daemon:
            for number in range(cycles(TROUBLES)):
                if number % len(troubles) == 0:
                    rng.shuffle(troubles)
                for proxy, at in zip(between.proxies.values(), range(4), strict=True):
                    proxy.behave(troubles[(number + at) % len(troubles)])
                    if rng.random() < 0.5:
                        proxy.cut(rng.choice(("reset", "close")))
                await asyncio.sleep(rng.uniform(0.1, 0.4))
            between.behave(PASS)
            daemon.terminate()
            assert await daemon.wait() == 0, daemon.log
        assert "sink met a bug" not in daemon.log
        await finish(config, scene)
        await between.judge(scene)


@asynccontextmanager
async def printed(tag: str) -> AsyncIterator[tuple[LocalServer, str]]:
    """A service with one sandbox that has printed and ended."""
    async with LocalServer(LocalSettings()) as server:
        sandbox = await shell_sandbox(server.base_url, server.api_key, PRINTS, tags=[tag])
        await server.wait_ended(sandbox)
        yield server, sandbox


def sinks_of(directory: Path) -> dict[str, SinkOverview]:
    """How each sink is, as a daemon with this directory has written it down."""
    return {sink.name: sink for sink in overview_of(StateDir(directory / "state")).sinks}


def endpoint(url: str, **settings: Any) -> dict[str, Any]:
    """A sink that makes many batches of few records."""
    batch = {"max_records": 10, "max_age": "0s"}
    return {"type": "http", "endpoint": url, "batch": batch, **settings}


async def test_one_that_never_answers_delays_neither_the_others_nor_the_end(
    tmp_path: Path,
) -> None:
    healthy, silent = Keeper(), Keeper()
    async with (
        printed("t") as (server, sandbox),
        WebServer(handler=healthy) as well,
        WebServer(handler=silent) as away,
        TcpProxy(away.url) as proxy,
    ):
        proxy.behave(MUTE)
        config = write_config(
            tmp_path,
            base_url=server.base_url,
            api_key=server.api_key,
            sandboxes=[{"id": sandbox}],
            sinks={"well": endpoint(well.url), "silent": endpoint(proxy.base_url, timeout="1h")},
            shutdown={"drain_timeout": "100ms"},
        )
        async with running(config, forked=True) as daemon:
            await healthy.taken(PRINTED)
            await until(lambda: proxy.connections > 0, "somebody who asks")
            daemon.terminate()
            assert await daemon.wait() == 0, daemon.log
        assert (silent.count, sinks_of(tmp_path)["silent"].pending) == (0, PRINTED)
        await daemon.event("stopped before all was delivered; the spool keeps it")
        proxy.behave(PASS)
        proxy.cut()
        code, daemon = await run_to_end(config, "--until-complete", forked=True)
        assert code == 0, daemon.log
    assert len({one["id"] for one in silent.records}) == PRINTED
    assert healthy.count == PRINTED


async def test_one_that_is_down_for_long_costs_the_others_nothing_and_gets_everything_in_order(
    tmp_path: Path,
) -> None:
    keepers = [Keeper(), Keeper(), Keeper()]
    async with AsyncExitStack() as stack:
        server, first = await stack.enter_async_context(printed("t"))
        well = [await stack.enter_async_context(WebServer(handler=one)) for one in keepers[:2]]
        async with WebServer() as nobody:
            port = nobody.port
        urls = [*(one.url for one in well), f"http://127.0.0.1:{port}"]
        names = ["well", "fine", "down"]
        config = write_config(
            tmp_path,
            base_url=server.base_url,
            api_key=server.api_key,
            sandboxes=[{"tags": ["t"]}],
            sinks={name: endpoint(url, in_flight=1) for name, url in zip(names, urls, strict=True)},
        )
        daemon = await stack.enter_async_context(running(config, forked=True))
        await daemon.event("sink retrying", sink="down", detail=f"127.0.0.1:{port}")
        second = await shell_sandbox(server.base_url, server.api_key, PRINTS, tags=["t"])
        for healthy in keepers[:2]:
            await healthy.taken(2 * PRINTED)
        await until(lambda: sinks_of(tmp_path)["fine"].pending == 0, "their cursors")
        await until(lambda: sinks_of(tmp_path)["well"].pending == 0, "their cursors")
        assert sinks_of(tmp_path)["down"].pending == 2 * PRINTED
        assert keepers[2].count == 0
        await stack.enter_async_context(WebServer(handler=keepers[2], port=port))
        await daemon.event("sink running", sink="down")
        await keepers[2].taken(2 * PRINTED)
        daemon.terminate()
        assert await daemon.wait() == 0, daemon.log
        for sandbox_id in (first, second):
            for keeper in keepers:
                lines = [record["line"] for record in keeper.of(sandbox_id)]
                assert lines == list(range(PRINTED))
    sinks = sinks_of(tmp_path)
    assert [sinks[name].delivered for name in names] == [2 * PRINTED] * 3
    assert [sinks[name].pending for name in names] == [0] * 3
