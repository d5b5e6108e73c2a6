"""The console sink, on pipes, files and terminals."""

from __future__ import annotations

import asyncio
import os
import pty
import subprocess
import sys
import tty
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from sinks.console import ConsoleSettings, ConsoleSink
from sinks.interface import Sink, SinkMisconfiguredError, SinkUnavailableError
from sinks.testing import MemoryState, batch_of, end_of, gap_of, slice_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ROOT = Path(__file__).parents[3]
BATCH = batch_of(slice_of([(1, "one"), (2, "two")]))
#: More than any pipe holds.
LARGE = batch_of(slice_of([(n, "x" * 1000) for n in range(2000)]))
SHOWN = b"sbx-1/main | one\nsbx-1/main | two\n"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


async def opened(descriptor: int, **more: Any) -> ConsoleSink:
    settings = ConsoleSettings.model_validate({"type": "console", "stamp": False, **more})
    sink = ConsoleSink("console", settings, descriptor=descriptor)
    assert isinstance(sink, Sink)
    await sink.open(MemoryState())
    return sink


async def test_a_batch_is_written_line_by_line(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    sink = await opened(writer)
    assert await sink.write(BATCH) == {}
    assert os.read(reader, 4096) == SHOWN
    await sink.write(batch_of(end_of(), gap_of()))
    assert os.read(reader, 4096).startswith(b"sbx-1/main ! gap {")
    await sink.close()


async def test_what_has_no_record_writes_nothing(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.set_blocking(reader, False)
    sink = await opened(writer)
    await sink.write(batch_of())
    await sink.write(batch_of(end_of()))
    with pytest.raises(BlockingIOError):
        os.read(reader, 1)


async def test_a_pipe_that_is_full_is_waited_for(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    sink = await opened(writer)
    attempt = asyncio.create_task(sink.write(LARGE))
    wanted = len(b"sbx-1/main | " + b"x" * 1000 + b"\n") * 2000
    found = await asyncio.to_thread(read, reader, wanted)
    await attempt
    assert len(found) == wanted


def read(descriptor: int, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        found += os.read(descriptor, 1 << 20)
    return bytes(found)


async def test_a_write_that_blocks_can_be_cancelled_and_the_next_begins_a_line(
    pipe: tuple[int, int],
) -> None:
    reader, writer = pipe
    sink = await opened(writer)
    attempt = asyncio.create_task(sink.write(LARGE))
    first = await asyncio.to_thread(os.read, reader, 100)
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt
    again = asyncio.create_task(sink.write(BATCH))
    found = first
    while not found.endswith(SHOWN):
        found += await asyncio.to_thread(os.read, reader, 1 << 20)
    await again
    lines = found.decode().splitlines()
    assert lines[-2:] == ["sbx-1/main | one", "sbx-1/main | two"]
    assert {len(line) for line in lines[:-3]} == {1013}
    assert len(lines) < 200, "the rest of a cancelled batch is not written any more"


async def test_a_pipe_that_nobody_reads_any_more_holds() -> None:
    reader, writer = os.pipe()
    sink = await opened(writer)
    attempt = asyncio.create_task(sink.write(LARGE))
    await asyncio.to_thread(os.read, reader, 100)
    os.close(reader)
    with pytest.raises(SinkMisconfiguredError, match="nobody reads standard output"):
        await attempt
    with pytest.raises(SinkMisconfiguredError, match="nobody reads standard output"):
        await sink.write(BATCH)
    os.close(writer)


async def test_a_pipe_that_somebody_made_non_blocking_gets_every_byte(
    pipe: tuple[int, int],
) -> None:
    reader, writer = pipe
    os.set_blocking(writer, False)
    sink = await opened(writer)
    attempt = asyncio.create_task(sink.write(LARGE))
    await asyncio.to_thread(read, reader, 1014 * 2000)
    await attempt


async def test_a_full_disk_is_tried_again() -> None:
    with Path("/dev/full").open("wb") as file:
        sink = await opened(file.fileno())
        with pytest.raises(SinkUnavailableError, match="No space left"):
            await sink.write(BATCH)


async def test_a_file_gets_everything(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        sink = await opened(file.fileno(), format="ndjson")
        await sink.write(LARGE)
    assert (tmp_path / "out").read_bytes().count(b"\n") == 2000


@pytest.mark.parametrize("color", [True, False])
async def test_colour_is_for_terminals(color: bool, pipe: tuple[int, int]) -> None:
    screen, terminal = pty.openpty()
    tty.setraw(terminal)
    try:
        await (await opened(terminal, color=color)).write(BATCH)
        assert (b"\x1b[2m" in os.read(screen, 4096)) == color
    finally:
        os.close(terminal)
        os.close(screen)
    await (await opened(pipe[1], color=color)).write(BATCH)
    assert b"\x1b" not in os.read(pipe[0], 4096)


_PROGRAM = """
import asyncio
from sinks.console import ConsoleSettings, ConsoleSink
from sinks.testing import MemoryState, batch_of, slice_of

async def main():
    sink = ConsoleSink("console", ConsoleSettings(stamp=False))
    await sink.open(MemoryState())
    await sink.write(batch_of(slice_of([(1, "one")])))
    attempt = asyncio.create_task(sink.write(batch_of(slice_of([(1, "x" * 500_000)]))))
    await asyncio.get_running_loop().run_in_executor(None, input)
    attempt.cancel()
    await asyncio.gather(attempt, return_exceptions=True)
    await sink.close()

asyncio.run(main())
"""


@pytest.mark.parametrize("ends", [os.pipe, pty.openpty])
def test_standard_output_that_blocks_does_not_hold_up_the_end_of_the_program(
    ends: Callable[[], tuple[int, int]],
) -> None:
    reader, writer = ends()
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM], cwd=_ROOT, stdin=subprocess.PIPE, stdout=writer
    ) as program:
        os.close(writer)
        assert program.stdin is not None
        assert b"one" in os.read(reader, 40)
        program.stdin.write(b"\n")
        program.stdin.flush()
        assert program.wait() == 0
    os.close(reader)


def test_without_a_standard_output_it_is_held() -> None:
    command = f"{sys.executable} -c '{_PROGRAM}' >&-"
    found = subprocess.run(
        ["/bin/sh", "-c", command], check=False, cwd=_ROOT, stderr=subprocess.PIPE, text=True
    )
    assert "SinkMisconfiguredError: there is no standard output" in found.stderr


def test_there_is_one_console() -> None:
    one, other = ConsoleSettings(), ConsoleSettings(format="ndjson")
    assert one.may_meet(other)
    assert one.plan.in_flight == 1
    assert one.plan.timeout_s is None


@pytest.mark.parametrize(
    "wrong", [{"format": "raw"}, {"sandbox": "tag"}, {"stamp": "maybe"}, {"path": "/x"}]
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ConsoleSettings.model_validate({"type": "console", **wrong})
