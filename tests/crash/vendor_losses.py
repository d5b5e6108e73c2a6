"""What the vendor's CLI and this daemon make of the same log while its sessions are lost.

`python -m tests.crash.vendor_losses`: one sandbox prints on both streams for some ten seconds;
every half second the service forgets its log sessions and ends the streams with
`SESSION_NOT_FOUND`, as it may at any deploy. Both follow the log into a file, and every line is
counted.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from forwarder.local.server import LocalServer
from forwarder.local.settings import LocalSettings
from tests.fakes import oracle
from tests.fakes.daemon import file_sink, running, write_config
from tests.fakes.local import create_sandbox

if TYPE_CHECKING:
    from asyncio.subprocess import Process

LOSSES = 17
PAUSE_S = 0.55
LINES_OF_EACH = 20_000
SOURCES = ("load/out", "load/err")


async def start_vendor(server: LocalServer, sandbox_id: str, output: Path) -> Process:
    """`cwsandbox logs ID --follow --timestamps`, into a file."""
    environment = {
        **os.environ,
        "CWSANDBOX_BASE_URL": server.base_url,
        "CWSANDBOX_API_KEY": server.api_key,
        "PYTHONIOENCODING": "utf-8",
    }
    command = ("-m", "cwsandbox", "logs", sandbox_id, "--follow", "--timestamps")
    with output.open("wb") as file:
        return await asyncio.create_subprocess_exec(
            sys.executable, *command, stdout=file, stderr=file, env=environment
        )


async def lose_sessions(server: LocalServer) -> None:
    """The service forgets its sessions and says so, again and again."""
    for _ in range(LOSSES):
        await asyncio.sleep(PAUSE_S)
        server.forget_sessions()
        server.break_streams("error", "SESSION_NOT_FOUND")


def verdict(name: str, log: bytes) -> str:
    """One line of the result."""
    found = oracle.count(log, SOURCES)
    return f"{name:18} {found.good:6} whole lines; wrong: {found.wrong or 'nothing'}"


async def compare(directory: Path) -> list[str]:
    """Both against the same service; one line of result each."""
    async with LocalServer(LocalSettings()) as server:
        program = ("-I", "-S", oracle.__file__, "load", str(directory / "never"))
        options = ("--lines", str(LINES_OF_EACH), "--burst-lines", "20", "--pause-s", "0.009")
        sandbox_id = await create_sandbox(
            server.base_url, server.api_key, sys.executable, (*program, *options), tags=["load"]
        )
        config = write_config(
            directory,
            base_url=server.base_url,
            api_key=server.api_key,
            sandboxes=[{"tags": ["load"]}],
            sinks={"text": file_sink(directory / "ours.log")},
        )
        vendor = await start_vendor(server, sandbox_id, directory / "vendor.log")
        async with running(config, "--until-complete") as daemon:
            await lose_sessions(server)
            await server.wait_ended(sandbox_id)
            await vendor.wait()
            code = await daemon.wait()
        assert code == 0, daemon.log
        printed = server.process(sandbox_id).log.stamped().count(b"\n")
    return [
        f"printed: {printed} lines; sessions lost: {LOSSES}",
        verdict("vendor's CLI", (directory / "vendor.log").read_bytes()),
        verdict("sandbox-forwarder", (directory / "ours.log").read_bytes()),
    ]


def main() -> None:
    """Compare in a directory that is gone afterwards."""
    with tempfile.TemporaryDirectory() as directory:
        print(*asyncio.run(compare(Path(directory))), sep="\n")


if __name__ == "__main__":
    main()
