"""The bucket of the s3 sink on real S3 servers, with obstore as an independent reader."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import random
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import obstore
import pytest
from obstore.store import S3Store

from sinks.archive import Selection
from sinks.interface import SinkMisconfiguredError, SinkUnavailableError, Stream
from sinks.s3 import S3Sink
from sinks.s3.archive import S3Archive
from sinks.s3.body import FilePart
from sinks.s3.plan import StagedObject
from sinks.s3.probing import Promise, check, probe
from sinks.s3.store import (
    Found,
    Listed,
    ObjectExistsError,
    ObjectMissingError,
    ObjectStore,
    UploadGoneError,
)
from sinks.s3.upload import Uploader
from sinks.testing import MemoryState, slice_of
from tests.fakes.s3_store import file_part, whole
from tests.fakes.windows import unpacked, window_of
from tests.servers.s3 import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sinks.s3 import S3Settings
    from tests.servers import S3Proxy, S3Server

_PART_BYTES = 5 << 20  # the least that a store takes of a part that is not the last one
_MEDIA_TYPE = "application/vnd.test"
_METADATA = {"window": "0f3c9a61-0-2a", "sha256": "ab" * 32, "records": "cd" * 32}
#: What a template, and the names of sandboxes, can make of a key.
_KEYS = (
    "logs/dt=2026-11-23/hour=13/20261123T131941.123456789Z-20261123T132041.000000000Z-w.ndjson.zst",
    "with space/and+plus%2F&amp;='()!*,;:@$.txt",
    "umlaut/größe-日本.txt",
)

_numbers = itertools.count()


@pytest.fixture
def bucket(s3_server: S3Server) -> str:
    """A bucket that is empty."""
    return s3_server.make_bucket(f"test-{next(_numbers)}")


@asynccontextmanager
async def opened(server: S3Server, **more: Any) -> AsyncIterator[ObjectStore]:
    store = ObjectStore(server.settings(**more))
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def store(s3_server: S3Server, bucket: str) -> AsyncIterator[ObjectStore]:
    async with opened(s3_server, bucket=bucket) as store:
        yield store


@pytest.fixture
def reader(s3_server: S3Server, bucket: str) -> S3Store:
    """The same bucket, read by somebody else's library."""
    return S3Store(
        bucket,
        endpoint=s3_server.endpoint,
        access_key_id=ACCESS_KEY_ID,
        secret_access_key=SECRET_ACCESS_KEY,
        region=REGION,
        client_options={"allow_http": True},
    )


async def put(store: ObjectStore, key: str, body: bytes | FilePart, *, create_only: bool) -> None:
    await store.put(key, body, media_type=_MEDIA_TYPE, metadata=_METADATA, create_only=create_only)


def part_of(file: Path, offset: int, size_bytes: int) -> FilePart:
    content = file.read_bytes()[offset : offset + size_bytes]
    return FilePart(file, offset, len(content), hashlib.sha256(content).hexdigest())


