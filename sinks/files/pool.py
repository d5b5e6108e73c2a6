"""The files that a sink has open, and the threads that work on them.

Disks block, and the event loop must not; descriptors are few, and files may be many.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from sinks.files.output import OutputFile
from sinks.files.rotation import NO_MOMENT, Moment
from sinks.files.threads import Threads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sinks.files.layout import Mark, Piece
    from sinks.files.system import Files

_T = TypeVar("_T")

KEY_PREFIX = "file:"


@dataclass(slots=True)
class Target:
    """One file of one batch.

    Attributes:
        pieces: What goes into it; nothing when it is only looked after.
        mark: What is known of it; None before it was measured for the first time.
        moment: The newest of the pieces, when somebody asks for it.
        has_ended: Whether the stream that it belongs to ends with this batch.
    """

    file: OutputFile
    pieces: Sequence[Piece]
    mark: Mark | None
    moment: Moment = NO_MOMENT
    has_ended: bool = False

    @property
    def key(self) -> str:
        """Under which the mark is remembered."""
        return f"{KEY_PREFIX}{self.file.path}"

    @property
    def known_mark(self) -> Mark:
        """The mark of a file that was measured."""
        assert self.mark is not None, "measured before"
        return self.mark


class FilePool:
    """Output files below `root`, at most so many of them open. One call at a time.

    Cancelling a call returns at once; `settle` waits for the threads that are left behind.
    """

    def __init__(
        self, name: str, *, files: Files, root: str, mode: int, max_open_files: int
    ) -> None:
        self._files = files
        self._root = root
        self._mode = mode
        self._limit = max_open_files
        self._threads = Threads(name)
        self._open_files: OrderedDict[str, OutputFile] = OrderedDict()

    def file(self, path: str) -> OutputFile:
        """The file of this path, open if it is open already."""
        found = self._open_files.get(path)
        return OutputFile(self._files, self._root, path, self._mode) if found is None else found

    async def each(self, work: Callable[[_T], None], items: Sequence[_T]) -> None:
        """Do the work on every item, in threads; returns or raises when none is at it any more.

        Raises:
            SinkError: One of the items' errors, what somebody has to mend first.
        """
        await self._threads.each(work, items)

    async def in_turns(self, work: Callable[[Target], None], targets: Sequence[Target]) -> None:
        """Work on all targets, with never more than the allowed number of files open."""
        for start in range(0, len(targets), self._limit):
            turn = targets[start : start + self._limit]
            for target in turn:
                self._open_files[target.file.path] = target.file
                self._open_files.move_to_end(target.file.path)
            await self._close_all_but(self._limit)
            await self._threads.each(work, turn)

    async def do_with_fewer(self) -> None:
        """There are no descriptors left: close all files, and from now on keep half as many."""
        self._limit = max(1, min(self._limit, len(self._open_files)) // 2)
        await self._close_all_but(0)

    async def settle(self) -> None:
        """Wait for what a cancelled call has left behind."""
        await self._threads.settle()

    async def close(self) -> None:
        """Close every file and let the threads end."""
        await self._threads.settle()
        await self._close_all_but(0)
        self._threads.close()

    async def _close_all_but(self, count: int) -> None:
        surplus = max(0, len(self._open_files) - count)
        paths = list(self._open_files)[:surplus]
        await self._threads.each(OutputFile.close, [self._open_files[path] for path in paths])
        for path in paths:  # only now: a cancelled close must leave the rest to the next one
            del self._open_files[path]
