"""The file sink among everything that a file system and its other users can do to it."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import shutil
import socket
import stat
import subprocess
from typing import TYPE_CHECKING

import orjson
import pytest
from pydantic import ValidationError

from sinks.file import FileSettings, FileSink
from sinks.interface import SinkMisconfiguredError, SinkUnavailableError, Stream
from sinks.testing import MemoryState, batch_of, deliver, gap_of, slice_of
from tests.fakes.disk import FaultyDisk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from sinks.interface import Batch

NOON_NS = 1_763_899_200_000_000_000
HOUR_NS = 3_600_000_000_000
NOON = b"2025-11-23T12:00:00.000000000Z "
OTHER = Stream("sbx-2", "main")


class Bench:
    """A sink on a disk of its own, closed at the end."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.disk = FaultyDisk(root)
        self.state = MemoryState()
        self.path = root / "out.log"
        self.sinks: list[FileSink] = []

    async def sink(self, path: str = "out.log", **settings: object) -> FileSink:
        made = FileSettings.model_validate({"path": f"{self.root}/{path}", **settings})
        sink = FileSink("test", made, files=self.disk)
        self.sinks.append(sink)
        await sink.open(self.state)
        return sink

    async def deliver(self, sink: FileSink, *batches: Batch) -> None:
        await deliver(sink, self.state, *batches)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    for sink in bench.sinks:
        await sink.close()
    assert bench.disk.open_fds == set()


def one(text: str, first_line: int = 0, stream: Stream | None = None) -> Batch:
    stream = stream or Stream("sbx-1", "main")
    return batch_of(slice_of([(NOON_NS, text)], stream=stream, first_line=first_line))


async def test_text_is_byte_for_byte_what_the_server_sent(bench: Bench) -> None:
    source = slice_of([])
    source.raw = b"2025-11-23T12:00:00Z a \xff\r\n2025-11-23T14:00:00.5+02:00 b\nno stamp\n\n"
    source.line_count = 4
    await bench.deliver(await bench.sink(), batch_of(source))
    assert bench.path.read_bytes() == source.raw


async def test_a_short_write_is_gone_on_with(bench: Bench) -> None:
    sink = await bench.sink()
    bench.disk.most_bytes = 7
    await bench.deliver(sink, one("x" * 100), one("y", 1))
    assert bench.path.read_bytes() == NOON + b"x" * 100 + b"\n" + NOON + b"y\n"


async def test_a_file_that_takes_nothing_is_an_error_and_no_endless_loop(bench: Bench) -> None:
    sink = await bench.sink()
    bench.disk.most_bytes = 0
    with pytest.raises(SinkUnavailableError):
        await sink.write(one("x"))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
@pytest.mark.parametrize("call", ["write", "sync_data", "create_file", "sync_directory"])
async def test_a_full_or_failing_disk_is_waited_for(bench: Bench, number: int, call: str) -> None:
    sink = await bench.sink()
    bench.disk.errors[call].append(number)
    with pytest.raises(SinkUnavailableError, match=r"out\.log|test"):
        await sink.write(one("x"))
    await bench.deliver(sink, one("x"), one("y", 1))
    assert bench.path.read_bytes() == NOON + b"x\n" + NOON + b"y\n"


async def test_a_disk_that_fills_up_in_mid_line_leaves_no_torn_line_to_read(bench: Bench) -> None:
    sink = await bench.sink()
    await bench.deliver(sink, one("x"))
    bench.disk.most_bytes = 5
    bench.disk.errors["write"].extend([0, errno.ENOSPC])
    with pytest.raises(SinkUnavailableError, match="no space left"):
        await sink.write(one("y", 1))
    assert bench.path.read_bytes() == NOON + b"x\n"


async def test_after_a_failed_sync_the_file_is_opened_again_and_everything_rewritten(
    bench: Bench,
) -> None:
    sink = await bench.sink()
    await bench.deliver(sink, one("x"))
    bench.disk.errors["sync_data"].append(errno.EIO)
    with pytest.raises(SinkUnavailableError, match="input/output error"):
        await sink.write(one("y", 1))
    assert bench.disk.open_fds == set()
    before = len(bench.disk.calls)
    await bench.deliver(sink, one("y", 1))
    calls = bench.disk.calls[before:]
    assert calls.index("open_file") < calls.index("write") < calls.index("sync_data")


