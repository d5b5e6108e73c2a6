"""Rotation, killed or cut from power at every single call that it makes to the disk."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from sinks.file import FileSettings, FileSink
from sinks.interface import SinkError, Stream
from sinks.testing import MemoryState, batch_of, deliver, end_of, slice_of
from tests.fakes.disk import Killed
from tests.unit.sinks.renaming_disk import RenamingDisk, read_all

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from sinks.interface import Slice

NOON_NS = 1_763_899_200_000_000_000
HOUR_NS = 3_600_000_000_000
A = Stream("a", "main")
B = Stream("b", "main")


def line(number: int, stream: Stream = A, *, hour: int = 0) -> Slice:
    text = f"{number} " + "x" * 600
    lines = [(NOON_NS + hour * HOUR_NS + number, text)]
    return slice_of(lines, first_line=number, stream=stream)


#: a is put away for its size, then because an hour is over; b at its end, and comes back.
BATCHES = [
    batch_of(line(0), line(0, B)),
    batch_of(line(1)),
    batch_of(line(2), end_of(stream=B, first_line=1)),
    batch_of(line(3, hour=1), line(1, B, hour=1)),
]
NAMES = ("a.log", "b.log")


def settings(root: Path, **more: object) -> FileSettings:
    rotate = {"size": 1024, "every": 3600.0, "at_end": True}
    values = {"path": f"{root}/{{sandbox_id}}.log", "rotate": rotate, "compress": "zstd", **more}
    return FileSettings.model_validate(values)


def expected(count: int) -> dict[str, bytes]:
    parts = [part for batch in BATCHES[:count] for part in batch.slices]
    return {
        name: b"".join(part.raw for part in parts if f"{part.stream.sandbox_id}.log" == name)
        for name in NAMES
    }


class MortalState(MemoryState):
    """State that a dead process does not change any more.

    Args:
        lazy: Whether a batch's changes and the cursor are safe only when something is remembered,
            or at the end of a life; else they are at once.
    """

    def __init__(self, *, lazy: bool) -> None:
        super().__init__()
        self.disk: RenamingDisk | None = None
        self.confirmed = 0
        self._lazy = lazy
        self._durable: tuple[int, dict[str, bytes]] = (0, {})

    def commit(self, changes: Mapping[str, bytes | None]) -> None:
        if self.disk is not None and self.disk.is_dead:
            raise Killed
        super().commit(changes)

    async def remember(self, changes: Mapping[str, bytes | None]) -> None:
        self.commit(changes)
        self.settle()

    def move(self) -> None:
        """One more batch is confirmed."""
        self.confirmed += 1
        if not self._lazy:
            self.settle()

    def settle(self) -> None:
        """What was confirmed so far survives."""
        self._durable = (self.confirmed, dict(self.values))

    def begin(self, disk: RenamingDisk) -> None:
        """A new life, which knows what survived."""
        self.disk = disk
        self.confirmed, values = self._durable
        self.values = dict(values)


class Run:
    """Some lives of a sink on one disk, and how far the engine has confirmed."""

    def __init__(self, root: Path, *, lazy: bool = False) -> None:
        root.mkdir()
        self.root = root
        self.state = MortalState(lazy=lazy)

    @property
    def confirmed(self) -> int:
        """So many batches do not come again."""
        return self.state.confirmed

    async def live(self, disk: RenamingDisk, **more: object) -> None:
        """Deliver what is left; whatever goes wrong ends this life."""
        self.state.begin(disk)
        sink = FileSink("test", settings(self.root, **more), files=disk)
        with suppress(Killed, SinkError):
            await sink.open(self.state)
            for batch in BATCHES[self.confirmed :]:
                await deliver(sink, self.state, batch)
                self.state.move()
        with suppress(Killed):
            await sink.close()
        if disk.is_dead:
            self.state.begin(disk)
        else:
            self.state.settle()

    def check(self, what: str) -> None:
        """What a reader sees begins with what is confirmed, and goes on with what may come."""
        for name in NAMES:
            seen = read_all(self.root, name)
            assert seen.startswith(expected(self.confirmed)[name]), what
            whole = expected(len(BATCHES))[name]
            assert whole.startswith(seen.rstrip(b"\0")), what


LOSSES: dict[str, Callable[[RenamingDisk], None]] = {
    "kill": RenamingDisk.die,
    "power cut": RenamingDisk.cut_power,
    "bytes lost": RenamingDisk.lose_bytes,
}


@pytest.mark.parametrize(
    ("loss", "lazy"),
    [("kill", False), ("kill", True), ("power cut", True), ("bytes lost", False)],
)
async def test_every_line_is_there_once_at_any_time_and_after_a_crash_at_any_call(
    tmp_path: Path, loss: str, lazy: bool
) -> None:
    call, died = 0, True
    while died:
        call += 1
        run = Run(tmp_path / str(call), lazy=lazy)
        disk = RenamingDisk(run.root)
        disk.kill_at = call
        await run.live(disk)
        died = len(disk.calls) >= call
        what = f"died at call {call}: {disk.calls[-1]}, {run.confirmed} confirmed"
        LOSSES[loss](disk)
        run.check(what)
        await run.live(RenamingDisk(run.root))
        assert run.confirmed == len(BATCHES), what
        assert {name: read_all(run.root, name) for name in NAMES} == expected(len(BATCHES)), what
        if names_in(run.root) != COMPLETE:
            # Compressing goes on beside the lines: what a short life does not come to is left to
            # the next one, and a busy machine makes lives short.
            await run.live(RenamingDisk(run.root))
        assert names_in(run.root) == COMPLETE, what
        assert {name: read_all(run.root, name) for name in NAMES} == expected(len(BATCHES)), what
    assert call > 80


async def test_what_a_second_life_finds_done_is_put_on_the_disk_before_it_goes_on(
    tmp_path: Path,
) -> None:
    call, died = 0, True
    while died:
        call += 1
        run = Run(tmp_path / str(call))
        first = RenamingDisk(run.root)
        first.kill_at = call
        await run.live(first)
        died = len(first.calls) >= call
        first.die()
        second = RenamingDisk(run.root, before=first)
        await run.live(second)
        second.cut_power()
        what = f"died at call {call}: {first.calls[-1]}"
        assert run.confirmed == len(BATCHES), what
        assert {name: read_all(run.root, name) for name in NAMES} == expected(len(BATCHES)), what
    assert call > 80


async def test_a_rename_that_no_life_has_synced_yet_is_not_taken_for_done(tmp_path: Path) -> None:
    """Killed between rename and sync; then the power goes, at any call of the next life."""
    probe = Run(tmp_path / "probe")
    disk = RenamingDisk(probe.root)
    await probe.live(disk)
    disk.die()
    rename = disk.calls.index("rename") + 1
    for call in range(1, 31):
        run = Run(tmp_path / str(call))
        first = RenamingDisk(run.root)
        first.kill_at = rename + 1
        await run.live(first)
        first.die()
        assert first.calls[rename - 1 : rename + 1] == ["rename", "sync_directory"]
        second = RenamingDisk(run.root, before=first)
        second.kill_at = call
        await run.live(second)
        second.cut_power()
        what = f"the power went at call {call}: {second.calls[-1]}"
        run.check(what)
        await run.live(RenamingDisk(run.root))
        assert {name: read_all(run.root, name) for name in NAMES} == expected(len(BATCHES)), what


COMPLETE = {"a.log", "a.log.000001.zst", "a.log.000002.zst", "b.log", "b.log.000001.zst"}


def names_in(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()}
