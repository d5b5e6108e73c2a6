"""The file sink: every line exactly once and in order per stream, whatever is killed when.

Durable means: the bytes are on the disk (`fdatasync`), and so are the directory entries that lead
to them (`fsync`), before `write` returns.

How: the confirmed length of each file is part of the sink's state and is committed with the cursor.
A file that the state does not know is remembered with the length found before the first byte goes
into it. Whatever stands behind the confirmed length when the same batch comes again is written
over. Bytes behind it are therefore provisional for whoever reads along.

This holds as long as nobody else writes to the files; an advisory lock keeps a second sink or
daemon out. It cannot cover a file that is renamed between an attempt and its confirmation, or a
template whose `{display_name}` changes just then: the bytes of that attempt stay in the old file.

A file that is full, or whose stream has ended, is put away under a number of its own, if that is
asked for. Its mark says so first, committed together with the cursor that is past its last line;
only then it is renamed, and the mark begins anew. See `sinks.files.rotation`.

`text` is byte for byte what the server sent. A gap record is a line `#gap {json}`; lines begin with
a stamp, but not with a server that leaves stamps out, nor does the rest of a long line that another
stream's lines have cut in two. Either lets a program print such a line, so whoever has to trust gap
records reads `ndjson` (see `sinks.ndjson`).
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from sinks.files.directories import check_root, open_root, sync_directory
from sinks.files.layout import Mark, Piece, lay_out, split
from sinks.files.pool import KEY_PREFIX, FilePool, Target
from sinks.files.rotation import NO_MOMENT, Moment, Rotation, newest_moment
from sinks.files.rotator import Rotator
from sinks.files.settings import FileSettings
from sinks.files.shelf import Shelf
from sinks.files.system import Files, TooManyOpenFilesError, verdicts
from sinks.interface import SinkError, SinkMisconfiguredError
from sinks.template import Template

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from sinks.interface import Batch, SinkState, StateChanges

__all__ = ["FileSettings", "FileSink"]

_REMEMBERED_FILES = 4096
_FORGOTTEN_AT_ONCE = 256


class FileSink:
    """Appends to files. Blocking calls run in the sink's own threads, never on the event loop."""

    def __init__(self, name: str, settings: FileSettings, *, files: Files | None = None) -> None:
        self._name = name
        self._settings = settings
        self._mode = int(settings.mode, 8)
        self._template = Template.parse(settings.destination)
        self._root = self._template.root.rstrip("/") or "/"
        self._rotation = Rotation.wanted(settings)
        self._files = files or Files()
        self._turn = asyncio.Lock()
        self._state: SinkState | None = None
        self._open_pool: FilePool | None = None
        self._rotator: Rotator | None = None
        self._remembered: OrderedDict[str, bool] = OrderedDict()  # whether written since `open`

    async def open(self, state: SinkState) -> None:
        """Create the directory that the operator named, and see that files can be made in it.

        What a crash left of a rotation is finished behind the first deliveries, or before the one
        that meets the file.

        Raises:
            SinkUnavailableError: Not now.
            SinkMisconfiguredError: The directory cannot be made or written.
        """
        await self.close()
        self._state = state
        name = f"sink-{self._name}"
        self._open_pool = pool = FilePool(
            name,
            files=self._files,
            root=self._root,
            mode=self._mode,
            max_open_files=self._settings.max_open_files,
        )
        await pool.each(self._prepare_root, [self._root])
        keys = state.keys()
        self._remembered = OrderedDict.fromkeys(
            (key for key in keys if key.startswith(KEY_PREFIX)), False
        )
        if self._rotation is not None:
            shelf = Shelf(self._files, self._root, self._mode)
            self._rotator = Rotator(
                name, self._rotation, shelf=shelf, pool=pool, state=state, turn=self._turn
            )

    async def check(self) -> str:
        """Whether the directory is there, or can be made, and may be written; nothing is made.

        Raises:
            SinkMisconfiguredError: It may not.
        """
        return await asyncio.to_thread(check_root, self._root)

    async def write(self, batch: Batch) -> StateChanges:
        """Append the batch's lines; when this returns they are on the disk.

        Cancellation returns at once. A thread that is still in a system call then is waited for by
        the next `write` or `close`, so that two attempts never write at the same time.

        Raises:
            SinkUnavailableError: The disk is full, or failed: the same batch again later.
            SinkMisconfiguredError: A path cannot or must not be written.
        """
        async with self._turn:
            await self._pool.settle()
            try:
                return await self._attempt(batch)
            except TooManyOpenFilesError:
                await self._pool.do_with_fewer()
                raise

    async def close(self) -> None:
        """Close every file. May be called at any time, and again.

        Compression that is under way is waited for, but not for long: the next `open` goes on.
        """
        if self._rotator is not None:
            await self._rotator.stop()
            self._rotator = None
        if self._open_pool is not None:
            await self._open_pool.close()
            self._open_pool = None

    async def _attempt(self, batch: Batch) -> StateChanges:
        targets = await self._targets(batch)
        if self._rotator is not None:
            await self._rotator.make_way(targets)
        found: dict[str, Mark] = {}
        await self._pool.in_turns(lambda target: self._measure(target, found), targets)
        targets = [target for target in targets if target.mark is not None]
        if found:
            await self._known_state.remember(_encoded(found))
        done: dict[str, Mark] = {}
        await self._pool.in_turns(lambda target: self._append(target, done), targets)
        await self._sync_directories(targets)
        marks = _encoded(done)
        changes: StateChanges = {**marks, **await self._forgotten(done)}
        if self._rotator is not None:
            self._rotator.expect(marks)
            changes |= self._rotator.newest(targets)
        return changes

    @property
    def _known_state(self) -> SinkState:
        assert self._state is not None, "write before open"
        return self._state

    @property
    def _pool(self) -> FilePool:
        assert self._open_pool is not None, "write before open"
        return self._open_pool

    def _prepare_root(self, root: str) -> None:
        with verdicts(root):
            self._files.close(open_root(self._files, root, self._mode))
        if not os.access(root, os.W_OK | os.X_OK):
            raise SinkMisconfiguredError(f"cannot write into {root}: permission denied")
        # A crash may have come between its creation and this; not every parent may be opened.
        with suppress(SinkError):
            sync_directory(self._files, os.path.dirname(root))  # noqa: PTH120 - text, not a Path

    async def _targets(self, batch: Batch) -> list[Target]:
        pieces: dict[str, list[Piece]] = {}
        moments: dict[str, Moment] = {}

        def plan(whole: Batch) -> None:
            pieces.update(split(whole, self._template, self._settings.format))
            if self._rotation is not None and self._rotation.needs_moments:
                moments.update({path: newest_moment(pieces[path]) for path in pieces})

        await self._pool.each(plan, [batch])
        ended = self._ended_paths(batch, pieces)
        targets = [
            self._target(path, pieces.get(path, ()), moments.get(path, NO_MOMENT))
            for path in (*pieces, *sorted(ended - pieces.keys()))
        ]
        for target in targets:
            target.has_ended = target.file.path in ended
        return [t for t in targets if t.pieces or t.has_ended or t.mark is not None]

    def _ended_paths(self, batch: Batch, pieces: Collection[str]) -> set[str]:
        """The files of streams that end with this batch, if that is a reason to put them away."""
        if self._rotation is None or not self._rotation.at_end:
            return set()
        streams = [source.stream for source in batch.slices if source.end is not None]
        if not self._template.needs_stamp:
            return {self._template.render(stream) for stream in streams}
        known = [*pieces, *(key.removeprefix(KEY_PREFIX) for key in self._remembered)]
        patterns = [self._template.paths_of(stream) for stream in streams]
        return {path for pattern in patterns for path in known if pattern.fullmatch(path)}

    def _target(self, path: str, pieces: Sequence[Piece], moment: Moment) -> Target:
        target = Target(self._pool.file(path), pieces, None, moment)
        remembered = self._known_state.get(target.key)
        target.mark = None if remembered is None else Mark.decode(remembered)
        return target

    def _measure(self, target: Target, found: dict[str, Mark]) -> None:
        if not target.pieces and not target.file.is_there():
            target.mark = None
            return
        before = target.mark
        number = 0 if self._rotator is None else self._rotator.look_up_number(target)
        mark = target.file.measure(target.mark)
        if mark != target.mark:
            mark = replace(mark, number=number)
        if mark != before:
            found[target.key] = mark
        target.mark = mark

    def _append(self, target: Target, done: dict[str, Mark]) -> None:
        mark = target.known_mark
        buffers, open_line = lay_out(target.pieces, mark.open_line, self._settings.format)
        length_bytes = target.file.append(mark.length_bytes, buffers)
        mark = replace(mark, length_bytes=length_bytes, open_line=open_line)
        done[target.key] = mark if self._rotator is None else self._rotator.judge(target, mark)

    async def _sync_directories(self, targets: Sequence[Target]) -> None:
        new = [target.file for target in targets if target.file.is_new]
        directories = {directory for file in new for directory in file.directories}
        await self._pool.each(lambda path: sync_directory(self._files, path), sorted(directories))
        for file in new:
            file.is_new = False

    async def _forgotten(self, written: Collection[str]) -> StateChanges:
        """Files written longest ago need no mark: they are confirmed to their very end.

        Should one be met again, its length then is where it goes on. A file of an earlier run may
        have bytes of a batch that has yet to come again: it is looked at. What no file tells is
        whose line it ends in the middle of: that is remembered for as long as there is the file.
        """
        for key in written:
            self._remembered[key] = True
            self._remembered.move_to_end(key)
        surplus = max(0, len(self._remembered) - max(_REMEMBERED_FILES, len(written)))
        oldest = list(islice(self._remembered, min(surplus, max(_FORGOTTEN_AT_ONCE, len(written)))))
        needed: set[str] = set()
        await self._pool.each(lambda key: needed.update(self._if_needed(key)), oldest)
        for key in oldest:
            if key in needed:
                self._remembered.move_to_end(key)
            else:
                del self._remembered[key]
        return {key: None for key in oldest if key not in needed}

    def _if_needed(self, key: str) -> list[str]:
        value = self._known_state.get(key)
        if value is None:
            return []
        mark = Mark.decode(value)
        if mark.put_away_as:
            return [key]
        file = self._pool.file(key.removeprefix(KEY_PREFIX))
        if mark.goes_on:
            is_needed = file.is_there()
        else:
            is_needed = not self._remembered[key] and file.is_longer_than(mark.length_bytes)
        return [key] if is_needed else []


def _encoded(marks: Mapping[str, Mark]) -> dict[str, bytes]:
    return {key: mark.encode() for key, mark in marks.items()}
