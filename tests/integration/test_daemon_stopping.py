"""Signals, and the end of the work: when the daemon ends, with which code, and what it keeps."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from forwarder.local.server import LocalServer
from forwarder.local.settings import LocalSettings
from tests.crash.scene import seeded, talkative
from tests.fakes.daemon import (
    COMMAND,
    DaemonProcess,
    file_sink,
    run_to_end,
    running,
    size_bytes,
    until,
    write_config,
)
from tests.fakes.local import call, read_logs, shell_sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NOTHING = "http://127.0.0.1:9"  # discard: nobody listens


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_under_load_ends_it_with_0_and_the_next_life_goes_on_where_it_was(
    tmp_path: Path, number: signal.Signals
) -> None:
    rng = seeded()
    async with talkative(tmp_path, LocalSettings(), 2) as scene:
        home = scene.home(tmp_path / "daemon")
        for life in range(3):
            async with running(home.config, forked=life > 0) as daemon:
                await home.grows(rng, daemon)
                daemon.send(number)
                assert await daemon.wait() == 0, daemon.log
            assert "stopped before" not in daemon.log
        await scene.fall_silent()
        await home.run_to_end()
        await home.check()


async def test_when_the_drain_time_is_over_it_ends_with_0_and_the_spool_keeps_the_rest(
    tmp_path: Path,
) -> None:
    async with talkative(tmp_path, LocalSettings(), 1) as scene:
        home = scene.home(tmp_path / "daemon", shutdown={"drain_timeout": "200ms"})
        home.output.write_text("in the way of a directory")
        async with running(home.config) as daemon:
            await daemon.event("sink held", sink="text")
            await daemon.event("stream following")
            await until(lambda: home.pending() > 0, "lines in the spool")
            daemon.terminate()
            assert await daemon.wait() == 0, daemon.log
        assert "stopped before all was delivered" in daemon.log
        home.output.unlink()
        await scene.fall_silent()
        await home.run_to_end()
        await home.check()


async def test_a_second_signal_ends_it_at_once_and_loses_nothing(tmp_path: Path) -> None:
    async with talkative(tmp_path, LocalSettings(), 1) as scene:
        home = scene.home(tmp_path / "daemon", shutdown={"drain_timeout": "1h"})
        home.output.write_text("in the way of a directory")
        async with running(home.config) as daemon:
            await daemon.event("sink held", sink="text")
            await daemon.event("stream following")
            daemon.terminate()
            await until(lambda: scene.server.open_streams == 0, "the reading to end")
            assert daemon.running
            daemon.terminate()
            assert await daemon.wait() == -signal.SIGTERM, daemon.log
        home.output.unlink()
        await scene.fall_silent()
        await home.run_to_end()
        await home.check()


async def test_a_signal_before_anything_was_found_ends_it_with_0(tmp_path: Path) -> None:
    config = write_config(
        tmp_path,
        base_url=NOTHING,
        api_key="key",
        sandboxes=[{"tags": ["none"]}, {"id": "sbx-none"}],
        sinks={"text": file_sink(tmp_path / "all.log")},
    )
    async with running(config) as daemon:
        await daemon.event("discovery failing", selector="sbx-none")
        daemon.terminate()
        assert await daemon.wait() == 0, daemon.log


async def test_until_complete_waits_for_all_that_was_selected_by_id_and_by_tag(
    tmp_path: Path,
) -> None:
    async with LocalServer(LocalSettings()) as server:
        base_url, api_key = server.base_url, server.api_key
        stop = tmp_path / "stop"
        wait = f"echo begins; while [ ! -e {stop} ]; do sleep 0.02; done; printf ends"
        ended = await shell_sandbox(base_url, api_key, "echo was here", tags=["t"])
        await server.wait_ended(ended)
        named = await shell_sandbox(base_url, api_key, wait)
        tagged = await shell_sandbox(base_url, api_key, wait, tags=["t", "u"])
        other = await shell_sandbox(base_url, api_key, "echo unwanted", tags=["u"])
        config = write_config(
            tmp_path,
            base_url=base_url,
            api_key=api_key,
            sandboxes=[{"id": named}, {"id": "sbx-unknown"}, {"tags": ["t"]}],
            sinks={"text": file_sink(tmp_path / "out" / "{sandbox_id}.log")},
        )
        async with running(config, "--until-complete") as daemon:
            await daemon.event("stream following", sandbox=tagged)
            await daemon.event("stream following", sandbox=named)
            await daemon.event("sandbox not found", sandbox="sbx-unknown")
            late = await shell_sandbox(base_url, api_key, wait, tags=["t"])
            await daemon.event("stream following", sandbox=late)
            assert daemon.running
            stop.touch()
            assert await daemon.wait() == 0, daemon.log
        for sandbox in (ended, named, tagged, late):
            expected = await read_logs(base_url, api_key, sandbox_id=sandbox, timestamps=True)
            assert (tmp_path / "out" / f"{sandbox}.log").read_bytes() == expected
        names = {path.stem for path in (tmp_path / "out").iterdir()}
        assert names == {ended, named, tagged, late}
        assert other not in names


async def test_what_was_read_to_its_end_is_not_read_again_by_the_next_life(tmp_path: Path) -> None:
    async with LocalServer(LocalSettings()) as server:
        sandbox = await shell_sandbox(server.base_url, server.api_key, "seq 1000", tags=["t"])
        await server.wait_ended(sandbox)
        config = write_config(
            tmp_path,
            base_url=server.base_url,
            api_key=server.api_key,
            sandboxes=[{"tags": ["t"]}, {"id": sandbox}],
            sinks={"text": file_sink(tmp_path / "all.log")},
        )
        for _ in range(2):
            code, daemon = await run_to_end(config, "--until-complete", forked=True)
            assert code == 0, daemon.log
        expected = server.process(sandbox).log.stamped()
    assert (tmp_path / "all.log").read_bytes() == expected
    assert not [event for event in daemon.events if event["event"].startswith("stream")]


async def test_every_container_of_a_sandbox_is_a_stream_of_its_own(tmp_path: Path) -> None:
    async with LocalServer(LocalSettings()) as server:
        base_url, api_key = server.base_url, server.api_key
        containers = [
            {"name": "main", "command": "sh", "args": ["-c", "seq 500; sleep 0.3"]},
            {"name": "side", "command": "sh", "args": ["-c", "seq 1000 2000; sleep 600"]},
        ]
        body = {"sandbox": {"spec": {"containers": containers, "tags": ["two"]}}}
        sandbox = (await call(base_url, api_key, "CreateSandbox", body))["sandboxId"]
        config = write_config(
            tmp_path,
            base_url=base_url,
            api_key=api_key,
            sandboxes=[{"tags": ["two"]}],
            sinks={"text": file_sink(tmp_path / "{sandbox_id}.{container}.log")},
        )
        code, daemon = await run_to_end(config, "--until-complete")
        assert code == 0, daemon.log
        for container in ("main", "side"):
            expected = server.process(sandbox, container).log.stamped()
            assert expected.count(b"\n") in {500, 1001}
            assert (tmp_path / f"{sandbox}.{container}.log").read_bytes() == expected


# A disk that does not answer ----------------------------------------------------------------------

FORCED = "stopped before the disk answered; everything acknowledged is safe"

#: The daemon, on a disk whose syncs hang as long as a file is there; and with little patience.
SLOW = """
import asyncio, pathlib, sqlite3, sys, threading
from forwarder import app, cli, running
from forwarder.spool.sqlite import open_spool
from sinks.files.system import Files

