"""From a window to files: which lines are in which object, and always the same bytes."""

from __future__ import annotations

import asyncio
import os
import resource
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinks.interface import SinkMisconfiguredError, SinkUnavailableError, Stream
from sinks.s3.building import build, verify_staged, window_name
from sinks.s3.formats.registry import get_format
from sinks.s3.manifest import parse_manifest_key, read_manifest
from sinks.s3.plan import Recipe, StagedObject, WindowPlan
from sinks.testing import end_of, gap_of, slice_of
from sinks.workers import Encoders
from tests.fakes.encoders import picklable_slice
from tests.fakes.windows import ChunkFormat, ChunkWriter, unpacked, window_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from sinks.archive import Run
    from sinks.interface import Batch, Slice
    from sinks.s3.formats.interface import Compression, FormatName

HOUR_NS = 3_600_000_000_000
MIDNIGHT_NS = 1_795_478_400_000_000_000  # 2026-11-24T00:00:00Z
A = Stream("sbx-a", "main")
B = Stream("sbx-b", "main")

BY_HOUR = Recipe(
    "logs/dt={date}/hour={hour}/{first}-{last}", "logs/_manifests/", "ndjson", "zstd", 3
)
BY_SANDBOX = replace(BY_HOUR, key="logs/{sandbox_id}/{container}/{first}")
NAME = "0f3c9a61-a-c"


async def built(
    slices: Sequence[Slice], directory: Path, recipe: Recipe = BY_HOUR, *, per_batch: int = 3
) -> WindowPlan:
    window = window_of(slices, per_batch=per_batch)
    return await build(window, NAME, recipe, directory, Encoders(0), format_=ChunkFormat())


def records(directory: Path, staged: StagedObject) -> list[dict[str, Any]]:
    data = unpacked((directory / staged.file).read_bytes())
    return [orjson.loads(line) for line in data.splitlines()]


def texts(directory: Path, plan: WindowPlan) -> dict[str, list[str]]:
    """The lines of each object by its key; gap records as `gap`."""
    return {
        staged.key: [one.get("text", "gap") for one in records(directory, staged)]
        for staged in plan.objects[:-1]
    }


def runs(directory: Path, plan: WindowPlan) -> list[Sequence[Run]]:
    archived = read_manifest((directory / plan.objects[-1].file).read_bytes()).archived
    return [one.runs for one in archived.objects]


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


async def test_lines_go_to_the_hour_of_their_stamps_also_over_midnight(tmp_path: Path) -> None:
    lines = [
        (MIDNIGHT_NS - 2, "a"),
        (MIDNIGHT_NS - 1, "b"),
        (MIDNIGHT_NS, "c"),
        (MIDNIGHT_NS - 1, "late"),
        (MIDNIGHT_NS + HOUR_NS, "d"),
    ]
    plan = await built([slice_of(lines)], tmp_path / "w")
    assert texts(tmp_path / "w", plan) == {
        "logs/dt=2026-11-23/hour=23/20261123T235959.999999998Z-20261123T235959.999999999Z"
        f"-{NAME}.chunks.zst": ["a", "b", "late"],
        "logs/dt=2026-11-24/hour=00/20261124T000000.000000000Z-20261124T000000.000000000Z"
        f"-{NAME}.chunks.zst": ["c"],
        "logs/dt=2026-11-24/hour=01/20261124T010000.000000000Z-20261124T010000.000000000Z"
        f"-{NAME}.chunks.zst": ["d"],
    }
    assert [
        [(run.first_line, run.lines) for run in some] for some in runs(tmp_path / "w", plan)
    ] == [
        [(0, 2), (3, 1)],
        [(2, 1)],
        [(4, 1)],
    ]


