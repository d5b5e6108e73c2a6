"""Single records, as the sinks of `sinks.testing` keep them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sinks.interface import Slice

#: Sandbox id, container, generation, line, part, and what a record of ours says.
RecordKey: TypeAlias = tuple[str, str, int, int, int, str]


@dataclass(frozen=True, slots=True)
class Record:
    """A line, a part of one, a gap record or an end record, as `MemorySink` keeps it."""

    sandbox_id: str
    container: str
    line: int
    part: int
    stamp_ns: int
    text: bytes
    gap: Mapping[str, str | int | None] | None = None
    end: Mapping[str, str | int] | None = None
    generation: int = 0

    @property
    def key(self) -> RecordKey:
        """What makes it this record and no other: the record id, and the kind of record."""
        ours = self.end if self.gap is None else self.gap
        kind = "" if ours is None else str(sorted(ours.items(), key=str))
        return (
            *(self.sandbox_id, self.container, self.generation),
            *(self.line, self.part, kind),
        )


def records_of(source: Slice) -> list[Record]:
    """The records of a slice, in order."""
    identity, generation = source.stream.identity, source.generation
    if source.gap is not None or source.end is not None:
        stamp_ns = (source.gap or {}).get("from_stamp_ns")
        at_ns = stamp_ns if isinstance(stamp_ns, int) else 0
        record = (*identity, source.first_line, 0, at_ns, b"")
        return [Record(*record, gap=source.gap, end=source.end, generation=generation)]
    columns = source.columns
    return [
        Record(
            *(*identity, source.first_line + index, source.part, stamp_ns, text),
            generation=generation,
        )
        for index, (stamp_ns, text) in enumerate(zip(columns.stamps_ns, columns.texts, strict=True))
    ]
