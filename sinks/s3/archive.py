"""What the s3 sink wrote, read back: an `sinks.archive.Archive` in a bucket.

Where the windows are is known from the sink's index; without one their manifests are listed. Of
each object the manifest says what it has to be, and it is compared before a line of it is shown.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections import OrderedDict, deque
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, Protocol, Self, TypeVar

from sinks.archive import ArchivedObject, ArchiveError
from sinks.closing import closing
from sinks.interface import SinkUnavailableError
from sinks.s3.checked import checked
from sinks.s3.formats.registry import get_format
from sinks.s3.index import IndexEntry, from_state
from sinks.s3.manifest import Manifest, parse_manifest_key, read_manifest
from sinks.s3.selecting import selected_entries, selected_part
from sinks.s3.store import ObjectMissingError, ObjectStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence

    from sinks.archive import ArchivedRecord, ArchivedWindow, Selection
    from sinks.s3.settings import S3Settings
    from sinks.s3.store import Listed

#: A manifest has about 100 bytes for each stream and generation of each object.
MAX_MANIFEST_BYTES = 256 << 20

#: So many manifests are asked for before they are needed.
_AHEAD = 8

#: So many manifests are kept for the objects that they describe.
_KEPT = 2

#: What cannot be read is asked for again after these times. A long look back is many requests, and
#: nobody is there to begin it again as the daemon does.
_PAUSES_S = (0.5, 2.0, 5.0)

#: The store's own wish counts up to here.
_MOST_PAUSE_S = 30.0

_T = TypeVar("_T")


class Store(Protocol):
    """What it takes to read from a bucket; see `sinks.s3.store.ObjectStore`."""

    async def open(self) -> None:
        """Get ready."""
        ...

    async def close(self) -> None:
        """Let go of everything."""
        ...

    def read(self, key: str) -> AsyncIterator[bytes]:
        """An object's bytes, some at a time; ObjectMissingError when there is none."""
        ...

    def list(self, prefix: str) -> AsyncIterator[Listed]:
        """Every object whose key begins so."""
        ...


@dataclass(frozen=True, slots=True)
class _Located(ArchivedObject):
    """An object that knows which manifest describes all of it."""

    manifest_key: str = ""


