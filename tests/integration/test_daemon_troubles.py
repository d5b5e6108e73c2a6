"""What an operator or a machine gets wrong: it is said, it waits, it goes on, nothing is lost."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from forwarder.local.server import LocalServer
from forwarder.local.settings import LocalSettings
from tests.crash.scene import seeded, talkative
from tests.fakes.daemon import DaemonProcess, file_sink, grown, running, write_config
from tests.fakes.local import shell_sandbox
from tests.fakes.tmpfs import small_disk

if TYPE_CHECKING:
    from pathlib import Path

#: More than the disks of these tests hold, in lines of 100 bytes and their stamps.
MUCH = 60_000
MUCH_PRINTED = f"seq -f '%099.0f' {MUCH}"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


async def end(daemon: DaemonProcess) -> None:
    daemon.terminate()
    assert await daemon.wait() == 0, daemon.log


async def test_a_wrong_key_holds_until_the_key_file_is_corrected(tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("wrong\n")
    async with LocalServer(LocalSettings()) as server:
        sandbox = await shell_sandbox(server.base_url, server.api_key, "seq 1000", tags=["t"])
        await server.wait_ended(sandbox)
        expected = server.process(sandbox).log.stamped()
        config = write_config(
            tmp_path,
            base_url=server.base_url,
            sandboxes=[{"tags": ["t"]}, {"id": sandbox}],
            sinks={"text": file_sink(tmp_path / "all.log")},
            source={"api_key_file": str(key_file)},
        )
        async with running(config) as daemon:
            await daemon.event("discovery failing", selector=sandbox)
            await daemon.event("discovery failing", selector="t")
            key_file.write_text(f"{server.api_key}\n")
            await grown(tmp_path / "all.log", len(expected), daemon)
            await end(daemon)
        assert "wrong" not in daemon.log
        assert server.api_key not in daemon.log
    assert (tmp_path / "all.log").read_bytes() == expected


async def test_a_key_that_is_refused_while_following_holds_the_streams_until_it_is_good(
    tmp_path: Path,
) -> None:
    rng = seeded()
    async with talkative(tmp_path, LocalSettings(), 2) as scene:
        home = scene.home(tmp_path / "daemon")
        async with running(home.config, forked=True) as daemon:
            await home.grows(rng, daemon)
            for code in ("unauthenticated", "permission_denied"):
                scene.server.faults.merge({"refuse_credentials": code})
                scene.server.break_streams("cut")
                for sandbox in scene.names:
                    await daemon.event("stream held", sandbox=sandbox, detail=code)
                scene.server.faults.reset()
                await home.grows(rng, daemon)
            await end(daemon)
        await scene.fall_silent()
        await home.run_to_end()
        await home.check()


async def test_an_api_that_does_not_answer_is_reported_and_asked_until_it_does(
    tmp_path: Path,
) -> None:
    port = free_port()
    config = write_config(
        tmp_path,
        base_url=f"http://127.0.0.1:{port}",
        api_key="the-key",
        sandboxes=[{"tags": ["t"]}],
        sinks={"text": file_sink(tmp_path / "all.log")},
    )
    async with running(config, forked=True) as daemon:
        await daemon.event("discovery failing", selector="t")
        async with LocalServer(LocalSettings(port=port, api_key="the-key")) as server:
            sandbox = await shell_sandbox(server.base_url, server.api_key, "seq 1000", tags=["t"])
            await server.wait_ended(sandbox)
            expected = server.process(sandbox).log.stamped()
            await grown(tmp_path / "all.log", len(expected), daemon)
            await end(daemon)
    assert (tmp_path / "all.log").read_bytes() == expected


async def test_a_path_that_cannot_be_written_holds_its_sink_alone_until_it_can(
    tmp_path: Path,
) -> None:
    in_the_way = tmp_path / "blocked"
    in_the_way.write_text("a file where a directory should be")
    async with LocalServer(LocalSettings()) as server:
        sandbox = await shell_sandbox(server.base_url, server.api_key, "seq 1000", tags=["t"])
        await server.wait_ended(sandbox)
        expected = server.process(sandbox).log.stamped()
        config = write_config(
            tmp_path,
            base_url=server.base_url,
            api_key=server.api_key,
            sandboxes=[{"tags": ["t"]}],
            sinks={
                "blocked": file_sink(in_the_way / "deep" / "{sandbox_id}.log"),
                "free": file_sink(tmp_path / "free.log"),
            },
        )
        async with running(config, "--until-complete", forked=True) as daemon:
            held = await daemon.event("sink held", sink="blocked")
            assert str(in_the_way) in held["detail"]
            await grown(tmp_path / "free.log", len(expected), daemon)
            in_the_way.unlink()
            await daemon.event("sink running", sink="blocked")
            assert await daemon.wait() == 0, daemon.log
    assert (tmp_path / "free.log").read_bytes() == expected
    assert (in_the_way / "deep" / f"{sandbox}.log").read_bytes() == expected


async def test_a_full_disk_stops_its_sink_alone_until_there_is_room(tmp_path: Path) -> None:
    async with LocalServer(LocalSettings()) as server:
        sandbox = await shell_sandbox(server.base_url, server.api_key, MUCH_PRINTED, tags=["t"])
        await server.wait_ended(sandbox)
        expected = server.process(sandbox).log.stamped()
        with small_disk(tmp_path / "disk", "1m") as disk:
            config = write_config(
                tmp_path,
                base_url=server.base_url,
                api_key=server.api_key,
                sandboxes=[{"tags": ["t"]}],
                sinks={
                    "full": file_sink(disk.path / "all.log"),
                    "free": file_sink(tmp_path / "free.log"),
                },
            )
            async with running(config, "--until-complete", forked=True) as daemon:
                await daemon.event("sink retrying", sink="full", detail="no space left")
                await grown(tmp_path / "free.log", len(expected), daemon)
                disk.resize("64m")
                assert await daemon.wait() == 0, daemon.log
            assert (disk.path / "all.log").read_bytes() == expected
            assert [path.name for path in disk.path.iterdir()] == ["all.log"]
    assert (tmp_path / "free.log").read_bytes() == expected


async def test_a_full_spool_stops_the_reading_until_there_is_room(tmp_path: Path) -> None:
    async with talkative(tmp_path, LocalSettings(), 2, "--burst-lines", "50") as scene:
        rng = seeded()
        with small_disk(tmp_path / "daemon" / "state", "1m") as disk:
            home = scene.home(tmp_path / "daemon")
            async with running(home.config, forked=True) as daemon:
                await daemon.event("spool cannot be written, reading stops until it can")
                disk.resize("256m")
                await daemon.event("spool can be written again")
                await home.grows(rng, daemon)
                await end(daemon)
            await scene.fall_silent()
            await home.run_to_end()
            await home.check()
