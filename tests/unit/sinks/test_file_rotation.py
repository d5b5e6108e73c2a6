"""When the file sink puts files away, under which names, and what happens to those afterwards."""

from __future__ import annotations

import asyncio
import errno
import gzip
import logging
import os
import stat
import threading
from typing import TYPE_CHECKING, Any

import pytest
import zstandard

from sinks.file import FileSettings, FileSink
from sinks.files.rotation import PutAway
from sinks.files.shelf import Shelf, StoppedError
from sinks.files.system import Files
from sinks.interface import SinkMisconfiguredError, Stream
from sinks.testing import MemoryState, batch_of, deliver, end_of, gap_of, slice_of
from tests.unit.sinks.renaming_disk import RenamingDisk, read_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from sinks.interface import Batch

NOON_NS = 1_763_899_200_000_000_000  # 2025-11-23T12:00:00Z
HOUR_NS = 3_600_000_000_000
DAY_NS = 24 * HOUR_NS
BIG = "x" * 2000
SIZE: dict[str, Any] = {"rotate": {"size": 1024}}
AT_END: dict[str, Any] = {"rotate": {"at_end": True}}


class GatedDisk(RenamingDisk):
    """A disk on which compressed files wait for their name, and find no room if there is none.

    Attributes:
        gate: While it is clear, the rename to a compressed file waits.
        packing: Set when such a rename has come.
        is_full: Whether a compressed file cannot be written.
        refused: Set when something was refused for that.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.gate = threading.Event()
        self.gate.set()
        self.packing = threading.Event()
        self.is_full = False
        self.refused = threading.Event()
        self._partial_fds: set[int] = set()

    def create_file(self, name: str, mode: int, *, parent_fd: int) -> int:
        fd = super().create_file(name, mode, parent_fd=parent_fd)
        self._partial_fds.discard(fd)
        if name.endswith(".partial"):
            self._partial_fds.add(fd)
        return fd

    def write(self, fd: int, buffers: Sequence[bytes | memoryview], offset: int) -> int:
        if self.is_full and fd in self._partial_fds:
            self.refused.set()
            raise OSError(errno.ENOSPC, "full")
        return super().write(fd, buffers, offset)

    def rename(self, name: str, new_name: str, *, parent_fd: int) -> None:
        if new_name.endswith((".zst", ".gz")):
            self.packing.set()
            self.gate.wait()
        super().rename(name, new_name, parent_fd=parent_fd)


class Bench:
    """A sink on a disk of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.disk = GatedDisk(root)
        self.state = MemoryState()
        self.sinks: list[FileSink] = []
        self.lines = 0

    async def sink(self, path: str = "out.log", **settings: object) -> FileSink:
        made = FileSettings.model_validate({"path": f"{self.root}/{path}", **settings})
        sink = FileSink("test", made, files=self.disk)
        self.sinks.append(sink)
        await sink.open(self.state)
        return sink

    async def deliver(self, sink: FileSink, *batches: Batch) -> None:
        await deliver(sink, self.state, *batches)

    async def put(self, sink: FileSink, *lines: tuple[int, str], stream: str = "sbx-1") -> bytes:
        """Deliver lines, each as a batch of its own; returns their bytes."""
        raw = b""
        for stamp_ns, text in lines:
            source = slice_of([(stamp_ns, text)], stream=Stream(stream, "main"))
            raw += source.raw
            await self.deliver(sink, batch_of(source))
        return raw

    @property
    def names(self) -> list[str]:
        return sorted(path.name for path in self.root.rglob("*") if path.is_file())

    def bytes_of(self, name: str) -> bytes:
        return (self.root / name).read_bytes()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.disk.gate.set()
    for sink in bench.sinks:
        await sink.close()
    assert bench.disk.open_fds == set()
    bench.disk.die()


async def test_a_file_that_has_its_size_is_put_away_under_a_growing_number(bench: Bench) -> None:
    sink = await bench.sink(**SIZE)
    first = await bench.put(sink, (NOON_NS, "a"), (NOON_NS, BIG))
    second = await bench.put(sink, (NOON_NS, BIG))
    third = await bench.put(sink, (NOON_NS, "b"))
    await sink.close()
    assert bench.names == ["out.log", "out.log.000001", "out.log.000002"]
    assert bench.bytes_of("out.log.000001") == first
    assert bench.bytes_of("out.log.000002") == second
    assert bench.bytes_of("out.log") == third


