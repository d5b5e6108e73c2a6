"""`kill -9` of a daemon with four network sinks: in the end every line is there, once by its id.

The destinations are real servers where they are built. Those that know ids hold each line once.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from tests.crash.scene import KEEPS_ALL, TAG, Scene, cycles, seeded, talkative
from tests.fakes.daemon import run_to_end, running, until, write_config
from tests.fakes.destinations import Collected, Indexed, Kept, Pushed, judge
from tests.fakes.keeper import Keeper
from tests.fakes.web_server import WebServer

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from tests.fakes.destinations import Destination
    from tests.servers import Collector, Loki, OpenSearch

KILLS = 12
COMMANDS = 2  # of them are the real command, the others are forked, which is quicker
SANDBOXES = 2

#: About as long as a start takes, so that some of these kills come before its end.
START_S = {True: 0.05, False: 0.8}

#: Batches of several frames: a kill finds each in another state, and more to be in it afterwards.
QUICK = {"batch": {"max_records": 400, "max_age": "80ms"}}


def network_config(directory: Path, scene: Scene, destinations: dict[str, Destination]) -> Path:
    """One daemon with all of these sinks."""
    return write_config(
        directory,
        base_url=scene.server.base_url,
        api_key=scene.server.api_key,
        sandboxes=[{"tags": [TAG]}],
        sinks={name: {**one.sink(), **QUICK} for name, one in destinations.items()},
    )


async def kill_once(config: Path, keeper: Keeper, rng: random.Random, *, forked: bool) -> str:
    """One life of the daemon, and its end; returns what the kill waited for."""
    moment = rng.choices(("start", "delivery"), (20, 80))[0]
    enough = keeper.count + rng.choice((1, 200, 600))
    async with running(config, forked=forked) as daemon:
        if moment == "start":
            await asyncio.sleep(rng.uniform(0, START_S[forked]))
        else:
            await until(lambda: keeper.count >= enough or not daemon.running, "deliveries")
        await asyncio.sleep(rng.uniform(0, 0.05))
        assert daemon.running, daemon.log
        await daemon.kill()
    return moment


@pytest.mark.slow
async def test_kills_at_random_moments_leave_every_line_at_every_destination_once_by_its_id(
    tmp_path: Path, collector: Collector, opensearch: OpenSearch, loki: Loki
) -> None:
    rng, keeper = seeded(), Keeper()
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(WebServer(handler=keeper))
        scene = await stack.enter_async_context(
            talkative(tmp_path, KEEPS_ALL, SANDBOXES, "--burst-lines", "2")
        )
        destinations: dict[str, Destination] = {
            "otlp": Collected(collector),
            "elasticsearch": Indexed(opensearch),
            "loki": Pushed(loki),
            "http": Kept(keeper, server.url),
        }
        config = network_config(tmp_path / "daemon", scene, destinations)
        kinds = [number >= COMMANDS for number in range(cycles(KILLS))]
        rng.shuffle(kinds)
        moments = [await kill_once(config, keeper, rng, forked=forked) for forked in kinds]
        await scene.fall_silent()
        code, daemon = await run_to_end(config, "--until-complete", forked=True)
        assert code == 0, daemon.log
        logs = await scene.logs()
        assert keeper.changed_batches() == [], "a resend is another batch"
        for name, destination in destinations.items():
            again = [judge(destination, sandbox_id, log) for sandbox_id, log in logs.items()]
            print(f"{name}: {sum(again)} came twice")
    lines = sum(log.count(b"\n") for log in logs.values())
    print(f"killed after: {moments}; {lines} lines")
