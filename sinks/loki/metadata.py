"""The structured metadata of records in Loki: what tells one record from every other. Pure.

Every value is text, and none changes between attempts.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sinks.identity import id_prefix, id_suffix, record_ids
from sinks.loki.labels import GAP_PREFIX, METADATA_NAMES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from sinks.interface import Slice, Stream
    from sinks.loki.wire import Wire

#: Loki's own limits, by default (`limits_config`).
MAX_ENTRIES = 128
MAX_BYTES = 64 * 1024
#: What a record may have of its own: `line`, the record id, a gap's keys and the like.
_OWN_ENTRIES = 24
_OWN_BYTES = 4 * 1024

_FOREIGN = re.compile(r"[^a-zA-Z0-9_]")


def common_metadata(wire: Wire, source: Slice, labels: Collection[str]) -> bytes:
    """What all records of a slice have, without what is a label already.

    Where there is more than Loki takes, what comes last here is left out first: attributes, from
    the last name on, then tags, then the display name.
    """
    fields: list[bytes] = []
    room_entries, room_bytes = MAX_ENTRIES - _OWN_ENTRIES, MAX_BYTES - _OWN_BYTES
    for name, value in _fields(source, labels):
        size = len(name) + len(value.encode("utf-8", "replace"))
        if value and room_entries and size <= room_bytes:
            fields.append(wire.field(name, value))
            room_entries -= 1
            room_bytes -= size
    return b"".join(fields)


def gap_metadata(wire: Wire, source: Slice) -> bytes:
    """What a gap record says, each key under `gap_`; one that is not known is left out."""
    gap = source.gap or {}
    fields = [
        wire.field(f"{GAP_PREFIX}{key}", str(value))
        for key, value in gap.items()
        if value not in {None, ""}
    ]
    return b"".join([*fields, wire.field("log_record_uid", record_ids(source)[0])])


class LineMetadata:
    """The metadata of a slice's lines, whose fields differ in the line's number only."""

    def __init__(self, wire: Wire, source: Slice, common: bytes) -> None:
        self._wire = wire
        self._before, self._after = id_prefix(source), id_suffix(source)
        self._common = common

    def of(self, numbers: Iterable[int]) -> Iterator[bytes]:
        """The metadata of lines with these numbers."""
        width = 0
        head = middle = tail = b""
        for number in numbers:
            digits = b"%d" % number
            if len(digits) != width:
                width = len(digits)
                head, first_tail = self._around("line", "", width, "")
                second_head, tail = self._around("log_record_uid", self._before, width, self._after)
                middle, tail = first_tail + second_head, tail + self._common
            yield head + digits + middle + digits + tail

    def _around(self, name: str, before: str, width: int, after: str) -> tuple[bytes, bytes]:
        """What stands before and behind a number of so many digits."""
        whole = self._wire.field(name, before + "0" * width + after)
        stop = len(whole) - len(after) - len(self._wire.field_end)
        return whole[: stop - width], whole[stop:]


def _fields(source: Slice, labels: Collection[str]) -> Iterator[tuple[str, str]]:
    stream = source.stream
    own = {
        "sandbox_id": stream.sandbox_id,
        "container": stream.container,
        "generation": str(source.generation) if source.generation else "",
        "part": str(source.part) if source.part else "",
        "display_name": stream.display_name,
        "tags": ",".join(stream.tags),
    }
    yield from ((name, value) for name, value in own.items() if name not in labels)
    yield from _attributes(stream, labels)


def _attributes(stream: Stream, labels: Collection[str]) -> Iterator[tuple[str, str]]:
    """By names that Loki takes; one that a record or its labels have already is told apart."""
    taken = set(labels)
    for key in sorted(stream.attributes):
        name = _FOREIGN.sub("_", key)
        ours = name in METADATA_NAMES or name.startswith(GAP_PREFIX) or not name[:1].isalpha()
        name = f"attribute_{name}" if ours else name
        while name in taken:
            name = f"attribute_{name}"
        taken.add(name)
        yield name, stream.attributes[key]
