"""A bucket over S3's own interface, where all goes well or is merely not there."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from sinks.interface import SinkMisconfiguredError, SinkUnavailableError
from sinks.s3.store import (
    Found,
    Listed,
    NoConditionError,
    ObjectExistsError,
    ObjectMissingError,
    UploadGoneError,
)
from tests.fakes.s3_bucket import Stored
from tests.fakes.s3_server import S3Server
from tests.fakes.s3_store import file_part, store_for, whole
from tests.fakes.web_server import Reply, WebServer

if TYPE_CHECKING:
    from pathlib import Path

    from sinks.s3.store import ObjectStore
    from tests.fakes.s3_bucket import Conditions

_TEXT = "text/plain"


async def _create(store: ObjectStore, key: str, body: bytes = b"body") -> None:
    await store.put(key, body, media_type=_TEXT, metadata={}, create_only=True)


async def test_an_object_has_its_bytes_and_what_is_said_of_it(tmp_path: Path) -> None:
    content = b"0123456789" * 100_000
    metadata = {"window": "w-1", "sha256": "abc", "records": ""}
    async with S3Server() as server, store_for(server.url) as store:
        body = file_part(tmp_path / "f", content)
        await store.put("k", body, media_type=_TEXT, metadata=metadata, create_only=True)
        etag = hashlib.md5(content, usedforsecurity=False).hexdigest()
        expected = Found(len(content), f'"{etag}"', {"window": "w-1", "sha256": "abc"})
        assert await store.head("k") == expected
        assert await whole(store.read("k")) == content
    stored = server.bucket.objects["k"]
    assert stored.headers["content-type"] == _TEXT
    assert server.requests[0].headers["if-none-match"] == "*"


async def test_class_and_encryption_are_asked_for_with_every_object() -> None:
    encryption = {"algorithm": "aws:kms", "kms_key_id": "key-7", "bucket_key": True}
    more = {"storage_class": "STANDARD_IA", "encryption": encryption}
    async with S3Server() as server, store_for(server.url, **more) as store:
        await _create(store, "k")
        await store.begin_multipart("k", media_type=_TEXT, metadata={"window": "w"})
    for request in server.requests:
        assert request.headers["x-amz-storage-class"] == "STANDARD_IA"
        assert request.headers["x-amz-server-side-encryption"] == "aws:kms"
        assert request.headers["x-amz-server-side-encryption-aws-kms-key-id"] == "key-7"
        assert request.headers["x-amz-server-side-encryption-bucket-key-enabled"] == "true"
        assert request.headers["content-type"] == _TEXT


async def test_an_object_is_created_once() -> None:
    async with S3Server() as server, store_for(server.url) as store:
        await _create(store, "k", b"first")
        with pytest.raises(ObjectExistsError):
            await _create(store, "k", b"second")
    assert server.bucket.objects["k"].body == b"first"
    assert server.bucket.overwritten == []


@pytest.mark.parametrize("conditions", ["not_implemented", "invalid"])
async def test_a_store_without_conditions_says_so_and_writes_nothing(
    conditions: Conditions,
) -> None:
    async with S3Server(conditions=conditions) as server, store_for(server.url) as store:
        with pytest.raises(NoConditionError):
            await _create(store, "k")
        assert server.bucket.objects == {}
        await store.put("k", b"", media_type=_TEXT, metadata={}, create_only=False)
    assert server.bucket.objects["k"].body == b""


async def test_what_is_not_there_is_no_error_where_that_is_an_answer() -> None:
    async with S3Server() as server, store_for(server.url) as store:
        assert await store.head("k") is None
        await store.delete("k")
        with pytest.raises(ObjectMissingError):
            await whole(store.read("k"))
        with pytest.raises(UploadGoneError):
            await store.abort_multipart("k", "no-such-upload")


async def test_a_bucket_that_is_not_there_holds() -> None:
    async with S3Server("another") as server, store_for(server.url) as store:
        with pytest.raises(SinkMisconfiguredError, match="there is no such bucket"):
            await _create(store, "k")
        with pytest.raises(SinkMisconfiguredError, match="there is no such bucket"):
            await whole(store.read("k"))


async def test_a_server_that_has_nothing_there_is_no_store() -> None:
    async with WebServer(default=Reply(404)) as server, store_for(server.url) as store:
        with pytest.raises(SinkMisconfiguredError, match="there is no object store"):
            await _create(store, "k")
        with pytest.raises(SinkMisconfiguredError, match="there is no object store"):
            await store.begin_multipart("k", media_type=_TEXT, metadata={})
        with pytest.raises(SinkMisconfiguredError, match="there is no object store"):
            await store.uploads("k")


@pytest.mark.parametrize("body", [b"", b"{}", b"<Other/>"])
async def test_a_list_that_is_none_says_what_was_expected(body: bytes) -> None:
    async with WebServer(default=Reply(200, {}, body)) as server, store_for(server.url) as store:
        with pytest.raises(SinkMisconfiguredError, match="expected ListBucketResult"):
            await anext(aiter(store.list("")))
        with pytest.raises(SinkUnavailableError, match="without an ETag"):
            await _create(store, "k")


async def test_a_list_goes_on_over_its_pages_in_the_order_of_keys() -> None:
    keys = ["a/1", "a/2", "a/3 +&<>", "a/4\u00fc", "a/5", "b"]
    async with S3Server(page_size=2) as server, store_for(server.url) as store:
        server.bucket.objects.update({key: Stored(key.encode()) for key in reversed(keys)})
        assert [one async for one in store.list("a/")] == [
            Listed(key, len(key.encode())) for key in keys[:-1]
        ]
        assert [one.key async for one in store.list("a/", start_after="a/2")] == keys[2:-1]
        assert [one async for one in store.list("c")] == []
    assert len(server.requests) == 3 + 2 + 1


async def test_a_list_whose_page_never_changes_ends() -> None:
    page = (
        b"<ListBucketResult><IsTruncated>true</IsTruncated>"
        b"<NextContinuationToken>t</NextContinuationToken></ListBucketResult>"
    )
    async with WebServer(default=Reply(200, {}, page)) as server, store_for(server.url) as store:
        with pytest.raises(SinkUnavailableError, match="one page for ever"):
            assert [one async for one in store.list("")] == []
    assert len(server.requests) == 2


async def test_an_object_of_parts_is_there_when_it_is_completed(tmp_path: Path) -> None:
    content = b"0123456789"
    async with S3Server() as server, store_for(server.url) as store:
        upload = await store.begin_multipart("k", media_type=_TEXT, metadata={"window": "w"})
        etags = [
            await store.put_part("k", upload, 1, file_part(tmp_path / "f", content, 0, 6)),
            await store.put_part("k", upload, 2, file_part(tmp_path / "f", content, 6)),
        ]
        assert server.bucket.objects == {}
        assert await store.uploads("k") == [("k", upload)]
        await store.complete_multipart("k", upload, etags, create_only=True)
        found = await store.head("k")
        assert await store.uploads("k") == []
        with pytest.raises(UploadGoneError):
            await store.complete_multipart("k", upload, etags, create_only=True)
    assert server.bucket.objects["k"].body == content
    assert found is not None
    assert found.metadata == {"window": "w"}
    assert server.bucket.overwritten == []


async def test_an_upload_is_not_completed_over_another_object(tmp_path: Path) -> None:
    async with S3Server() as server, store_for(server.url) as store:
        upload = await store.begin_multipart("k", media_type=_TEXT, metadata={})
        etag = await store.put_part("k", upload, 1, file_part(tmp_path / "f", b"ours"))
        server.bucket.objects["k"] = Stored(b"theirs")
        with pytest.raises(ObjectExistsError):
            await store.complete_multipart("k", upload, [etag], create_only=True)
        await store.abort_multipart("k", upload)
        with pytest.raises(UploadGoneError):
            await store.put_part("k", upload, 1, file_part(tmp_path / "f", b"ours"))
    assert server.bucket.objects["k"].body == b"theirs"
    assert server.bucket.uploads == {}


async def test_an_upload_that_lacks_a_part_must_begin_anew(tmp_path: Path) -> None:
    async with S3Server() as server, store_for(server.url) as store:
        upload = await store.begin_multipart("k", media_type=_TEXT, metadata={})
        await store.put_part("k", upload, 1, file_part(tmp_path / "f", b"ours"))
        with pytest.raises(UploadGoneError, match="InvalidPart"):
            await store.complete_multipart("k", upload, ['"a<b&c"'], create_only=True)
