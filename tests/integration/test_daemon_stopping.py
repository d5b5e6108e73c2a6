"""Signals, and the end of the work: when the daemon ends, with which code, and what it keeps."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from forwarder.local.server import LocalServer
from forwarder.local.settings import LocalSettings
from tests.crash.scene import seeded, talkative
from tests.fakes.daemon import file_sink, run_to_end, running, until, write_config
from tests.fakes.local import call, read_logs, shell_sandbox

if TYPE_CHECKING:
    from pathlib import Path

NOTHING = "http://127.0.0.1:9"  # discard: nobody listens


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_under_load_ends_it_with_0_and_the_next_life_goes_on_where_it_was(
    tmp_path: Path, number: signal.Signals
) -> None:
    rng = seeded()
    async with talkative(tmp_path, LocalSettings(), 2) as scene:
        home = scene.home(tmp_path / "daemon")
        for _ in range(3):
            async with running(home.config) as daemon:
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
            code, daemon = await run_to_end(config, "--until-complete")
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
