"""A window comes into the bucket whole and once: as objects, and last a manifest."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import zstandard

from sinks.archive import Selection
from sinks.interface import SinkMisconfiguredError, SinkUnavailableError
from sinks.s3.index import MOST_SINGLE, from_state
from sinks.testing import end_of
from sinks.window import WindowSink
from tests.fakes.s3_bucket import Stored
from tests.fakes.s3_sink import (
    IN_PARTS,
    OTHER,
    desk_in,
    lines_in,
    made,
    made_of,
    some_window,
)
from tests.fakes.windows import window_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.fakes.s3_sink import Desk

EITHER_WAY = pytest.mark.parametrize("how", [{}, IN_PARTS], ids=["at once", "in parts"])


async def test_a_window_comes_as_objects_and_at_last_a_manifest(tmp_path: Path) -> None:
    async with desk_in(tmp_path) as desk:
        sink = desk.new_sink()
        assert isinstance(sink, WindowSink)
        await desk.write(some_window())
        desk.check()
        written = [one.path for one in desk.server.requests if one.method == "PUT"]
        assert [path.endswith(".json") for path in written] == [False, False, False, True]
        assert lines_in(desk.bodies) == {"sbx-0": [*range(6)], "sbx-1": [*range(6)]}


async def test_the_manifest_waits_for_every_object(tmp_path: Path) -> None:
    async with desk_in(tmp_path) as desk:
        desk.server.fail("slow_down", on="PUT")
        with pytest.raises(SinkUnavailableError):
            await desk.write(some_window())
        # What one request was refused, the others were not.
        assert sorted(key.endswith(".json") for key in desk.bodies) == [False, False]
        assert await desk.until_done(some_window()) == 0
        desk.check()


async def test_a_failed_attempt_says_whether_it_got_anything_done(tmp_path: Path) -> None:
    async with desk_in(tmp_path) as desk, desk.sink() as sink:
        desk.server.fail("slow_down", "slow_down", "slow_down", "", "slow_down", on="PUT")
        for progressed in (False, True):
            with pytest.raises(SinkUnavailableError) as raised:
                await sink.write(some_window())
            assert raised.value.progressed is progressed
        desk.state.commit(await sink.write(some_window()))
        desk.check()


async def test_what_a_failed_attempt_got_done_is_not_asked_for_again(tmp_path: Path) -> None:
    async with desk_in(tmp_path) as desk, desk.sink() as sink:
        desk.server.fail("", "slow_down", on="PUT")
        with pytest.raises(SinkUnavailableError):
            await sink.write(some_window())
        desk.state.commit(await sink.write(some_window()))
        assert len(desk.server.requests) == 5
        desk.check()


async def test_parts_that_were_sent_are_something_done(tmp_path: Path) -> None:
    async with desk_in(tmp_path, **IN_PARTS, compression="none", key="all") as desk:
        desk.server.fail("", "slow_down", on="PUT")
        with pytest.raises(SinkUnavailableError) as raised:
            await desk.write(some_window())
        assert raised.value.progressed
        await desk.until_done(some_window())
        desk.check()


def lose(directory: Path) -> None:
    shutil.rmtree(directory)


def lose_one(directory: Path) -> None:
    next(path for path in directory.iterdir() if path.name != "manifest").unlink()


def cut_one(directory: Path) -> None:
    path = next(path for path in directory.iterdir() if path.name != "manifest")
    path.write_bytes(path.read_bytes()[:-1])


def damage_one(directory: Path) -> None:
    path = next(path for path in directory.iterdir() if path.name != "manifest")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def lose_the_manifest(directory: Path) -> None:
    (directory / "manifest").unlink()


def leave(directory: Path) -> None:
    assert directory.is_dir()


@EITHER_WAY
@pytest.mark.parametrize(
    "harm",
    [leave, lose, lose_one, cut_one, damage_one, lose_the_manifest],
    ids=lambda f: f.__name__,
)
async def test_a_restart_with_other_settings_finishes_the_window_as_it_was_begun(
    tmp_path: Path, harm: Callable[[Path], None], how: dict[str, Any]
) -> None:
    expected = await made(tmp_path, some_window())
    async with desk_in(tmp_path) as desk:
        desk.server.fail("", "slow_down", "slow_down", on="PUT")
        with pytest.raises(SinkUnavailableError):
            await desk.write(some_window())
        (window,) = desk.staged
        harm(desk.state.directory / window)
        await desk.until_done(some_window(), **OTHER, **how)
        assert desk.bodies == expected
        desk.check()
        await desk.write(some_window(50, first=6), **OTHER)
        assert [key for key in desk.bodies.keys() - expected if not key.startswith("other/")] == [
            key for key in desk.bodies if key.startswith("elsewhere/")
        ]


async def test_what_was_begun_in_parts_is_ended_though_it_would_go_up_at_once_by_now(
    tmp_path: Path,
) -> None:
    async with desk_in(tmp_path) as desk:
        desk.server.fail("", "", "", "slow_down", on="PUT")
        with pytest.raises(SinkUnavailableError):
            await desk.write(some_window(), **IN_PARTS)
        assert desk.server.bucket.uploads
        await desk.write(some_window())
        desk.check()


async def test_the_manifest_describes_what_is_there_when_the_same_records_became_other_bytes(
    tmp_path: Path,
) -> None:
    async with desk_in(tmp_path, in_flight=1) as desk:
        desk.server.fail("", "slow_down", "slow_down", on="PUT")
        with pytest.raises(SinkUnavailableError):
            await desk.write(some_window())
        ((key, stored),) = desk.server.bucket.objects.items()
        older = zstandard.ZstdCompressor(level=19, write_checksum=True).compress(
            zstandard.ZstdDecompressor().decompressobj().decompress(stored.body)
        )
        assert older != stored.body
        digest = hashlib.sha256(older).hexdigest()
        headers = {**stored.headers, "x-amz-meta-sha256": digest}
        desk.server.bucket.objects[key] = Stored(older, headers)
        desk.server.fail("", "", "", "slow_down", on="PUT")  # all but the manifest come
        assert await desk.until_done(some_window()) == 1
        assert desk.bodies[key] == older
        desk.check()
        (manifest,) = [json.loads(v) for k, v in desk.bodies.items() if k.endswith(".json")]
        assert {one["key"]: one["sha256"] for one in manifest["objects"]} == {
            key: hashlib.sha256(body).hexdigest()
            for key, body in desk.bodies.items()
            if not key.endswith(".json")
        }
        assert await archived(desk) == [f"sbx-{n} {line}" for n in range(2) for line in range(6)]


async def archived(desk: Desk) -> list[str]:
    """What the archive itself gives back."""
    archive = desk.new_sink().archive(desk.state.values)
    await archive.open()
    try:
        texts = [
            record.text.decode()
            async for window in archive.windows(Selection())
            for one in window.objects
            async for records in archive.records(one)
            for record in records
        ]
    finally:
        await archive.close()
    return sorted(texts)


async def test_a_plan_of_another_window_is_not_finished_in_its_place(tmp_path: Path) -> None:
    async with desk_in(tmp_path) as desk:
        desk.server.fail("slow_down", "slow_down", "slow_down", on="PUT")
        with pytest.raises(SinkUnavailableError):
            await desk.write(some_window())
        await desk.write(some_window(streams=3))
        assert lines_in(desk.bodies) == {f"sbx-{n}": [*range(6)] for n in range(3)}
        desk.check()


async def test_a_window_without_records_makes_nothing(tmp_path: Path) -> None:
    async with desk_in(tmp_path) as desk, desk.sink() as sink:
        assert await sink.write(window_of([end_of(), end_of()])) == {}
        assert await sink.write(window_of([])) == {}
        assert desk.server.requests == []
        assert desk.staged == []
        assert desk.state.values == {}


async def test_a_plan_is_forgotten_when_nothing_is_left_of_its_window(tmp_path: Path) -> None:
    window = some_window()
    async with desk_in(tmp_path) as desk:
        desk.server.fail("slow_down", "slow_down", "slow_down", on="PUT")
        with pytest.raises(SinkUnavailableError):
            await desk.write(window)
        lose(desk.state.directory / desk.staged[0])
        await desk.write(replace(window, read=window_of([]).read))
        assert desk.state.values == {}


async def test_its_size_is_told_once(tmp_path: Path) -> None:
    window, told = made_of(some_window())
    async with desk_in(tmp_path) as desk, desk.sink() as sink:
        desk.state.left = 0
        with pytest.raises(SinkUnavailableError, match="no room"):
            await sink.write(window)
        desk.server.fail("slow_down", on="PUT")
        with pytest.raises(SinkUnavailableError):
            await sink.write(window)
        lose(desk.state.directory / desk.staged[0])
        desk.state.commit(await sink.write(window))
        assert told == [sum(len(v) for k, v in desk.bodies.items() if not k.endswith(".json"))]


async def test_two_windows_at_once_do_not_wait_for_each_other(tmp_path: Path) -> None:
    first, second, third = (some_window(at * 10, first=at * 6) for at in range(3))
    async with desk_in(tmp_path) as desk, desk.sink() as sink:
        desk.server.fail("slow_down", on="PUT")
        failed, later = await asyncio.gather(
            sink.write(first), sink.write(second), return_exceptions=True
        )
        assert isinstance(failed, SinkUnavailableError)
        assert isinstance(later, dict)
        assert len(desk.staged) == 2
        desk.state.commit(await sink.write(first))
        desk.state.commit(later)
        assert len(desk.staged) == 2, "what was not remembered yet may be needed again"
        desk.state.commit(await sink.write(third))
        assert len(desk.staged) == 1
        desk.check()
        assert lines_in(desk.bodies)["sbx-0"] == [*range(18)]


async def test_what_is_committed_while_something_is_remembered_is_kept(tmp_path: Path) -> None:
    """A power cut may still undo it."""
    async with desk_in(tmp_path) as desk, desk.sink() as sink:
        changes = await sink.write(some_window())
        (before,) = desk.staged
        remember = desk.state.remember

        class Busy(type(desk.state)):  # type: ignore[misc]  # the state's own class
            async def remember(self, more: Any) -> None:
                await remember(more)
                self.commit(changes)

        desk.state.__class__ = Busy
        await sink.write(some_window(10, first=6))
        assert before in desk.staged


async def test_what_is_over_is_swept_when_the_sink_opens(tmp_path: Path) -> None:
    async with desk_in(tmp_path) as desk:
        await desk.write(some_window())
        assert len(desk.staged) == 1
        (desk.state.directory / "0123abcd-0-9").mkdir()
        async with desk.sink():
            assert desk.staged == []
        desk.server.fail("slow_down", "slow_down", "slow_down", on="PUT")
        with pytest.raises(SinkUnavailableError):
            await desk.write(some_window(10))
        async with desk.sink():
            assert len(desk.staged) == 1


async def test_every_window_is_in_the_index_however_many_there_are(tmp_path: Path) -> None:
    window = some_window(MOST_SINGLE + 1, count=1, streams=1)
    async with desk_in(tmp_path) as desk:
        await desk.write(some_window(0, count=1, streams=1))
        template = desk.state.values["window:0"]
        for number in range(1, MOST_SINGLE + 1):
            name = f"0000000a-{number:x}-{number + 1:x}"
            value = {**json.loads(template), "window": name}
            desk.state.values[f"window:{number}"] = json.dumps(value).encode()
        await desk.write(window)
        assert len(from_state(desk.state.values)) == MOST_SINGLE + 2
        singles = [key for key in desk.state.values if key.startswith("window:")]
        assert singles == [f"window:{MOST_SINGLE + 1}"]


async def test_a_damaged_index_does_not_hold_the_archive(tmp_path: Path) -> None:
    async with desk_in(tmp_path) as desk:
        for number in range(MOST_SINGLE + 1):
            desk.state.values[f"window:{number + 100}"] = b"damaged"
        await desk.write(some_window())
        desk.check()


async def test_opening_again_leaves_no_connection_behind(tmp_path: Path) -> None:
    async with desk_in(tmp_path) as desk, desk.sink() as sink:
        desk.state.commit(await sink.write(some_window()))
        await sink.open(desk.state)
        await desk.server.wait_for_connections(0)
        desk.state.commit(await sink.write(some_window(10, first=6)))
        desk.check()


async def test_a_directory_that_is_gone_holds_and_does_not_break(tmp_path: Path) -> None:
    async with desk_in(tmp_path) as desk:

        class Gone(type(desk.state)):  # type: ignore[misc]  # the state's own class
            directory = tmp_path / "gone"

        desk.state.__class__ = Gone
        sink = desk.new_sink()
        with pytest.raises((SinkUnavailableError, SinkMisconfiguredError), match="gone"):
            await sink.open(desk.state)
        await sink.close()
