"""Objects that are being written: as many at once as there are, in bounded memory.

A compressor costs a mebibyte or two, and a window may have thousands of objects. So only the first
few objects are compressed as their chunks come. The chunks of the others wait in memory, up to a
budget for all of them together; then the largest heaps of chunks go to one file, lightly
compressed. At the end each of those objects is read back and written, one by one. An object's
writer gets the same chunks in the same order either way, so its bytes are the same, too.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sinks.files.system import verdicts
from sinks.s3.spill import NOWHERE, Spill
from sinks.s3.staging import StagedFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sinks.s3.formats.interface import Compression, Format, ObjectWriter
    from sinks.s3.staging import Finished

_STRAIGHT = 8
_BUDGET_BYTES = 16 << 20
#: What a chunk that waits costs besides its bytes.
_CHUNK_COST_BYTES = 64

_SPILL_NAME = "spill"


@dataclass(slots=True)
class _Straight:
    """An object that is compressed as its chunks come."""

    staged: StagedFile
    writer: ObjectWriter


@dataclass(slots=True)
class _Waiting:
    """An object whose chunks wait: those in memory are behind those that were spilled."""

    chunks: list[bytes] = field(default_factory=list)
    cost_bytes: int = 0
    last_piece: int = NOWHERE


class Drafts:
    """The objects of one window, numbered from 0. Their files are named by `file_name`.

    Everything but `close` raises the verdicts of `sinks.files.system.verdicts`, and is meant for a
    thread: one at a time, save that different objects may be finished at the same time.

    Args:
        directory: Where the files go; it is empty.
        format_: What writes the objects.
        compression: The same.
        straight: So many objects are compressed as their chunks come.
        budget_bytes: So much of the others waits in memory.
    """

    def __init__(
        self,
        directory: Path,
        format_: Format,
        compression: Compression,
        *,
        straight: int = _STRAIGHT,
        budget_bytes: int = _BUDGET_BYTES,
    ) -> None:
        self._directory = directory
        self._format = format_
        self._compression = compression
        self._straight = straight
        self._budget_bytes = budget_bytes
        self._drafts: list[_Straight | _Waiting | None] = []
        self._waiting_bytes = 0
        self._spill: Spill | None = None

    def __len__(self) -> int:
        return len(self._drafts)

    @property
    def waiting_bytes(self) -> int:
        """What waits in memory, roughly."""
        return self._waiting_bytes

    @staticmethod
    def file_name(number: int) -> str:
        """The name of an object's file."""
        return f"object-{number}"

    def begin(self) -> int:
        """Begin an object; returns its number."""
        number = len(self._drafts)
        self._drafts.append(self._open(number) if number < self._straight else _Waiting())
        return number

    def add(self, number: int, chunk: bytes) -> None:
        """Append to an object that is not finished."""
        draft = self._drafts[number]
        assert draft is not None, "the object is finished"
        if isinstance(draft, _Straight):
            with verdicts(str(self._directory)):
                draft.writer.add(chunk)
            return
        cost_bytes = len(chunk) + _CHUNK_COST_BYTES
        draft.chunks.append(chunk)
        draft.cost_bytes += cost_bytes
        self._waiting_bytes += cost_bytes
        if self._waiting_bytes > self._budget_bytes:
            self._spill_largest()

    def finish(self, number: int) -> Finished:
        """Complete an object; its file is closed, and its bytes are on the disk."""
        draft, self._drafts[number] = self._drafts[number], None
        assert draft is not None, "the object is finished"
        straight = draft if isinstance(draft, _Straight) else self._open(number)
        try:
            with verdicts(str(self._directory)):
                if isinstance(draft, _Waiting):
                    for chunk in self._chunks(draft):
                        straight.writer.add(chunk)
                straight.writer.finish()
                return straight.staged.finish()
        finally:
            straight.staged.abandon()

    def close(self) -> None:
        """Let go of everything that is open, and delete what was spilled. Never fails."""
        for draft in self._drafts:
            if isinstance(draft, _Straight):
                draft.staged.abandon()
        self._drafts.clear()
        if self._spill is not None:
            self._spill.close()

    def _open(self, number: int) -> _Straight:
        with verdicts(str(self._directory)):
            staged = StagedFile(self._directory / self.file_name(number))
            with ExitStack() as undo:
                undo.callback(staged.abandon)
                draft = _Straight(staged, self._format.writer(staged.file, self._compression))
                undo.pop_all()
            return draft

    def _chunks(self, draft: _Waiting) -> Iterator[bytes]:
        if self._spill is not None:
            yield from self._spill.read(draft.last_piece)
        yield from draft.chunks

    def _spill_largest(self) -> None:
        """Make room for half a budget, with as few and as large pieces as that takes."""
        waiting = [draft for draft in self._drafts if isinstance(draft, _Waiting) and draft.chunks]
        waiting.sort(key=lambda draft: draft.cost_bytes, reverse=True)
        with verdicts(str(self._directory)):
            if self._spill is None:
                self._spill = Spill(self._directory / _SPILL_NAME)
            for draft in waiting:
                if self._waiting_bytes <= self._budget_bytes // 2:
                    break
                draft.last_piece = self._spill.write(draft.chunks, draft.last_piece)
                self._waiting_bytes -= draft.cost_bytes
                draft.chunks, draft.cost_bytes = [], 0
            self._spill.flush()
