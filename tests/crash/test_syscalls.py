"""Disks that fail, fill up or take their time, one system call at a time."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from forwarder.local.settings import LocalSettings
from tests.crash.scene import Home, Scene, seeded, talkative
from tests.fakes.daemon import running, until
from tests.fakes.preload import SlowDisk
from tests.fakes.strace import traced

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SPOOL_FAILED = 74

#: The first syncs belong to making the spool and finding the streams, the later ones to commits.
FAILING_SYNCS = (1, 2, 3, 5, 8)
SLOW_SYNC_S = 20.0
DRAIN_S = 0.2

#: What stopping may take on top of its own time, on a busy machine; far less than the slow sync.
GRACE_S = 12.0


@asynccontextmanager
async def ended_sandboxes(directory: Path, lines: int = 300) -> AsyncIterator[Scene]:
    """Two sandboxes that have said what they had to say, in so many lines on each output."""
    options = ("--lines", str(lines), "--burst-lines", "10", "--pause-s", "0")
    async with talkative(directory, LocalSettings(message_bytes=2048), 2, *options) as scene:
        for sandbox_id in scene.names:
            await scene.server.wait_ended(sandbox_id)
        yield scene


def spool_files(home: Home) -> list[Path]:
    """The files that the spool's commits are synced to."""
    return [home.state.database, home.state.database.with_name("spool.db-wal")]


async def test_after_a_sync_of_the_spool_that_failed_nothing_is_acknowledged_any_more(
    tmp_path: Path,
) -> None:
    async with ended_sandboxes(tmp_path) as scene:

        async def fail(number: int) -> bool:
            trace = tmp_path / f"trace-{number}"
            home = scene.home(tmp_path / f"daemon-{number}", spool={"commit_interval": "10ms"})
            async with traced(
                *(home.config, "--until-complete"),
                trace=trace,
                inject=[f"fdatasync:error=EIO:when={number}"],
                paths=spool_files(home),
            ) as daemon:
                code = await daemon.wait()
                failed = "EIO" in trace.read_text()
                assert code == (SPOOL_FAILED if failed else 0), daemon.log
            await home.run_to_end()
            await home.check()
            return failed

        # A quick run may be over before the last of them.
        assert sum([await fail(number) for number in FAILING_SYNCS]) >= len(FAILING_SYNCS) - 1


async def test_a_full_disk_under_the_files_holds_them_up_and_costs_nothing(tmp_path: Path) -> None:
    async with ended_sandboxes(tmp_path) as scene:
        home = scene.home(tmp_path / "daemon")
        trace = tmp_path / "trace"
        async with traced(
            *(home.config, "--until-complete"),
            trace=trace,
            inject=["pwritev,pwritev2:error=ENOSPC:when=1..3"],
            paths=home.files(),
        ) as daemon:
            assert await daemon.wait() == 0, daemon.log
        assert trace.read_text().count("ENOSPC") >= 3
        await home.check()


async def test_slow_syncs_make_the_commits_larger_and_change_no_byte(tmp_path: Path) -> None:
    async with ended_sandboxes(tmp_path, lines=50) as scene:
        home = scene.home(tmp_path / "daemon")
        trace = tmp_path / "trace"
        async with traced(
            *(home.config, "--until-complete"),
            trace=trace,
            inject=["fdatasync:delay_enter=100000"],
        ) as daemon:
            assert await daemon.wait() == 0, daemon.log
        assert trace.read_text().count("(DELAYED)") > 5
        await home.check()


async def test_a_daemon_stops_in_its_time_although_a_sync_takes_far_longer(tmp_path: Path) -> None:
    rng = seeded()
    async with talkative(tmp_path, LocalSettings(), 2, "--burst-lines", "1") as scene:
        home = scene.home(tmp_path / "daemon", shutdown={"drain_timeout": f"{DRAIN_S}s"})
        disk = SlowDisk(home.state.path, tmp_path / "slow")
        async with running(home.config, under=disk.preload) as daemon:
            await home.grows(rng, daemon)
            disk.take(SLOW_SYNC_S)
            await until(lambda: disk.held > 0, "a slow sync")
            daemon.terminate()
            end = asyncio.create_task(daemon.wait())
            in_time, _ = await asyncio.wait([end], timeout=DRAIN_S + GRACE_S)
            await daemon.kill()
            print(f"exit code {await end}")
        await scene.fall_silent()
        await home.run_to_end()
        await home.check()
        assert in_time