async def test_a_file_is_not_put_away_before_its_bytes_are_confirmed(bench: Bench) -> None:
    sink = await bench.sink(**SIZE)
    batch = batch_of(slice_of([(NOON_NS, BIG)]))
    await sink.write(batch)
    await sink.close()
    assert bench.names == ["out.log"]
    await sink.open(bench.state)
    await bench.deliver(sink, batch)
    await sink.close()
    assert bench.names == ["out.log.000001"]
    assert bench.bytes_of("out.log.000001") == batch.slices[0].raw


async def test_a_line_is_never_cut_between_two_files(bench: Bench) -> None:
    sink = await bench.sink(**SIZE)
    parts = [
        slice_of([(NOON_NS, text)], part=number, ended=number == 3)
        for number, text in enumerate([BIG, BIG, "end"], start=1)
    ]
    await bench.deliver(sink, *(batch_of(part) for part in parts))
    await sink.close()
    assert bench.names == ["out.log.000001"]
    assert bench.bytes_of("out.log.000001") == b"".join(part.raw for part in parts)


@pytest.mark.parametrize("format_", ["text", "ndjson"])
async def test_a_new_day_of_the_lines_stamps_begins_a_new_file(bench: Bench, format_: str) -> None:
    sink = await bench.sink(rotate={"every": "1d"}, format=format_)
    midnight_ns = NOON_NS + 12 * HOUR_NS
    await bench.put(sink, (NOON_NS, "a"), (midnight_ns - 1, "b"), (midnight_ns, "c"))
    await bench.put(sink, (midnight_ns - 1, "late"), (midnight_ns + 1, "d"))
    await sink.close()
    assert bench.names == ["out.log", "out.log.000001"]
    assert bench.bytes_of("out.log.000001").count(b"\n") == 2
    assert bench.bytes_of("out.log").count(b"\n") == 3


async def test_a_stamp_from_a_future_that_nobody_has_seen_begins_no_new_file(bench: Bench) -> None:
    sink = await bench.sink(rotate={"every": "1d"})
    wrong = slice_of([(NOON_NS + 3650 * DAY_NS, "wrong")])
    wrong.received_ns = NOON_NS + 1
    await bench.put(sink, (NOON_NS, "a"))
    await bench.deliver(sink, batch_of(wrong))
    await sink.close()
    assert bench.names == ["out.log"]


async def test_the_end_of_a_stream_puts_its_file_away_and_no_other(bench: Bench) -> None:
    sink = await bench.sink("{sandbox_id}.log", **AT_END)
    first = await bench.put(sink, (NOON_NS, "a"))
    await bench.put(sink, (NOON_NS, "b"), stream="sbx-2")
    await bench.deliver(sink, batch_of(end_of(first_line=1)))
    await sink.close()
    assert bench.names == ["sbx-1.log.000001", "sbx-2.log"]
    assert bench.bytes_of("sbx-1.log.000001") == first


async def test_an_end_may_come_with_the_last_lines_and_after_a_restart(bench: Bench) -> None:
    first = await bench.sink("{sandbox_id}.log", **AT_END)
    await bench.put(first, (NOON_NS, "a"))
    await first.close()
    second = await bench.sink("{sandbox_id}.log", **AT_END)
    last = slice_of([(NOON_NS, "b")], first_line=1)
    await bench.deliver(second, batch_of(last, end_of(first_line=2)))
    await second.close()
    assert bench.names == ["sbx-1.log.000001"]
    assert bench.bytes_of("sbx-1.log.000001").count(b"\n") == 2


async def test_an_end_without_lines_leaves_no_file_behind(bench: Bench) -> None:
    sink = await bench.sink("{sandbox_id}.log", **AT_END)
    await bench.put(sink, (NOON_NS, "a"))
    for _ in range(2):
        await bench.deliver(sink, batch_of(end_of(first_line=1)))
    await bench.deliver(sink, batch_of(end_of(stream=Stream("never", "seen"))))
    await sink.close()
    assert bench.names == ["sbx-1.log.000001"]


