"""Where encoders run: in a thread of the daemon, or in processes of their own.

An encoder is a pure function of picklable values, so that it does not matter where. A process that
dies, or a pool that cannot be made, costs one attempt: the batch comes again.
"""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import signal
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from sinks.interface import SinkUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")

_PR_SET_PDEATHSIG = 1


class Encoders:
    """Runs encoders beside the event loop.

    Args:
        workers: How many processes; 0 for a thread of this one.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None

    async def run(self, encode: Callable[..., _T], *args: object) -> _T:
        """The encoder's result; what it raises comes out.

        A cancelled call may go on in the background, to no effect.

        Raises:
            SinkUnavailableError: A worker died; others are started with the next call.
        """
        if not self._workers:
            return await asyncio.to_thread(encode, *args)
        pool = self._pool = self._pool or self._new_pool()
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, encode, *args)
        except BrokenExecutor as error:
            if self._pool is pool:
                self._pool = None
                pool.shutdown(wait=False, cancel_futures=True)
            raise SinkUnavailableError("a process that encodes died; others are started") from error

    async def close(self) -> None:
        """End the processes; what they were doing is lost, and nobody waits for it any more."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await asyncio.to_thread(pool.shutdown, wait=True, cancel_futures=True)

    def _new_pool(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            self._workers,
            # A fork would copy the spool's connections and locks held by other threads.
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin_worker,
            initargs=(os.getpid(),),
        )


def _begin_worker(parent: int) -> None:
    """Leave signals to the daemon, and die with it: also when it was killed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked to be told
        os.kill(os.getpid(), signal.SIGKILL)