@pytest.mark.parametrize("before_ns", [0, 5])
async def test_bounds_are_of_the_lowest_and_highest_stamp_not_of_the_ends(
    tmp_path: Path, before_ns: int
) -> None:
    at_ns = MIDNIGHT_NS - before_ns  # all in one hour, or cut
    offsets_ns = (4, 0, 9, 3)
    lines = [(at_ns + offset_ns, str(offset_ns)) for offset_ns in offsets_ns]
    plan = await built([slice_of(lines)], tmp_path / "w")
    assert (plan.first_ns, plan.last_ns) == (at_ns, at_ns + 9)
    found = [(run.first_ns, run.last_ns) for some in runs(tmp_path / "w", plan) for run in some]
    if before_ns:
        assert found == [(at_ns, at_ns + 4), (at_ns + 3, at_ns + 3), (at_ns + 9, at_ns + 9)]
    else:
        assert found == [(at_ns, at_ns + 9)]


async def test_a_key_without_the_time_keeps_hours_together(tmp_path: Path) -> None:
    lines = [(MIDNIGHT_NS - 1, "a"), (MIDNIGHT_NS, "b")]
    plan = await built([slice_of(lines)], tmp_path / "w", replace(BY_HOUR, key="all"))
    assert texts(tmp_path / "w", plan) == {f"all-{NAME}.chunks.zst": ["a", "b"]}


async def test_streams_share_an_object_unless_the_key_parts_them(tmp_path: Path) -> None:
    slices = [
        slice_of(
            [(MIDNIGHT_NS + index, f"{stream.sandbox_id} {index}")], stream=stream, first_line=index
        )
        for index in range(3)
        for stream in (A, B)
    ]
    together = await built(slices, tmp_path / "w")
    assert [len(lines) for lines in texts(tmp_path / "w", together).values()] == [6]
    apart = await built(slices, tmp_path / "w", BY_SANDBOX)
    assert texts(tmp_path / "w", apart) == {
        f"logs/{name}/main/20261124T000000.000000000Z-{NAME}.chunks.zst": [
            f"{name} {index}" for index in range(3)
        ]
        for name in ("sbx-a", "sbx-b")
    }


async def test_a_window_may_have_hundreds_of_objects(tmp_path: Path) -> None:
    streams = [Stream(f"sbx-{number}", "main") for number in range(300)]
    slices = [
        slice_of(
            [(MIDNIGHT_NS + line, f"{stream.sandbox_id} {line}")], stream=stream, first_line=line
        )
        for line in range(3)
        for stream in streams
    ]
    plan = await built(slices, tmp_path / "w", BY_SANDBOX, per_batch=50)
    found = texts(tmp_path / "w", plan)
    assert sorted(found.values()) == sorted(
        [f"{stream.sandbox_id} {line}" for line in range(3)] for stream in streams
    )
    assert len(set(found)) == len(plan.objects) - 1 == 300
    assert set(content(tmp_path / "w")) == {staged.file for staged in plan.objects}


async def test_a_gap_record_lies_in_the_hour_of_the_last_line_before_it(tmp_path: Path) -> None:
    slices = [
        slice_of([(MIDNIGHT_NS - 5, "a")]),
        gap_of(first_line=1, before_line=4, from_stamp_ns=MIDNIGHT_NS - 5, to_stamp_ns=MIDNIGHT_NS),
        slice_of([(MIDNIGHT_NS, "b")], first_line=4),
    ]
    plan = await built(slices, tmp_path / "w")
    assert list(texts(tmp_path / "w", plan).values()) == [["a", "gap"], ["b"]]
    assert [
        [(run.first_line, run.lines, run.gap) for run in some]
        for some in runs(tmp_path / "w", plan)
    ] == [
        [(0, 1, False), (1, 0, True)],
        [(4, 1, False)],
    ]


async def test_an_object_of_nothing_but_a_gap_has_its_moment_for_bounds(tmp_path: Path) -> None:
    plan = await built([gap_of(from_stamp_ns=MIDNIGHT_NS)], tmp_path / "w")
    assert (plan.first_ns, plan.last_ns) == (MIDNIGHT_NS, MIDNIGHT_NS)
    manifest = orjson.loads((tmp_path / "w" / plan.objects[-1].file).read_bytes())
    assert (manifest["objects"][0]["lines"], manifest["objects"][0]["gaps"]) == (0, 1)


