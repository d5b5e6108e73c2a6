"""Many sandboxes in one process, most of them with nothing to say."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from forwarder.local.server import LocalServer
from forwarder.local.settings import LocalSettings
from tests.fakes.daemon import file_sink, running, until, write_config
from tests.fakes.local import shell_sandbox

if TYPE_CHECKING:
    from pathlib import Path

SILENT = 100
SLOW = 100


async def test_two_hundred_silent_and_slow_sandboxes_are_followed_at_once_and_late_ones_too(
    tmp_path: Path,
) -> None:
    go, out = tmp_path / "go", tmp_path / "out"
    slow = f"echo begins; while [ ! -e {go} ]; do sleep 1; done; echo goes on; echo ends"
    async with LocalServer(LocalSettings()) as server:

        async def start(script: str) -> str:
            return await shell_sandbox(server.base_url, server.api_key, script, tags=["t"])

        silent = await asyncio.gather(*(start("exec sleep 600") for _ in range(SILENT)))
        slow_ones = await asyncio.gather(*(start(slow) for _ in range(SLOW)))
        config = write_config(
            tmp_path,
            base_url=server.base_url,
            api_key=server.api_key,
            sandboxes=[{"tags": ["t"]}],
            sinks={"text": file_sink(out / "{sandbox_id}.log")},
        )
        async with running(config, "--until-complete") as daemon:
            await until(lambda: server.open_streams == SILENT + SLOW, "all to be followed")
            slow_ones += [await start(slow) for _ in range(5)]
            await until(lambda: server.open_streams == SILENT + len(slow_ones), "late ones")
            await until(lambda: out.exists() and len(list(out.iterdir())) == len(slow_ones))
            go.touch()
            for sandbox in silent:
                server.process(sandbox).kill()
            assert await daemon.wait() == 0, daemon.log
        for sandbox in slow_ones:
            expected = server.process(sandbox).log.stamped()
            assert expected.count(b"\n") == 3
            assert (out / f"{sandbox}.log").read_bytes() == expected
        assert len(list(out.iterdir())) == len(slow_ones)
