"""Where encoders run makes no difference, save to who dies with whom."""

from __future__ import annotations

import asyncio
import os
import resource
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sinks.interface import SinkUnavailableError
from sinks.ndjson import encode_lines
from sinks.workers import Encoders
from tests.fakes.encoders import (
    BrokenEncoderError,
    breaks,
    dies,
    picklable_slice,
    process_id,
    stays,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT = Path(__file__).parents[3]
_LONG_MS = 60_000

#: A daemon with one worker. The group gets its signals while that one begins, and afterwards.
_DAEMON = """
import asyncio, os, signal, sys
from sinks.workers import Encoders
from tests.fakes.encoders import process_id

async def main():
    got = []
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, got.append, number)
    encoders = Encoders(1)
    call = asyncio.create_task(encoders.run(process_id))
    await asyncio.sleep(0)
    os.killpg(0, signal.SIGINT)
    os.killpg(0, signal.SIGTERM)
    first = await call
    os.killpg(0, signal.SIGINT)
    os.killpg(0, signal.SIGTERM)
    print(first, await encoders.run(process_id), len(got) >= 2, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def processes() -> Iterator[Encoders]:
    encoders = Encoders(1)
    yield encoders
    asyncio.run(encoders.close())


async def test_an_encoder_gives_the_same_in_a_thread_and_in_a_process(processes: Encoders) -> None:
    source = picklable_slice(b"one", b"\xff", b"three")
    there = await processes.run(encode_lines, source)
    assert there == await Encoders(0).run(encode_lines, source) == encode_lines(source)


async def test_it_runs_where_the_setting_says(processes: Encoders) -> None:
    assert await Encoders(0).run(process_id) == os.getpid()
    assert await processes.run(process_id) != os.getpid()


async def test_what_an_encoder_raises_comes_out(processes: Encoders) -> None:
    for encoders in (Encoders(0), processes):
        with pytest.raises(BrokenEncoderError, match="as it is"):
            await encoders.run(breaks, "as it is")


async def test_a_cancelled_call_harms_no_other(processes: Encoders) -> None:
    for encoders in (Encoders(0), processes):
        for _ in range(3):
            call = asyncio.create_task(encoders.run(process_id))
            await asyncio.sleep(0)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        assert await encoders.run(process_id)


async def test_a_worker_that_dies_costs_an_attempt_and_nothing_else(tmp_path: Path) -> None:
    encoders = Encoders(2)
    where = tmp_path / "pipe"
    os.mkfifo(where)
    busy = asyncio.create_task(encoders.run(stays, where))
    stuck = os.pidfd_open(int(await asyncio.to_thread(where.read_text)))
    forgotten = asyncio.create_task(encoders.run(dies))
    waiting = [asyncio.create_task(encoders.run(process_id)) for _ in range(4)]
    await asyncio.sleep(0)
    forgotten.cancel()
    with pytest.raises(SinkUnavailableError, match="others are started"):
        await busy
    await asyncio.gather(*waiting, return_exceptions=True)
    assert await asyncio.to_thread(ended, stuck)
    assert await encoders.run(process_id) != os.getpid()
    await encoders.close()


async def test_without_descriptors_there_is_no_worker_until_there_are_some() -> None:
    encoders = Encoders(1)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest, limits[1]))
    taken = []
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        with pytest.raises(SinkUnavailableError, match="Too many open files"):
            await encoders.run(process_id)
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert await encoders.run(process_id) != os.getpid()
    await encoders.close()


async def test_a_worker_that_died_in_the_meantime_is_noticed_at_the_next_call() -> None:
    encoders = Encoders(1)
    worker = await encoders.run(process_id)
    descriptor = os.pidfd_open(worker)
    os.kill(worker, signal.SIGKILL)
    assert await asyncio.to_thread(ended, descriptor)
    with pytest.raises(SinkUnavailableError, match="died"):
        await encoders.run(process_id)
    assert await encoders.run(process_id) != worker
    await encoders.close()


async def test_closing_ends_the_processes_and_opening_again_needs_nothing() -> None:
    encoders = Encoders(1)
    await encoders.close()
    worker = os.pidfd_open(await encoders.run(process_id))
    await encoders.close()
    await encoders.close()
    assert await asyncio.to_thread(ended, worker)


def test_a_worker_leaves_signals_to_the_daemon_and_dies_with_it() -> None:
    command = [sys.executable, "-c", _DAEMON]
    with subprocess.Popen(
        command, cwd=_ROOT, stdout=subprocess.PIPE, start_new_session=True, text=True
    ) as daemon:
        assert daemon.stdout is not None
        first, second, has_signals = daemon.stdout.readline().split()
        assert (first, has_signals) == (second, "True")
        worker = os.pidfd_open(int(first))
        daemon.kill()
        daemon.wait()
        assert ended(worker)


def ended(descriptor: int) -> bool:
    """Wait for the end of the process behind a pidfd."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    try:
        return bool(poll.poll(_LONG_MS))
    finally:
        os.close(descriptor)