async def test_parts_of_a_line_are_records_of_the_hour_of_their_line(tmp_path: Path) -> None:
    slices = [
        slice_of([(MIDNIGHT_NS - 1, "begin-")], part=1, ended=False),
        slice_of([(MIDNIGHT_NS - 1, "end")], part=2),
        slice_of([(MIDNIGHT_NS, "next")], first_line=1),
    ]
    plan = await built(slices, tmp_path / "w")
    assert list(texts(tmp_path / "w", plan).values()) == [["begin-", "end"], ["next"]]
    assert [(run.part, run.lines) for run in runs(tmp_path / "w", plan)[0]] == [(1, 1), (2, 1)]


async def test_a_window_with_nothing_to_archive_leaves_nothing(tmp_path: Path) -> None:
    plan = await built([end_of(), end_of(stream=B)], tmp_path / "w")
    assert plan == WindowPlan(NAME, BY_HOUR, 0, 0, ())
    assert list(tmp_path.iterdir()) == []
    assert await verify_staged(tmp_path / "w", plan)


async def test_the_manifest_comes_last_and_says_what_every_object_is(tmp_path: Path) -> None:
    slices = [slice_of([(MIDNIGHT_NS - 1, "a"), (MIDNIGHT_NS + 7, "b")]), gap_of(noticed_ns=5)]
    plan = await built(slices, tmp_path / "w")
    *objects, last = plan.objects
    manifest = read_manifest((tmp_path / "w" / last.file).read_bytes())
    assert parse_manifest_key(last.key) == (5, MIDNIGHT_NS + 7, NAME)
    assert last.key.startswith("logs/_manifests/dt=1970-01-01/")
    assert (last.media_type, last.records_sha256) == ("application/json", "")
    assert (plan.first_ns, plan.last_ns) == (5, MIDNIGHT_NS + 7)
    assert (manifest.origin, manifest.after_id, manifest.last_id) == ("origin", 10, 12)
    assert (manifest.recipe, manifest.archived.window) == (BY_HOUR, NAME)
    assert manifest.archived.manifest_key == last.key
    assert [(one.key, one.size_bytes, one.sha256) for one in manifest.archived.objects] == [
        (one.key, one.size_bytes, one.sha256) for one in objects
    ]
    assert {one.media_type for one in objects} == {"application/x-chunks"}
    assert len({one.records_sha256 for one in objects}) == 3
    assert WindowPlan.decode(plan.encode()) == plan


@st.composite
def windows(draw: st.DrawFn) -> list[Slice]:
    """Streams that are mixed, with stamps that grow, over some hours."""
    streams = [A, B, Stream("sbx-a", "side")]
    lines, at_ns = dict.fromkeys(range(3), 0), dict.fromkeys(range(3), MIDNIGHT_NS - HOUR_NS)
    slices: list[Slice] = []
    for number in draw(st.lists(st.integers(0, 2), max_size=15)):
        pairs: list[tuple[int, bytes | str]] = []
        for step_ns in draw(st.lists(st.integers(1, HOUR_NS), min_size=1, max_size=4)):
            at_ns[number] += step_ns
            pairs.append((at_ns[number], f"{number}:{lines[number] + len(pairs)}"))
        slices.append(slice_of(pairs, stream=streams[number], first_line=lines[number]))
        lines[number] += len(pairs)
    return slices


