"""Signals to a daemon with network sinks: what waits is sent at once, and what is sent counts."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import TYPE_CHECKING

from forwarder.local.server import LocalServer
from forwarder.local.settings import LocalSettings
from forwarder.spool.files import StateDir
from forwarder.spool.overview import overview_of
from tests.crash.scene import TAG, talkative
from tests.fakes.daemon import run_to_end, running, until, write_config
from tests.fakes.keeper import Keeper, texts
from tests.fakes.local import shell_sandbox
from tests.fakes.web_server import Reply, Request, WebServer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.daemon import DaemonProcess

BATCH = 10
REST = 5


async def test_a_signal_sends_what_waits_for_others_and_waits_for_what_is_under_way(
    tmp_path: Path,
) -> None:
    keeper, answered, go_on = Keeper(), asyncio.Event(), tmp_path / "go-on"

    async def slowly(request: Request) -> Reply:
        await answered.wait()
        return keeper(request)

    script = f"seq {BATCH}; while [ ! -e {go_on} ]; do sleep 0.02; done; seq {REST}; sleep 600"
    async with LocalServer(LocalSettings()) as server, WebServer(handler=slowly) as web:
        sandbox = await shell_sandbox(server.base_url, server.api_key, script, tags=["t"])
        batch = {"max_records": BATCH, "max_age": "1h"}
        config = write_config(
            tmp_path / "daemon",
            base_url=server.base_url,
            api_key=server.api_key,
            sandboxes=[{"id": sandbox}],
            sinks={"http": {"type": "http", "endpoint": web.url, "batch": batch}},
        )
        state = StateDir(tmp_path / "daemon" / "state")

        def pending() -> int:
            return sum(sink.pending for sink in overview_of(state).sinks)

        async with running(config, forked=True) as daemon:
            await web.wait_for(1)
            go_on.touch()
            await until(lambda: pending() == BATCH + REST, "what waits for others")
            assert len(web.requests) == 1
            daemon.terminate()
            await until(lambda: server.open_streams == 0, "the reading to end")
            assert daemon.running
            answered.set()
            assert await daemon.wait() == 0, daemon.log
        assert pending() == 0
    assert "stopped before" not in daemon.log
    assert [len(one) for one in keeper.batches] == [BATCH, REST]


async def reload_with(config: Path, daemon: DaemonProcess, batch: dict[str, object]) -> None:
    """Change the sink's batches, and say so; returns when that was heard."""
    before = reloads_of(daemon)
    document = json.loads(config.read_text())
    document["sinks"]["http"]["batch"] = batch
    config.write_text(json.dumps(document))
    daemon.send(signal.SIGHUP)
    await until(lambda: reloads_of(daemon) > before, "the reload")


def reloads_of(daemon: DaemonProcess) -> int:
    """How often it took a new configuration."""
    return sum(event["event"] == "configuration reloaded" for event in daemon.events)


async def test_a_reload_with_other_batches_goes_on_and_every_line_is_there_once_by_its_id(
    tmp_path: Path,
) -> None:
    keeper = Keeper()
    async with talkative(tmp_path, LocalSettings(), 1) as scene, WebServer(handler=keeper) as web:
        config = write_config(
            tmp_path / "daemon",
            base_url=scene.server.base_url,
            api_key=scene.server.api_key,
            sandboxes=[{"tags": [TAG]}],
            sinks={"http": {"type": "http", "endpoint": web.url}},
        )
        async with running(config, forked=True) as daemon:
            for largest in (1, 30):
                await keeper.grown()
                await reload_with(config, daemon, {"max_records": largest, "max_age": "10ms"})
                # Those that were recorded before have the old size, also behind the reload.
                while max(map(len, keeper.batches[-5:])) > largest:
                    await keeper.grown()
            daemon.terminate()
            assert await daemon.wait() == 0, daemon.log
        await scene.fall_silent()
        code, daemon = await run_to_end(config, "--until-complete", forked=True)
        assert code == 0, daemon.log
        [(sandbox_id, log)] = (await scene.logs()).items()
    printed = [line.partition(b" ")[2].decode() for line in log.splitlines()]
    assert texts(keeper.of(sandbox_id)) == printed
    assert len({record["id"] for record in keeper.records}) == len(printed)
