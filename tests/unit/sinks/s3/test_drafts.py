"""Many objects at once: the same bytes, few writers, little memory."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinks.interface import SinkMisconfiguredError, SinkUnavailableError
from sinks.s3.drafts import Drafts
from sinks.s3.spill import NOWHERE, Spill
from tests.fakes.windows import ChunkFormat, ChunkWriter, unpacked

if TYPE_CHECKING:
    from sinks.s3.formats.interface import Compression

#: Which object each chunk goes to, and the chunk.
Script = list[tuple[int, bytes]]

scripts = st.lists(st.tuples(st.integers(0, 5), st.binary(max_size=40)), max_size=60)


class FullDiskFormat(ChunkFormat):
    """A format whose files are on a disk with this trouble."""

    number = errno.ENOSPC

    def writer(self, file: BinaryIO, compression: Compression) -> ChunkWriter:
        raise OSError(self.number, os.strerror(self.number))


class ForbiddenFormat(FullDiskFormat):
    number = errno.EROFS


def drafted(drafts: Drafts, script: Script) -> None:
    numbers: dict[int, int] = {}
    for name, chunk in script:
        if name not in numbers:
            numbers[name] = drafts.begin()
        drafts.add(numbers[name], chunk)


def finished(directory: Path, drafts: Drafts) -> list[bytes]:
    """Each object's bytes, which are as the drafts say."""
    found: list[bytes] = []
    for number in range(len(drafts)):
        done = drafts.finish(number)
        data = (directory / drafts.file_name(number)).read_bytes()
        assert (done.size_bytes, done.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        found.append(data)
    drafts.close()
    return found


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def script_of(objects: int, rounds: int) -> Script:
    return [
        (name, b"%d of %d " % (index, name)) for index in range(rounds) for name in range(objects)
    ]


@given(script=scripts, straight=st.integers(0, 7), budget_bytes=st.integers(0, 2000))
def test_an_object_is_the_same_whichever_way_it_was_made(
    tmp_path_factory: pytest.TempPathFactory, script: Script, straight: int, budget_bytes: int
) -> None:
    made = []
    for straight_, budget_bytes_ in ((straight, budget_bytes), (1000, 0)):
        directory = tmp_path_factory.mktemp("drafts")
        drafts = Drafts(
            directory, ChunkFormat(), "zstd", straight=straight_, budget_bytes=budget_bytes_
        )
        drafted(drafts, script)
        made.append(finished(directory, drafts))
    assert made[0] == made[1]


def test_every_object_has_its_chunks_in_order(tmp_path: Path) -> None:
    drafts = Drafts(tmp_path, ChunkFormat(), "zstd", straight=2, budget_bytes=1000)
    drafted(drafts, script_of(5, 30))
    for name, data in enumerate(finished(tmp_path, drafts)):
        assert unpacked(data) == b"".join(b"%d of %d " % (index, name) for index in range(30))


def test_only_the_first_objects_and_the_one_that_is_finished_have_a_writer(tmp_path: Path) -> None:
    format_ = ChunkFormat()
    drafts = Drafts(tmp_path, format_, "zstd", straight=3, budget_bytes=1 << 20)
    drafted(drafts, script_of(500, 2))
    assert format_.open_now["most"] == 3
    finished(tmp_path, drafts)
    assert format_.open_now["most"] == 3
    assert format_.open_now["now"] == 0


def test_so_many_objects_need_no_descriptors(tmp_path: Path) -> None:
    before = descriptors()
    drafts = Drafts(tmp_path, ChunkFormat(), "zstd", straight=3, budget_bytes=1000)
    drafted(drafts, script_of(300, 3))
    assert descriptors() == before + 4  # those three, and what was spilled
    finished(tmp_path, drafts)
    assert descriptors() == before


def test_what_waits_in_memory_stays_within_the_budget(tmp_path: Path) -> None:
    drafts = Drafts(tmp_path, ChunkFormat(), "zstd", straight=0, budget_bytes=100_000)
    for index in range(200):
        if index < 10:
            drafts.begin()
        drafts.add(index % 10, os.urandom(10_000))
        assert drafts.waiting_bytes <= 100_000
    assert (tmp_path / "spill").stat().st_size > 1_800_000
    drafts.close()


def test_the_largest_heaps_are_spilled(tmp_path: Path) -> None:
    drafts = Drafts(tmp_path, ChunkFormat(), "zstd", straight=0, budget_bytes=10_000)
    small, large = drafts.begin(), drafts.begin()
    drafts.add(small, b"small")
    drafts.add(large, os.urandom(10_000))
    assert 0 < drafts.waiting_bytes < 100
    drafts.close()


def test_nothing_is_spilled_while_the_budget_lasts(tmp_path: Path) -> None:
    drafts = Drafts(tmp_path, ChunkFormat(), "zstd", straight=0, budget_bytes=1 << 20)
    drafted(drafts, script_of(100, 5))
    assert not (tmp_path / "spill").exists()
    finished(tmp_path, drafts)


def test_closing_leaves_no_spill_and_may_come_at_any_time(tmp_path: Path) -> None:
    drafts = Drafts(tmp_path, ChunkFormat(), "zstd", straight=1, budget_bytes=10)
    drafted(drafts, script_of(3, 3))
    drafts.close()
    drafts.close()
    assert [path.name for path in tmp_path.iterdir()] == ["object-0"]


def test_files_are_for_nobody_else(tmp_path: Path) -> None:
    drafts = Drafts(tmp_path, ChunkFormat(), "zstd", straight=1, budget_bytes=0)
    drafted(drafts, script_of(2, 1))
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    drafts.close()


def test_a_full_disk_is_later(tmp_path: Path) -> None:
    with pytest.raises(SinkUnavailableError, match="no space left on the disk"):
        Drafts(tmp_path, FullDiskFormat(), "zstd").begin()


def test_a_disk_that_cannot_be_written_to_is_for_somebody_to_mend(tmp_path: Path) -> None:
    with pytest.raises(SinkMisconfiguredError, match="read-only"):
        Drafts(tmp_path, ForbiddenFormat(), "zstd").begin()


def test_a_disk_that_is_full_while_writing_is_later(tmp_path: Path) -> None:
    class FullFormat(ChunkFormat):
        """Its chunks go where nothing has room."""

        def writer(self, file: BinaryIO, compression: Compression) -> ChunkWriter:
            return ChunkWriter(full, self.open_now)

    with Path("/dev/full").open("wb", buffering=0) as full:
        drafts = Drafts(tmp_path, FullFormat(), "zstd", straight=1)
        straight, waiting = drafts.begin(), drafts.begin()
        with pytest.raises(SinkUnavailableError, match="no space left on the disk"):
            drafts.add(straight, b"x")
        drafts.add(waiting, b"x")
        with pytest.raises(SinkUnavailableError, match="no space left on the disk"):
            drafts.finish(waiting)
        drafts.close()


def test_large_chunks_are_spilled_in_pieces_of_about_a_mebibyte(tmp_path: Path) -> None:
    spill = Spill(tmp_path / "spill")
    chunks = [os.urandom(300_000) for _ in range(10)]
    last = spill.write(chunks[:9], NOWHERE)
    last = spill.write(chunks[9:], last)
    spill.flush()
    assert list(spill.read(last)) == chunks
    assert list(spill.read(NOWHERE)) == []
    spill.close()


def test_a_spill_that_is_cut_is_noticed(tmp_path: Path) -> None:
    spill = Spill(tmp_path / "spill")
    last = spill.write([b"chunk"], NOWHERE)
    spill.flush()
    os.truncate(tmp_path / "spill", 15)
    with pytest.raises(OSError, match="shorter"):
        list(spill.read(last))
    spill.close()


def test_a_spill_that_finds_no_room_leaves_nothing_open(tmp_path: Path) -> None:
    open_before = descriptors()
    drafts = Drafts(tmp_path, ChunkFormat(), "zstd", straight=0, budget_bytes=10)
    number = drafts.begin()
    (tmp_path / "spill").mkdir()
    with pytest.raises(SinkUnavailableError, match="File exists"):
        drafts.add(number, b"chunk")
    drafts.close()
    assert descriptors() == open_before
