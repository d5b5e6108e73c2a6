"""How archived records are written: as lines of a log, or as the NDJSON that sinks write."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from forwarder.model import GapKind
from sinks.ndjson import rfc3339, rfc3339_column
from sinks.terminal import line_safe, terminal_safe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from sinks.archive import ArchivedRecord


class Output(Protocol):
    """Where bytes go: standard output, or a test's buffer."""

    def write(self, data: bytes, /) -> object:
        """Write all of it."""
        ...

    def flush(self) -> object:
        """Hand it to the reader."""
        ...


class Writer(Protocol):
    """Writes records, chunk by chunk."""

    def write(self, records: Iterable[ArchivedRecord]) -> None:
        """Write some, and hand them to the reader."""
        ...

    def finish(self) -> None:
        """Nothing more comes."""
        ...


@dataclass(frozen=True, slots=True)
class LineForm:
    """How a line looks.

    Attributes:
        timestamps: Its stamp stands before it.
        containers: The name of its container stands before it.
        raw: Its bytes are as they are, also on a terminal.
    """

    timestamps: bool = False
    containers: bool = False
    raw: bool = True


class LineWriter:
    """Writes lines, and tells of gaps elsewhere.

    The parts of a line that was too long are put together again.
    """

    def __init__(self, output: Output, tell: Callable[[str], None], form: LineForm) -> None:
        self._output = output
        self._tell = tell
        self._form = form
        self._open: ArchivedRecord | None = None

    def write(self, records: Iterable[ArchivedRecord]) -> None:
        """See `Writer`."""
        pieces: list[bytes] = []
        for record in records:
            if record.gap is None:
                pieces += self._line(record)
                continue
            self._flush([*pieces, *self._end_part()])
            pieces = []
            self._tell(f"{describe_gap(record.gap)} of {_stream(record)}")
        self._flush(pieces)

    def finish(self) -> None:
        """See `Writer`."""
        self._flush(self._end_part())

    def _flush(self, pieces: list[bytes]) -> None:
        if pieces:
            self._output.write(b"".join(pieces))
            self._output.flush()

    def _line(self, record: ArchivedRecord) -> list[bytes]:
        text = record.text if self._form.raw else line_safe(record.text).encode()
        if self._open is not None and _goes_on(self._open, record):
            self._open = record
            return [text]
        pieces = self._end_part()
        if record.part:
            self._open = record
            return [*pieces, self._head(record), text]
        return [*pieces, self._head(record), text, b"\n"]

    def _head(self, record: ArchivedRecord) -> bytes:
        head = rfc3339(record.stamp_ns) + " " if self._form.timestamps else ""
        if self._form.containers:
            head += terminal_safe(record.container) + ": "
        return head.encode()

    def _end_part(self) -> list[bytes]:
        """The newline that no part has, when the line before was in parts."""
        was_open, self._open = self._open, None
        return [] if was_open is None else [b"\n"]


def _goes_on(before: ArchivedRecord, record: ArchivedRecord) -> bool:
    """Whether a record is the next part of the same line."""
    return (
        record.part > 1
        and record.part == before.part + 1
        and (record.sandbox_id, record.container) == (before.sandbox_id, before.container)
    )


class JsonWriter:
    """Writes one object a line, gap records among them: see `sinks.ndjson`."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def write(self, records: Iterable[ArchivedRecord]) -> None:
        """See `Writer`."""
        found = list(records)
        times = rfc3339_column(record.stamp_ns for record in found)
        self._output.write(b"".join(map(_json, found, times)))
        self._output.flush()

    def finish(self) -> None:
        """See `Writer`."""


def _json(record: ArchivedRecord, time: str) -> bytes:
    fields: dict[str, Any] = {
        "time": time,
        "sandbox_id": record.sandbox_id,
        "container": record.container,
    }
    if record.generation:
        fields["generation"] = record.generation
    if record.gap is not None:
        fields["gap"] = dict(record.gap)
        return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)
    fields["line"] = record.line
    try:
        fields["text"] = record.text.decode()
    except UnicodeDecodeError:
        fields["text_base64"] = b64encode(record.text).decode()
    if record.part:
        fields["part"] = record.part
    return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)


def describe_gap(gap: Mapping[str, str | int | None]) -> str:
    """`gap after line 41: spool_full, 12 lines`, for a person; numbers as in `--json`."""
    after = gap.get("after_line")
    where = f"after line {after}" if isinstance(after, int) and after >= 0 else "at the beginning"
    if gap.get("filled_ns"):
        return f"what was missing {where} was found after all"
    text = f"gap {where}: {terminal_safe(str(gap.get('cause', 'unknown')))}"
    lost = lost_lines(gap)
    if lost is not None and lost[1] is not None:
        lines = lost[1] - lost[0]
        text += f", {lines} line" + ("" if lines == 1 else "s")
    return text


def lost_lines(gap: Mapping[str, str | int | None]) -> tuple[int, int | None] | None:
    """The numbers that a gap record accounts for: the first, and the one behind the last.

    None when there are none: what the platform lost was never numbered. The end is None where the
    gap record does not know it.
    """
    after, before = gap.get("after_line"), gap.get("before_line")
    if gap.get("kind") != GapKind.DROPPED or not isinstance(after, int) or gap.get("filled_ns"):
        return None
    return after + 1, max(before, after + 1) if isinstance(before, int) else None


def _stream(record: ArchivedRecord) -> str:
    names = (record.sandbox_id, record.container)
    return "/".join(terminal_safe(name) for name in names if name)
