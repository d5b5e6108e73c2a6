"""Where encoders run: in a thread of the daemon, or in processes of their own.

An encoder is a pure function of picklable values, so that it does not matter where. A process that
dies, or a pool that cannot be made, costs one attempt: the batch comes again.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import TYPE_CHECKING, TypeVar

from sinks.interface import SinkUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_T = TypeVar("_T")

_PR_SET_PDEATHSIG = 1
#: A terminal or a service manager sends them to all processes; the daemon decides what they mean.
_SIGNALS_OF_THE_DAEMON = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})


class Encoders:
    """Runs encoders beside the event loop.

    Args:
        workers: How many processes; 0 for a thread of this one. They are started from the thread
            of the event loop and die with it.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None

    async def run(self, encode: Callable[..., _T], *args: object) -> _T:
        """The encoder's result; what it raises comes out.

        A cancelled call may go on in the background, to no effect.

        Raises:
            SinkUnavailableError: A worker died, or none can be started; the next call tries again.
        """
        if not self._workers:
            return await asyncio.to_thread(encode, *args)
        try:
            pool = self._pool = self._pool or self._new_pool()
            call = asyncio.wrap_future(_submit(pool, encode, *args))
        except OSError as error:
            why = error.strerror or "no reason given"
            text = f"no process that encodes can be started: {why}"
            raise SinkUnavailableError(text) from error
        except BrokenExecutor as error:
            raise self._give_up(self._pool) from error
        call.add_done_callback(_look_at)
        try:
            # A pool that breaks leaves the calls behind a cancelled one without an end.
            return await asyncio.shield(call)
        except BrokenExecutor as error:
            raise self._give_up(pool) from error

    def _give_up(self, pool: ProcessPoolExecutor | None) -> SinkUnavailableError:
        """Forget a pool of which a process died, unless somebody did so already."""
        if pool is self._pool:
            self._pool = None
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)
        return SinkUnavailableError("a process that encodes died; others are started")

    async def close(self) -> None:
        """End the processes; what they were doing is lost, and nobody waits for it any more."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await asyncio.to_thread(pool.shutdown, wait=True, cancel_futures=True)

    def _new_pool(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            self._workers,
            # A fork would copy the spool's connections and locks held by other threads.
            mp_context=_WorkerContext(),
            initializer=_begin_worker,
            initargs=(os.getpid(),),
        )


class _WorkerProcess(SpawnProcess):
    def terminate(self) -> None:
        """What a pool does with the others when one has died; workers ignore SIGTERM."""
        self.kill()


class _WorkerContext(SpawnContext):
    Process = _WorkerProcess


def _submit(pool: ProcessPoolExecutor, encode: Callable[..., _T], *args: object) -> Future[_T]:
    """Hand over a call, and start a process for it if need be.

    Raises:
        OSError: There is no memory for one, or no descriptor.
        BrokenExecutor: One has died.
    """
    # Started first, since starting it unblocks the signals.
    resource_tracker.ensure_running()
    with _signals_blocked():
        return pool.submit(encode, *args)


def _look_at(call: asyncio.Future[_T]) -> None:
    """Nobody else does, when the caller was cancelled."""
    if not call.cancelled():
        call.exception()


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """A process that begins now has them blocked until it can ignore them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS_OF_THE_DAEMON)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker(parent: int) -> None:
    """Leave signals to the daemon, and die with it: also when it was killed."""
    for number in _SIGNALS_OF_THE_DAEMON:
        signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked to be told
        os.kill(os.getpid(), signal.SIGKILL)