@settings(deadline=None, max_examples=40)
@given(
    slices=windows(),
    recipe=st.sampled_from([BY_HOUR, BY_SANDBOX]),
    sizes=st.tuples(st.integers(1, 20), st.integers(1, 20)),
)
async def test_objects_by_key_are_what_was_read_and_the_same_however_it_was_read(
    tmp_path_factory: pytest.TempPathFactory,
    slices: list[Slice],
    recipe: Recipe,
    sizes: tuple[int, int],
) -> None:
    one, other = (tmp_path_factory.mktemp("built") / "w" for _ in sizes)
    plan = await built(slices, one, recipe, per_batch=sizes[0])
    assert await built(slices, other, recipe, per_batch=sizes[1]) == plan
    if not slices:
        return
    assert content(one) == content(other)
    assert await verify_staged(other, plan)
    found: dict[tuple[str, str], list[str]] = {}
    for staged in sorted(plan.objects[:-1], key=lambda staged: staged.key):
        for record in records(one, staged):
            found.setdefault((record["sandbox_id"], record["container"]), []).append(record["text"])
    expected: dict[tuple[str, str], list[str]] = {}
    for source in slices:
        some = [text.decode() for text in source.columns.texts]
        expected.setdefault(source.stream.identity, []).extend(some)
    assert found == expected
    numbered: dict[tuple[str, str], set[int]] = {}
    for run in (run for some in runs(one, plan) for run in some):
        seen = numbered.setdefault((run.sandbox_id, run.container), set())
        mine = set(range(run.first_line, run.first_line + run.lines))
        assert not seen & mine
        seen |= mine
    assert numbered == {identity: set(range(len(some))) for identity, some in expected.items()}


async def test_processes_build_the_same_as_a_thread(tmp_path: Path) -> None:
    slices = [picklable_slice(b"a", b"b"), replace(picklable_slice(b"c"), first_line=2)]
    encoders = Encoders(1)
    window = window_of(slices, per_batch=1)
    try:
        plan = await build(window, NAME, BY_HOUR, tmp_path / "p", encoders, format_=ChunkFormat())
    finally:
        await encoders.close()
    assert await built(slices, tmp_path / "t") == plan
    assert content(tmp_path / "p") == content(tmp_path / "t")


async def test_what_is_in_the_directory_is_deleted_first(tmp_path: Path) -> None:
    (tmp_path / "w" / "inside").mkdir(parents=True)
    (tmp_path / "w" / "object-0").write_bytes(b"of a build that was killed")
    plan = await built([slice_of([(1, "x")])], tmp_path / "w")
    assert set(content(tmp_path / "w")) == {staged.file for staged in plan.objects}
    assert (tmp_path / "w").stat().st_mode & 0o777 == 0o700


async def test_a_link_in_place_of_the_directory_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").touch()
    (tmp_path / "w").symlink_to(tmp_path / "elsewhere")
    await built([slice_of([(1, "x")])], tmp_path / "w")
    assert not (tmp_path / "w").is_symlink()
    assert list(content(tmp_path / "elsewhere")) == ["kept"]


class WatchedFormat(ChunkFormat):
    """A format that says when it begins to encode or to write, and waits until it may go on."""

    def __init__(self, *, encoding: bool = False, writing: bool = False) -> None:
        super().__init__()
        self.began = threading.Event()
        self.may_go_on = threading.Event()
        self.threads: set[threading.Thread] = set()
        self.encoding = encoding
        self.writing = writing

    def meet(self, stops: bool) -> None:
        self.threads.add(threading.current_thread())
        if stops:
            self.began.set()
            assert self.may_go_on.wait(30), "nobody let it go on"

    def encode(self, source: Slice, start: int, stop: int) -> bytes:
        self.meet(self.encoding)
        return super().encode(source, start, stop)

    def writer(self, file: BinaryIO, compression: Compression) -> ChunkWriter:
        return WatchedWriter(file, self)

    def __setattr__(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)


class WatchedWriter(ChunkWriter):
    def __init__(self, file: BinaryIO, watched: WatchedFormat) -> None:
        super().__init__(file, watched.open_now)
        self._watched = watched

    def add(self, chunk: bytes) -> None:
        self._watched.meet(self._watched.writing)
        super().add(chunk)

    def finish(self) -> None:
        self._watched.meet(False)
        super().finish()


