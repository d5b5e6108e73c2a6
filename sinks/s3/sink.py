"""The s3 sink: every line once, in objects of a bucket, for good.

A window becomes files on disk first. What they are, and under which keys they go where, is durable
before the first request; so whatever is killed when, the same objects are written again, and the
store refuses to write them twice. The manifest goes last: where there is one, its window is whole.
"""

from __future__ import annotations

import asyncio
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from sinks.archive import ArchiveError
from sinks.files.system import verdicts
from sinks.interface import SinkUnavailableError
from sinks.s3.amending import amended
from sinks.s3.archive import S3Archive
from sinks.s3.building import build, verify_staged, window_name
from sinks.s3.index import IndexEntry, compacted, to_state
from sinks.s3.plan import WindowPlan
from sinks.s3.probing import Promise, check, probe
from sinks.s3.store import ObjectStore
from sinks.s3.together import together
from sinks.s3.upload import Uploader
from sinks.workers import Encoders

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sinks.archive import Archive
    from sinks.interface import SinkState, StateChanges
    from sinks.s3.plan import StagedObject
    from sinks.s3.settings import S3Settings
    from sinks.window import Window

_log = structlog.get_logger()

#: Under this and where it begins, the sink's state has each window that is under way.
PLAN_PREFIX = "plan:"


