"""Worker processes that encode: they cost nothing when they die, and die with the daemon."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from forwarder.local.settings import LocalSettings
from forwarder.spool.files import StateDir
from forwarder.spool.overview import overview_of
from tests.crash.scene import TAG, talkative
from tests.fakes.daemon import DaemonProcess, run_to_end, running, until, write_config
from tests.fakes.keeper import Keeper, texts
from tests.fakes.stack import KINDS, Stack, sections
from tests.fakes.web_server import WebServer

if TYPE_CHECKING:
    from tests.crash.scene import Scene

#: Becomes the daemon, as the first of a process group of its own.
ITS_OWN_GROUP = ("setsid",)


def config_of(directory: Path, scene: Scene, sinks: dict[str, dict[str, object]]) -> Path:
    return write_config(
        directory,
        base_url=scene.server.base_url,
        api_key=scene.server.api_key,
        sandboxes=[{"tags": [TAG]}],
        sinks=sinks,
    )


def children(pid: int) -> set[int]:
    """The processes that one has started, and that have not ended."""
    found = (task / "children" for task in Path(f"/proc/{pid}/task").iterdir())
    return {int(child) for path in found for child in path.read_text().split()}


def workers(pid: int) -> set[int]:
    """Those that encode; beside them there is one that looks after what they share."""
    return {
        child
        for child in children(pid)
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    }


def none_left(pids: set[int]) -> bool:
    """Whether they are gone, or wait to be buried by whoever inherited them."""
    return not any(map(_lives, pids))


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_a_signal_to_the_whole_group_lets_workers_finish_what_the_daemon_has_begun(
    tmp_path: Path,
) -> None:
    stack = Stack()
    async with talkative(tmp_path, LocalSettings(), 1) as scene, WebServer(handler=stack) as web:
        config = config_of(tmp_path / "daemon", scene, sections(web.url, workers=1))
        async with running(config, wrapper=ITS_OWN_GROUP) as daemon:
            await until(lambda: all(map(len, stack.taken.values())), "lines of every kind")
            pids = children(daemon.pid)
            assert len(workers(daemon.pid)) == len(KINDS)
            os.killpg(daemon.pid, signal.SIGTERM)
            assert await daemon.wait() == 0, daemon.log
        assert "sink retrying" not in daemon.log
        assert [one.pending for one in overview_of(StateDir(tmp_path / "daemon/state")).sinks] == [
            0
        ] * len(KINDS)
        await until(lambda: none_left(pids), "the end of the workers")
        await scene.fall_silent()
        code, daemon = await run_to_end(config, "--until-complete")
        assert code == 0, daemon.log
        [(sandbox_id, log)] = (await scene.logs()).items()
    ids = Counter(f"{sandbox_id}/main/0/{number}" for number in range(log.count(b"\n")))
    for kind in KINDS:
        assert Counter(stack.taken[kind]) == ids, kind


async def test_a_killed_worker_costs_a_resend_at_most_and_a_killed_daemon_leaves_none_behind(
    tmp_path: Path,
) -> None:
    keeper = Keeper()
    async with talkative(tmp_path, LocalSettings(), 1) as scene, WebServer(handler=keeper) as web:
        sink = {"type": "http", "endpoint": web.url, "workers": 1, "batch": {"max_age": "20ms"}}
        config = config_of(tmp_path / "daemon", scene, {"http": sink})
        daemon = await DaemonProcess.start(config)
        try:
            for _ in range(2):
                await keeper.grown(100)
                [worker] = workers(daemon.pid)
                os.kill(worker, signal.SIGKILL)
                await daemon.event("sink retrying", detail="a process that encodes died")
            await until(lambda: len(workers(daemon.pid)) == 1, "another worker")
            assert len(keeper.records) == len({one["id"] for one in keeper.records})
            pids = children(daemon.pid)
        finally:
            await daemon.kill()
        await until(lambda: none_left(pids), "the end of the workers")
        await scene.fall_silent()
        code, daemon = await run_to_end(config, "--until-complete")
        assert code == 0, daemon.log
        [(sandbox_id, log)] = (await scene.logs()).items()
    printed = [line.partition(b" ")[2].decode() for line in log.splitlines()]
    assert texts(keeper.of(sandbox_id)) == printed
