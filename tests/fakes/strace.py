"""System calls that fail, take long, or kill: a daemon under `strace` with its fault injection.

What is injected is an expression of `strace --inject`, such as `fdatasync:error=EIO:when=3` or
`write:delay_enter=200000` (microseconds). `when` counts per thread, and every thread that writes to
the spool or to a file is one of its own: the third call of any thread is meant. Tests are skipped
where there is no strace, or where it may not trace.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from tests.fakes.daemon import DaemonProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path


@asynccontextmanager
async def traced(
    config: Path, *options: str, trace: Path, inject: Sequence[str], paths: Sequence[Path] = ()
) -> AsyncIterator[DaemonProcess]:
    """A forked daemon whose calls fail as told from the first one on; killed at the end.

    Args:
        config: Its configuration.
        options: What else stands on its command line.
        trace: Where the calls that are traced are written down.
        inject: Which calls fail, and how.
        paths: If given, only calls on these files.
    """
    daemon = await DaemonProcess.fork(config, *options, paused=True)
    try:
        async with attached(daemon.pid, trace=trace, inject=inject, paths=paths):
            daemon.send(signal.SIGCONT)
            try:
                yield daemon
            finally:
                await daemon.kill()
    finally:
        await daemon.kill()


@asynccontextmanager
async def attached(
    pid: int, *, trace: Path, inject: Sequence[str], paths: Sequence[Path] = ()
) -> AsyncIterator[None]:
    """Let the calls of a daemon that runs fail as told, until the end of the block.

    Args:
        pid: The daemon's process id.
        trace: See `traced`.
        inject: See `traced`.
        paths: See `traced`.
    """
    process = await asyncio.create_subprocess_exec(
        *(_strace(), "-f", "-p", str(pid), *_expressions(trace, inject, paths)),
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        said = await process.stderr.readline()
        assert b"attached" in said, said
        yield
    finally:
        # Not `process.send_signal`, which reaps it behind asyncio's back if it has just ended.
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGINT)  # lets go of the daemon first
        await process.communicate()


def _expressions(trace: Path, inject: Sequence[str], paths: Sequence[Path]) -> list[str]:
    calls = ",".join(one.partition(":")[0] for one in inject)
    expressions = ["-o", str(trace), "-e", f"trace={calls}"]
    for one in inject:
        expressions += ["-e", f"inject={one}"]
    for path in paths:
        expressions += ["-P", str(path)]
    return expressions


def _strace() -> str:
    command = shutil.which("strace")
    if command is None:
        pytest.skip("there is no strace")
    tried = subprocess.run(
        [command, "-o", "/dev/null", "-e", "trace=none", "true"],
        capture_output=True,
        check=False,
        text=True,
    )
    if tried.returncode:
        pytest.skip(f"strace may not trace here: {tried.stderr.strip()}")
    return command