@pytest.mark.parametrize(
    "number",
    [
        *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR),
        *(errno.ELOOP, errno.EISDIR, errno.ENAMETOOLONG),
    ],
)
async def test_what_somebody_has_to_mend_holds_the_sink(bench: Bench, number: int) -> None:
    sink = await bench.sink()
    bench.disk.errors["open_file"].append(number)
    with pytest.raises(SinkMisconfiguredError, match=r"out\.log"):
        await sink.write(one("x"))
    await bench.deliver(sink, one("x"))
    assert bench.path.read_bytes() == NOON + b"x\n"


async def test_what_has_to_be_mended_is_reported_before_what_may_pass(bench: Bench) -> None:
    sink = await bench.sink("{sandbox_id}.log")
    bench.disk.errors["open_file"].extend([errno.EIO, errno.EACCES])
    with pytest.raises(SinkMisconfiguredError):
        await sink.write(batch_of(*one("x").slices, *one("y", stream=OTHER).slices))


def _symbolic_link(path: Path) -> None:
    path.symlink_to(path.with_name("target"))
    path.with_name("target").write_bytes(b"")


def _dangling_link(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def _hard_link(path: Path) -> None:
    path.with_name("target").write_bytes(b"")
    path.hardlink_to(path.with_name("target"))


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


@pytest.mark.parametrize(
    "plant",
    [_symbolic_link, _dangling_link, _hard_link, _socket, os.mkfifo, os.mkdir],
    ids=lambda plant: plant.__name__.strip("_"),
)
async def test_only_an_ordinary_file_is_written_to(bench: Bench, plant: object) -> None:
    assert callable(plant)
    plant(bench.path)
    sink = await bench.sink()
    with pytest.raises(SinkMisconfiguredError, match=r"out\.log"):
        await sink.write(one("x"))
    target = bench.root / "target"
    assert not target.exists() or target.read_bytes() == b""


async def test_a_directory_that_values_name_is_never_a_link(bench: Bench) -> None:
    (bench.root / "elsewhere").mkdir()
    (bench.root / "sbx-1").symlink_to(bench.root / "elsewhere")
    sink = await bench.sink("{sandbox_id}/out.log")
    with pytest.raises(SinkMisconfiguredError, match="symbolic link"):
        await sink.write(one("x"))
    assert list((bench.root / "elsewhere").iterdir()) == []


async def test_a_link_in_the_operators_own_directory_is_followed(bench: Bench) -> None:
    (bench.root / "real").mkdir()
    (bench.root / "logs").symlink_to(bench.root / "real")
    await bench.deliver(await bench.sink("logs/{sandbox_id}.log"), one("x"))
    assert (bench.root / "real" / "sbx-1.log").exists()


async def test_hostile_names_stay_below_the_directory(bench: Bench) -> None:
    sink = await bench.sink("logs/{sandbox_id}/{container}")
    ids = [
        "../../x",
        "/etc/passwd",
        "..",
        ".",
        "",
        "a\0b",
        "a\nb",
        "%2e%2e%2f",
        "x" * 5000,
        "\u202e",
    ]
    streams = [Stream(a, b) for a in ids for b in ids]
    await bench.deliver(sink, batch_of(*(slice_of([(NOON_NS, "x")], stream=s) for s in streams)))
    files = [path for path in bench.root.rglob("*") if path.is_file()]
    assert len(files) == len(streams)
    assert all(path.parent.parent == bench.root / "logs" for path in files)


async def test_a_second_writer_of_a_file_is_refused(bench: Bench) -> None:
    first, second = await bench.sink(), await bench.sink("./out.log")
    await bench.deliver(first, one("x"))
    with pytest.raises(SinkMisconfiguredError, match="another sink or process"):
        await second.write(one("y"))
    await first.close()
    await bench.deliver(second, one("y", 1))
    assert bench.path.read_bytes() == NOON + b"x\n" + NOON + b"y\n"


async def test_a_renamed_file_is_left_and_a_new_one_begun(bench: Bench) -> None:
    sink = await bench.sink()
    await bench.deliver(sink, one("x"))
    bench.path.rename(bench.root / "out.log.1")
    await bench.deliver(sink, one("y", 1), one("z", 2))
    assert (bench.root / "out.log.1").read_bytes() == NOON + b"x\n"
    assert bench.path.read_bytes() == NOON + b"y\n" + NOON + b"z\n"


async def test_a_renamed_file_with_a_new_one_in_its_place_is_left_too(bench: Bench) -> None:
    sink = await bench.sink()
    await bench.deliver(sink, one("x"))
    bench.path.rename(bench.root / "out.log.1")
    bench.path.touch()
    await bench.deliver(sink, one("y", 1))
    assert bench.path.read_bytes() == NOON + b"y\n"


async def test_a_deleted_directory_comes_back(bench: Bench) -> None:
    sink = await bench.sink("logs/{sandbox_id}/out.log")
    await bench.deliver(sink, one("x"))
    shutil.rmtree(bench.root / "logs")
    await bench.deliver(sink, one("y", 1))
    assert (bench.root / "logs" / "sbx-1" / "out.log").read_bytes() == NOON + b"y\n"


@pytest.mark.parametrize("reopen", [False, True])
async def test_a_file_truncated_from_outside_is_gone_on_with_at_its_end(
    bench: Bench, reopen: bool, caplog: pytest.LogCaptureFixture
) -> None:
    sink = await bench.sink()
    await bench.deliver(sink, one("x" * 50))
    with bench.path.open("r+b") as file:
        file.truncate(3)
    if reopen:
        await sink.open(bench.state)
    with caplog.at_level(logging.WARNING):
        await bench.deliver(sink, one("y", 1), one("z", 2))
    assert bench.path.read_bytes() == b"202\n" + NOON + b"y\n" + NOON + b"z\n"
    assert len(caplog.records) == 1
    assert f"{bench.path} is shorter than what was written to it (3 of 82 bytes)" in caplog.text


async def test_a_file_truncated_between_measuring_and_writing_gets_no_hole(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = await bench.sink()
    await bench.deliver(sink, one("x"))
    append = sink._append

    def truncate_first(*args: object) -> None:
        os.truncate(bench.path, 0)
        monkeypatch.undo()
        append(*args)  # type: ignore[arg-type]  # handed through

    monkeypatch.setattr(sink, "_append", truncate_first)
    with pytest.raises(SinkUnavailableError, match="truncated while"):
        await sink.write(one("y", 1))
    await bench.deliver(sink, one("y", 1))
    assert bench.path.read_bytes() == NOON + b"y\n"


@pytest.mark.parametrize("content", [b"old\n", b"old, no newline"])
async def test_a_file_that_was_there_is_appended_to(bench: Bench, content: bytes) -> None:
    bench.path.write_bytes(content)
    sink = await bench.sink()
    await sink.write(one("x"))  # never confirmed
    await bench.deliver(sink, one("x"))
    assert bench.path.read_bytes() == content.rstrip(b"\n") + b"\n" + NOON + b"x\n"


async def test_what_somebody_else_appended_is_set_aside_and_never_destroyed(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    sink = await bench.sink()
    await bench.deliver(sink, one("x"))
    with bench.path.open("ab") as file:
        file.write(b"foreign\n")
    await bench.deliver(sink, one("y", 1))
    assert bench.path.read_bytes() == NOON + b"x\n" + NOON + b"y\n"
    assert (bench.root / "out.log.unconfirmed").read_bytes() == b"foreign\n"
    assert "held 8 bytes" in caplog.text
    assert "foreign" not in caplog.text


async def test_bytes_that_come_again_are_written_over_without_a_truncation(bench: Bench) -> None:
    sink = await bench.sink()
    await sink.write(one("x"))
    await bench.deliver(sink, one("x"))
    assert "truncate" not in bench.disk.calls


@pytest.mark.parametrize("umask", [0, 0o077])
async def test_modes_do_not_depend_on_the_umask(bench: Bench, umask: int) -> None:
    previous = os.umask(umask)
    try:
        await bench.deliver(await bench.sink("a/{sandbox_id}/out.log"), one("x"))
    finally:
        os.umask(previous)
    file = bench.root / "a" / "sbx-1" / "out.log"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o750
    assert stat.S_IMODE(file.parent.parent.stat().st_mode) == 0o750


async def test_the_mode_is_the_operators_choice(bench: Bench) -> None:
    await bench.deliver(await bench.sink("{sandbox_id}/out.log", mode="0644"), one("x"))
    file = bench.root / "sbx-1" / "out.log"
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o755


async def test_a_slice_across_an_hour_goes_into_two_files(bench: Bench) -> None:
    lines = [(NOON_NS - 1, "a"), (NOON_NS, "b"), (NOON_NS - 1, "late"), (NOON_NS + 1, "c")]
    sink = await bench.sink("{date}-{hour}.log", format="ndjson")
    await bench.deliver(sink, batch_of(slice_of(lines)))
    read = {
        name: [orjson.loads(line)["text"] for line in (bench.root / name).read_bytes().splitlines()]
        for name in ("2025-11-23-11.log", "2025-11-23-12.log")
    }
    assert read == {"2025-11-23-11.log": ["a", "late"], "2025-11-23-12.log": ["b", "c"]}


async def test_a_thousand_files_pass_through_few_descriptors(bench: Bench) -> None:
    sink = await bench.sink("{sandbox_id}.log", max_open_files=16)
    streams = [Stream(f"sbx-{n}", "main") for n in range(1000)]
    for line in range(2):
        slices = [slice_of([(NOON_NS, f"{line}")], stream=s, first_line=line) for s in streams]
        await bench.deliver(sink, batch_of(*slices))
    for stream in streams:
        path = bench.root / f"{stream.sandbox_id}.log"
        assert path.read_bytes() == NOON + b"0\n" + NOON + b"1\n"
    assert bench.disk.most_open <= 16 + 2 * 8  # and what each thread needs to walk to a file


async def test_new_files_of_one_directory_share_its_sync(bench: Bench) -> None:
    sink = await bench.sink("{sandbox_id}.log")
    before = bench.disk.calls.count("sync_directory")
    streams = [Stream(f"sbx-{n}", "main") for n in range(50)]
    await bench.deliver(sink, batch_of(*(slice_of([(NOON_NS, "x")], stream=s) for s in streams)))
    assert bench.disk.calls.count("sync_directory") == before + 1
    await bench.deliver(sink, one("y", 1, streams[0]))
    assert bench.disk.calls.count("sync_directory") == before + 1


async def test_without_descriptors_it_goes_on_with_fewer_files_open(bench: Bench) -> None:
    sink = await bench.sink("{sandbox_id}.log")
    streams = [Stream(f"sbx-{n}", "main") for n in range(20)]
    batch = batch_of(*(slice_of([(NOON_NS, "x")], stream=s) for s in streams))
    bench.disk.errors["create_file"].extend([0] * 10 + [errno.EMFILE])
    with pytest.raises(SinkUnavailableError, match="too many open files"):
        await sink.write(batch)
    assert bench.disk.open_fds == set()
    bench.disk.most_open = 0
    await bench.deliver(sink, batch)
    assert bench.disk.most_open <= 10 + 2 * 8
    assert all((bench.root / f"sbx-{n}.log").read_bytes() == NOON + b"x\n" for n in range(20))


async def test_a_cancelled_write_returns_at_once_and_the_next_waits_for_its_thread(
    bench: Bench,
) -> None:
    sink = await bench.sink()
    bench.disk.sync_gate.clear()
    attempt = asyncio.create_task(sink.write(one("x")))
    await asyncio.to_thread(bench.disk.syncing.wait)
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt
    before = len(bench.disk.calls)
    again = asyncio.create_task(sink.write(one("x")))
    done, _ = await asyncio.wait([again], timeout=0.01)
    assert not done
    assert bench.disk.calls[before:] == []
    bench.disk.sync_gate.set()
    bench.state.commit(await again)
    assert bench.path.read_bytes() == NOON + b"x\n"


async def test_a_cancelled_write_begins_no_further_files(bench: Bench) -> None:
    sink = await bench.sink("{sandbox_id}.log")
    streams = [Stream(f"sbx-{n}", "main") for n in range(50)]
    batch = batch_of(*(slice_of([(NOON_NS, "x")], stream=s) for s in streams))
    bench.disk.sync_gate.clear()
    attempt = asyncio.create_task(sink.write(batch))
    await asyncio.to_thread(bench.disk.syncing.wait)
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt
    bench.disk.sync_gate.set()
    await sink.close()
    assert bench.disk.calls.count("sync_data") <= 8


async def test_the_event_loop_turns_while_the_disk_stands_still(bench: Bench) -> None:
    sink = await bench.sink()
    bench.disk.sync_gate.clear()
    attempt = asyncio.create_task(sink.write(one("x")))
    await asyncio.to_thread(bench.disk.syncing.wait)
    for _ in range(100):
        await asyncio.sleep(0)
    assert not attempt.done()
    bench.disk.sync_gate.set()
    await attempt


async def test_another_streams_line_never_joins_an_open_one(bench: Bench) -> None:
    sink = await bench.sink()
    part = slice_of([(NOON_NS, "begun")], part=1, ended=False)
    rest = slice_of([(NOON_NS, "-rest")], part=2)
    await bench.deliver(sink, batch_of(part), one("y", stream=OTHER), batch_of(rest))
    assert bench.path.read_bytes() == NOON + b"begun\n" + NOON + b"y\n-rest\n"


async def test_a_part_joins_its_line_after_a_restart(bench: Bench) -> None:
    part = slice_of([(NOON_NS, "begun")], part=1, ended=False)
    await bench.deliver(await bench.sink(), batch_of(part))
    await bench.sinks[0].close()
    rest = slice_of([(NOON_NS, "-rest")], part=2)
    await bench.deliver(await bench.sink(), batch_of(rest))
    assert bench.path.read_bytes() == NOON + b"begun-rest\n"


async def test_a_gap_record_ends_an_open_line(bench: Bench) -> None:
    part = slice_of([(NOON_NS, "begun")], part=1, ended=False)
    rest = slice_of([(NOON_NS, "-rest")], part=2)
    sink = await bench.sink()
    await bench.deliver(sink, batch_of(part, gap_of(from_stamp_ns=NOON_NS), rest))
    lines = bench.path.read_bytes().split(b"\n")
    assert lines[0] == NOON + b"begun"
    assert lines[1].startswith(b'#gap {"time":"2025-11-23T12:00:00.000000000Z",')
    assert lines[2:] == [b"-rest", b""]


async def test_a_change_of_format_begins_on_a_line_of_its_own(bench: Bench) -> None:
    part = slice_of([(NOON_NS, "begun")], part=1, ended=False)
    await bench.deliver(await bench.sink(), batch_of(part))
    await bench.sinks[0].close()
    rest = slice_of([(NOON_NS, "-rest")], part=2)
    await bench.deliver(await bench.sink(format="ndjson"), batch_of(rest))
    assert bench.path.read_bytes().split(b"\n")[1].startswith(b'{"time":')


async def test_files_written_long_ago_are_forgotten_and_still_gone_on_with(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sinks.file._REMEMBERED_FILES", 3)
    sink = await bench.sink("{sandbox_id}.log")
    for n in range(6):
        await bench.deliver(sink, one("x", stream=Stream(f"sbx-{n}", "main")))
    assert len(bench.state.values) == 3
    await bench.deliver(sink, one("y", 1, Stream("sbx-0", "main")))
    assert (bench.root / "sbx-0.log").read_bytes() == NOON + b"x\n" + NOON + b"y\n"


async def test_a_directory_that_cannot_be_made_holds_the_sink_at_open(bench: Bench) -> None:
    (bench.root / "file").write_bytes(b"")
    with pytest.raises(SinkMisconfiguredError, match="not a directory"):
        await bench.sink("file/out.log")


async def test_closing_after_a_failed_open_leaves_nothing(bench: Bench) -> None:
    bench.disk.errors["open_directory"].append(errno.EIO)
    with pytest.raises(SinkUnavailableError):
        await bench.sink()
    await bench.sinks[0].close()


async def test_a_file_system_without_directory_syncs_is_used_as_it_is(bench: Bench) -> None:
    def refuse(fd: int) -> None:
        raise OSError(errno.EINVAL, "no")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        await bench.deliver(await bench.sink(), one("x"))
    assert bench.path.exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
async def test_a_file_system_without_locks_is_used_as_it_is(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(fd: int, operation: int) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(fcntl, "flock", refuse)
    await bench.deliver(await bench.sink(), one("x"))
    assert bench.path.exists()


async def test_any_other_trouble_with_the_lock_is_trouble(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int, operation: int) -> None:
        raise OSError(errno.EIO, "no")

    sink = await bench.sink()
    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(SinkUnavailableError):
        await sink.write(one("x"))


async def test_a_directory_that_cannot_be_written_holds_the_sink_at_open(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: path != str(bench.root))
    with pytest.raises(SinkMisconfiguredError, match="permission denied"):
        await bench.sink()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    where = tmp_path / "small"
    where.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(where)]
    try:
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if refused.returncode:
        pytest.skip(f"mounting is not permitted here: {refused.stderr.strip()}")
    yield where
    subprocess.run(["umount", str(where)], check=True)


async def test_a_disk_that_is_really_full_is_waited_for(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(50_000))
    state = MemoryState()
    sink = FileSink("test", FileSettings(path=f"{small_disk}/out.log"))
    await sink.open(state)
    await deliver(sink, state, one("x"))
    big = one("y" * 30_000, 1)
    with pytest.raises(SinkUnavailableError, match="no space left on the disk"):
        await sink.write(big)
    assert (small_disk / "out.log").read_bytes() == NOON + b"x\n"
    ballast.unlink()
    await deliver(sink, state, big)
    await sink.close()
    assert (small_disk / "out.log").read_bytes() == NOON + b"x\n" + big.slices[0].raw


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "Field required"),
        ({"path": ""}, "empty path"),
        ({"path": "/x/{sandbox}.log"}, "did you mean {sandbox_id}?"),
        ({"path": "/x/../y"}, "'..' is not allowed"),
        ({"path": "/x/"}, "names a directory"),
        ({"path": "~/x"}, "'~' is not expanded"),
        ({"path": "/x", "format": "json"}, "Input should be 'text' or 'ndjson'"),
        ({"path": "/x", "mode": 640}, 'expected an octal file mode in quotes, such as "0640"'),
        ({"path": "/x", "mode": "0999"}, "expected an octal file mode"),
        ({"path": "/x", "mode": "0440"}, "the mode must let the owner read and write"),
        ({"path": "/x", "mode": "0750"}, "nobody execute"),
        ({"path": "/x", "max_open_files": 0}, "greater than or equal to 1"),
        ({"path": "/x", "rotate": {"daily": True}}, "Extra inputs are not permitted"),
        ({"path": "/x", "rotate": {"size": "10B"}}, "must be between 1KiB and 16TiB"),
        ({"path": "/x", "rotate": {"every": "1s"}}, "must be between 1m and 366d"),
        ({"path": "/x", "compress": "zstd"}, 'set "rotate", too'),
        ({"path": "/x", "keep": {"count": 1}}, 'set "rotate", too'),
        ({"path": "/x", "keep": {"age": "7d"}, "rotate": {"at_end": False}}, 'set "rotate", too'),
        ({"path": "/x", "rotate": {"at_end": True}, "compress": "lz4"}, "'gzip' or 'zstd'"),
        ({"path": "/x", "rotate": {"at_end": True}, "keep": {"count": 0}}, "greater than or equal"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        FileSettings.model_validate(settings)
    assert message in str(caught.value)


def test_a_destination_is_absolute_and_the_same_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / "{odd}"
    odd.mkdir()
    monkeypatch.chdir(odd)
    expected = f"{tmp_path}/{{{{odd}}}}/logs/{{sandbox_id}}.log"
    assert FileSettings(path="logs//./{sandbox_id}.log").destination == expected
    assert FileSettings(path=expected).destination == expected


async def test_a_relative_path_is_below_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / "{odd}"
    odd.mkdir()
    monkeypatch.chdir(odd)
    sink, state = FileSink("test", FileSettings(path="logs/out.log")), MemoryState()
    await sink.open(state)
    await deliver(sink, state, one("x"))
    await sink.close()
    assert (odd / "logs" / "out.log").read_bytes() == NOON + b"x\n"