of, hangs, fails, patience_s = sys.argv[1], *map(pathlib.Path, sys.argv[2:4]), float(sys.argv[4])
sys.argv[1:] = sys.argv[6:]

def sync():
    if hangs.exists():
        hangs.with_suffix(".met").touch()
        threading.Event().wait()

class Connection(sqlite3.Connection):
    def execute(self, sql, *parameters):
        if sql == "COMMIT" and of == "spool":
            sync()
        if sql.startswith("BEGIN") and fails.exists():
            raise sqlite3.OperationalError("as told")
        return super().execute(sql, *parameters)

async def open_slowly(state, **options):
    if of == "start":
        await asyncio.to_thread(sync)
    return await open_spool(state, **options, factory=Connection)

sync_data = Files.sync_data
if of == "sink":
    Files.sync_data = lambda self, fd: (sync(), sync_data(self, fd))
app.open_spool = open_slowly
running.STOP_GRACE_S = patience_s
cli.main()
"""


class SlowDisk:
    """Whose disk hangs, and from when on.

    Attributes:
        hangs: While this file is there, syncs hang.
        met: This one is there once a sync hangs.
        fails: While this file is there, nothing can be written to the spool.
    """

    def __init__(self, directory: Path, of: str) -> None:
        self.hangs = directory / "sync.hangs"
        self.met = directory / "sync.met"
        self.fails = directory / "spool.fails"
        self._of = of

    @asynccontextmanager
    async def running(self, config: Path, *, patience_s: float) -> AsyncIterator[DaemonProcess]:
        """A daemon that is killed at the end, if it still runs then."""
        files = (str(self.hangs), str(self.fails))
        wrapper = (sys.executable, "-c", SLOW, self._of, *files, str(patience_s))
        daemon = await DaemonProcess.start(config, wrapper=wrapper)
        try:
            yield daemon
        finally:
            await daemon.kill()


@pytest.mark.parametrize(("of", "thread"), [("spool", "spool-writer"), ("sink", "sink-")])
async def test_a_disk_that_does_not_answer_keeps_nobody_from_stopping_and_loses_nothing(
    tmp_path: Path, of: str, thread: str
) -> None:
    rng, disk = seeded(), SlowDisk(tmp_path, of)
    async with talkative(tmp_path, LocalSettings(), 1) as scene:
        home = scene.home(tmp_path / "daemon", shutdown={"drain_timeout": "0s"})
        async with disk.running(home.config, patience_s=0.5) as daemon:
            await home.grows(rng, daemon)
            disk.hangs.touch()
            await until(disk.met.exists, "a sync that hangs")
            daemon.terminate()
            assert await daemon.wait() == 0, daemon.log
        event = await daemon.event(FORCED)
        assert any(name.startswith(thread) for name in event["hanging"]), event
        disk.hangs.unlink()
        await scene.fall_silent()
        await home.run_to_end()
        await home.check()


async def test_a_second_signal_ends_it_at_once_even_while_a_sync_hangs(tmp_path: Path) -> None:
    rng, disk = seeded(), SlowDisk(tmp_path, "spool")
    async with talkative(tmp_path, LocalSettings(), 1) as scene:
        home = scene.home(tmp_path / "daemon", shutdown={"drain_timeout": "1h"})
        async with disk.running(home.config, patience_s=3600.0) as daemon:
            await home.grows(rng, daemon)
            disk.hangs.touch()
            await until(disk.met.exists, "a sync that hangs")
            daemon.terminate()
            await until(lambda: scene.server.open_streams == 0, "the reading to end")
            daemon.terminate()
            assert await daemon.wait() == -signal.SIGTERM, daemon.log
        await scene.fall_silent()
        await home.run_to_end()
        await home.check()


async def test_a_disk_that_hangs_at_the_start_keeps_nobody_from_stopping(tmp_path: Path) -> None:
    disk = SlowDisk(tmp_path, "start")
    disk.hangs.touch()
    config = write_config(
        tmp_path,
        base_url=NOTHING,
        api_key="key",
        sandboxes=[{"tags": ["none"]}],
        sinks={"text": file_sink(tmp_path / "all.log")},
        shutdown={"drain_timeout": "0s"},
    )
    async with disk.running(config, patience_s=0.2) as daemon:
        await until(disk.met.exists, "a sync that hangs")
        daemon.terminate()
        assert await daemon.wait() == 0, daemon.log
    await daemon.event(FORCED)


async def test_a_spool_that_fails_ends_it_with_an_error_even_while_a_sink_hangs(
    tmp_path: Path,
) -> None:
    rng, disk = seeded(), SlowDisk(tmp_path, "sink")
    async with talkative(tmp_path, LocalSettings(), 1) as scene:
        home = scene.home(tmp_path / "daemon", shutdown={"drain_timeout": "0s"})
        async with disk.running(home.config, patience_s=0.5) as daemon:
            await home.grows(rng, daemon)
            disk.hangs.touch()
            await until(disk.met.exists, "a sync that hangs")
            disk.fails.touch()
            assert await daemon.wait() == 70, daemon.log
        await daemon.event(FORCED)
        disk.fails.unlink()
        await scene.fall_silent()
        await home.run_to_end()
        await home.check()


# Standard input, output and error -----------------------------------------------------------------


async def test_without_standard_descriptors_it_works_and_opens_nothing_in_their_place(
    tmp_path: Path,
) -> None:
    rng = seeded()
    async with talkative(tmp_path, LocalSettings(), 1) as scene:
        home = scene.home(tmp_path / "daemon")
        wrapper = ("sh", "-c", 'exec "$@" 0<&- 1>&- 2>&-', "sh")
        daemon = await DaemonProcess.start(home.config, wrapper=wrapper)
        try:
            await home.grows(rng, daemon)
            for number in range(3):
                assert Path(f"/proc/{daemon.pid}/fd/{number}").readlink() == Path(os.devnull)
            daemon.terminate()
            assert await daemon.wait() == 0
        finally:
            await daemon.kill()
        await scene.fall_silent()
        await home.run_to_end()
        await home.check()


async def test_a_log_that_nobody_reads_holds_up_neither_the_work_nor_the_end(
    tmp_path: Path,
) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    rng = seeded()
    async with talkative(tmp_path, LocalSettings(), 1) as scene:
        home = scene.home(tmp_path / "daemon", log={"level": "debug"})
        daemon = await asyncio.create_subprocess_exec(
            *(str(COMMAND), "run", "--config", str(home.config)), stderr=writer
        )
        try:
            enough = rng.randrange(10_000)
            await until(lambda: all(size_bytes(file) > enough for file in home.files()), "lines")
            daemon.terminate()
            async with asyncio.timeout(60):
                assert await daemon.wait() == 0
        finally:
            if daemon.returncode is None:
                daemon.kill()
                await daemon.wait()
            os.close(reader)
            os.close(writer)
        await scene.fall_silent()
        await home.run_to_end()
        await home.check()
