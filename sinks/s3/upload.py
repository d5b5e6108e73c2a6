"""One finished object into the bucket, once: never over another one, and never twice.

Nothing is believed but the store's own answer about this very object. What an attempt before may
have left there counts as done only if it is ours and equal: it names our window, and has the same
bytes, or else exactly the same records (it was built anew, by another version of a library).
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import orjson
import structlog

from sinks.closing import closing
from sinks.interface import SinkMisconfiguredError, SinkUnavailableError
from sinks.s3.body import FilePart
from sinks.s3.probing import Promise
from sinks.s3.store import ObjectExistsError, UploadGoneError
from sinks.s3.together import together

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from sinks.interface import SinkState
    from sinks.s3.plan import StagedObject
    from sinks.s3.store import Found, ObjectStore

_log = structlog.get_logger()

#: A store takes no more parts than this (Amazon S3 user guide, "multipart upload limits").
_MAX_PARTS = 10_000

#: Under these keys the sink's state has the uploads that were begun, so that none is forgotten.
UPLOAD_PREFIX = "upload:"

#: What is said of every object that tells whose it is, and what it is.
_OURS = frozenset({"window", "sha256"})


@dataclass(slots=True)
class _Upload:
    """An upload in parts that was begun.

    Attributes:
        sha256: Of the object that it is of: parts of another one are of no use.
        upload_id: Empty when the answer that would have told it is not known to have come.
        etags: What the store said of the parts that it has, by number from 1.
    """

    sha256: str
    part_bytes: int
    upload_id: str = ""
    etags: dict[int, str] = field(default_factory=dict)

    def encode(self) -> bytes:
        """As the sink's state keeps it."""
        etags = {str(number): etag for number, etag in self.etags.items()}
        return orjson.dumps([self.sha256, self.part_bytes, self.upload_id, etags])

    @classmethod
    def decode(cls, data: bytes) -> _Upload:
        """The inverse of `encode`."""
        sha256, part_bytes, upload_id, etags = orjson.loads(data)
        return cls(sha256, part_bytes, upload_id, {int(n): etag for n, etag in etags.items()})


