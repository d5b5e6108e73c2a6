"""An object's records against what its manifest says of them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sinks.archive import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sinks.archive import ArchivedRecord, Run


def checked(
    batches: Iterator[Sequence[ArchivedRecord]], runs: Sequence[Run]
) -> Iterator[Sequence[ArchivedRecord]]:
    """The records as they come, each compared before it is handed on.

    The runs of one stream stand as its records do, whatever stands between them.

    Raises:
        ArchiveError: One is not what comes next of its stream, or there are more or fewer.
    """
    streams: dict[tuple[str, str], _Stream] = {}
    for run in runs:
        streams.setdefault((run.sandbox_id, run.container), _Stream()).runs.append(run)
    for stream in streams.values():
        stream.runs.reverse()
    for batch in batches:
        for record in batch:
            stream_of = streams.get((record.sandbox_id, record.container))
            if stream_of is None or not stream_of.takes(record):
                raise ArchiveError(f"{_named(record)} is not what its manifest says")
        yield batch
    if any(stream.runs for stream in streams.values()):
        raise ArchiveError("it has fewer records than its manifest says")


class _Stream:
    """What is still to come of a stream: its runs, the next one last."""

    __slots__ = ("runs", "taken")

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.taken = 0

    def takes(self, record: ArchivedRecord) -> bool:
        """Whether a record is the next one."""
        if not self.runs:
            return False
        run = self.runs[-1]
        if run.gap:
            is_next = record.gap is not None
        else:
            is_next = (
                record.gap is None
                and record.line == run.first_line + self.taken
                and record.part == run.part
                and run.first_ns <= record.stamp_ns <= run.last_ns
            )
        self.taken += 1
        if self.taken >= run.lines:
            self.runs.pop()
            self.taken = 0
        return is_next and record.generation == run.generation


def _named(record: ArchivedRecord) -> str:
    what = "a gap record" if record.gap is not None else f"line {record.line}"
    return f"{what} of {record.sandbox_id!r}, {record.container!r}"
