"""What was archived to a bucket is read back, and nothing else is taken for it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from sinks.archive import ArchivedRecord, ArchiveError, Selection
from sinks.interface import SinkMisconfiguredError, SinkUnavailableError, Stream
from sinks.s3 import archive as archive_module
from sinks.s3.archive import S3Archive
from sinks.s3.building import build
from sinks.s3.checked import checked
from sinks.s3.index import IndexEntry, to_state
from sinks.s3.manifest import encode_manifest, read_manifest
from sinks.s3.settings import S3Settings
from sinks.testing import gap_of, slice_of
from sinks.workers import Encoders
from tests.fakes.archive import gap, line, runs_of
from tests.fakes.bucket import MemoryBucket
from tests.fakes.windows import window_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from sinks.archive import ArchivedObject, ArchivedWindow
    from sinks.interface import Slice
    from sinks.s3.formats.interface import Compression, FormatName
    from sinks.s3.plan import Recipe

S = 1_000_000_000
HOUR_NS = 3600 * S
#: 2026-11-23T13:00:00Z
ONE_PM_NS = 1_795_438_800 * S
A = Stream("sbx-a", "main")
B = Stream("sbx-b", "main")

SETTINGS = S3Settings(bucket="my-logs", region="eu-west-1", manifest_prefix="logs/_manifests/")


class Scene:
    """A bucket to which windows were archived, and the state of the sink that did it."""

    def __init__(self, directory: Path) -> None:
        self.bucket = MemoryBucket()
        self.state: dict[str, bytes] = {}
        self.manifests: list[str] = []
        self._directory = directory
        self._encoders = Encoders(0)

    async def put(self, *slices: Slice, recipe: Recipe = SETTINGS.recipe) -> list[str]:
        """Archive a window; the keys of its objects."""
        number = len(self.manifests)
        window = window_of(slices, after_id=number * 100)
        name = f"0f3c9a61-{window.after_id:x}-{window.last_id:x}"
        directory = self._directory / name
        plan = await build(window, name, recipe, directory, self._encoders)
        for one in plan.objects:
            self.bucket.objects[one.key] = (directory / one.file).read_bytes()
        *keys, manifest = [one.key for one in plan.objects]
        entry = IndexEntry(name, manifest, plan.first_ns, plan.last_ns)
        self.state.update([to_state(window.after_id, entry)])
        self.manifests.append(manifest)
        return keys

    def archive(self, *, indexed: bool = True, pauses_s: Sequence[float] = ()) -> S3Archive:
        """The archive, open."""
        self.bucket.opened = True
        remembered = self.state if indexed else None
        return S3Archive(SETTINGS, remembered, self.bucket, pauses_s=pauses_s)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def lines(start: int, stop: int, stream: Stream = A, *, at_ns: int = ONE_PM_NS) -> Slice:
    """Lines of these numbers, each a second later than the one before."""
    return slice_of(
        [(at_ns + n * S, f"{stream.sandbox_id} {n}") for n in range(start, stop)],
        stream=stream,
        first_line=start,
    )


async def found(archive: S3Archive, selection: Selection | None = None) -> list[ArchivedWindow]:
    return [one async for one in archive.windows(selection or Selection())]


async def read(archive: S3Archive, archived: ArchivedObject) -> list[ArchivedRecord]:
    return [record async for batch in archive.records(archived) for record in batch]


async def texts(archive: S3Archive, selection: Selection | None = None) -> list[str]:
    """The texts of all objects that are found, in their order."""
    return [
        record.text.decode()
        for window in await found(archive, selection)
        for one in window.objects
        for record in await read(archive, one)
    ]


# Windows ------------------------------------------------------------------------------------------


async def test_an_index_is_enough_and_nothing_is_listed(scene: Scene) -> None:
    await scene.put(lines(10, 12))
    await scene.put(lines(0, 2))
    windows = await found(scene.archive())
    assert [one.manifest_key for one in windows] == scene.manifests[::-1]
    assert (scene.bucket.listed, scene.bucket.reads.total()) == ([], 2)


@pytest.mark.parametrize("state", [None, {}, {"plan:5": b"x"}])
async def test_without_an_index_the_bucket_itself_says_what_there_is(
    scene: Scene, state: dict[str, bytes] | None
) -> None:
    await scene.put(lines(10, 12))
    await scene.put(lines(0, 2))
    scene.bucket.objects["logs/_manifests/README.md"] = b"not one of ours"
    scene.bucket.opened = True
    archive = S3Archive(SETTINGS, state, scene.bucket, pauses_s=())
    assert [one.manifest_key for one in await found(archive)] == scene.manifests[::-1]
    assert scene.bucket.listed == ["logs/_manifests/"]


@pytest.mark.parametrize("indexed", [True, False])
async def test_manifests_of_another_time_are_not_fetched(scene: Scene, indexed: bool) -> None:
    for hour in range(4):
        await scene.put(lines(0, 10, at_ns=ONE_PM_NS + hour * HOUR_NS))
    meant = Selection(since_ns=ONE_PM_NS + HOUR_NS + 9 * S, until_ns=ONE_PM_NS + 3 * HOUR_NS)
    windows = await found(scene.archive(indexed=indexed), meant)
    assert [one.manifest_key for one in windows] == scene.manifests[1:3]
    assert set(scene.bucket.reads) == set(scene.manifests[1:3])


async def test_only_what_belongs_to_a_selection_is_told(scene: Scene) -> None:
    await scene.put(lines(0, 3), lines(0, 2, B), lines(3, 5, at_ns=ONE_PM_NS + HOUR_NS))
    await scene.put(lines(5, 7))
    (window,) = await found(scene.archive(), Selection("sbx-b", "main"))
    assert [[(run.sandbox_id, run.lines) for run in one.runs] for one in window.objects] == [
        [("sbx-b", 2)]
    ]
    assert await found(scene.archive(), Selection("sbx-b", "side")) == []
    (late,) = await found(scene.archive(), Selection("sbx-a", None, ONE_PM_NS + HOUR_NS))
    assert [one.lines for one in late.objects] == [2]


async def test_some_manifests_are_asked_for_ahead_and_never_more(scene: Scene) -> None:
    for n in range(12):
        await scene.put(lines(n, n + 1))
    archive = scene.archive()
    scene.bucket.gate = asyncio.Event()
    windows = archive.windows(Selection())
    first = asyncio.ensure_future(anext(windows))
    while scene.bucket.open_now < 8:
        await asyncio.sleep(0)
    scene.bucket.gate.set()
    assert (await first).manifest_key == scene.manifests[0]
    assert len([one async for one in windows]) == 11
    assert (scene.bucket.most_open, scene.bucket.reads.total()) == (8, 12)


async def test_nothing_is_asked_for_any_more_when_it_is_closed(scene: Scene) -> None:
    for n in range(8):
        await scene.put(lines(n, n + 1))
    archive = scene.archive()
    scene.bucket.gate = asyncio.Event()
    waiting = asyncio.ensure_future(anext(archive.windows(Selection())))
    while scene.bucket.open_now < 8:
        await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert scene.bucket.open_now == 7
    await archive.close()
    assert (scene.bucket.open_now, scene.bucket.opened) == (0, False)
    await archive.close()


async def test_a_manifest_that_is_missing_or_damaged_is_named_and_the_next_one_comes(
    scene: Scene,
) -> None:
    for n in range(3):
        await scene.put(lines(n, n + 1))
    del scene.bucket.objects[scene.manifests[0]]
    scene.bucket.objects[scene.manifests[1]] = b'{"version":1}'
    windows = scene.archive().windows(Selection())
    with pytest.raises(ArchiveError, match=f"{scene.manifests[0]} is missing"):
        await anext(windows)
    with pytest.raises(ArchiveError, match=f"{scene.manifests[1]}: the manifest is damaged"):
        await anext(windows)
    assert (await anext(windows)).manifest_key == scene.manifests[2]
    with pytest.raises(StopAsyncIteration):
        await anext(windows)


async def test_a_manifest_without_an_end_is_refused(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.put(lines(0, 3))
    size_bytes = len(scene.bucket.objects[scene.manifests[0]])
    scene.bucket.block_bytes = 10
    monkeypatch.setattr(archive_module, "MAX_MANIFEST_BYTES", size_bytes)
    assert len(await found(scene.archive())) == 1
    monkeypatch.setattr(archive_module, "MAX_MANIFEST_BYTES", size_bytes - 1)
    with pytest.raises(ArchiveError, match="larger than any manifest"):
        await found(scene.archive())
    assert scene.bucket.open_now == 0


async def test_a_damaged_index_is_said_once_and_ends_it(scene: Scene) -> None:
    scene.state["window:0"] = b"?"
    windows = scene.archive().windows(Selection())
    with pytest.raises(ArchiveError, match="--from-store"):
        await anext(windows)
    with pytest.raises(StopAsyncIteration):
        await anext(windows)


# Objects ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["ndjson", "otlp_json", "text", "parquet"])
@pytest.mark.parametrize("compression", ["zstd", "gzip", "none"])
async def test_what_was_written_is_read_back(
    scene: Scene, form: FormatName, compression: Compression
) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    key = "logs/{sandbox_id}/{container}/{first}"
    level = {"zstd": 3, "gzip": 6, "none": 0}[compression]
    recipe = replace(SETTINGS.recipe, key=key, format=form, compression=compression, level=level)
    dropped = gap_of(
        stream=A, first_line=3, kind="dropped", before_line=7, from_stamp_ns=ONE_PM_NS + 2 * S
    )
    again = slice_of([(ONE_PM_NS + 90 * S, "new life")], stream=A, generation=1)
    part = slice_of(
        [(ONE_PM_NS + 60 * S, b"half a li")], stream=A, first_line=9, part=1, ended=False
    )
    slices = [lines(0, 3), lines(0, 2, B), dropped, lines(7, 9), part, again]
    await scene.put(*slices, recipe=recipe)
    archive = scene.archive()
    (window,) = await found(archive)
    records = [record for one in window.objects for record in await read(archive, one)]
    assert [
        (one.sandbox_id, one.generation, one.line, one.part, one.text)
        for one in records
        if one.gap is None
    ] == [
        *[("sbx-a", 0, n, 0, b"sbx-a %d" % n) for n in (0, 1, 2, 7, 8)],
        ("sbx-a", 0, 9, 1, b"half a li"),
        ("sbx-a", 1, 0, 0, b"new life"),
        *[("sbx-b", 0, n, 0, b"sbx-b %d" % n) for n in (0, 1)],
    ]
    (told,) = [one.gap for one in records if one.gap is not None]
    assert (told["kind"], told["after_line"], told["before_line"]) == ("dropped", 2, 7)
    assert records[3].gap is told


async def test_all_records_of_an_object_come_though_only_some_were_meant(scene: Scene) -> None:
    await scene.put(lines(0, 2), lines(0, 1, B))
    assert await texts(scene.archive(), Selection("sbx-b")) == ["sbx-a 0", "sbx-a 1", "sbx-b 0"]


async def test_a_manifest_is_fetched_once_for_the_objects_of_its_window(scene: Scene) -> None:
    await scene.put(lines(0, 2), lines(2, 4, at_ns=ONE_PM_NS + HOUR_NS))
    archive = scene.archive()
    (window,) = await found(archive)
    for one in window.objects:
        await read(archive, one)
    assert set(scene.bucket.reads.values()) == {1}


async def test_a_manifest_that_was_let_go_is_fetched_again(scene: Scene) -> None:
    for n in range(6):
        await scene.put(lines(n, n + 1))
    archive = scene.archive()
    windows = await found(archive)
    assert [await read(archive, one.objects[0]) for one in windows[:1]] == [
        [ArchivedRecord("sbx-a", "main", 0, 0, 0, ONE_PM_NS, b"sbx-a 0")]
    ]
    assert scene.bucket.reads[scene.manifests[0]] == 2


async def test_a_copy_of_a_bucket_can_be_read_under_another_prefix(scene: Scene) -> None:
    await scene.put(lines(0, 2))
    (manifest,) = scene.manifests
    copied = manifest.replace("logs/_manifests/", "elsewhere/_manifests/")
    scene.bucket.objects[copied] = scene.bucket.objects.pop(manifest)
    settings = SETTINGS.model_copy(update={"manifest_prefix": "elsewhere/_manifests/"})
    scene.bucket.opened = True
    archive = S3Archive(settings, None, scene.bucket, pauses_s=())
    assert [one.manifest_key for one in await found(archive)] == [copied]
    assert await texts(archive) == ["sbx-a 0", "sbx-a 1"]


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda data: data[:-1], "has less than the .* bytes that were written"),
        (lambda data: data + b"x", "has more than the .* bytes that were written"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "is not what was written .sha256 differs"),
    ],
    ids=["shorter", "longer", "a bit"],
)
async def test_an_object_that_was_changed_is_refused_before_a_line_of_it_is_shown(
    scene: Scene, damage: object, text: str
) -> None:
    (key,) = await scene.put(lines(0, 2))
    assert callable(damage)
    scene.bucket.objects[key] = damage(scene.bucket.objects[key])
    archive = scene.archive()
    (window,) = await found(archive)
    with pytest.raises(ArchiveError, match=f"{key} {text}"):
        await anext(archive.records(window.objects[0]))


async def test_no_more_of_an_object_is_taken_than_there_should_be(scene: Scene) -> None:
    (key,) = await scene.put(lines(0, 2))
    size_bytes = len(scene.bucket.objects[key])
    scene.bucket.objects[key] += bytes(1 << 20)
    scene.bucket.block_bytes = 100
    archive = scene.archive()
    (window,) = await found(archive)
    with pytest.raises(ArchiveError, match="has more"):
        await read(archive, window.objects[0])
    assert scene.bucket.open_now == 0
    assert scene.bucket.sent_bytes[key] <= size_bytes + 100


async def test_an_object_that_is_missing_is_named(scene: Scene) -> None:
    (key,) = await scene.put(lines(0, 2))
    del scene.bucket.objects[key]
    with pytest.raises(ArchiveError, match=f"{key} is missing"):
        await texts(scene.archive())


async def test_an_object_that_its_manifest_does_not_describe_is_refused(scene: Scene) -> None:
    (key,) = await scene.put(lines(0, 2))
    manifest = read_manifest(scene.bucket.objects[scene.manifests[0]])
    (only,) = manifest.archived.objects
    runs = [replace(run, first_line=run.first_line + 1) for run in only.runs]
    archived = replace(manifest.archived, objects=[replace(only, runs=runs)])
    scene.bucket.objects[scene.manifests[0]] = encode_manifest(replace(manifest, archived=archived))
    with pytest.raises(ArchiveError, match=f"{key}: line 0 of 'sbx-a', 'main' is not what"):
        await texts(scene.archive())


async def test_an_object_that_no_manifest_knows_is_refused(scene: Scene) -> None:
    await scene.put(lines(0, 2))
    archive = scene.archive()
    (window,) = await found(archive)
    with pytest.raises(ArchiveError, match="does not know other"):
        await read(archive, replace(window.objects[0], key="other"))


# Trouble ------------------------------------------------------------------------------------------


async def test_what_breaks_off_is_read_again_from_its_beginning(scene: Scene) -> None:
    (key,) = await scene.put(lines(0, 500))
    scene.bucket.block_bytes = 200
    for one in (key, scene.manifests[0]):
        scene.bucket.errors[one] += [SinkUnavailableError("reset"), SinkUnavailableError("again")]
    assert await texts(scene.archive(pauses_s=(0, 0))) == [f"sbx-a {n}" for n in range(500)]
    assert scene.bucket.reads == {key: 3, scene.manifests[0]: 3}


async def test_a_store_that_stays_away_is_said_to(scene: Scene) -> None:
    (key,) = await scene.put(lines(0, 2))
    scene.bucket.errors[key] += [SinkUnavailableError("down")] * 3
    with pytest.raises(SinkUnavailableError, match="down"):
        await texts(scene.archive(pauses_s=(0, 0)))
    assert scene.bucket.reads[key] == 3


async def test_what_must_be_mended_is_not_tried_again(scene: Scene) -> None:
    (key,) = await scene.put(lines(0, 2))
    scene.bucket.errors[key] += [SinkMisconfiguredError("denied", credentials=True)]
    with pytest.raises(SinkMisconfiguredError, match="denied"):
        await texts(scene.archive(pauses_s=(0, 0)))
    assert scene.bucket.reads[key] == 1


# Records against runs -----------------------------------------------------------------------------


def told(*records: ArchivedRecord) -> Iterator[Sequence[ArchivedRecord]]:
    """Some records at a time."""
    return iter([records[:2], records[2:]])


RECORDS = [line(0), line(0, sandbox="sbx-2"), line(1), gap(1, 5), line(5), line(6, part=1)]


def test_records_that_are_as_the_runs_say_pass() -> None:
    found = [one for batch in checked(told(*RECORDS), runs_of(RECORDS)) for one in batch]
    assert found == RECORDS


def test_streams_may_stand_among_each_other_in_any_way() -> None:
    others = [RECORDS[1], RECORDS[0], *RECORDS[2:]]
    assert list(checked(told(*others), runs_of(RECORDS)))


@pytest.mark.parametrize(
    "other",
    [
        line(2),
        line(1, generation=1),
        line(1, part=1),
        line(1, second=0.5),
        line(1, second=1.5),
        line(1, container="side"),
        gap(0, 2),
    ],
    ids=["number", "generation", "part", "earlier", "later", "stream", "gap"],
)
def test_a_record_that_is_another_one_is_refused(other: ArchivedRecord) -> None:
    records = [RECORDS[0], RECORDS[1], other, *RECORDS[3:]]
    with pytest.raises(ArchiveError, match="is not what its manifest says"):
        list(checked(told(*records), runs_of(RECORDS)))


def test_a_line_in_the_place_of_a_gap_record_is_refused() -> None:
    with pytest.raises(ArchiveError, match="line 2 of 'sbx-1', 'main' is not"):
        list(checked(told(*RECORDS[:3], line(2), *RECORDS[4:]), runs_of(RECORDS)))


def test_more_or_fewer_records_are_refused() -> None:
    with pytest.raises(ArchiveError, match="line 7 of"):
        list(checked(told(*RECORDS, line(7)), runs_of(RECORDS)))
    with pytest.raises(ArchiveError, match="fewer"):
        list(checked(told(*RECORDS[:-1]), runs_of(RECORDS)))
