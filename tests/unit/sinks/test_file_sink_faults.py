"""The file sink and what others do to its files, its directories, its descriptors and its state."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from sinks.file import FileSettings, FileSink
from sinks.interface import SinkError, SinkMisconfiguredError, Stream
from sinks.testing import MemoryState, batch_of, deliver, slice_of
from tests.fakes.disk import FaultyDisk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sinks.interface import Batch

NOON_NS = 1_763_899_200_000_000_000
NOON = b"2025-11-23T12:00:00.000000000Z "


def one(text: str, first_line: int = 0, stream: str = "sbx-1") -> Batch:
    source = Stream(stream, "main")
    return batch_of(slice_of([(NOON_NS, text)], stream=source, first_line=first_line))


class Bench:
    """Sinks on one path, closed at the end."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.disk = FaultyDisk(root)
        self.state = MemoryState()
        self.path = root / "logs" / "out.log"
        self.sinks: list[FileSink] = []

    async def sink(self, path: str = "logs/out.log", **settings: object) -> FileSink:
        made = FileSettings.model_validate({"path": f"{self.root}/{path}", **settings})
        sink = FileSink("test", made, files=self.disk)
        self.sinks.append(sink)
        await sink.open(self.state)
        return sink

    async def deliver(self, sink: FileSink, *batches: Batch) -> None:
        await deliver(sink, self.state, *batches)

    async def reopen(self, sink: FileSink, values: dict[str, bytes]) -> None:
        await sink.close()
        self.state.values = dict(values)
        await sink.open(self.state)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    for sink in bench.sinks:
        await sink.close()
    assert bench.disk.open_fds == set()


