"""How what a sink has archived is got back: the other half of an archiving sink.

The commands `sandbox-forwarder archive list|cat|verify` are written against this file alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence


class ArchiveError(Exception):
    """The archive is not what it should be; the message says which object, and what to do."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which lines are meant; what is None does not matter.

    Attributes:
        since_ns: The first stamp, included.
        until_ns: The first stamp that is not meant any more.
    """

    sandbox_id: str | None = None
    container: str | None = None
    since_ns: int | None = None
    until_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive records of one stream in an object; other streams' may stand in between.

    Attributes:
        generation: Which life of the container they come from.
        first_line: Line number of the first.
        lines: How many lines, and parts of lines; 0 for a gap record.
        part: 0 for whole lines; else the run is this one part of one line that was too long.
        first_ns: The lowest stamp.
        last_ns: The highest stamp.
        gap: Whether it is a gap record.
    """

    sandbox_id: str
    container: str
    generation: int
    first_line: int
    lines: int
    part: int
    first_ns: int
    last_ns: int
    gap: bool = False


@dataclass(frozen=True, slots=True)
class ArchivedObject:
    """One object, as the manifest of its window says.

    Attributes:
        runs: What is in it, by where they begin; those of one stream in its order.
    """

    key: str
    size_bytes: int
    sha256: str
    runs: Sequence[Run] = field(repr=False)

    @property
    def lines(self) -> int:
        """Lines in it, and parts of lines."""
        return sum(run.lines for run in self.runs)


@dataclass(frozen=True, slots=True)
class ArchivedWindow:
    """One window that is complete in the archive.

    Attributes:
        window: Its name, unique over all daemons that write there.
        manifest_key: The object that describes it.
        first_ns: The lowest stamp in it.
        last_ns: The highest stamp in it.
    """

    window: str
    manifest_key: str
    first_ns: int
    last_ns: int
    objects: Sequence[ArchivedObject]


@dataclass(frozen=True, slots=True)
class ArchivedRecord:
    """One record, read back.

    Attributes:
        line: Its number; of a gap record nothing certain, `gap` says where it stands.
        text: The line without its stamp and newline; empty for a gap record.
        gap: For a gap record, what is missing; see `sinks.interface.Slice.gap`.
    """

    sandbox_id: str
    container: str
    generation: int
    line: int
    part: int
    stamp_ns: int
    text: bytes
    gap: Mapping[str, str | int | None] | None = None


class Archive(Protocol):
    """Reads an archive. Open it first; every method makes its requests anew."""

    async def open(self) -> None:
        """Get ready.

        Raises:
            SinkUnavailableError: The store does not answer.
            SinkMisconfiguredError: Something must be mended.
        """
        ...

    async def close(self) -> None:
        """Let go of everything; may be called again."""
        ...

    def windows(self, selection: Selection) -> AsyncIterator[ArchivedWindow]:
        """The windows that have anything of the selection, by their first stamps.

        Only objects and runs that belong to the selection's streams, and may lie in its time.

        Raises:
            ArchiveError: A manifest is damaged or missing.
        """
        ...

    def records(self, archived: ArchivedObject) -> AsyncIterator[Sequence[ArchivedRecord]]:
        """Every record of an object, in its order, some at a time.

        The object is checked against its manifest as it is read.

        Raises:
            ArchiveError: It is missing, or not what the manifest says.
        """
        ...


@runtime_checkable
class Archiving(Protocol):
    """What a sink may have besides: an archive that can be read back."""

    def archive(self, remembered: Mapping[str, bytes] | None) -> Archive:
        """The archive that the sink writes.

        Args:
            remembered: What the sink remembers, from the spool: where its windows are. None when
                there is no spool, or to see what the store alone says.
        """
        ...
