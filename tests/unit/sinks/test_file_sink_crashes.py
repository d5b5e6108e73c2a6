"""The file sink, killed or cut from power at every single call that it makes to the disk."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from sinks.file import FileSettings, FileSink
from sinks.interface import Stream
from sinks.testing import MemoryState, batch_of, deliver, slice_of
from tests.fakes.disk import FaultyDisk, Killed

if TYPE_CHECKING:
    from pathlib import Path

    from sinks.interface import Batch

A = Stream("sbx-a", "main")
B = Stream("sbx-b", "main")
C = Stream("sbx-c", "side")
HOUR_NS = 3_600_000_000_000
NOON_NS = 1_763_899_200_000_000_000

#: The second batch goes on with one file, begins two, and one slice is in two hours' files.
BATCHES = [
    batch_of(slice_of([(NOON_NS, "a0"), (NOON_NS, "a1")], stream=A)),
    batch_of(
        slice_of([(NOON_NS, "a2"), (NOON_NS + HOUR_NS, "a3")], stream=A, first_line=2),
        slice_of([(NOON_NS, "b0" * 40)], stream=B),
        slice_of([(NOON_NS + 2, "a4")], stream=A, first_line=4),
        slice_of([(NOON_NS, "no newline")], stream=C, ended=False),
    ),
    batch_of(
        slice_of([(NOON_NS, "b1")], stream=B, first_line=1),
        slice_of([(NOON_NS, "a5")], stream=A, first_line=5),
        slice_of([(NOON_NS, "c1")], stream=C, first_line=1),
    ),
]


def settings(root: Path, format_: str) -> FileSettings:
    path = f"{root}/{{sandbox_id}}/{{container}}-{{hour}}.log"
    return FileSettings.model_validate({"path": path, "format": format_})


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


async def run(root: Path, state: MemoryState, format_: str, *batches: Batch) -> None:
    sink = FileSink("test", settings(root, format_))
    await sink.open(state)
    try:
        await deliver(sink, state, *batches)
    finally:
        await sink.close()


async def expected_contents(root: Path, format_: str) -> dict[str, bytes]:
    root.mkdir()
    await run(root, MemoryState(), format_, *BATCHES)
    return contents(root)


async def die_in_the_second_batch(
    disk: FaultyDisk, root: Path, state: MemoryState, format_: str, call: int
) -> bool:
    """Returns whether the process died; else it got through, but nobody heard of it."""
    sink = FileSink("test", settings(root, format_), files=disk)
    await sink.open(state)
    await deliver(sink, state, BATCHES[0])
    disk.kill_at = len(disk.calls) + call
    try:
        await sink.write(BATCHES[1])
    except Killed:
        return True
    else:
        return False
    finally:
        disk.kill()
        await sink.close()


@pytest.mark.parametrize("format_", ["text", "ndjson"])
@pytest.mark.parametrize("power_cut", [False, True])
async def test_every_byte_is_there_once_after_a_crash_at_any_call(
    tmp_path: Path, format_: str, power_cut: bool
) -> None:
    expected = await expected_contents(tmp_path / "expected", format_)
    call, died = 0, True
    while died:
        call += 1
        root = tmp_path / str(call)
        root.mkdir()
        state = MemoryState()
        disk = FaultyDisk(root)
        died = await die_in_the_second_batch(disk, root, state, format_, call)
        if power_cut:
            disk.cut_power()
        await run(root, state, format_, *BATCHES[1:])
        assert contents(root) == expected, f"died at call {call}: {disk.calls[-1]}"
    assert call > 20


async def test_a_confirmed_batch_survives_a_power_cut(tmp_path: Path) -> None:
    expected = await expected_contents(tmp_path / "expected", "text")
    root = tmp_path / "root"
    root.mkdir()
    disk, state = FaultyDisk(root), MemoryState()
    sink = FileSink("test", settings(root, "text"), files=disk)
    await sink.open(state)
    await deliver(sink, state, *BATCHES)
    disk.cut_power()
    await sink.close()
    assert contents(root) == expected


async def test_two_crashes_in_a_row_leave_one_copy(tmp_path: Path) -> None:
    expected = await expected_contents(tmp_path / "expected", "text")
    root = tmp_path / "root"
    root.mkdir()
    state = MemoryState()
    await run(root, state, "text", BATCHES[0])
    for most_calls in (45, 60):
        disk = FaultyDisk(root)
        disk.kill_at = most_calls
        sink = FileSink("test", settings(root, "text"), files=disk)
        await sink.open(state)
        with suppress(Killed):
            await sink.write(batch_of(*BATCHES[1].slices, *BATCHES[2].slices))
        disk.kill()
        await sink.close()
    await run(root, state, "text", *BATCHES[1:])
    assert contents(root) == expected


async def test_a_torn_block_after_a_power_cut_is_set_aside_and_written_right(
    tmp_path: Path,
) -> None:
    state = MemoryState()
    await run(tmp_path, state, "text", BATCHES[0])
    path = tmp_path / "sbx-a" / "main-12.log"
    confirmed = path.read_bytes()
    with path.open("ab") as file:
        file.write(bytes(10))
    await run(tmp_path, state, "text", BATCHES[1])
    assert path.read_bytes().startswith(confirmed + b"2025-11-23T12:00:00.000000000Z a2\n")
    assert b"\0" not in path.read_bytes()
    assert path.with_name(path.name + ".unconfirmed").read_bytes() == bytes(10)
