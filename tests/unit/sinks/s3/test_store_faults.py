"""A bucket whose store does what stores do rarely: every fault leaves the truth behind.

The truth is: nothing is overwritten, nothing half written counts, and what is said to be done is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import pytest

from sinks.interface import SinkMisconfiguredError, SinkUnavailableError
from sinks.s3.store import ObjectExistsError, UploadGoneError
from sinks.web import MAX_ANSWER_BYTES
from tests.fakes.s3_bucket import Stored
from tests.fakes.s3_server import PASSING, S3Server
from tests.fakes.s3_store import ACCESS_KEY, SECRET_KEY, file_part, store_for, whole
from tests.fakes.web_server import Reply, WebServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from sinks.s3.body import FilePart
    from sinks.s3.store import ObjectStore
    from tests.fakes.s3_server import S3Fault
    from tests.fakes.web_server import Request

_LIMIT = {"idle_timeout": "100ms", "timeout": "2s"}
#: More than the system takes without anybody reading it.
_LARGE_BYTES = 24 << 20

Ask: TypeAlias = "Callable[[ObjectStore], Awaitable[object]]"


async def _put(store: ObjectStore, body: bytes | FilePart = b"body") -> None:
    await store.put("k", body, media_type="text/plain", metadata={}, create_only=True)


async def _begin(store: ObjectStore) -> None:
    await store.begin_multipart("k", media_type="text/plain", metadata={})


async def _head(store: ObjectStore) -> None:
    await store.head("k")


async def _read(store: ObjectStore) -> None:
    await whole(store.read("k"))


async def _delete(store: ObjectStore) -> None:
    await store.delete("k")


async def _list(store: ObjectStore) -> None:
    keys = [one.key async for one in store.list("")]
    assert set(keys) <= {"k"}


async def _uploads(store: ObjectStore) -> None:
    await store.uploads("")


_EVERYTHING: tuple[Ask, ...] = (_put, _begin, _head, _read, _delete, _list, _uploads)
_NOT_NOW: tuple[S3Fault, ...] = (
    *("timeout", "reset", "slow_down", "internal_error", "conflict", "endless_error"),
    *("landed_then_timeout", "landed_then_reset"),
)
_HELD: tuple[S3Fault, ...] = ("skewed", "expired_token", "moved", "early_refusal")


@pytest.mark.parametrize("ask", _EVERYTHING)
async def test_every_question_survives_every_fault(ask: Ask) -> None:
    async with S3Server() as server, store_for(server.url, **_LIMIT) as store:
        for fault in _NOT_NOW:
            server.bucket.objects.clear()
            if ask is _read:
                server.bucket.objects["k"] = Stored(b"body")
            server.fail(fault)
            with pytest.raises(SinkUnavailableError):
                await ask(store)
            server.bucket.objects.pop("k", None)
            if ask is not _read:
                await ask(store)
        for fault in _HELD:
            server.fail(fault)
            with pytest.raises(SinkMisconfiguredError):
                await ask(store)
    assert server.met.keys() == {*_NOT_NOW, *_HELD}


@pytest.mark.parametrize(
    "fault",
    ["landed_then_timeout", "landed_then_reset", "landed_then_cut", "stall_in_answer", "no_etag"],
)
async def test_a_put_that_landed_without_a_word_is_met_again(fault: S3Fault) -> None:
    async with S3Server() as server, store_for(server.url, **_LIMIT) as store:
        server.fail(fault)
        with pytest.raises(SinkUnavailableError):
            await _put(store)
        with pytest.raises(ObjectExistsError):
            await _put(store)
    assert server.bucket.objects["k"].body == b"body"
    assert server.bucket.overwritten == []


@pytest.mark.parametrize("fault", ["error_in_200", "timeout", "reset", "endless_error"])
async def test_a_put_that_did_not_land_is_not_believed(fault: S3Fault) -> None:
    async with S3Server() as server, store_for(server.url, **_LIMIT) as store:
        server.fail(fault)
        with pytest.raises(SinkUnavailableError):
            await _put(store)
        assert server.bucket.objects == {}
        await _put(store)
    assert server.bucket.objects["k"].body == b"body"


async def test_a_complete_that_failed_with_200_is_done_the_next_time(tmp_path: Path) -> None:
    async with S3Server() as server, store_for(server.url) as store:
        upload = await store.begin_multipart("k", media_type="text/plain", metadata={})
        etag = await store.put_part("k", upload, 1, file_part(tmp_path / "f", b"part"))
        server.fail("error_in_200")
        with pytest.raises(SinkUnavailableError, match="InternalError"):
            await store.complete_multipart("k", upload, [etag], create_only=True)
        assert server.bucket.objects == {}
        await store.complete_multipart("k", upload, [etag], create_only=True)
    assert server.bucket.objects["k"].body == b"part"


@pytest.mark.parametrize(
    "fault", ["landed_then_timeout", "landed_then_reset", "landed_then_cut", "stall_in_answer"]
)
async def test_a_complete_that_landed_without_a_word_is_gone(
    fault: S3Fault, tmp_path: Path
) -> None:
    async with S3Server() as server, store_for(server.url, **_LIMIT) as store:
        upload = await store.begin_multipart("k", media_type="text/plain", metadata={})
        etag = await store.put_part("k", upload, 1, file_part(tmp_path / "f", b"part"))
        server.fail(fault)
        with pytest.raises(SinkUnavailableError):
            await store.complete_multipart("k", upload, [etag], create_only=True)
        with pytest.raises(UploadGoneError):
            await store.complete_multipart("k", upload, [etag], create_only=True)
    assert server.bucket.objects["k"].body == b"part"
    assert server.bucket.overwritten == []


async def test_a_complete_without_a_result_is_not_believed() -> None:
    async with WebServer(Reply(200, {}, b"  \n ")) as server, store_for(server.url) as store:
        with pytest.raises(SinkUnavailableError, match="did not say what became"):
            await store.complete_multipart("k", "u", ['"e"'], create_only=True)


@pytest.mark.parametrize("fault", ["landed_then_cut", "stall_in_answer"])
async def test_an_object_that_breaks_off_while_it_is_read_is_not_whole(fault: S3Fault) -> None:
    async with S3Server() as server, store_for(server.url, **_LIMIT) as store:
        server.bucket.objects["k"] = Stored(b"0123456789" * 50_000)
        server.fail(fault)
        with pytest.raises(SinkUnavailableError):
            await whole(store.read("k"))
        assert len(await whole(store.read("k"))) == 500_000


async def test_a_server_that_stops_reading_is_given_up(tmp_path: Path) -> None:
    body = file_part(tmp_path / "f", b"x" * _LARGE_BYTES)
    async with S3Server() as server, store_for(server.url, **_LIMIT) as store:
        server.fail("deaf")
        with pytest.raises(SinkUnavailableError, match="in time"):
            await _put(store, body)
        await _put(store, body)
    assert len(server.bucket.objects["k"].body) == _LARGE_BYTES


async def test_a_refusal_in_the_middle_of_an_upload_is_read(tmp_path: Path) -> None:
    body = file_part(tmp_path / "f", b"x" * _LARGE_BYTES)
    async with S3Server() as server, store_for(server.url) as store:
        server.fail("early_refusal")
        with pytest.raises(SinkMisconfiguredError, match="AccessDenied"):
            await _put(store, body)
    assert server.bucket.objects == {}


async def test_an_endless_error_is_cut_where_no_error_is_longer() -> None:
    async with S3Server() as server, store_for(server.url) as store:
        server.fail("endless_error", "endless_error")
        with pytest.raises(SinkUnavailableError, match="answered 500") as caught:
            await _put(store)
        assert len(str(caught.value)) < MAX_ANSWER_BYTES
        with pytest.raises(SinkUnavailableError, match="answered 500"):
            await whole(store.read("k"))
        await server.wait_for_connections(0)


async def test_foreign_content_is_never_written_over() -> None:
    async with S3Server() as server, store_for(server.url) as store:
        server.fail("foreign")
        with pytest.raises(ObjectExistsError):
            await _put(store)
    assert server.bucket.objects["k"].body == b"somebody else's"
    assert server.bucket.overwritten == []


async def test_the_wish_of_a_busy_store_is_handed_on() -> None:
    async with S3Server() as server, store_for(server.url) as store:
        server.fail("slow_down")
        with pytest.raises(SinkUnavailableError, match="SlowDown") as caught:
            await _put(store)
    assert caught.value.retry_after_s == 0.0


async def test_no_secret_is_in_any_message() -> None:
    """The store repeats all that it was sent."""

    def repeat(request: Request) -> Reply:
        headers = request.headers
        said = " ".join([headers["authorization"], headers["x-amz-security-token"]])
        body = f"<Error><Code>AccessDenied</Code><Message>{said}</Message></Error>"
        return Reply(403, {}, body.encode())

    token = {"session_token": "token-of-ours"}
    keys = {"access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY}
    async with WebServer(handler=repeat) as server, store_for(server.url, **token, **keys) as store:
        with pytest.raises(SinkMisconfiguredError, match="AccessDenied") as caught:
            await _put(store)
        with pytest.raises(SinkMisconfiguredError, match="AccessDenied") as while_reading:
            await whole(store.read("k"))
    for number, said in enumerate((str(caught.value), str(while_reading.value))):
        signature = server.requests[number].headers["authorization"].rpartition("=")[2]
        assert signature not in said
        assert "token-of-ours" not in said


async def test_of_many_puts_that_meet_trouble_each_is_there_once() -> None:
    keys = {ACCESS_KEY: SECRET_KEY}
    server = S3Server(rate=0.3, seed=7, kinds=PASSING, keys=keys)
    async with server, store_for(server.url) as store:
        for number in range(300):
            await _until_there(store, f"k/{number:03}", b"body %d" % number)
    objects = server.bucket.objects
    assert {key: stored.body for key, stored in objects.items()} == {
        f"k/{number:03}": b"body %d" % number for number in range(300)
    }
    assert server.bucket.overwritten == []
    assert server.met.keys() == set(PASSING)


async def _until_there(store: ObjectStore, key: str, body: bytes) -> None:
    while True:
        try:
            await store.put(key, body, media_type="text/plain", metadata={}, create_only=True)
        except ObjectExistsError:
            return
        except SinkUnavailableError:
            continue
        else:
            return
