"""What may happen to the process itself: it is stopped for a while, or nobody reads its log."""

from __future__ import annotations

import asyncio
import os
import signal
from functools import partial
from typing import TYPE_CHECKING

import pytest

from forwarder.local.settings import LocalSettings
from tests.crash.scene import Home, Scene, seeded, talkative
from tests.fakes.daemon import COMMAND, running, size_bytes, until
from tests.fakes.proxy import TcpProxy

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PAUSES = 2
PAUSE_S = 1.0

#: Far more than a line needs, far less than for ever.
DEAF_S = 15.0


async def test_a_daemon_that_was_stopped_while_its_connections_died_delivers_everything(
    tmp_path: Path,
) -> None:
    rng = seeded()
    async with (
        talkative(tmp_path, LocalSettings(), 3, "--burst-lines", "2") as scene,
        TcpProxy(scene.server.base_url) as proxy,
    ):
        home = scene.home(tmp_path / "daemon", base_url=proxy.base_url)
        async with running(home.config, forked=True) as daemon:
            for _ in range(PAUSES):
                await home.grows(rng, daemon)
                daemon.send(signal.SIGSTOP)
                scene.server.break_streams(rng.choice(("reset", "cut", "clean_end")))
                proxy.cut(rng.choice(("reset", "close")))
                scene.server.forget_sessions()
                await asyncio.sleep(PAUSE_S)
                daemon.send(signal.SIGCONT)
            await home.grows(rng, daemon)
            await scene.fall_silent()
        await home.run_to_end()
        await home.check()


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
async def test_a_daemon_without_standard_streams_delivers_everything(
    tmp_path: Path, closed: str
) -> None:
    rng = seeded()
    async with talkative(tmp_path, LocalSettings(), 1) as scene:
        home = scene.home(tmp_path / "daemon")
        shell = ("sh", "-c", f'exec "$@" {closed}', "sh")
        async with running(home.config, "--until-complete", wrapper=shell) as daemon:
            for _ in range(3):
                await home.grows(rng, daemon)
                scene.server.break_streams("error", "NEVER_HEARD_OF")  # something to say
            await scene.fall_silent()
            assert await daemon.wait() == 0
        await home.check()


async def deafened(home: Home, *options: str) -> asyncio.subprocess.Process:
    """A daemon whose standard error is a full pipe that nobody reads, and no log of it."""
    ours, its = os.pipe()
    os.set_blocking(its, False)
    try:
        while True:
            os.write(its, bytes(1 << 12))
    except BlockingIOError:
        os.set_blocking(its, True)
    try:
        process = await asyncio.create_subprocess_exec(
            *(str(COMMAND), "run", "--config", str(home.config), *options),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=its,
            pass_fds=[ours],  # open, so that it is full and not broken
        )
    finally:
        os.close(ours)
        os.close(its)
    return process


async def test_a_daemon_whose_log_nobody_reads_goes_on_delivering(tmp_path: Path) -> None:
    async with talkative(tmp_path, LocalSettings(), 2) as scene:
        home = scene.home(tmp_path / "daemon", log={"level": "debug"})
        process = await deafened(home, "--until-complete")
        try:
            await delivers(home, scene)
            assert await process.wait() == 0
        finally:
            if process.returncode is None:
                os.kill(process.pid, signal.SIGKILL)
            await process.wait()
        await home.check()


async def delivers(home: Home, scene: Scene) -> None:
    """See it deliver, in a noisy time too."""

    def grew(sizes: Mapping[Path, int]) -> bool:
        return all(size_bytes(file) > size for file, size in sizes.items())

    for _ in range(3):
        before = {file: size_bytes(file) for file in home.files()}
        await until(partial(grew, before), "every file to grow", deadline_s=DEAF_S)
        scene.server.break_streams("error", "NEVER_HEARD_OF")
    await scene.fall_silent()