async def test_marks_of_files_of_earlier_runs_are_forgotten(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = await bench.sink("{sandbox_id}.log")
    for n in range(10):
        await bench.deliver(sink, one("x", stream=f"sbx-{n}"))
    monkeypatch.setattr("sinks.file._REMEMBERED_FILES", 4)
    await bench.reopen(sink, bench.state.values)
    await bench.deliver(sink, one("y", 1, "sbx-9"))
    assert len(bench.state.values) == 4
    await bench.deliver(sink, *(one("y", 1, f"sbx-{n}") for n in range(9)))
    for n in range(10):
        assert (bench.root / f"sbx-{n}.log").read_bytes() == NOON + b"x\n" + NOON + b"y\n"


async def test_a_mark_with_unconfirmed_bytes_behind_it_is_not_forgotten(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = await bench.sink("{sandbox_id}.log")
    for n in range(10):
        await bench.deliver(sink, one("x", stream=f"sbx-{n}"))
    await sink.write(one("y", 1, "sbx-0"))  # a crash comes before it is confirmed
    monkeypatch.setattr("sinks.file._REMEMBERED_FILES", 1)
    await bench.reopen(sink, bench.state.values)
    await bench.deliver(sink, one("y", 1, "sbx-9"), one("z", 2, "sbx-9"))
    assert len(bench.state.values) == 2
    await bench.deliver(sink, one("y", 1, "sbx-0"))
    assert (bench.root / "sbx-0.log").read_bytes() == NOON + b"x\n" + NOON + b"y\n"


@pytest.mark.parametrize("restart", [False, True])
async def test_a_long_line_is_whole_however_many_other_files_are_written_meanwhile(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, *, restart: bool
) -> None:
    monkeypatch.setattr("sinks.file._REMEMBERED_FILES", 3)
    sink = await bench.sink("{sandbox_id}.log")
    for number, text in enumerate([b"long ", b"line ", b"end"], start=1):
        part = slice_of([(NOON_NS, text)], part=number, ended=number == 3)
        await bench.deliver(sink, batch_of(part))
        for n in range(6):
            await bench.deliver(sink, one("x", stream=f"other-{number}-{n}"))
        if restart:
            await bench.reopen(sink, bench.state.values)
    assert (bench.root / "sbx-1.log").read_bytes() == NOON + b"long line end\n"
    assert len(bench.state.values) == 3


async def test_an_unfinished_line_is_forgotten_with_its_file(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sinks.file._REMEMBERED_FILES", 1)
    sink = await bench.sink("{sandbox_id}.log")
    begun = slice_of([(NOON_NS, "never ends")], part=1, ended=False)
    await bench.deliver(sink, batch_of(begun), one("x", stream="other"))
    assert len(bench.state.values) == 2
    (bench.root / "sbx-1.log").unlink()
    for n in range(3):
        await bench.deliver(sink, one("x", stream=f"other-{n}"))
    assert len(bench.state.values) == 1


async def test_newer_bytes_beside_an_old_state_are_set_aside_and_never_destroyed(
    bench: Bench,
) -> None:
    sink = await bench.sink()
    await bench.deliver(sink, one("before"))
    backup = dict(bench.state.values)
    await bench.deliver(sink, one("after", 1), one("no longer at the server", 2))
    await bench.reopen(sink, backup)
    await bench.deliver(sink, one("after", 1), one("another line", 2))
    assert bench.path.read_bytes() == b"".join(
        NOON + text + b"\n" for text in (b"before", b"after", b"another line")
    )
    beside = bench.path.with_name("out.log.unconfirmed")
    assert beside.read_bytes() == NOON + b"no longer at the server\n"


async def test_what_was_set_aside_stays_when_more_is(bench: Bench) -> None:
    sink = await bench.sink()
    await bench.deliver(sink, one("before"))
    backup = dict(bench.state.values)
    for text in ("first", "second", "third"):
        await bench.reopen(sink, backup)
        await bench.deliver(sink, one(text, 1))
    assert bench.path.read_bytes() == NOON + b"before\n" + NOON + b"third\n"
    beside = bench.path.with_name("out.log.unconfirmed")
    assert beside.read_bytes() == NOON + b"first\n" + NOON + b"second\n"


async def test_a_directory_that_becomes_a_file_holds_the_sink_until_it_is_mended(
    bench: Bench,
) -> None:
    sink = await bench.sink("logs/{sandbox_id}/out.log")
    await bench.deliver(sink, one("x"))
    shutil.rmtree(bench.root / "logs" / "sbx-1")
    (bench.root / "logs" / "sbx-1").write_bytes(b"in the way")
    with pytest.raises(SinkError, match="not a directory"):
        await sink.write(one("y", 1))
    assert (bench.root / "logs" / "sbx-1").read_bytes() == b"in the way"
    (bench.root / "logs" / "sbx-1").unlink()
    await bench.deliver(sink, one("y", 1))
    assert (bench.root / "logs" / "sbx-1" / "out.log").read_bytes() == NOON + b"y\n"


async def test_copytruncate_loses_nothing_that_it_copied(bench: Bench) -> None:
    sink = await bench.sink()
    await bench.deliver(sink, one("x"))
    copy = bench.path.with_name("out.log.1")
    shutil.copy(bench.path, copy)
    os.truncate(bench.path, 0)
    await bench.deliver(sink, one("y", 1), one("z", 2))
    assert copy.read_bytes() == NOON + b"x\n"
    assert bench.path.read_bytes() == NOON + b"y\n" + NOON + b"z\n"


async def test_a_second_sink_through_a_linked_directory_is_refused(bench: Bench) -> None:
    first = await bench.sink()
    (bench.root / "link").symlink_to(bench.root / "logs")
    second = await bench.sink("link/out.log")
    await bench.deliver(first, one("x"))
    with pytest.raises(SinkMisconfiguredError, match="another sink or process"):
        await second.write(one("y"))
    assert bench.path.read_bytes() == NOON + b"x\n"


async def test_a_device_is_refused(bench: Bench) -> None:
    sink = await bench.sink()
    try:
        os.mknod(bench.path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root may make a device")
    with pytest.raises(SinkMisconfiguredError, match="not a regular file"):
        await sink.write(one("x"))


async def test_a_directory_swapped_for_a_link_all_the_time_is_never_written_through(
    bench: Bench,
) -> None:
    target = bench.root / "target"
    target.mkdir()
    sink = await bench.sink("logs/{sandbox_id}/out.log", max_open_files=1)
    where = bench.root / "logs" / "sbx-1"
    enough = threading.Event()

    def swap() -> None:
        while not enough.is_set():
            shutil.rmtree(where, ignore_errors=True)
            with suppress(FileExistsError):  # the sink was faster
                where.symlink_to(target)
                where.unlink()

    attacker = threading.Thread(target=swap)
    attacker.start()
    try:
        for n in range(150):
            try:
                await bench.deliver(sink, one("x", n))
            except SinkError:
                continue
    finally:
        enough.set()
        attacker.join()
    assert list(target.iterdir()) == []


_UNDER_A_LOW_LIMIT = """
import asyncio, resource, sys
from sinks.file import FileSettings, FileSink
from sinks.interface import SinkUnavailableError, Stream
from sinks.testing import MemoryState, batch_of, slice_of

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

async def main():
    settings = {"path": sys.argv[1] + "/{sandbox_id}.log", "rotate": {"size": 1024}}
    sink, state = FileSink("test", FileSettings.model_validate(settings)), MemoryState()
    refusals = 0
    await sink.open(state)
    for line in range(3):
        slices = [
            slice_of([(1, f"{n} {line} " + "x" * 600)], stream=Stream(f"sbx-{n}", "main"))
            for n in range(1000)
        ]
        while True:
            try:
                state.commit(await sink.write(batch_of(*slices)))
                break
            except SinkUnavailableError:
                refusals += 1
                assert refusals < 10, "it does not go on with fewer files"
    await sink.close()

asyncio.run(main())
"""


def test_thousands_of_files_pass_through_a_low_descriptor_limit(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", _UNDER_A_LOW_LIMIT, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("*.log"))) == 1000
    for n in (0, 499, 999):
        assert (tmp_path / f"sbx-{n}.log").read_bytes().count(b"\n") == 1
    assert len(list(tmp_path.glob("*.log.000001"))) == 1000