class Uploader:
    """Uploads the objects of windows.

    Args:
        store: Where to.
        state: What the sink remembers.
        promise: What the store can promise of a key that is taken.
        multipart_above_bytes: A larger object goes up in parts.
        part_bytes: The size of a part; more where there would be too many. All are equal but the
            last one, as some stores demand.
        in_flight: So many requests are under way at once.
    """

    def __init__(
        self,
        store: ObjectStore,
        state: SinkState,
        promise: Promise,
        *,
        multipart_above_bytes: int,
        part_bytes: int,
        in_flight: int,
    ) -> None:
        self._store = store
        self._state = state
        self._promise = promise
        self._multipart_above_bytes = multipart_above_bytes
        self._part_bytes = part_bytes
        self._places = asyncio.Semaphore(in_flight)

    async def ensure(self, window: str, staged: StagedObject, file: Path) -> StagedObject:
        """Return when the object is in the bucket, whoever put it there.

        Returns:
            The object that is there: with the size and digest of other bytes than those staged,
            if it was made of the same records before.

        Args:
            window: Whose object it is.
            staged: What it has to be.
            file: Its bytes.

        Raises:
            SinkUnavailableError: Not now; what was done so far is not done again.
            SinkMisconfiguredError: Somebody must mend something: another object has its key.
        """
        metadata = {"window": window, "sha256": staged.sha256, "records": staged.records_sha256}
        begun = self._state.get(_state_key(window, staged)) is not None
        # What was begun in parts is ended so, also when larger objects go up at once by now.
        if begun or staged.size_bytes > self._multipart_above_bytes:
            return await self._in_parts(staged, file, metadata)
        async with self._places:
            return await self._at_once(staged, file, metadata)

    async def _at_once(
        self, staged: StagedObject, file: Path, metadata: Mapping[str, str]
    ) -> StagedObject:
        create_only = self._promise is Promise.CREATE_ONLY
        if not create_only and (there := await self._there(staged, metadata)):
            return there
        try:
            await self._store.put(
                staged.key,
                FilePart(file, 0, staged.size_bytes, staged.sha256),
                media_type=staged.media_type,
                metadata=metadata,
                create_only=create_only,
            )
        except ObjectExistsError:
            return await self._must_be_there(staged, metadata)
        return staged

    async def _in_parts(
        self, staged: StagedObject, file: Path, metadata: Mapping[str, str]
    ) -> StagedObject:
        key = _state_key(metadata["window"], staged)
        if there := await self._there(staged, metadata):
            await self._abandon(staged.key, self._known(key))
            await self._state.remember({key: None})
            return there
        upload = await self._begun(key, staged, metadata)
        try:
            await self._send_parts(key, upload, staged, file)
            # Without the store's help, the less time lies between looking and writing the better.
            if self._promise is not Promise.CREATE_ONLY:
                there = await self._there(staged, metadata)
            if there is None:
                await self._complete(staged, upload)
        except UploadGoneError as error:
            await self._abandon(staged.key, upload)
            await self._state.remember({key: None})
            text = f"{staged.key}: the store has forgotten its upload; it is begun anew"
            raise SinkUnavailableError(text) from error
        except ObjectExistsError:
            there = await self._must_be_there(staged, metadata)
            await self._abandon(staged.key, upload)
        await self._state.remember({key: None})
        return there or staged

    def _known(self, key: str) -> _Upload | None:
        data = self._state.get(key)
        return None if data is None else _Upload.decode(data)

    async def _begun(self, key: str, staged: StagedObject, metadata: Mapping[str, str]) -> _Upload:
        """The upload to go on with. That it is begun is durable before the store hears of it."""
        known = self._known(key)
        if known is not None and known.upload_id and known.sha256 == staged.sha256:
            return known
        if known is not None:
            await self._abandon(staged.key, known)
        upload = _Upload(staged.sha256, self._part_bytes_of(staged))
        await self._state.remember({key: upload.encode()})
        upload.upload_id = await self._store.begin_multipart(
            staged.key, media_type=staged.media_type, metadata=metadata
        )
        await self._state.remember({key: upload.encode()})
        return upload

    def _part_bytes_of(self, staged: StagedObject) -> int:
        return max(self._part_bytes, -(-staged.size_bytes // _MAX_PARTS))

    async def _abandon(self, object_key: str, upload: _Upload | None) -> None:
        """Leave no upload of this key behind: the bucket's owner would pay for it for ever.

        The key is this window's alone, so every upload of it is ours.
        """
        if upload is None:
            return
        ids = {upload.upload_id} if upload.upload_id else set()
        if not ids:  # the store may have begun one, and its answer was lost
            found = await self._store.uploads(object_key)
            ids = {upload_id for key, upload_id in found if key == object_key}
        for upload_id in ids:
            try:
                await self._store.abort_multipart(object_key, upload_id)
            except UploadGoneError:
                _log.debug("upload was over already", key=object_key)

    async def _send_parts(
        self, key: str, upload: _Upload, staged: StagedObject, file: Path
    ) -> None:
        """Send the parts that the store has not got; which those are is durable part by part."""
        turn = asyncio.Lock()

        async def send(number: int, offset: int, size_bytes: int) -> None:
            async with self._places:
                sha256 = await asyncio.to_thread(_sha256, file, offset, size_bytes)
                body = FilePart(file, offset, size_bytes, sha256)
                etag = await self._store.put_part(staged.key, upload.upload_id, number, body)
            async with turn:
                upload.etags[number] = etag
                await self._state.remember({key: upload.encode()})

        offsets = range(0, staged.size_bytes, upload.part_bytes)
        before = len(upload.etags)
        try:
            await together(
                send(number, offset, min(upload.part_bytes, staged.size_bytes - offset))
                for number, offset in enumerate(offsets, 1)
                if number not in upload.etags
            )
        except SinkUnavailableError as error:
            error.progressed |= len(upload.etags) > before
            raise

    async def _complete(self, staged: StagedObject, upload: _Upload) -> None:
        etags = [upload.etags[number] for number in sorted(upload.etags)]
        await self._store.complete_multipart(
            staged.key,
            upload.upload_id,
            etags,
            create_only=self._promise is Promise.CREATE_ONLY,
        )

    async def _must_be_there(
        self, staged: StagedObject, metadata: Mapping[str, str]
    ) -> StagedObject:
        there = await self._there(staged, metadata)
        if there is None:
            # Or it was deleted in between: then the next attempt writes it.
            text = f"{staged.key}: the store says that it exists, and does not show it"
            raise SinkUnavailableError(text)
        return there

    async def _there(
        self, staged: StagedObject, metadata: Mapping[str, str]
    ) -> StagedObject | None:
        """The object as it is in the bucket already; None when it is not.

        Raises:
            SinkMisconfiguredError: Another one is.
        """
        found = await self._store.head(staged.key)
        if found is None:
            return None
        if not await self._is_equal(found, staged, metadata):
            raise SinkMisconfiguredError(_collision(found, staged, metadata))
        if not found.metadata.keys() >= _OURS:
            return staged
        return replace(staged, size_bytes=found.size_bytes, sha256=found.metadata["sha256"])

    async def _is_equal(
        self, found: Found, staged: StagedObject, metadata: Mapping[str, str]
    ) -> bool:
        if not found.metadata.keys() >= _OURS:
            # A store, or a copy, that lost what we said of it: then its bytes must say it.
            return found.size_bytes == staged.size_bytes and (
                await _sha256_of(self._store.read(staged.key), staged.size_bytes) == staged.sha256
            )
        if found.metadata["window"] != metadata["window"]:
            return False
        same_bytes = found.metadata["sha256"] == staged.sha256
        if same_bytes:
            return found.size_bytes == staged.size_bytes
        records = staged.records_sha256
        return records != "" and found.metadata.get("records") == records


def _state_key(window: str, staged: StagedObject) -> str:
    return f"{UPLOAD_PREFIX}{window}/{staged.file}"


def _collision(found: Found, staged: StagedObject, metadata: Mapping[str, str]) -> str:
    ours = found.metadata.get("window") == metadata["window"]
    what = "other records of the same window" if ours else "not ours"
    return (
        f"{staged.key} exists, and is {what}: nothing is ever overwritten; look at it, and move it"
        " away or change the key"
    )


def _sha256(file: Path, offset: int, size_bytes: int) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as source:
        source.seek(offset)
        while size_bytes and (block := source.read(min(size_bytes, 1 << 20))):
            digest.update(block)
            size_bytes -= len(block)
    return digest.hexdigest()


async def _sha256_of(blocks: AsyncIterator[bytes], size_bytes: int) -> str:
    """The digest, of a little more than so many bytes at most: there may be no end to them."""
    digest = hashlib.sha256()
    async with closing(blocks):
        async for block in blocks:
            digest.update(block)
            size_bytes -= len(block)
            if size_bytes < 0:
                break
    return digest.hexdigest()
