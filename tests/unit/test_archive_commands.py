"""What `archive list`, `cat` and `verify` do with an archive."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import orjson
import pytest

from forwarder.archive_commands import cat, choose_archive, list_windows, verify
from forwarder.errors import SpoolUntrustedError, UsageError
from forwarder.spool.files import StateDir
from forwarder.spool.sqlite import open_spool
from sinks.archive import ArchiveError, Selection
from sinks.interface import SinkUnavailableError
from tests.fakes.archive import ONE_PM_NS, FakeArchive, S, gap, line

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from forwarder.archive_checks import ArchiveReport
    from forwarder.config import Settings

#: Two hours of one sandbox, and something of another.
CONTENT = {
    "w-1": {
        "logs/13/a": [line(n) for n in range(3)],
        "logs/13/b": [line(0, sandbox="sbx-2", second=1)],
    },
    "w-2": {"logs/14/c": [line(n, second=3600 + n) for n in range(3, 1503)]},
}


async def listed(
    archive: FakeArchive, selection: Selection | None = None, **options: Any
) -> tuple[str, int]:
    output = io.BytesIO()
    options = {"objects": False, "as_json": False, **options}
    totals = await list_windows(archive, selection or Selection(), output=output, **options)
    return output.getvalue().decode(), totals.windows


async def printed(
    archive: FakeArchive, selection: Selection | None = None, **options: Any
) -> tuple[bytes, list[str]]:
    output = io.BytesIO()
    told: list[str] = []
    meant = selection or Selection("sbx-1")
    await cat(archive, meant, output=output, tell=told.append, **options)
    return output.getvalue(), told


# Which archive ------------------------------------------------------------------------------------


def chosen(
    directory: Path, archives: Mapping[str, FakeArchive | None], **options: Any
) -> tuple[str, Mapping[str, bytes] | None]:
    """The chosen sink, and what it is said to remember."""
    asked: list[tuple[str, Mapping[str, bytes] | None]] = []

    def archive_of(name: str, remembered: Mapping[str, bytes] | None) -> FakeArchive | None:
        asked.append((name, remembered))
        return archives[name]

    sinks = {name: SimpleNamespace(type="some") for name in archives}
    settings = cast("Settings", SimpleNamespace(sinks=sinks, state_dir=directory))
    name, archive = choose_archive(settings, archive_of, **options)
    assert archive is archives[name]
    assert asked[-1][0] == name
    return asked[-1]


def test_the_only_archive_there_is_needs_no_name(tmp_path: Path) -> None:
    assert chosen(tmp_path, {"files": None, "s3": FakeArchive({})}) == ("s3", None)


@pytest.mark.parametrize(
    ("archives", "sink", "text"),
    [
        (["a", "b"], "", "say which archive is meant: --sink a or --sink b"),
        (["a"], "c", "sink 'c' is not in the configuration; sinks are a, file"),
        (["a"], "file", "sink 'file' is a some: it cannot be read back"),
        ([], "", "no sink of this configuration is an archive that can be read back"),
    ],
)
def test_what_cannot_be_read_back_is_refused_in_words(
    tmp_path: Path, archives: list[str], sink: str, text: str
) -> None:
    there: dict[str, FakeArchive | None] = {name: FakeArchive({}) for name in archives}
    with pytest.raises(UsageError) as refused:
        chosen(tmp_path, {**there, "file": None}, sink=sink)
    assert str(refused.value) == text


async def test_what_the_sink_remembers_is_read_beside_the_daemon(tmp_path: Path) -> None:
    spool = await open_spool(StateDir(tmp_path), now=lambda: 1)
    try:
        for name in ("b", "other"):
            await spool.open_sink(name, from_oldest=True)
            await spool.remember(name, {"window:1": name.encode()})
        there: dict[str, FakeArchive | None] = {"a": FakeArchive({}), "b": FakeArchive({})}
        assert chosen(tmp_path, there, sink="b") == ("b", {"window:1": b"b"})
        assert chosen(tmp_path, there, sink="a") == ("a", {})
        assert chosen(tmp_path, there, sink="b", from_store=True) == ("b", None)
    finally:
        await spool.close()


def test_a_spool_that_is_lost_is_refused_unless_the_store_is_to_be_asked(tmp_path: Path) -> None:
    StateDir(tmp_path).marker.write_text("there was one")
    with pytest.raises(SpoolUntrustedError):
        chosen(tmp_path, {"a": FakeArchive({})})
    assert chosen(tmp_path, {"a": FakeArchive({})}, from_store=True) == ("a", None)


# list ---------------------------------------------------------------------------------------------


async def test_a_list_has_a_row_for_each_window_and_ends_with_totals() -> None:
    archive = FakeArchive(CONTENT)
    text, windows = await listed(archive)
    assert text.splitlines() == [
        "FIRST                 LAST                  OBJECTS        LINES       SIZE  SANDBOXES",
        "2026-11-23 13:00:00Z  2026-11-23 13:00:02Z        2            4    2.0 KiB          2",
        "2026-11-23 14:00:03Z  2026-11-23 14:25:02Z        1        1,500     1000 B          1",
        "",
        "2 windows, 3 objects, 1,504 lines, 2.9 KiB, 2 sandboxes",
    ]
    assert (windows, archive.closed) == (2, 1)


async def test_a_list_shows_only_what_is_meant() -> None:
    text, _ = await listed(FakeArchive(CONTENT), Selection("sbx-2"), objects=True)
    assert text.splitlines()[1:] == [
        "2026-11-23 13:00:01Z  2026-11-23 13:00:01Z        1            1     1000 B          1",
        "                                                               1     1000 B  logs/13/b",
        "",
        "1 window, 1 object, 1 line, 1000 B, 1 sandbox",
    ]


async def test_nothing_is_listed_where_nothing_is() -> None:
    assert await listed(FakeArchive(CONTENT), Selection("sbx-3")) == ("", 0)


async def test_a_list_for_scripts_is_a_document_a_line() -> None:
    text, _ = await listed(FakeArchive(CONTENT), Selection("sbx-1", None, ONE_PM_NS), as_json=True)
    first, second = [orjson.loads(row) for row in text.splitlines()]
    assert (first["window"], second["window"]) == ("w-1", "w-2")
    assert {name: value for name, value in first.items() if name != "objects"} == {
        "window": "w-1",
        "manifest": "_manifests/w-1.json",
        "first": "2026-11-23T13:00:00.000000000Z",
        "last": "2026-11-23T13:00:02.000000000Z",
        "lines": 3,
        "size_bytes": 1000,
        "sandboxes": 1,
    }
    (only,) = first["objects"]
    assert len(only.pop("sha256")) == 64
    assert only == {
        "key": "logs/13/a",
        "first": "2026-11-23T13:00:00.000000000Z",
        "last": "2026-11-23T13:00:02.000000000Z",
        "lines": 3,
        "gaps": 0,
        "size_bytes": 1000,
    }


async def test_an_archive_is_closed_whatever_happens() -> None:
    for archive in (
        FakeArchive(CONTENT, damaged={"w-2"}),
        FakeArchive(CONTENT, error=SinkUnavailableError("down")),
    ):
        with pytest.raises((ArchiveError, SinkUnavailableError)):
            await listed(archive)
        assert archive.closed == 1


# cat ----------------------------------------------------------------------------------------------


async def test_one_container_prints_its_bare_lines() -> None:
    printed_lines, told = await printed(FakeArchive(CONTENT))
    assert printed_lines == b"".join(b"line %d\n" % n for n in range(1503))
    assert told == []


async def test_a_person_hears_how_many_windows_were_found_until_the_first_line() -> None:
    heard: list[tuple[int | None, int]] = []
    output = io.BytesIO()

    def progress(windows: int | None) -> None:
        heard.append((windows, len(output.getvalue())))

    meant = Selection("sbx-1")
    await cat(FakeArchive(CONTENT), meant, output=output, tell=print, progress=progress)
    assert heard == [(1, 0), (2, 0), (None, 0)]


async def test_several_containers_say_whose_each_line_is() -> None:
    side = [line(0, "up", container="side", second=1.5)]
    archive = FakeArchive({"w": {"a": [*[line(n) for n in range(3)], *side]}})
    assert await printed(archive) == (b"main: line 0\nmain: line 1\nside: up\nmain: line 2\n", [])
    assert await printed(archive, Selection("sbx-1", "side")) == (b"up\n", [])


async def test_a_time_cuts_at_the_line() -> None:
    meant = Selection("sbx-1", None, ONE_PM_NS + S, ONE_PM_NS + 3604 * S)
    assert await printed(FakeArchive(CONTENT), meant) == (b"line 1\nline 2\nline 3\n", [])


async def test_gaps_are_told_beside_the_lines_or_stand_among_them() -> None:
    archive = FakeArchive({"w": {"a": [line(0), gap(0, 5), line(5)]}})
    assert await printed(archive) == (
        b"line 0\nline 5\n",
        ["gap after line 0: spool_full, 4 lines of sbx-1/main"],
    )
    lines, told = await printed(archive, as_json=True)
    assert [sorted({"line", "gap"} & orjson.loads(one).keys()) for one in lines.splitlines()] == [
        ["line"],
        ["gap"],
        ["line"],
    ]
    assert told == []


async def test_a_line_that_is_there_twice_is_printed_once_and_told() -> None:
    both = [line(n) for n in range(4)]
    other = [line(0, container="side"), *both[:3]]
    archive = FakeArchive({"w-1": {"a": both}, "w-2": {"b": other}})
    assert await printed(archive, Selection("sbx-1", "main")) == (
        b"line 0\nline 1\nline 2\nline 3\n",
        ["3 lines are in the archive more than once, and printed once"],
    )
    one = FakeArchive({"w-1": {"a": both}, "w-2": {"b": both[:1]}})
    assert (await printed(one))[1] == ["1 line is in the archive more than once, and printed once"]


async def test_different_lines_of_one_number_are_all_printed_and_told() -> None:
    archive = FakeArchive({"w-1": {"a": [line(0)]}, "w-2": {"b": [line(0, "else", second=9)]}})
    lines, told = await printed(archive)
    assert (lines, len(told)) == (b"line 0\nelse\n", 1)
    assert "1 line number stand" in told[0]


async def test_what_cannot_be_read_ends_it_behind_what_could() -> None:
    archive = FakeArchive(CONTENT, damaged={"logs/14/c"})
    output = io.BytesIO()
    with pytest.raises(ArchiveError, match="logs/14/c is missing"):
        await cat(archive, Selection("sbx-1"), output=output, tell=print)
    assert output.getvalue() == b"line 0\nline 1\nline 2\n"
    assert (archive.open_now, archive.closed) == (0, 1)


async def test_a_reader_that_went_away_ends_it() -> None:
    class Gone(io.BytesIO):
        def write(self, _: object) -> int:
            raise BrokenPipeError

    archive = FakeArchive(CONTENT)
    with pytest.raises(BrokenPipeError):
        await cat(archive, Selection("sbx-1"), output=Gone(), tell=print)
    assert (archive.reads, archive.open_now, archive.closed) == (["logs/13/a"], 0, 1)


# verify -------------------------------------------------------------------------------------------


async def verified(
    archive: FakeArchive, selection: Selection | None = None, **options: Any
) -> ArchiveReport:
    return await verify(archive, selection or Selection(), **options)


async def test_a_whole_archive_is_well_and_every_object_of_it_was_read() -> None:
    archive = FakeArchive(CONTENT)
    seen: list[int] = []
    report = await verified(archive, progress=lambda one: seen.append(one.objects))
    assert (report.ok, report.contents, seen) == (True, True, [1, 2, 3])
    assert (report.windows, report.streams, report.lines) == (2, 2, 1504)
    assert (report.size_bytes, archive.closed) == (3000, 1)
    assert archive.reads == ["logs/13/a", "logs/13/b", "logs/14/c"]


async def test_a_quick_look_reads_no_object() -> None:
    archive = FakeArchive(CONTENT, damaged={"logs/14/c"})
    report = await verified(archive, quick=True)
    assert (report.ok, report.contents, archive.reads) == (True, False, [])


async def test_what_is_damaged_is_told_and_the_rest_is_looked_at() -> None:
    content = {**CONTENT, "w-3": {"d": [line(n, second=9000) for n in range(1503, 1506)]}}
    report = await verified(FakeArchive(content, damaged={"logs/13/a", "w-2"}))
    assert report.problems == [
        "logs/13/a is missing",
        "_manifests/w-2.json is missing",
        "sbx-1/main: lines 3 to 1502 are missing, and no gap record says why",
    ]
    assert (report.windows, report.objects) == (2, 3)


async def test_gap_records_that_were_read_account_for_what_is_missing() -> None:
    records = [line(0), gap(0, 3), line(3), line(7)]
    report = await verified(FakeArchive({"w": {"a": records}}))
    assert report.missing_told == 2
    assert report.problems == ["sbx-1/main: lines 4 to 6 are missing, and no gap record says why"]


async def test_only_what_is_meant_is_judged() -> None:
    content = {"w": {"a": [line(0), line(5), line(0, sandbox="sbx-2")]}}
    assert not (await verified(FakeArchive(content))).ok
    assert (await verified(FakeArchive(content), Selection("sbx-2"))).ok
    since = await verified(FakeArchive(content), Selection("sbx-1", None, ONE_PM_NS + S))
    assert (since.ok, since.late, since.lines) == (True, 0, 1)