async def in_parts(store: ObjectStore, key: str, file: Path) -> tuple[str, list[str]]:
    """Begin an upload and send its parts, the second one first; its id, and the parts' names."""
    upload_id = await store.begin_multipart(key, media_type=_MEDIA_TYPE, metadata=_METADATA)
    second = await store.put_part(key, upload_id, 2, part_of(file, _PART_BYTES, _PART_BYTES))
    first = await store.put_part(key, upload_id, 1, part_of(file, 0, _PART_BYTES))
    return upload_id, [first, second]


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file of two parts."""
    path = tmp_path / "large"
    path.write_bytes(random.Random(7).randbytes(_PART_BYTES + 4_321))
    return path


@pytest.mark.parametrize("key", _KEYS)
async def test_another_library_reads_and_lists_what_was_written(
    store: ObjectStore, reader: S3Store, tmp_path: Path, key: str
) -> None:
    content = random.Random(key).randbytes(700_001)
    await put(store, key, file_part(tmp_path / "f", content), create_only=True)

    read = await obstore.get_async(reader, key)

    assert bytes(await read.bytes_async()) == content
    assert read.attributes == {"Content-Type": _MEDIA_TYPE, **_METADATA}
    listed = obstore.list(reader).collect()
    assert [(one["path"], one["size"]) for one in listed] == [(key, len(content))]


@pytest.mark.parametrize("key", _KEYS)
async def test_what_was_written_is_found_read_listed_and_deleted(
    store: ObjectStore, tmp_path: Path, key: str
) -> None:
    content = random.Random(key).randbytes(700_001)
    await put(store, key, file_part(tmp_path / "f", content), create_only=True)

    found = await store.head(key)
    assert found is not None
    assert found == Found(len(content), found.etag, _METADATA)
    assert await whole(store.read(key)) == content
    assert [one async for one in store.list("")] == [Listed(key, len(content))]
    await store.delete(key)
    await store.delete(key)
    assert await store.head(key) is None
    with pytest.raises(ObjectMissingError):
        await whole(store.read(key))


async def test_a_key_is_written_once_and_keeps_its_first_bytes(store: ObjectStore) -> None:
    await put(store, "once", b"first", create_only=True)
    for again in (b"first", b"second", b""):
        with pytest.raises(ObjectExistsError):
            await put(store, "once", again, create_only=True)
    assert await whole(store.read("once")) == b"first"


async def test_a_body_that_is_not_what_was_signed_is_not_written(
    store: ObjectStore, tmp_path: Path
) -> None:
    file = tmp_path / "f"
    body = file_part(file, b"as it was signed")
    file.write_bytes(b"as it was damage")
    with pytest.raises(SinkUnavailableError, match="SHA256Mismatch"):
        await put(store, "damaged", body, create_only=True)
    assert await store.head("damaged") is None


async def test_lists_have_every_page_in_the_order_of_keys(
    store: ObjectStore, reader: S3Store
) -> None:
    keys = [f"pages/{number:04d} +é" for number in range(1_001)]
    await asyncio.gather(*(obstore.put_async(reader, key, b"x") for key in keys))
    await obstore.put_async(reader, "other/1", b"x")
    assert [one.key async for one in store.list("pages/")] == keys
    assert [one.key async for one in store.list("pages/", keys[997])] == keys[998:]
    assert [one async for one in store.list("nothing/")] == []


async def test_parts_make_an_object_that_another_library_reads(
    store: ObjectStore, reader: S3Store, large: Path
) -> None:
    upload_id, etags = await in_parts(store, "parts/large", large)
    await store.complete_multipart("parts/large", upload_id, etags, create_only=True)

    read = await obstore.get_async(reader, "parts/large")

    assert bytes(await read.bytes_async()) == large.read_bytes()
    assert read.attributes == {"Content-Type": _MEDIA_TYPE, **_METADATA}
    found = await store.head("parts/large")
    assert found is not None
    assert (found.size_bytes, found.metadata) == (large.stat().st_size, _METADATA)
    assert await store.uploads("parts/large") == []


async def test_an_upload_is_listed_by_its_key_until_it_is_aborted(
    store: ObjectStore, large: Path
) -> None:
    upload_id, etags = await in_parts(store, "parts/aborted", large)
    other_id = await store.begin_multipart("parts/other", media_type=_MEDIA_TYPE, metadata={})
    assert await store.uploads("parts/aborted") == [("parts/aborted", upload_id)]
    await store.abort_multipart("parts/aborted", upload_id)
    assert await store.uploads("parts/aborted") == []
    assert await store.uploads("parts/other") == [("parts/other", other_id)]
    with pytest.raises(UploadGoneError):
        await store.complete_multipart("parts/aborted", upload_id, etags, create_only=True)
    assert await store.head("parts/aborted") is None


async def test_the_probe_finds_that_a_key_is_written_once_and_leaves_nothing(
    store: ObjectStore,
) -> None:
    for _ in range(2):
        assert await probe(store, "logs/_manifests/") is Promise.CREATE_ONLY
    assert [one async for one in store.list("")] == []


async def test_the_check_says_what_the_store_can_do_and_leaves_nothing(
    store: ObjectStore, s3_server: S3Server, bucket: str
) -> None:
    said = await check(store, s3_server.settings(bucket=bucket, conditional_writes="on"))
    assert said == (
        f"writes objects; reads them back; lists them; deletes them; {Promise.CREATE_ONLY.words}"
    )
    assert [one async for one in store.list("")] == []


async def test_the_check_explains_a_wrong_secret(s3_server: S3Server) -> None:
    settings = s3_server.settings(secret_access_key="wrong")
    async with opened(s3_server, secret_access_key="wrong") as store:
        with pytest.raises(SinkMisconfiguredError, match="the secret key is wrong") as caught:
            await check(store, settings)
    assert caught.value.credentials


async def test_the_check_explains_a_missing_bucket(s3_server: S3Server) -> None:
    settings = s3_server.settings(bucket="nobody-made-it")
    async with opened(s3_server, bucket="nobody-made-it") as store:
        with pytest.raises(SinkMisconfiguredError, match="there is no such bucket: create it"):
            await check(store, settings)


async def test_a_bucket_is_found_by_the_name_of_the_host(
    s3_server: S3Server, bucket: str, reader: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = socket.getaddrinfo
    # What the wildcard in a store's DNS does.
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda _, *more, **named: resolve("127.0.0.1", *more, **named)
    )
    host = f"http://{s3_server.virtual_domain}:{s3_server.port}"
    more = {"bucket": bucket, "endpoint": host, "addressing": "virtual"}
    async with opened(s3_server, **more, allow_plaintext=True) as store:
        await put(store, "a/b +", b"content", create_only=True)
        assert await whole(store.read("a/b +")) == b"content"
        assert [one.key async for one in store.list("a/")] == ["a/b +"]
    assert bytes(obstore.get(reader, "a/b +").bytes()) == b"content"


async def _completed_twice(server: S3Server, bucket: str, large: Path) -> bytes:
    """How an object in parts begins whose key was taken; the second one is only to be created."""
    async with opened(server, bucket=bucket) as store:
        await put(store, "taken", b"first", create_only=True)
        upload_id, etags = await in_parts(store, "taken", large)
        try:
            await store.complete_multipart("taken", upload_id, etags, create_only=True)
        except ObjectExistsError:
            await store.abort_multipart("taken", upload_id)
        assert await store.uploads("taken") == []
        return (await whole(store.read("taken")))[:5]


@pytest.mark.parametrize("name", ["versitygw", "minio"])
async def test_an_object_in_parts_is_created_only_where_nothing_is(
    name: str, large: Path, request: pytest.FixtureRequest
) -> None:
    server: S3Server = request.getfixturevalue(name)
    bucket = server.make_bucket(f"test-{next(_numbers)}")
    assert await _completed_twice(server, bucket, large) == b"first"


async def test_a_store_may_create_only_at_once_and_overwrite_in_parts(
    s3proxy: S3Proxy, large: Path
) -> None:
    """Why a promise that was probed with one request is none for parts."""
    bucket = s3proxy.make_bucket(f"test-{next(_numbers)}")
    assert await _completed_twice(s3proxy, bucket, large) == large.read_bytes()[:5]


def staged(file: Path) -> StagedObject:
    content = file.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    return StagedObject("up", file.name, len(content), sha256, _MEDIA_TYPE, "cd" * 32)


def uploader(store: ObjectStore, *, multipart_above_bytes: int) -> Uploader:
    return Uploader(
        store,
        MemoryState(),
        Promise.CREATE_ONLY,
        multipart_above_bytes=multipart_above_bytes,
        part_bytes=_PART_BYTES,
        in_flight=2,
    )


@pytest.mark.parametrize("multipart_above_bytes", [_PART_BYTES, 1 << 30])
async def test_an_upload_that_is_repeated_after_a_crash_finds_its_own_object(
    store: ObjectStore, reader: S3Store, large: Path, multipart_above_bytes: int
) -> None:
    written = []
    for _ in range(2):
        again = uploader(store, multipart_above_bytes=multipart_above_bytes)
        await again.ensure("w", staged(large), large)
        written.append(obstore.head(reader, "up")["last_modified"])
    assert bytes(obstore.get(reader, "up").bytes()) == large.read_bytes()
    assert await store.uploads("up") == []
    assert written[0] == written[1]


@pytest.mark.parametrize("multipart_above_bytes", [_PART_BYTES, 1 << 30])
async def test_an_object_of_somebody_else_is_never_overwritten(
    store: ObjectStore, reader: S3Store, large: Path, multipart_above_bytes: int
) -> None:
    obstore.put(reader, "up", b"somebody else's")
    ours = uploader(store, multipart_above_bytes=multipart_above_bytes)
    with pytest.raises(SinkMisconfiguredError, match="exists, and is not ours"):
        await ours.ensure("w", staged(large), large)
    assert bytes(obstore.get(reader, "up").bytes()) == b"somebody else's"
    assert await store.uploads("up") == []


async def test_a_window_is_archived_once_and_read_back(
    s3_server: S3Server, bucket: str, reader: S3Store, tmp_path: Path
) -> None:
    first_ns = 1_795_439_981_123_456_789
    slices = [
        slice_of([(first_ns + n, f"line {n} ä")], stream=Stream(f"sbx-{n}", "main"), first_line=n)
        for n in range(3)
    ]
    window = window_of(slices)
    state = MemoryState(directory=tmp_path / "staging")
    settings = s3_server.settings(bucket=bucket, key="logs/{sandbox_id}/{date}")
    keys = []
    # The second one has lost that the window is done, as a crash before the commit does.
    for _ in range(2):
        sink = S3Sink("archive", settings)
        await sink.open(state)
        await sink.write(window)
        await sink.close()
        keys.append(sorted(one["path"] for one in obstore.list(reader).collect()))

    *objects, manifest = sorted(keys[0], key=lambda key: "/_manifests/" in key)
    assert keys[0] == keys[1]
    assert [key.partition("-")[0] for key in objects] == ["logs/sbx"] * 3
    assert manifest.startswith("logs/_manifests/dt=2026-11-23/")
    lines = [unpacked(bytes(obstore.get(reader, key).bytes())) for key in objects]
    texts = {json.loads(line)["text"] for content in lines for line in content.splitlines()}
    assert texts == {f"line {n} ä" for n in range(3)}
    assert await _archived_lines(settings) == [(f"sbx-{n}", n) for n in range(3)]


async def _archived_lines(settings: S3Settings) -> list[tuple[str, int]]:
    """Sandbox and number of each line, from the bucket alone, in the order of their numbers."""
    archive = S3Archive(settings, None)
    await archive.open()
    try:
        records = [
            record
            async for window in archive.windows(Selection())
            for one in window.objects
            async for batch in archive.records(one)
            for record in batch
        ]
    finally:
        await archive.close()
    return [(one.sandbox_id, one.line) for one in sorted(records, key=lambda one: one.line)]