class S3Archive:
    """The archive in the bucket of these settings.

    Args:
        settings: The sink's.
        remembered: What the sink remembers; see `sinks.archive.Archiving`.
        store: The bucket, if not the settings' own: for tests.
        pauses_s: Between attempts to read an object or a manifest.
    """

    def __init__(
        self,
        settings: S3Settings,
        remembered: Mapping[str, bytes] | None,
        store: Store | None = None,
        *,
        pauses_s: Sequence[float] = _PAUSES_S,
    ) -> None:
        self._manifests = settings.recipe.manifests
        self._remembered = remembered or {}
        self._store: Store = ObjectStore(settings) if store is None else store
        self._pauses_s = pauses_s
        self._reads: set[_Windows] = set()
        self._recent: OrderedDict[str, Manifest] = OrderedDict()

    async def open(self) -> None:
        """See `sinks.archive.Archive`."""
        await self._store.open()

    async def close(self) -> None:
        """See `sinks.archive.Archive`."""
        for one in tuple(self._reads):
            await one.aclose()
        self._reads.clear()
        self._recent.clear()
        await self._store.close()

    def windows(self, selection: Selection) -> AsyncIterator[ArchivedWindow]:
        """See `sinks.archive.Archive`.

        After an error of one manifest, the iterator goes on with the next one. Some manifests are
        in memory at once, and each may take `MAX_MANIFEST_BYTES`; mostly they are small.
        """
        found = _Windows(self, selection)
        self._reads.add(found)
        return found

    async def entries(self) -> list[IndexEntry]:
        """Where all windows are: from the index, or else from the bucket, which is listed.

        Raises:
            ArchiveError: The index is damaged.
        """
        if known := from_state(self._remembered):
            return known
        found = []
        async with closing(self._store.list(self._manifests)) as listed:
            async for one in listed:
                if (parsed := parse_manifest_key(one.key)) is not None:
                    first_ns, last_ns, window = parsed
                    found.append(IndexEntry(window, one.key, first_ns, last_ns))
        return found

    async def manifest(self, key: str) -> Manifest:
        """A manifest, fetched anew.

        Raises:
            ArchiveError: It is missing or damaged.
        """
        try:
            data = await self._patiently(partial(self._small_object, key))
            manifest = await asyncio.to_thread(read_manifest, data)
        except ObjectMissingError as error:
            raise ArchiveError(
                f"{key} is missing, so nobody knows what its window has: it was deleted, or it is"
                " in another bucket"
            ) from error
        except ArchiveError as error:
            raise ArchiveError(f"{key}: {error}") from error
        # A bucket may be a copy: where the manifest was found counts, not where it was written.
        return replace(manifest, archived=replace(manifest.archived, manifest_key=key))

    async def _small_object(self, key: str) -> bytes:
        data = bytearray()
        async with closing(self._store.read(key)) as blocks:
            async for block in blocks:
                data += block
                if len(data) > MAX_MANIFEST_BYTES:
                    raise ArchiveError("it is larger than any manifest")
        return bytes(data)

    def keep(self, manifest: Manifest) -> None:
        """Its objects may be read soon."""
        self._recent[manifest.archived.manifest_key] = manifest
        while len(self._recent) > _KEPT:
            self._recent.popitem(last=False)

    async def records(self, archived: ArchivedObject) -> AsyncIterator[Sequence[ArchivedRecord]]:
        """See `sinks.archive.Archive`; it takes disk for the object, in the temporary directory."""
        manifest, whole = await self._described(archived)
        recipe = manifest.recipe
        form = get_format(recipe.format, recipe.level)
        with tempfile.TemporaryFile() as file:
            await self._download(whole, file)
            file.seek(0)
            batches = form.read(file, recipe.compression, whole.runs)
            if recipe.format != "text":  # that one is read by the runs: it cannot be other ones
                batches = checked(batches, whole.runs)
            try:
                while (batch := await asyncio.to_thread(next, batches, None)) is not None:
                    yield batch
            except ArchiveError as error:
                raise ArchiveError(f"{whole.key}: {error}") from error

    async def _described(self, archived: ArchivedObject) -> tuple[Manifest, ArchivedObject]:
        """The manifest of an object, and all that it says of it."""
        key = archived.manifest_key if isinstance(archived, _Located) else ""
        manifest = self._recent.get(key)
        if manifest is None:
            manifest = await self.manifest(key)
            self.keep(manifest)
        for one in manifest.archived.objects:
            if one.key == archived.key:
                return manifest, one
        raise ArchiveError(f"{key} does not know {archived.key}")

    async def _download(self, archived: ArchivedObject, file: BinaryIO) -> None:
        """Fetch an object.

        Raises:
            ArchiveError: It is missing, or not the one that was written.
        """
        try:
            size_bytes, sha256 = await self._patiently(partial(self._fetch, archived, file))
        except ObjectMissingError as error:
            text = f"{archived.key} is missing: its manifest is there, so it was deleted"
            raise ArchiveError(text) from error
        if size_bytes != archived.size_bytes:
            less = "less" if size_bytes < archived.size_bytes else "more"
            raise ArchiveError(
                f"{archived.key} has {less} than the {archived.size_bytes:,} bytes that were"
                " written: it was changed since"
            )
        if sha256 != archived.sha256:
            text = f"{archived.key} is not what was written (sha256 differs): it was changed since"
            raise ArchiveError(text)

    async def _fetch(self, archived: ArchivedObject, file: BinaryIO) -> tuple[int, str]:
        """Size and digest of what came; no more is taken than there should be, and one block."""
        file.seek(0)
        digest = hashlib.sha256()
        size_bytes = 0
        async with closing(self._store.read(archived.key)) as blocks:
            async for block in blocks:
                size_bytes += len(block)
                if size_bytes > archived.size_bytes:
                    break
                digest.update(block)
                await asyncio.to_thread(file.write, block)
        return size_bytes, digest.hexdigest()

    async def _patiently(self, attempt: Callable[[], Awaitable[_T]]) -> _T:
        """What an attempt returns, one of some."""
        for pause_s in self._pauses_s:
            try:
                return await attempt()
            except SinkUnavailableError as error:
                await asyncio.sleep(min(max(pause_s, error.retry_after_s or 0), _MOST_PAUSE_S))
        return await attempt()


class _Windows:
    """Iterates over windows, some manifests ahead; an error ends nothing but itself."""

    def __init__(self, archive: S3Archive, selection: Selection) -> None:
        self._archive = archive
        self._selection = selection
        self._todo: deque[IndexEntry] | None = None
        self._asked: deque[asyncio.Task[Manifest]] = deque()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ArchivedWindow:
        if self._todo is None:
            self._todo = deque()  # an error here ends it
            self._todo.extend(selected_entries(await self._archive.entries(), self._selection))
        while True:
            while self._todo and len(self._asked) < _AHEAD:
                key = self._todo.popleft().manifest_key
                self._asked.append(asyncio.create_task(self._archive.manifest(key)))
            if not self._asked:
                raise StopAsyncIteration
            manifest = await self._first()
            if (part := selected_part(manifest.archived, self._selection)) is not None:
                self._archive.keep(manifest)
                return replace(part, objects=_located(part.objects, part.manifest_key))

    async def _first(self) -> Manifest:
        task = self._asked[0]
        try:
            return await task
        finally:
            if task.done():
                self._asked.popleft()

    async def aclose(self) -> None:
        """Ask for nothing more."""
        self._todo = deque()
        for task in self._asked:
            task.cancel()
        await asyncio.gather(*self._asked, return_exceptions=True)
        self._asked.clear()


def _located(objects: Iterable[ArchivedObject], manifest_key: str) -> list[ArchivedObject]:
    return [
        _Located(one.key, one.size_bytes, one.sha256, one.runs, manifest_key) for one in objects
    ]
