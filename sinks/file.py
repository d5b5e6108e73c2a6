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

`text` is byte for byte what the server sent. A gap record is a line `#gap {json}`; lines begin with
a stamp, but a server that leaves stamps out lets a program print such a line, so whoever has to
trust gap records reads `ndjson` (see `sinks.ndjson`).
"""

from __future__ import annotations

import asyncio
import os
import re
from collections import OrderedDict, deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field

from sinks.files.layout import Format, Mark, Piece, lay_out, split
from sinks.files.output import OutputFile, open_root, sync_directory
from sinks.files.system import Files, TooManyOpenFilesError, verdicts
from sinks.interface import SinkError, SinkMisconfiguredError
from sinks.settings import SinkSettings, problem
from sinks.template import Template, TemplateError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sinks.interface import Batch, SinkState, StateChanges

_T = TypeVar("_T")

_WORKERS = 8  # syncs of different files overlap on the disk; more of them gain nothing
_REMEMBERED_FILES = 4096
_OWNER = 0o600
_EXECUTE = 0o111


def _check_template(text: str) -> str:
    try:
        Template.parse(text)
    except TemplateError as error:
        raise problem(str(error)) from error
    return text


def _check_mode(value: object) -> object:
    """A number is refused: YAML reads an unquoted 0640 as 640 or as 416, depending on its age."""
    if not isinstance(value, str) or not re.fullmatch(r"0?[0-7]{3}", value):
        raise problem('expected an octal file mode in quotes, such as "0640"')
    mode = int(value, 8)
    if mode & _OWNER != _OWNER or mode & _EXECUTE:
        raise problem("the mode must let the owner read and write, and nobody execute")
    return value


class FileSettings(SinkSettings):
    """Files on this machine, one line after the other, exactly once."""

    type: Literal["file"] = "file"
    """The kind of sink."""
    path: Annotated[str, AfterValidator(_check_template)]
    """Where lines go. `{sandbox_id}`, `{container}`, `{display_name}`, `{date}` and `{hour}` (UTC,
    from the line's stamp) are replaced, made safe for a file name; directories are created."""
    format: Format = "text"
    """`text`: each line exactly as the server sent it. `ndjson`: one JSON object a line."""
    mode: Annotated[str, BeforeValidator(_check_mode)] = "0640"
    """The mode of new files, octal, in quotes. New directories get search where this has read."""
    max_open_files: Annotated[int, Field(ge=1, le=65536)] = 256
    """How many files are kept open; the one used longest ago is closed first."""

    @property
    def destination(self) -> str:
        """The absolute template of the path: two sinks of one destination would mix their lines."""
        here = os.getcwd().replace("{", "{{").replace("}", "}}")  # noqa: PTH109 - text, not a Path
        return os.path.normpath(os.path.join(here, self.path))  # noqa: PTH118 - the same


@dataclass(slots=True)
class _Target:
    """One file of one batch."""

    file: OutputFile
    pieces: Sequence[Piece]
    mark: Mark | None

    @property
    def key(self) -> str:
        return f"file:{self.file.path}"


class FileSink:
    """Appends to files. Blocking calls run in the sink's own threads, never on the event loop."""

    def __init__(self, name: str, settings: FileSettings, *, files: Files | None = None) -> None:
        self._name = name
        self._format = settings.format
        self._mode = int(settings.mode, 8)
        self._template = Template.parse(settings.destination)
        self._root = self._template.root.rstrip("/") or "/"
        self._max_open_files = settings.max_open_files
        self._limit = settings.max_open_files
        self._files = files or Files()
        self._state: SinkState | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._jobs: list[Future[None]] = []
        self._open_files: OrderedDict[str, OutputFile] = OrderedDict()
        self._remembered: OrderedDict[str, None] = OrderedDict()

    async def open(self, state: SinkState) -> None:
        """Create the directory that the operator named, and see that files can be made in it.

        Raises:
            SinkUnavailableError: Not now.
            SinkMisconfiguredError: The directory cannot be made or written.
        """
        await self.close()
        self._state = state
        self._limit = self._max_open_files
        self._threads = ThreadPoolExecutor(_WORKERS, thread_name_prefix=f"sink-{self._name}")
        await self._each(self._prepare_root, [self._root])

    async def write(self, batch: Batch) -> StateChanges:
        """Append the batch's lines; when this returns they are on the disk.

        Cancellation returns at once. A thread that is still in a system call then is waited for by
        the next `write` or `close`, so that two attempts never write at the same time.

        Raises:
            SinkUnavailableError: The disk is full, or failed: the same batch again later.
            SinkMisconfiguredError: A path cannot or must not be written.
        """
        await self._settle()
        try:
            return await self._attempt(batch)
        except TooManyOpenFilesError:
            self._limit = max(1, min(self._limit, len(self._open_files)) // 2)
            await self._close_all_but(0)
            raise

    async def close(self) -> None:
        """Close every file. May be called at any time, and again."""
        await self._settle()
        if self._threads is not None:
            await self._close_all_but(0)
            threads, self._threads = self._threads, None
            threads.shutdown()

    async def _attempt(self, batch: Batch) -> StateChanges:
        pieces: dict[str, list[Piece]] = {}
        await self._each(
            lambda whole: pieces.update(split(whole, self._template, self._format)), [batch]
        )
        targets = [self._target(path, pieces[path]) for path in pieces]
        found: dict[str, Mark] = {}
        done: dict[str, Mark] = {}
        await self._in_turns(lambda target: self._measure(target, found), targets)
        if found:
            await self._known_state.remember(_encoded(found))
        await self._in_turns(lambda target: self._append(target, done), targets)
        new = [target.file for target in targets if target.file.is_new]
        directories = {directory for file in new for directory in file.directories}
        await self._each(lambda path: sync_directory(self._files, path), sorted(directories))
        for file in new:
            file.is_new = False
        return {**_encoded(done), **self._forgotten(done)}

    @property
    def _known_state(self) -> SinkState:
        assert self._state is not None, "write before open"
        return self._state

    def _prepare_root(self, root: str) -> None:
        with verdicts(root):
            self._files.close(open_root(self._files, root, self._mode))
        if not os.access(root, os.W_OK | os.X_OK):
            raise SinkMisconfiguredError(f"cannot write into {root}: permission denied")
        # A crash may have come between its creation and this; not every parent may be opened.
        with suppress(SinkError):
            sync_directory(self._files, os.path.dirname(root))  # noqa: PTH120 - text, not a Path

    def _target(self, path: str, pieces: Sequence[Piece]) -> _Target:
        file = self._open_files.get(path)
        if file is None:
            file = OutputFile(self._files, self._root, path, self._mode)
        target = _Target(file, pieces, None)
        remembered = self._known_state.get(target.key)
        target.mark = None if remembered is None else Mark.decode(remembered)
        return target

    def _measure(self, target: _Target, found: dict[str, Mark]) -> None:
        mark = target.file.measure(target.mark)
        if mark != target.mark:
            target.mark = found[target.key] = mark

    def _append(self, target: _Target, done: dict[str, Mark]) -> None:
        mark = target.mark
        assert mark is not None, "measured before"
        buffers, open_line = lay_out(target.pieces, mark.open_line, self._format)
        length_bytes = target.file.append(mark.length_bytes, buffers)
        done[target.key] = Mark(length_bytes, open_line)

    def _forgotten(self, written: Iterable[str]) -> StateChanges:
        """Files written longest ago need no mark: they are confirmed to their very end.

        Should one be met again, its length then is where it goes on.
        """
        for key in written:
            self._remembered[key] = None
            self._remembered.move_to_end(key)
        surplus = max(0, len(self._remembered) - max(_REMEMBERED_FILES, len(list(written))))
        return {self._remembered.popitem(last=False)[0]: None for _ in range(surplus)}

    async def _in_turns(self, work: Callable[[_Target], None], targets: Sequence[_Target]) -> None:
        """Work on all targets, with never more than the allowed number of files open."""
        for start in range(0, len(targets), self._limit):
            turn = targets[start : start + self._limit]
            for target in turn:
                self._open_files[target.file.path] = target.file
                self._open_files.move_to_end(target.file.path)
            await self._close_all_but(self._limit)
            await self._each(work, turn)

    async def _close_all_but(self, count: int) -> None:
        surplus = max(0, len(self._open_files) - count)
        paths = list(self._open_files)[:surplus]
        await self._each(OutputFile.close, [self._open_files[path] for path in paths])
        for path in paths:  # only now: a cancelled close must leave the rest to the next one
            del self._open_files[path]

    async def _each(self, work: Callable[[_T], None], items: Sequence[_T]) -> None:
        """Do the work on every item, in threads; returns or raises when none is at it any more.

        Raises:
            SinkError: One of the items' errors, what somebody has to mend first.
        """
        assert self._threads is not None, "write before open"
        waiting = deque(items)

        def work_off() -> None:
            while waiting:
                try:
                    item = waiting.popleft()
                except IndexError:  # another thread was faster
                    return
                work(item)

        workers = min(_WORKERS, len(items))
        self._jobs = [self._threads.submit(work_off) for _ in range(workers)]
        try:
            results = await asyncio.gather(
                *map(asyncio.wrap_future, self._jobs), return_exceptions=True
            )
        except asyncio.CancelledError:
            waiting.clear()
            raise
        errors = [result for result in results if result is not None]
        if errors:
            raise min(errors, key=lambda error: not isinstance(error, SinkMisconfiguredError))

    async def _settle(self) -> None:
        """Wait for threads that a cancelled call has left behind."""
        left = [asyncio.wrap_future(job) for job in self._jobs if not job.done()]
        await asyncio.gather(*left, return_exceptions=True)


def _encoded(marks: dict[str, Mark]) -> StateChanges:
    return {key: mark.encode() for key, mark in marks.items()}
