"""An archive in memory, and a sink that writes one: what there is, is what a test says."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from sinks.archive import ArchivedObject, ArchivedRecord, ArchivedWindow, ArchiveError, Run
from sinks.discard import DiscardSettings, DiscardSink
from sinks.s3.index import IndexEntry
from sinks.s3.selecting import selected_entries, selected_part
from sinks.settings import SinkSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

    from sinks.archive import Selection

S = 1_000_000_000
#: 2026-11-23T13:00:00Z
ONE_PM_NS = 1_795_438_800 * S


def line(
    number: int,
    text: bytes | str | None = None,
    *,
    sandbox: str = "sbx-1",
    container: str = "main",
    generation: int = 0,
    part: int = 0,
    second: float | None = None,
) -> ArchivedRecord:
    """A line; without more, line 7 is `line 7`, written seven seconds after one."""
    written = f"line {number}" if text is None else text
    return ArchivedRecord(
        sandbox,
        container,
        generation,
        number,
        part,
        ONE_PM_NS + round((number if second is None else second) * S),
        written.encode() if isinstance(written, str) else written,
    )


def gap(after: int, before: int | None = None, **fields: Any) -> ArchivedRecord:
    """A gap record behind a line: of lines that were dropped, when `before` is given."""
    kind, cause = ("range", "replay_gap") if before is None else ("dropped", "spool_full")
    content: dict[str, Any] = {
        "kind": kind,
        "cause": cause,
        "bounds": "exact",
        "generation": 0,
        "after_line": after,
        "before_line": before,
        "filled_ns": 0,
        **fields,
    }
    # A format may not know the number of the next line: the gap itself says where it is.
    return replace(line(before or 0, b"", second=max(after, 0)), gap=content)


def runs_of(records: Iterable[ArchivedRecord]) -> list[Run]:
    """What a manifest says of an object with these records, each as a run of its own."""
    return [
        Run(
            one.sandbox_id,
            one.container,
            one.generation,
            one.line if one.gap is None else int(one.gap["after_line"] or 0) + 1,
            int(one.gap is None),
            one.part,
            one.stamp_ns,
            one.stamp_ns,
            gap=one.gap is not None,
        )
        for one in records
    ]


def object_of(
    key: str, records: Sequence[ArchivedRecord], size_bytes: int = 1000
) -> ArchivedObject:
    """An object as its manifest describes it."""
    return ArchivedObject(
        key, size_bytes, hashlib.sha256(key.encode()).hexdigest(), runs_of(records)
    )


@dataclass
class FakeArchive:
    """Windows of objects of records.

    Attributes:
        content: By window, by key.
        damaged: Keys of objects that cannot be read, and names of windows whose manifest cannot.
        error: Raised by `open`.
        reads: Keys of objects, in the order in which they were begun.
        most_open: So many objects were open at once, at most.
        closed: How often it was closed.
    """

    content: Mapping[str, Mapping[str, Sequence[ArchivedRecord]]]
    damaged: set[str] = field(default_factory=set)
    error: Exception | None = None
    reads: list[str] = field(default_factory=list)
    open_now: int = 0
    most_open: int = 0
    closed: int = 0

    async def open(self) -> None:
        if self.error is not None:
            raise self.error

    async def close(self) -> None:
        self.closed += 1

    def windows(self, selection: Selection) -> AsyncIterator[ArchivedWindow]:
        known = {name: self._window(name) for name in self.content}
        entries = [
            IndexEntry(name, one.manifest_key, one.first_ns, one.last_ns)
            for name, one in known.items()
        ]
        found = [known[entry.window] for entry in selected_entries(entries, selection)]
        return _Windows(found, selection, self.damaged)

    async def records(self, archived: ArchivedObject) -> AsyncIterator[Sequence[ArchivedRecord]]:
        self.reads.append(archived.key)
        if archived.key in self.damaged:
            raise ArchiveError(f"{archived.key} is missing")
        records = next(one[archived.key] for one in self.content.values() if archived.key in one)
        self.open_now += 1
        self.most_open = max(self.most_open, self.open_now)
        try:
            for start in range(0, len(records), 3):
                yield records[start : start + 3]
        finally:
            self.open_now -= 1

    def _window(self, name: str) -> ArchivedWindow:
        stamps = [one.stamp_ns for records in self.content[name].values() for one in records]
        objects = [object_of(key, records) for key, records in self.content[name].items()]
        return ArchivedWindow(name, f"_manifests/{name}.json", min(stamps), max(stamps), objects)


class _Windows:
    def __init__(
        self, found: Sequence[ArchivedWindow], selection: Selection, damaged: set[str]
    ) -> None:
        self._found = list(found)
        self._selection = selection
        self._damaged = damaged

    def __aiter__(self) -> _Windows:
        return self

    async def __anext__(self) -> ArchivedWindow:
        while self._found:
            window = self._found.pop(0)
            if window.window in self._damaged:
                raise ArchiveError(f"{window.manifest_key} is missing")
            if (part := selected_part(window, self._selection)) is not None:
                return part
        raise StopAsyncIteration


class KeptSettings(SinkSettings):
    """A sink that can be read back."""

    type: Literal["kept"] = "kept"
    """The kind of sink."""


def kept_sink(
    archive: FakeArchive, seen: list[Mapping[str, bytes] | None]
) -> Callable[[str, KeptSettings], DiscardSink]:
    """What builds a sink that wrote this archive.

    Args:
        archive: Its archive.
        seen: What the sink is said to remember, each time it is asked for the archive.
    """

    class KeptSink(DiscardSink):
        def __init__(self, name: str, settings: KeptSettings) -> None:
            super().__init__(name, DiscardSettings())
            self._kept = settings

        def archive(self, remembered: Mapping[str, bytes] | None) -> FakeArchive:
            seen.append(remembered)
            return archive

    return KeptSink
