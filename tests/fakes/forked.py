"""Daemons forked from a process that has imported everything already.

A start of the real command is mostly importing (measured: 0.5 of 0.6 s), and nothing on disk
happens then. For a hundred lives that are about what happens afterwards it is done once. Each life
is a process of its own all the same, to be signalled and killed like any other.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import signal
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkServerProcess

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["forwarder.cli", "forwarder.app", "uvloop", __name__])


class ForkedProcess:
    """One run of the command; what the tests use of `asyncio.subprocess.Process`.

    Attributes:
        stderr: What it says.
    """

    def __init__(self, process: ForkServerProcess, stderr: asyncio.StreamReader) -> None:
        self.stderr = stderr
        self._process = process
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(process.sentinel, self._end)

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, or less the signal that ended it; None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to it."""
        os.kill(self.pid, number)

    async def wait(self) -> int:
        """Return its exit code once it has ended."""
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._process.sentinel)
        self._process.join()
        self._ended.set()


async def fork(*arguments: str, limit: int) -> ForkedProcess:
    """Run `sandbox-forwarder` with these arguments; `limit` is the longest line it may say."""
    ours, its = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_be_the_command, args=(its, arguments), daemon=True)
    await asyncio.to_thread(process.start)
    its.close()
    stderr = asyncio.StreamReader(limit)
    with ours:
        pipe = os.fdopen(os.dup(ours.fileno()), "rb", buffering=0)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stderr), pipe
    )
    return ForkedProcess(process, stderr)


def _be_the_command(stderr: Connection, arguments: tuple[str, ...]) -> None:
    os.dup2(stderr.fileno(), 2)
    stderr.close()
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    from forwarder import cli

    sys.argv = ["sandbox-forwarder", *arguments]
    cli.main()