async def test_nothing_heavy_runs_on_the_event_loop(tmp_path: Path) -> None:
    format_ = WatchedFormat()
    window = window_of([slice_of([(1, "x")])])
    await build(window, NAME, BY_HOUR, tmp_path / "w", Encoders(0), format_=format_)
    assert format_.threads
    assert threading.main_thread() not in format_.threads


async def test_the_window_is_read_on_while_some_of_it_is_encoded(tmp_path: Path) -> None:
    format_ = WatchedFormat(encoding=True)
    window = window_of([slice_of([(1, "x")]), slice_of([(2, "y")], first_line=1)], per_batch=1)
    read = window.read

    async def watched() -> AsyncIterator[Batch]:
        async for batch in read():
            if batch.first_id > 11:  # it can be read only while the first one is still encoded
                await asyncio.to_thread(format_.began.wait, 30)
                format_.may_go_on.set()
            yield batch

    window = replace(window, read=watched)
    await build(window, NAME, BY_HOUR, tmp_path / "w", Encoders(0), format_=format_)


async def test_a_cancelled_build_ends_when_nothing_is_written_any_more(tmp_path: Path) -> None:
    format_ = WatchedFormat(writing=True)
    window = window_of([slice_of([(1, "x")])])
    task = asyncio.create_task(
        build(window, NAME, BY_HOUR, tmp_path / "w", Encoders(0), format_=format_)
    )
    assert await asyncio.to_thread(format_.began.wait, 30)
    task.cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    assert not task.done()
    format_.may_go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    plan = await built([slice_of([(1, "x")])], tmp_path / "w")
    assert await verify_staged(tmp_path / "w", plan)
    assert set(content(tmp_path / "w")) == {staged.file for staged in plan.objects}


async def test_a_build_can_be_cancelled_while_the_window_is_read(tmp_path: Path) -> None:
    reading = asyncio.Event()

    async def read() -> AsyncIterator[Batch]:
        async for batch in window_of([slice_of([(1, "x")])]).read():
            yield batch
        reading.set()
        await asyncio.Event().wait()

    window = replace(window_of([]), read=read)
    task = asyncio.create_task(
        build(window, NAME, BY_HOUR, tmp_path / "w", Encoders(0), format_=ChunkFormat())
    )
    await reading.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await built([slice_of([(1, "x")])], tmp_path / "w")


async def test_what_reading_raises_comes_out(tmp_path: Path) -> None:
    window = window_of([slice_of([(1, "x")])], error=SinkUnavailableError("the spool is busy"))
    with pytest.raises(SinkUnavailableError, match="the spool is busy"):
        await build(window, NAME, BY_HOUR, tmp_path / "w", Encoders(0), format_=ChunkFormat())


async def test_what_an_encoder_raises_comes_out_and_ends_the_reading(tmp_path: Path) -> None:
    class BrokenFormat(ChunkFormat):
        def encode(self, source: Slice, start: int, stop: int) -> bytes:
            raise ZeroDivisionError

    closed: list[bool] = []

    async def reading() -> AsyncIterator[Batch]:
        try:
            async for batch in endless.read():
                yield batch
        finally:
            closed.append(True)

    endless = window_of([slice_of([(1, "x")]) for _ in range(50)], per_batch=1)
    batches = reading()  # somebody still has it: nobody else closes it
    window = replace(endless, read=lambda: batches)
    with pytest.raises(ZeroDivisionError):
        await build(window, NAME, BY_HOUR, tmp_path / "w", Encoders(0), format_=BrokenFormat())
    assert closed == [True]