class S3Sink:
    """Archives to a bucket. A `sinks.window.WindowSink`."""

    def __init__(self, name: str, settings: S3Settings) -> None:
        """Touches nothing until `open`."""
        self._name = name
        self._settings = settings
        self._log = _log.bind(sink=name)
        self._store: ObjectStore | None = None
        self._encoders: Encoders | None = None
        self._uploader: Uploader | None = None
        self._state: SinkState | None = None
        self._promise: Promise | None = None
        # Windows are built one after the other: two at once would take the memory of two.
        self._building = asyncio.Lock()
        # Two that put the index together at once could each undo what the other one did.
        self._indexing = asyncio.Lock()
        # By window under way, the objects that are certain to be in the bucket, by key.
        self._there: dict[str, dict[str, StagedObject]] = {}

    @property
    def description(self) -> str:
        """What status says besides while all is well: which promise the store allows."""
        return "" if self._promise is None else self._promise.words

    async def open(self, state: SinkState) -> None:
        """Find out whether the store can refuse to write a key twice; nothing is uploaded yet.

        Raises:
            SinkUnavailableError: The store does not answer.
            SinkMisconfiguredError: Address, credentials, bucket, or the disk for staging.
        """
        settings = self._settings
        await self.close()
        self._state = state
        self._encoders = Encoders(settings.workers)
        store = self._store = ObjectStore(settings)
        await store.open()
        promise = await self._find_promise(store)
        self._uploader = Uploader(
            store,
            state,
            promise,
            multipart_above_bytes=settings.multipart_above,
            part_bytes=settings.part_size,
            in_flight=settings.in_flight,
        )
        await self._sweep(self._needed())

    async def check(self) -> str:
        """Write, read back and delete a probe object."""
        store = ObjectStore(self._settings)
        try:
            await store.open()
            return await check(store, self._settings)
        finally:
            await store.close()

    def archive(self, remembered: Mapping[str, bytes] | None) -> Archive:
        """The archive in the bucket; see `sinks.archive.Archiving`."""
        return S3Archive(self._settings, remembered)

    async def write(self, window: Window) -> StateChanges:
        """Bring a window into the bucket; when this returns, its manifest is there, too.

        Cancellation leaves what was built and uploaded; the next attempt goes on with it.

        Raises:
            SinkUnavailableError: The same window again later.
            SinkMisconfiguredError: Credentials, the bucket, a key that is taken, the disk.
        """
        name = window_name(window, self._name)
        there = self._there.setdefault(name, {})
        plan = await self._planned(window, name)
        if plan.objects:
            await self._upload(window, plan, there)
            changes = {**await self._indexed(window, plan), self._key(window): None}
        else:
            changes = dict.fromkeys({self._key(window)}.intersection(self._known_state.keys()))
        del self._there[name]
        return changes

    async def close(self) -> None:
        """Close connections and processes. May be called at any time, and again."""
        store, self._store = self._store, None
        encoders, self._encoders = self._encoders, None
        self._uploader = None
        if store is not None:
            await store.close()
        if encoders is not None:
            await encoders.close()

    async def _find_promise(self, store: ObjectStore) -> Promise:
        """What the store can do; asked once, until the daemon starts again."""
        if self._promise is None:
            match self._settings.conditional_writes:
                case "on":
                    self._promise = Promise.CREATE_ONLY
                case "off":
                    self._promise = Promise.HEAD_AND_COMPARE
                case "auto":
                    self._promise = await probe(store, self._settings.recipe.manifests)
            level = self._log.info if self._promise is Promise.CREATE_ONLY else self._log.warning
            level("archive opened", promise=self._promise.words)
        return self._promise

    @staticmethod
    def _key(window: Window) -> str:
        return f"{PLAN_PREFIX}{window.after_id}"

    async def _planned(self, window: Window, name: str) -> WindowPlan:
        """The window as files on disk: as they were made before, or made now, and remembered."""
        state = self._known_state
        assert self._encoders is not None, "write before open"
        directory = state.directory / name
        async with self._building:
            known = self._known_plan(window, name)
            if known is not None and await verify_staged(directory, known):
                return known
            # What was begun with one recipe is finished with it, whatever the settings say now.
            recipe = self._settings.recipe if known is None else known.recipe
            plan = await build(window, name, recipe, directory, self._encoders)
            if plan.objects and plan != known:
                if known is not None:
                    self._log.warning("window was built again, and is not what it was", window=name)
                await self._remember(window, plan)
            if known is None:
                window.made(sum(staged.size_bytes for staged in plan.objects[:-1]))
            return plan

    def _known_plan(self, window: Window, name: str) -> WindowPlan | None:
        """What is remembered of this very window: one that ends elsewhere has other lines."""
        data = self._known_state.get(self._key(window))
        plan = None if data is None else WindowPlan.decode(data)
        return plan if plan is not None and plan.window == name else None

    async def _remember(self, window: Window, plan: WindowPlan) -> None:
        """Make the plan durable, and with it that windows before are over."""
        needed = self._needed()
        await self._known_state.remember({self._key(window): plan.encode()})
        await self._sweep(needed)

    async def _upload(
        self, window: Window, plan: WindowPlan, there: dict[str, StagedObject]
    ) -> None:
        """Upload what is not there yet; the manifest when everything else is.

        Args:
            window: The window.
            plan: What is made of it.
            there: What is there by its key; what comes to be there is added.
        """
        uploader = self._uploader
        assert uploader is not None, "write before open"
        directory = self._known_state.directory / plan.window

        async def ensure(staged: StagedObject) -> None:
            if staged.key not in there:
                file = directory / staged.file
                there[staged.key] = await uploader.ensure(plan.window, staged, file)

        before = len(there)
        try:
            await together(map(ensure, plan.objects[:-1]))
            told = await asyncio.to_thread(amended, directory, plan, there)
            if told != plan:
                await self._remember(window, told)
            await ensure(told.objects[-1])
        except SinkUnavailableError as error:
            error.progressed |= len(there) > before
            raise

    async def _indexed(self, window: Window, plan: WindowPlan) -> StateChanges:
        state = self._known_state
        async with self._indexing:
            keys = state.keys()
            values = {key: state.get(key) for key in keys}
            try:
                changes = compacted({k: value for k, value in values.items() if value is not None})
            except ArchiveError as error:
                # The store knows it all, too: this is no reason to archive nothing more.
                self._log.warning("the index cannot be put together", error=str(error))
                changes = {}
            if changes:
                await state.remember(changes)
        manifest = plan.objects[-1].key
        entry = IndexEntry(plan.window, manifest, plan.first_ns, plan.last_ns)
        return dict([to_state(window.after_id, entry)])

    def _needed(self) -> set[str]:
        """The windows whose files may be needed once more.

        They are until something later was remembered than that they are over: only then it is
        certain that the cursor is behind them also after a crash.
        """
        state = self._known_state
        keys = state.keys()
        plans = [state.get(key) for key in keys if key.startswith(PLAN_PREFIX)]
        known = {WindowPlan.decode(data).window for data in plans if data is not None}
        return known | self._there.keys()

    async def _sweep(self, needed: set[str]) -> None:
        """Delete what is staged of other windows."""
        await asyncio.to_thread(_delete_others, self._known_state.directory, needed)

    @property
    def _known_state(self) -> SinkState:
        assert self._state is not None, "open comes first"
        return self._state


def _delete_others(directory: Path, kept: set[str]) -> None:
    with verdicts(str(directory)):
        entries = list(directory.iterdir())
    for entry in entries:
        if entry.name not in kept:
            with suppress(OSError):  # it is tried again
                shutil.rmtree(entry)