async def test_an_end_puts_a_file_away_that_was_written_so_long_ago_that_its_mark_is_forgotten(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sinks.file._REMEMBERED_FILES", 1)
    sink = await bench.sink("{sandbox_id}.log", **AT_END, keep={"age": "1d"})
    raw = await bench.put(sink, (NOON_NS, "a"))
    await bench.put(sink, (NOON_NS + DAY_NS, "b"), stream="sbx-2")
    assert not [key for key in bench.state.values if "sbx-1" in key]
    await bench.deliver(sink, batch_of(end_of(first_line=1)))
    await sink.close()
    assert bench.names == ["sbx-1.log.000001", "sbx-2.log"]
    assert bench.bytes_of("sbx-1.log.000001") == raw
    await sink.open(bench.state)
    await bench.put(sink, (NOON_NS + 2 * DAY_NS, "b"), stream="sbx-2")
    await sink.close()
    assert bench.names == ["sbx-1.log.000001", "sbx-2.log"]  # as new as the newest line was
    await sink.open(bench.state)
    await bench.put(sink, *[(NOON_NS + 2 * DAY_NS + n, "b") for n in (1, 2)], stream="sbx-2")
    await sink.close()
    assert bench.names == ["sbx-2.log"]


async def test_a_stream_that_comes_back_begins_a_new_file(bench: Bench) -> None:
    sink = await bench.sink("{sandbox_id}.log", **AT_END)
    await bench.put(sink, (NOON_NS, "a"))
    await bench.deliver(sink, batch_of(end_of(first_line=1)))
    await bench.put(sink, (NOON_NS, "b"))
    await sink.close()
    assert bench.names == ["sbx-1.log", "sbx-1.log.000001"]
    assert bench.bytes_of("sbx-1.log").endswith(b" b\n")


async def test_an_end_puts_away_the_files_of_all_the_streams_hours(bench: Bench) -> None:
    sink = await bench.sink("{sandbox_id}/{date}-{hour}.log", **AT_END)
    await bench.put(sink, (NOON_NS, "a"), (NOON_NS + HOUR_NS, "b"))
    await bench.put(sink, (NOON_NS, "c"), stream="sbx-2")
    await sink.close()
    sink = await bench.sink("{sandbox_id}/{date}-{hour}.log", **AT_END)
    await bench.deliver(sink, batch_of(end_of(first_line=2)))
    await sink.close()
    assert bench.names == [
        "2025-11-23-12.log",
        "2025-11-23-12.log.000001",
        "2025-11-23-13.log.000001",
    ]
    assert (bench.root / "sbx-2" / "2025-11-23-12.log").exists()


async def test_an_end_is_no_reason_unless_it_is_asked_for(bench: Bench) -> None:
    sink = await bench.sink("{sandbox_id}.log", **SIZE)
    await bench.put(sink, (NOON_NS, "a"))
    await bench.deliver(sink, batch_of(end_of(first_line=1)))
    await sink.close()
    assert bench.names == ["sbx-1.log"]


@pytest.mark.parametrize("compress", ["gzip", "zstd"])
async def test_what_was_put_away_is_compressed_in_its_place(bench: Bench, compress: str) -> None:
    sink = await bench.sink(**SIZE, compress=compress)
    raw = await bench.put(sink, (NOON_NS, BIG))
    await sink.close()
    ending = {"gzip": ".gz", "zstd": ".zst"}[compress]
    assert bench.names == [f"out.log.000001{ending}"]
    assert read_all(bench.root, "out.log") == raw
    assert (bench.root / bench.names[0]).stat().st_mode & 0o777 == 0o640


async def test_compressed_bytes_depend_on_nothing_but_the_lines(bench: Bench) -> None:
    sink = await bench.sink("{sandbox_id}/out.log", **SIZE, compress="gzip")
    source = [(NOON_NS, BIG)]
    slices = [slice_of(source, stream=Stream(name, "main")) for name in ("a", "b")]
    await bench.deliver(sink, batch_of(*slices))
    await sink.close()
    first, second = (bench.bytes_of(f"{name}/out.log.000001.gz") for name in ("a", "b"))
    assert first == second
    assert first[4:8] == bytes(4)  # gzip's time
    assert gzip.decompress(first) == slices[0].raw


async def test_compression_holds_up_neither_other_files_nor_its_own(bench: Bench) -> None:
    sink = await bench.sink("{sandbox_id}.log", **SIZE, compress="zstd")
    bench.disk.gate.clear()
    await bench.put(sink, (NOON_NS, BIG))
    await asyncio.to_thread(bench.disk.packing.wait)
    await bench.put(sink, (NOON_NS, BIG), (NOON_NS, BIG), (NOON_NS, "more"))
    await bench.put(sink, (NOON_NS, BIG), (NOON_NS, "other"), stream="sbx-2")
    assert bench.bytes_of("sbx-1.log").endswith(b" more\n")
    assert bench.bytes_of("sbx-2.log").endswith(b" other\n")
    assert "sbx-1.log.000001" in bench.names
    bench.disk.gate.set()
    await sink.close()
    assert [name for name in bench.names if name.endswith("zst")] == [
        *(f"sbx-1.log.00000{number}.zst" for number in (1, 2, 3)),
        "sbx-2.log.000001.zst",
    ]


async def test_closing_waits_not_for_long_and_the_next_open_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    told_to_stop = Shelf.stop

    def stop(shelf: Shelf) -> None:
        told_to_stop(shelf)
        bench.disk.gate.set()

    monkeypatch.setattr("sinks.files.housekeeper._PATIENCE_S", 0.0)
    monkeypatch.setattr(Shelf, "stop", stop)
    sink = await bench.sink("{sandbox_id}.log", **SIZE, compress="zstd")
    bench.disk.gate.clear()
    raw = await bench.put(sink, (NOON_NS, BIG), (NOON_NS, BIG))
    await asyncio.to_thread(bench.disk.packing.wait)
    await asyncio.wait_for(sink.close(), 30)
    assert bench.names == ["sbx-1.log.000001.zst", "sbx-1.log.000002"]
    assert read_all(bench.root, "sbx-1.log") == raw
    monkeypatch.undo()
    await sink.open(bench.state)
    await sink.close()
    assert bench.names == ["sbx-1.log.000001.zst", "sbx-1.log.000002.zst"]
    assert read_all(bench.root, "sbx-1.log") == raw


def test_a_compression_that_is_told_to_stop_is_begun_anew(tmp_path: Path) -> None:
    file = PutAway(f"{tmp_path}/out.log", 1, pack="gzip")
    (tmp_path / "out.log.000001").write_bytes(b"lines")
    shelf = Shelf(Files(), str(tmp_path), 0o640)
    shelf.stop()
    with pytest.raises(StoppedError):
        shelf.pack(file)
    assert [path.name for path in tmp_path.iterdir()] == ["out.log.000001"]
    assert read_all(tmp_path, "out.log") == b"lines"
    Shelf(Files(), str(tmp_path), 0o640).pack(file)
    assert [path.name for path in tmp_path.iterdir()] == ["out.log.000001.gz"]
    assert read_all(tmp_path, "out.log") == b"lines"


async def test_a_full_disk_leaves_the_plain_file_until_there_is_room(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    sink = await bench.sink(**SIZE, compress="zstd")
    bench.disk.is_full = True
    raw = await bench.put(sink, (NOON_NS, BIG))
    await sink.close()
    assert read_all(bench.root, "out.log") == raw
    assert bench.names == ["out.log.000001"]  # what was begun holds no room
    assert "no space left" in caplog.text
    bench.disk.is_full = False
    await sink.open(bench.state)
    await sink.close()
    assert bench.names == ["out.log.000001.zst"]
    assert read_all(bench.root, "out.log") == raw


async def test_what_did_not_go_well_is_tried_again_without_a_new_reason(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sinks.files.housekeeper._RETRY_S", 0.001)
    sink = await bench.sink(**SIZE, compress="zstd")
    bench.disk.is_full = True
    raw = await bench.put(sink, (NOON_NS, BIG))
    await asyncio.to_thread(bench.disk.refused.wait)
    bench.disk.is_full = False
    await asyncio.to_thread(bench.disk.packing.wait)
    await sink.close()
    assert bench.names == ["out.log.000001.zst"]
    assert read_all(bench.root, "out.log") == raw


async def test_without_descriptors_files_are_put_away_all_the_same(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    sink = await bench.sink("{sandbox_id}.log", **AT_END)
    streams = [Stream(f"sbx-{n}", "main") for n in range(8)]
    await bench.deliver(sink, batch_of(*(slice_of([(NOON_NS, "a")], stream=s) for s in streams)))
    bench.disk.errors["rename"].extend([0, 0, errno.EMFILE])
    await bench.deliver(sink, batch_of(*(end_of(stream=s, first_line=1) for s in streams)))
    await sink.close()
    await sink.open(bench.state)
    await sink.close()
    assert bench.names == [f"sbx-{n}.log.000001" for n in range(8)]
    assert "too many open files" in caplog.text


@pytest.mark.parametrize("taken", ["out.log.000007", "out.log.000007.gz", "out.log.000007.zst"])
@pytest.mark.parametrize("late", [False, True])
async def test_a_name_that_is_there_is_never_overwritten(
    bench: Bench, taken: str, late: bool, caplog: pytest.LogCaptureFixture
) -> None:
    (bench.root / "out.log.000006").write_bytes(b"older")
    sink = await bench.sink(**SIZE, compress="zstd")
    await bench.put(sink, (NOON_NS, "first"))
    if late:
        (bench.root / taken).write_bytes(b"not ours")
    else:
        await sink.close()
        (bench.root / taken).write_bytes(b"not ours")
        await sink.open(bench.state)
    await bench.put(sink, (NOON_NS, BIG))
    await sink.close()
    assert bench.bytes_of(taken) == b"not ours"
    assert bench.bytes_of("out.log.000006") == b"older"
    data = zstandard.ZstdDecompressor().decompressobj()
    assert data.decompress(bench.bytes_of("out.log.000008.zst")).count(b"\n") == 2
    assert ("an older state was restored" in caplog.text) is not late


async def test_a_number_is_not_used_again_when_its_file_was_taken_away(bench: Bench) -> None:
    sink = await bench.sink(**SIZE)
    await bench.put(sink, (NOON_NS, BIG), (NOON_NS, "a"))
    (bench.root / "out.log.000001").unlink()
    await sink.close()
    await sink.open(bench.state)
    await bench.put(sink, (NOON_NS, BIG))
    await sink.close()
    assert bench.names == ["out.log.000002"]


async def test_a_file_that_is_due_is_put_away_behind_the_highest_number_on_the_disk(
    bench: Bench,
) -> None:
    sink = await bench.sink(**SIZE)
    bench.disk.errors["rename"].extend([errno.EIO] * 2)
    raw = await bench.put(sink, (NOON_NS, BIG))
    await sink.close()
    (bench.root / "out.log.000003").write_bytes(b"newer, and those before it were deleted")
    bench.disk.errors["rename"].clear()
    await sink.open(bench.state)
    await sink.close()
    assert bench.names == ["out.log.000003", "out.log.000004"]
    assert bench.bytes_of("out.log.000004") == raw


async def test_a_number_is_not_used_again_when_its_mark_was_forgotten(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sinks.file._REMEMBERED_FILES", 1)
    sink = await bench.sink("{sandbox_id}.log", **SIZE)
    await bench.put(sink, (NOON_NS, BIG), (NOON_NS, "a"))
    await bench.put(sink, (NOON_NS, "b"), (NOON_NS, "b"), stream="sbx-2")
    assert not [key for key in bench.state.values if "sbx-1" in key]
    (bench.root / "sbx-1.log.000001").unlink()
    await bench.put(sink, (NOON_NS, BIG), (NOON_NS, "a"))
    await sink.close()
    assert bench.names == ["sbx-1.log", "sbx-1.log.000002", "sbx-2.log"]


async def test_a_number_is_not_used_again_when_its_directory_was_forgotten(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sinks.files.numbers._REMEMBERED_NAMES", 1)
    sink = await bench.sink("{sandbox_id}/out.log", **SIZE)
    await bench.put(sink, (NOON_NS, BIG), (NOON_NS, "a"))
    (bench.root / "sbx-1" / "out.log.000001").unlink()
    (bench.root / "sbx-1" / "out.log").unlink()
    await bench.put(sink, (NOON_NS, "b"), stream="sbx-2")
    raw = await bench.put(sink, (NOON_NS, BIG))
    await bench.put(sink, (NOON_NS, "a"))
    await sink.close()
    assert bench.bytes_of("sbx-1/out.log.000002") == raw


async def test_a_compressed_file_of_other_content_costs_no_line(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    sink = await bench.sink(**SIZE, compress="zstd")
    bench.disk.is_full = True
    raw = await bench.put(sink, (NOON_NS, BIG))
    await sink.close()
    (bench.root / "out.log.000001.zst").write_bytes(b"somebody else's")
    bench.disk.is_full = False
    await sink.open(bench.state)
    await sink.close()
    assert bench.bytes_of("out.log.000001") == raw
    assert bench.bytes_of("out.log.000001.zst") == b"somebody else's"
    assert "other content" in caplog.text


async def test_what_somebody_takes_away_needs_no_compressing(bench: Bench) -> None:
    sink = await bench.sink("{sandbox_id}/out.log", **SIZE, compress="zstd")
    bench.disk.is_full = True
    await bench.put(sink, (NOON_NS, BIG))
    await sink.close()
    (bench.root / "sbx-1" / "out.log.000001").rename(bench.root / "archived")
    for path in (bench.root / "sbx-1").iterdir():
        path.unlink()
    (bench.root / "sbx-1").rmdir()
    bench.disk.is_full = False
    await sink.open(bench.state)
    await sink.close()
    assert bench.names == ["archived"]
    assert not [key for key in bench.state.keys() if key.startswith("rotated:")]  # noqa: SIM118 - not a mapping


async def test_only_so_many_files_of_each_path_are_kept(bench: Bench) -> None:
    sink = await bench.sink("{sandbox_id}.log", **SIZE, compress="gzip", keep={"count": 2})
    for stream in ("a", "b"):
        await bench.put(sink, *[(NOON_NS, BIG)] * 4, stream=stream)
    await sink.close()
    assert bench.names == [
        *("a.log.000003.gz", "a.log.000004.gz"),
        *("b.log.000003.gz", "b.log.000004.gz"),
    ]


async def test_a_file_that_is_deleted_is_not_deleted_again(bench: Bench) -> None:
    sink = await bench.sink(**SIZE, keep={"count": 1})
    await bench.put(sink, *[(NOON_NS, BIG)] * 4)
    await sink.close()
    assert bench.names == ["out.log.000004"]
    assert bench.disk.calls.count("unlink") == 3 * 4  # each in four forms


async def test_files_that_nobody_remembers_are_never_deleted(bench: Bench) -> None:
    (bench.root / "out.log.000001").write_bytes(b"older")
    sink = await bench.sink(**SIZE, keep={"count": 1, "age": "1d"})
    await bench.put(sink, *[(NOON_NS + 9 * n * DAY_NS, BIG) for n in range(3)])
    await sink.close()
    assert bench.names == ["out.log.000001", "out.log.000004"]


async def test_files_are_old_by_their_lines_stamps(bench: Bench) -> None:
    sink = await bench.sink("{sandbox_id}.log", **SIZE, keep={"age": "2d"})
    await bench.put(sink, (NOON_NS, BIG), (NOON_NS + DAY_NS, BIG))
    await bench.put(sink, (NOON_NS + 2 * DAY_NS, "a"), stream="sbx-2")
    await sink.close()
    assert bench.names == ["sbx-1.log.000001", "sbx-1.log.000002", "sbx-2.log"]
    await sink.open(bench.state)
    await bench.put(sink, (NOON_NS + 2 * DAY_NS + 1, "b"), stream="sbx-2")
    await bench.put(sink, (NOON_NS + 2 * DAY_NS + 2, "b"), stream="sbx-2")
    await sink.close()
    assert bench.names == ["sbx-1.log.000002", "sbx-2.log"]


@pytest.mark.parametrize("years", [-10, 10])
@pytest.mark.parametrize("jumps", ["the server's clock", "this machine's clock"])
async def test_a_clock_that_jumps_ten_years_deletes_nothing(
    bench: Bench, jumps: str, years: int
) -> None:
    sink = await bench.sink(**SIZE, keep={"age": "7d"})
    await bench.put(sink, (NOON_NS, BIG))
    there_ns = NOON_NS + years * 365 * DAY_NS
    source = slice_of([(there_ns if jumps == "the server's clock" else NOON_NS + 1, BIG)])
    source.received_ns = NOON_NS + 1 if jumps == "the server's clock" else there_ns
    await bench.deliver(sink, batch_of(source), batch_of(slice_of([(NOON_NS + 2, "a")])))
    await sink.close()
    await sink.open(bench.state)
    await sink.close()
    assert bench.names == ["out.log", "out.log.000001", "out.log.000002"]


async def test_gap_records_are_no_reason_for_a_new_file(bench: Bench) -> None:
    sink = await bench.sink(rotate={"every": "1h"})
    await bench.put(sink, (NOON_NS, "a"))
    gap = gap_of(from_stamp_ns=NOON_NS, noticed_ns=NOON_NS + DAY_NS)
    await bench.deliver(sink, batch_of(gap))
    await sink.close()
    assert bench.names == ["out.log"]


async def test_what_somebody_appended_is_not_put_away_with_the_file(bench: Bench) -> None:
    sink = await bench.sink(rotate={"every": "1h"})
    raw = await bench.put(sink, (NOON_NS, "a"))
    with (bench.root / "out.log").open("ab") as file:
        file.write(b"foreign\n")
    await bench.put(sink, (NOON_NS + HOUR_NS, "b"))
    await sink.close()
    assert bench.bytes_of("out.log.000001") == raw
    assert bench.bytes_of("out.log.unconfirmed") == b"foreign\n"


async def test_logrotate_and_rotation_do_not_harm_each_other(bench: Bench) -> None:
    sink = await bench.sink(rotate={"every": "1h"})
    await bench.put(sink, (NOON_NS, "a"))
    (bench.root / "out.log").rename(bench.root / "out.log.1")
    await bench.put(sink, (NOON_NS + HOUR_NS, "b"))
    (bench.root / "out.log").write_bytes(b"")  # copytruncate
    await bench.put(sink, (NOON_NS + 2 * HOUR_NS, "c"), (NOON_NS + 3 * HOUR_NS, "d"))
    await sink.close()
    texts = [
        line.split(b" ", 1)[1] for name in bench.names for line in bench.bytes_of(name).splitlines()
    ]
    assert sorted(texts) == [b"a", b"c", b"d"]  # b was truncated by somebody else
    assert "out.log.1" in bench.names


async def test_the_lock_goes_with_the_file_that_is_written(bench: Bench) -> None:
    sink = await bench.sink(**SIZE)
    await bench.put(sink, (NOON_NS, BIG), (NOON_NS, "a"))
    other = FileSink("other", FileSettings(path=f"{bench.root}/out.log"))
    await other.open(MemoryState())
    with pytest.raises(SinkMisconfiguredError, match="another sink or process"):
        await other.write(batch_of(slice_of([(NOON_NS, "b")])))
    await other.close()


async def test_a_rename_that_is_refused_holds_the_sink_and_loses_nothing(bench: Bench) -> None:
    sink = await bench.sink(rotate={"every": "1h"})
    raw = await bench.put(sink, (NOON_NS, "a"))
    bench.disk.errors["rename"].append(errno.EACCES)
    later = batch_of(slice_of([(NOON_NS + HOUR_NS, "b")]))
    with pytest.raises(SinkMisconfiguredError, match="permission denied"):
        await sink.write(later)
    await bench.deliver(sink, later)
    await sink.close()
    assert bench.bytes_of("out.log.000001") == raw
    assert bench.bytes_of("out.log") == later.slices[0].raw


async def test_a_rename_that_fails_behind_the_deliveries_is_told_and_tried_again(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    sink = await bench.sink("{sandbox_id}.log", **AT_END)
    await bench.put(sink, (NOON_NS, "a"))
    bench.disk.errors["rename"].extend([errno.EIO] * 2)
    with caplog.at_level(logging.WARNING):
        await bench.deliver(sink, batch_of(end_of(first_line=1)))
        await sink.close()
    assert bench.names == ["sbx-1.log"]
    assert "input/output error" in caplog.text
    bench.disk.errors["rename"].clear()
    await sink.open(bench.state)
    await sink.close()
    assert bench.names == ["sbx-1.log.000001"]


async def test_a_bug_in_the_background_is_told_and_ends_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sink = await bench.sink(**SIZE, compress="zstd")

    def bug(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("sinks.files.shelf.Shelf.pack", bug)
    await bench.put(sink, (NOON_NS, BIG))
    await sink.close()
    assert "ZeroDivisionError" in caplog.text
    monkeypatch.undo()
    await sink.open(bench.state)
    await bench.put(sink, (NOON_NS, "a"))
    await sink.close()
    assert bench.names == ["out.log", "out.log.000001.zst"]


def _plant_link(path: Path) -> None:
    path.symlink_to(path.with_name("target"))


@pytest.mark.parametrize("plant", [_plant_link, os.mkfifo], ids=["link", "fifo"])
async def test_a_trap_under_a_name_of_ours_is_gone_around(bench: Bench, plant: object) -> None:
    assert callable(plant)
    sink = await bench.sink(**SIZE, compress="zstd")
    await bench.put(sink, (NOON_NS, "x"))
    (bench.root / "target").write_bytes(b"target")
    plant(bench.root / "out.log.000001")
    plant(bench.root / "out.log.000002.partial")
    raw = await bench.put(sink, (NOON_NS, BIG))
    await sink.close()
    assert bench.bytes_of("target") == b"target"
    data = zstandard.ZstdDecompressor().decompressobj()
    assert data.decompress(bench.bytes_of("out.log.000002.zst")).endswith(raw)
    assert not (bench.root / "out.log.000002.partial").exists()
    assert (bench.root / "out.log.000001").lstat().st_mode & 0o170000 != stat.S_IFREG


async def test_rotation_that_is_switched_off_finds_its_file_as_it_was(bench: Bench) -> None:
    sink = await bench.sink(**SIZE)
    bench.disk.errors["rename"].extend([errno.EIO] * 2)
    raw = await bench.put(sink, (NOON_NS, BIG))
    await sink.close()
    bench.disk.errors["rename"].clear()
    plain = await bench.sink()
    raw += await bench.put(plain, (NOON_NS, "a"))
    await plain.close()
    assert bench.names == ["out.log"]
    assert bench.bytes_of("out.log") == raw


def texts(data: bytes) -> Sequence[bytes]:
    return [line.split(b" ", 1)[1][:3] for line in data.splitlines()]


async def test_an_old_state_beside_newer_files_destroys_nothing_and_takes_no_number_twice(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    sink = await bench.sink(**SIZE, compress="zstd")
    await bench.put(sink, (NOON_NS, "a00"))
    backup = dict(bench.state.values)
    await bench.put(sink, *[(NOON_NS, f"{n:03d}" + BIG) for n in range(3)], (NOON_NS, "a04"))
    await sink.close()
    before = texts(read_all(bench.root, "out.log"))
    contents = {name: bench.bytes_of(name) for name in bench.names}
    bench.state.values = backup
    await sink.open(bench.state)
    await bench.put(sink, *[(NOON_NS, f"{n:03d}" + BIG) for n in range(3)], (NOON_NS, "a04"))
    await sink.close()
    del contents["out.log"]
    assert {name: bench.bytes_of(name) for name in contents} == contents
    after = texts(read_all(bench.root, "out.log"))
    assert after[: len(before)] == before
    assert after[len(before) :] == before[1:]
    assert "an older state was restored" in caplog.text
    assert "out.log.unconfirmed" not in bench.names


async def test_an_old_state_that_was_about_to_put_a_file_away_does_not_take_another_for_it(
    bench: Bench,
) -> None:
    sink = await bench.sink(**SIZE, keep={"count": 9})
    bench.disk.errors["rename"].extend([errno.EIO] * 2)
    await bench.put(sink, (NOON_NS, "a00" + BIG))
    await sink.close()
    backup = dict(bench.state.values)
    bench.disk.errors["rename"].clear()
    await sink.open(bench.state)
    await bench.put(sink, *[(NOON_NS, f"a{n:02d}" + BIG) for n in (1, 2)])
    await bench.put(sink, *[(NOON_NS, f"a{n:02d}" + "y" * 400) for n in (3, 4)])
    await sink.close()
    before = {name: bench.bytes_of(name) for name in bench.names}
    assert sorted(before) == ["out.log", "out.log.000001", "out.log.000002", "out.log.000003"]
    newer = await _grown(bench)
    bench.state.values = backup
    await sink.open(bench.state)
    raw = await bench.put(sink, (NOON_NS, "a06"))
    await sink.close()
    assert bench.names == [f"out.log.00000{number}" for number in (1, 2, 3, 4)]
    del before["out.log"]
    assert {name: bench.bytes_of(name) for name in before} == before
    assert bench.bytes_of("out.log.000004") == newer + raw


async def _grown(bench: Bench) -> bytes:
    """The bytes of a file at the path that is longer than the old state's was."""
    (bench.root / "out.log").write_bytes(b"")
    plain = await bench.sink()
    await bench.put(plain, (NOON_NS, "a05" + BIG * 2))
    await plain.close()
    return bench.bytes_of("out.log")


async def test_a_file_that_is_truncated_before_it_is_put_away_goes_on_and_counts_for_nothing(
    bench: Bench,
) -> None:
    sink = await bench.sink(**SIZE, keep={"count": 1})
    await bench.put(sink, (NOON_NS, BIG), (NOON_NS, "a"))
    bench.disk.errors["rename"].extend([errno.EIO] * 2)
    await bench.put(sink, (NOON_NS, BIG))
    await sink.close()
    bench.disk.errors["rename"].clear()
    os.truncate(bench.root / "out.log", 0)
    await sink.open(bench.state)
    raw = await bench.put(sink, (NOON_NS, "b"))
    await sink.close()
    assert bench.names == ["out.log", "out.log.000001"]
    assert bench.bytes_of("out.log") == raw
