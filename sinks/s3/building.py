"""From a window to finished files on disk: the objects, and the manifest that describes them.

The window is read once, in order. While some of it is read, what came before is encoded and what
came before that is compressed; none of it on the event loop. What takes memory is bounded, and
depends neither on the size of the window nor on the number of its objects, save for what the
manifest says: see `sinks.s3.runs`.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeVar

from sinks.archive import ArchivedObject, ArchivedWindow
from sinks.files.system import verdicts
from sinks.s3.drafts import Drafts
from sinks.s3.formats.registry import get_format
from sinks.s3.keys import KeyTemplate
from sinks.s3.manifest import MEDIA_TYPE, Manifest, manifest_key, manifest_pieces
from sinks.s3.pieces import encode_pieces, grouped
from sinks.s3.plan import StagedObject, WindowPlan
from sinks.s3.runs import RunBuilder, records_digest
from sinks.s3.staging import (
    StagedFile,
    is_staged,
    make_directory,
    remove_directory,
    sync_directory,
)
from sinks.s3.together import together

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from sinks.interface import Slice
    from sinks.s3.formats.interface import Format
    from sinks.s3.pieces import Piece
    from sinks.s3.plan import Recipe
    from sinks.s3.staging import Finished
    from sinks.window import Window
    from sinks.workers import Encoders

_T = TypeVar("_T")

#: So many groups are encoded ahead of the one that is compressed.
_AHEAD = 2
#: So many objects are finished at once; most of that time is the disk's.
_FINISHED_AT_ONCE = 4

_ORIGIN_CHARACTERS = 8
_MANIFEST_FILE = "manifest"


def window_name(window: Window, sink: str) -> str:
    """The window's name: unique over all daemons and sinks, the same for ever.

    Args:
        window: The window.
        sink: The sink's name.
    """
    origin = hashlib.sha256((window.origin + sink).encode()).hexdigest()[:_ORIGIN_CHARACTERS]
    return f"{origin}-{window.after_id:x}-{window.last_id:x}"


async def build(
    window: Window,
    name: str,
    recipe: Recipe,
    directory: Path,
    encoders: Encoders,
    *,
    format_: Format | None = None,
) -> WindowPlan:
    """Make a window's objects and its manifest; they are durable when this returns.

    The same window and recipe give the same files. A cancelled call returns when nothing is written
    any more, and leaves what it wrote.

    Args:
        window: What to read.
        name: Its name, see `window_name`.
        recipe: What to make of it.
        directory: Where the files go. What is in it is deleted first; its parent is there.
        encoders: Where lines are encoded.
        format_: How, in place of the format that the recipe names.

    Raises:
        SinkUnavailableError: The disk is full, an encoder died, or reading the window failed.
        SinkMisconfiguredError: Somebody has to mend something, such as permissions.
    """
    format_ = format_ or get_format(recipe.format, recipe.level)
    await _in_thread(make_directory, directory)
    build_ = _Build(window, name, recipe, directory, format_)
    try:
        await build_.take_all(encoders)
        objects = await build_.finish_all()
    finally:
        await _in_thread(build_.drafts.close)
    if not objects:
        await _in_thread(remove_directory, directory)
        return WindowPlan(name, recipe, 0, 0, ())
    return await _in_thread(build_.complete, objects)


async def verify_staged(directory: Path, plan: WindowPlan) -> bool:
    """Whether every file of a plan is still in its directory, byte for byte."""
    return await asyncio.to_thread(is_staged, directory, plan)


class _Build:
    """One window on its way. Its methods that are no coroutines are for a thread, one at a time."""

    def __init__(
        self, window: Window, name: str, recipe: Recipe, directory: Path, format_: Format
    ) -> None:
        self._window = window
        self._name = name
        self._recipe = recipe
        self._directory = directory
        self._format = format_
        self._template = KeyTemplate.parse(recipe.key, format_.extension(recipe.compression))
        self._runs = RunBuilder()
        self._numbers: dict[str, int] = {}
        self.drafts = Drafts(directory, format_, recipe.compression)

    async def take_all(self, encoders: Encoders) -> None:
        """Read the whole window, and bring every record to its object."""
        under_way: deque[tuple[Sequence[Slice], asyncio.Task[list[Piece]]]] = deque()
        by_hour = self._template.by_hour
        try:
            async with aclosing(_groups(self._window)) as groups:
                async for slices in groups:
                    if len(under_way) == _AHEAD:
                        await self._take_next(under_way)
                    call = encoders.run(encode_pieces, self._format, slices, by_hour)
                    under_way.append((slices, asyncio.create_task(call)))
            while under_way:
                await self._take_next(under_way)
        finally:
            for _, task in under_way:
                task.cancel()
            await asyncio.gather(*(task for _, task in under_way), return_exceptions=True)

    async def _take_next(
        self, under_way: deque[tuple[Sequence[Slice], asyncio.Task[list[Piece]]]]
    ) -> None:
        slices, task = under_way[0]
        pieces = await task
        under_way.popleft()
        await _in_thread(self._take, slices, pieces)

    def _take(self, slices: Sequence[Slice], pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            source = slices[piece.place]
            partition = self._template.fields_of(source.stream, piece.hour_ns)
            number = self._numbers.get(partition)
            if number is None:
                number = self._numbers[partition] = self.drafts.begin()
            self.drafts.add(number, piece.chunk)
            self._runs.add(number, source, piece.start, piece.stop, piece.first_ns, piece.last_ns)

    async def finish_all(self) -> list[Finished]:
        """Complete every object; in the order in which they were begun."""
        numbers = iter(range(len(self.drafts)))
        finished: dict[int, Finished] = {}

        async def work_off() -> None:
            for number in numbers:
                finished[number] = await _in_thread(self.drafts.finish, number)

        await together(work_off() for _ in range(_FINISHED_AT_ONCE))
        return [finished[number] for number in sorted(finished)]

    def complete(self, finished: Sequence[Finished]) -> WindowPlan:
        """Write the manifest, and make everything durable."""
        staged = [
            self._staged(partition, number, one)
            for (partition, number), one in zip(self._numbers.items(), finished, strict=True)
        ]
        bounds_ns = [self._runs.bounds_ns(number) for number in range(len(staged))]
        first_ns = min(first_ns for first_ns, _ in bounds_ns)
        last_ns = max(last_ns for _, last_ns in bounds_ns)
        key = manifest_key(self._recipe.manifests, first_ns, last_ns, self._name)
        archived = ArchivedWindow(self._name, key, first_ns, last_ns, ())
        with verdicts(str(self._directory)):
            staged.append(self._write_manifest(archived, staged))
        sync_directory(self._directory)
        return WindowPlan(self._name, self._recipe, first_ns, last_ns, tuple(staged))

    def _staged(self, partition: str, number: int, finished: Finished) -> StagedObject:
        return StagedObject(
            self._template.render(partition, *self._runs.bounds_ns(number), self._name),
            self.drafts.file_name(number),
            finished.size_bytes,
            finished.sha256,
            self._format.media_type,
            records_digest(self._runs.runs(number)),
        )

    def _write_manifest(
        self, archived: ArchivedWindow, staged: Sequence[StagedObject]
    ) -> StagedObject:
        window = self._window
        manifest = Manifest(window.origin, window.after_id, window.last_id, self._recipe, archived)
        objects = (
            ArchivedObject(one.key, one.size_bytes, one.sha256, self._runs.runs(number))
            for number, one in enumerate(staged)
        )
        target = StagedFile(self._directory / _MANIFEST_FILE)
        try:
            for piece in manifest_pieces(manifest, objects):
                target.file.write(piece)
            done = target.finish()
        finally:
            target.abandon()
        key, size_bytes = archived.manifest_key, done.size_bytes
        return StagedObject(key, _MANIFEST_FILE, size_bytes, done.sha256, MEDIA_TYPE, "")


async def _groups(window: Window) -> AsyncGenerator[list[Slice], None]:
    """The window's slices, so many at a time as are encoded together."""
    batches = window.read()
    try:
        async for batch in batches:
            for group in grouped(batch.slices):
                yield group
    finally:
        if isinstance(batches, AsyncGenerator):
            await batches.aclose()


async def _in_thread(call: Callable[..., _T], *args: object) -> _T:
    """Run it in a thread; a cancelled call ends when the thread does.

    Otherwise what the thread still writes would meet the next build in the same directory.
    """
    task = asyncio.ensure_future(asyncio.to_thread(call, *args))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if task.done() and not task.cancelled():
            task.exception()  # nobody else asks for it
        raise
