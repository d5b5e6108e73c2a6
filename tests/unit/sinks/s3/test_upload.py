"""An object comes into the bucket once, whatever happens; nothing there is overwritten."""

from __future__ import annotations

import hashlib
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from sinks.interface import SinkError, SinkMisconfiguredError, SinkUnavailableError
from sinks.s3.plan import StagedObject
from sinks.s3.probing import Promise
from sinks.s3.upload import UPLOAD_PREFIX, Uploader
from sinks.testing import MemoryState
from tests.fakes.s3_bucket import Stored
from tests.fakes.s3_server import S3Server
from tests.fakes.s3_store import store_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.fakes.s3_server import S3Fault

WINDOW = "0a1b2c3d-0-9"
KEY = "logs/dt=2026-11-23/hour=13/one.ndjson.zst"
CONTENT = b"0123456789" * 1000
PART_BYTES = 3000


@dataclass
class Desk:
    """An uploader with its bucket, and what it uploads."""

    server: S3Server
    state: MemoryState
    file: Path
    promise: Promise
    staged: StagedObject
    quick: dict[str, str]

    async def ensure(self, staged: StagedObject | None = None, *, parts: bool = False) -> None:
        """One attempt of a sink that was just started."""
        async with store_for(self.server.url, timeout="1s", **self.quick) as store:
            uploader = Uploader(
                store,
                self.state,
                self.promise,
                multipart_above_bytes=PART_BYTES if parts else 1 << 30,
                part_bytes=PART_BYTES,
                in_flight=2,
            )
            await uploader.ensure(WINDOW, staged or self.staged, self.file)

    async def until_done(self, *, parts: bool = False) -> int:
        """Attempts until one succeeds; returns how many failed."""
        for failed in range(40):
            try:
                await self.ensure(parts=parts)
            except SinkUnavailableError:
                continue
            return failed
        raise AssertionError("it is never done")

    def check(self) -> None:
        """The object is there, as it is to be, once; and nothing is left behind."""
        bucket = self.server.bucket
        assert {key: one.body for key, one in bucket.objects.items()} == {KEY: CONTENT}
        assert bucket.overwritten == []
        assert bucket.uploads == {}
        assert not any(key.startswith(UPLOAD_PREFIX) for key in self.state.values)


@asynccontextmanager
async def desk_in(directory: Path, promise: Promise = Promise.CREATE_ONLY) -> AsyncIterator[Desk]:
    file = directory / "object"
    file.write_bytes(CONTENT)
    digest = hashlib.sha256(CONTENT).hexdigest()
    staged = StagedObject(KEY, "object", len(CONTENT), digest, "application/x-ndjson", "records")
    honoured = "honoured" if promise is Promise.CREATE_ONLY else "ignored"
    async with S3Server(conditions=honoured) as server:  # type: ignore[arg-type]  # one of both
        yield Desk(server, MemoryState(directory=directory), file, promise, staged, {})


def there(
    body: bytes = CONTENT, *, window: str = WINDOW, records: str = "records", bare: bool = False
) -> Stored:
    """An object that is in the bucket already."""
    if bare:
        return Stored(body)
    metadata = {"window": window, "sha256": hashlib.sha256(body).hexdigest(), "records": records}
    return Stored(body, {f"x-amz-meta-{name}": value for name, value in metadata.items()})


BOTH = pytest.mark.parametrize("promise", list(Promise))
EITHER_WAY = pytest.mark.parametrize("parts", [False, True], ids=["at once", "in parts"])


@BOTH
@EITHER_WAY
async def test_an_object_is_written_with_what_says_that_it_is_ours(
    tmp_path: Path, promise: Promise, *, parts: bool
) -> None:
    async with desk_in(tmp_path, promise) as desk:
        await desk.ensure(parts=parts)
        desk.check()
        headers = desk.server.bucket.objects[KEY].headers
        assert headers["x-amz-meta-window"] == WINDOW
        assert headers["x-amz-meta-sha256"] == desk.staged.sha256
        assert headers["content-type"] == "application/x-ndjson"


@BOTH
@EITHER_WAY
@pytest.mark.parametrize(
    "fault",
    [
        *("landed_then_reset", "landed_then_timeout", "landed_then_cut", "reset", "slow_down"),
        *("internal_error", "conflict", "error_in_200", "no_etag", "endless_error"),
    ],
)
async def test_after_any_failure_the_next_attempt_leaves_the_object_there_once(
    tmp_path: Path, promise: Promise, fault: S3Fault, *, parts: bool
) -> None:
    async with desk_in(tmp_path, promise) as desk:
        desk.server.fail(fault, on="PUT")
        assert await desk.until_done(parts=parts) == 1
        desk.check()


@BOTH
@pytest.mark.parametrize("fault", ["landed_then_reset", "landed_then_cut", "reset", "error_in_200"])
@pytest.mark.parametrize("request_number", [0, 1], ids=["begun", "completed"])
async def test_an_upload_in_parts_survives_a_lost_answer_at_its_beginning_and_at_its_end(
    tmp_path: Path, promise: Promise, fault: S3Fault, request_number: int
) -> None:
    async with desk_in(tmp_path, promise) as desk:
        if request_number:
            desk.server.fail("slow_down", on="PUT")
            with pytest.raises(SinkUnavailableError):
                await desk.ensure(parts=True)
        desk.server.fail(fault, on="POST")
        await desk.until_done(parts=True)
        desk.check()