@contextmanager
def files_of_at_most(size_bytes: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_build_that_has_no_room_says_so_and_holds_nothing(tmp_path: Path) -> None:
    lines = [(MIDNIGHT_NS + index, os.urandom(500).hex()) for index in range(100)]
    streams = [Stream(f"sbx-{number}", "main") for number in range(12)]
    slices = [slice_of(lines, stream=stream) for stream in streams]
    open_before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    with (
        files_of_at_most(4096),
        pytest.raises(SinkUnavailableError, match="the file has reached the size limit"),
    ):
        await built(slices, tmp_path / "w", BY_SANDBOX)
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == open_before
    plan = await built(slices, tmp_path / "w", BY_SANDBOX)
    assert await verify_staged(tmp_path / "w", plan)


async def test_every_file_is_on_the_disk_when_the_build_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: dict[str, int] = {}
    fsync = os.fsync

    def noted(fd: int) -> None:
        synced[str(Path(f"/proc/self/fd/{fd}").readlink())] = os.fstat(fd).st_size
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noted)
    slices = [slice_of([(1, "x")], stream=Stream(f"sbx-{name}", "main")) for name in range(12)]
    plan = await built(slices, tmp_path / "w", BY_SANDBOX)
    directory = str(tmp_path / "w")
    assert list(synced)[-2:] == [directory, str(tmp_path)]
    assert {staged.size_bytes for staged in plan.objects} <= set(synced.values())
    for staged in plan.objects:
        assert synced[f"{directory}/{staged.file}"] == staged.size_bytes


@pytest.mark.parametrize(
    ("name", "compression"),
    [("ndjson", "zstd"), ("ndjson", "gzip"), ("text", "none"), ("otlp_json", "zstd")],
)
async def test_the_recipe_says_what_is_made(
    tmp_path: Path, name: FormatName, compression: Compression
) -> None:
    recipe = replace(BY_SANDBOX, format=name, compression=compression)
    lines = [(MIDNIGHT_NS + index, f"line {index}") for index in range(200)]
    slices = [slice_of(lines[:90]), slice_of(lines[90:], first_line=90)]
    plans = [
        await build(
            window_of(slices, per_batch=size), NAME, recipe, tmp_path / str(size), Encoders(0)
        )
        for size in (1, 2)
    ]
    assert plans[0] == plans[1]
    form = get_format(name, recipe.level)
    staged = plans[0].objects[0]
    assert staged.key.endswith(form.extension(compression))
    assert staged.media_type == form.media_type
    with (tmp_path / "1" / staged.file).open("rb") as file:
        found = [
            one
            for some in form.read(file, compression, runs(tmp_path / "1", plans[0])[0])
            for one in some
        ]
    assert [(one.line, one.text.decode()) for one in found] == [
        (number, f"line {number}") for number in range(200)
    ]


async def test_a_place_that_is_no_directory_is_for_somebody_to_mend(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SinkMisconfiguredError, match="not a directory"):
        await built([], tmp_path / "file" / "w")


async def test_staged_files_that_changed_are_noticed(tmp_path: Path) -> None:
    plan = await built([slice_of([(1, "x")])], tmp_path / "w")
    assert await verify_staged(tmp_path / "w", plan)
    for staged in plan.objects:
        file = tmp_path / "w" / staged.file
        data = file.read_bytes()
        for other in (data[:-1], data + b"x", data[:-1] + bytes([data[-1] ^ 1])):
            file.write_bytes(other)
            assert not await verify_staged(tmp_path / "w", plan)
        file.unlink()
        assert not await verify_staged(tmp_path / "w", plan)
        file.write_bytes(data)
    assert await verify_staged(tmp_path / "w", plan)


def test_a_windows_name_is_of_its_origin_its_sink_and_its_frames() -> None:
    window = window_of([slice_of([(1, "x")])], origin="o", after_id=0x2A)
    name = window_name(window, "archive")
    assert name == window_name(
        window_of([slice_of([(2, "y")])], origin="o", after_id=42), "archive"
    )
    assert name.endswith("-2a-2b")
    assert len(name.split("-")[0]) == 8
    assert (
        len({name, window_name(window, "b"), window_name(replace(window, origin="p"), "archive")})
        == 3
    )