@BOTH
async def test_random_faults_at_every_request_leave_one_object_and_no_upload(
    tmp_path: Path, promise: Promise
) -> None:
    async with desk_in(tmp_path, promise) as desk:
        desk.server.rate = 0.3
        await desk.until_done(parts=True)
        desk.server.rate = 0.0
        desk.check()


async def test_parts_that_the_store_has_are_not_sent_again(tmp_path: Path) -> None:
    async with desk_in(tmp_path) as desk:
        desk.server.fail("slow_down", on="PUT")
        await desk.until_done(parts=True)
        parts = [request for request in desk.server.requests if request.method == "PUT"]
        # Four parts, and the one that was refused once more.
        assert len(parts) == 5
        desk.check()


async def test_parts_of_an_object_that_was_made_anew_are_not_mixed_with_the_old_ones(
    tmp_path: Path,
) -> None:
    async with desk_in(tmp_path) as desk:
        desk.server.fail("slow_down", on="PUT")
        with pytest.raises(SinkUnavailableError):
            await desk.ensure(parts=True)
        other = CONTENT[::-1]
        desk.file.write_bytes(other)
        staged = replace(desk.staged, sha256=hashlib.sha256(other).hexdigest())
        await desk.ensure(staged, parts=True)
        assert desk.server.bucket.objects[KEY].body == other
        assert desk.server.bucket.uploads == {}


async def test_an_upload_that_the_store_has_cleared_is_begun_anew(tmp_path: Path) -> None:
    async with desk_in(tmp_path) as desk:
        desk.server.fail("slow_down", on="PUT")
        with pytest.raises(SinkUnavailableError):
            await desk.ensure(parts=True)
        desk.server.bucket.uploads.clear()
        await desk.until_done(parts=True)
        desk.check()


@BOTH
@EITHER_WAY
async def test_an_object_of_somebody_else_is_never_touched(
    tmp_path: Path, promise: Promise, *, parts: bool
) -> None:
    async with desk_in(tmp_path, promise) as desk:
        desk.server.bucket.objects[KEY] = there(b"theirs", window="another")
        with pytest.raises(SinkMisconfiguredError, match="not ours: nothing is ever overwritten"):
            await desk.ensure(parts=parts)
        assert desk.server.bucket.objects[KEY].body == b"theirs"
        assert desk.server.bucket.uploads == {}


@EITHER_WAY
async def test_a_foreign_object_that_comes_at_the_last_moment_is_not_touched_either(
    tmp_path: Path, *, parts: bool
) -> None:
    async with desk_in(tmp_path) as desk:
        desk.server.fail("foreign", on="POST" if parts else "PUT")
        if parts:  # the first POST begins the upload: there it changes nothing yet
            desk.server.fail("foreign", on="POST")
        with pytest.raises(SinkError):
            await desk.ensure(parts=parts)
        assert desk.server.bucket.objects[KEY].body != CONTENT
        assert desk.server.bucket.overwritten == []


@BOTH
async def test_the_same_records_in_other_bytes_are_ours_and_stay(
    tmp_path: Path, promise: Promise
) -> None:
    async with desk_in(tmp_path, promise) as desk:
        desk.server.bucket.objects[KEY] = there(b"made by an older zstd")
        await desk.ensure()
        assert desk.server.bucket.objects[KEY].body == b"made by an older zstd"


@BOTH
async def test_other_records_of_our_own_window_hold_the_sink(
    tmp_path: Path, promise: Promise
) -> None:
    async with desk_in(tmp_path, promise) as desk:
        desk.server.bucket.objects[KEY] = there(b"other", records="others")
        with pytest.raises(SinkMisconfiguredError, match="other records of the same window"):
            await desk.ensure()
        assert desk.server.bucket.objects[KEY].body == b"other"


@BOTH
async def test_where_metadata_are_lost_the_bytes_say_whether_it_is_ours(
    tmp_path: Path, promise: Promise
) -> None:
    async with desk_in(tmp_path, promise) as desk:
        desk.server.bucket.objects[KEY] = there(bare=True)
        await desk.ensure()
        desk.server.bucket.objects[KEY] = there(CONTENT[::-1], bare=True)
        with pytest.raises(SinkMisconfiguredError, match="nothing is ever overwritten"):
            await desk.ensure()


async def test_a_store_that_cannot_refuse_is_asked_before_it_is_written_to(tmp_path: Path) -> None:
    async with desk_in(tmp_path, Promise.HEAD_AND_COMPARE) as desk:
        await desk.ensure()
        await desk.ensure()
        assert [request.method for request in desk.server.requests] == ["HEAD", "PUT", "HEAD"]


async def test_a_store_that_says_exists_and_shows_nothing_is_asked_again_later(
    tmp_path: Path,
) -> None:
    async with desk_in(tmp_path) as desk:
        desk.server.bucket.objects[KEY] = there()
        desk.server.bucket.refused.add("HEAD")
        with pytest.raises(SinkMisconfiguredError):
            await desk.ensure()
        desk.server.bucket.refused.clear()
        await desk.ensure()
        desk.check()
