"""A batch as push requests for Loki, one for each of its streams. Pure.

One request for each stream, because Loki's answer tells of one: an ingester that refuses lines of
several streams of a request reports the last stream only, or nothing when that one is fine.

Nothing in labels and metadata changes between attempts, so that a record that is sent again is an
exact duplicate, which Loki stores once. Loki also takes two records for one when they have one
stamp and one text: before 3.7.3 when one follows the other, whatever their metadata. In a request
there are never two: the later one is moved on by a nanosecond, and `stamp` says what it was.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from sinks.interface import Refusal
from sinks.loki.labels import Label, render_labels, selector
from sinks.loki.metadata import LineMetadata, common_metadata, gap_metadata
from sinks.loki.texts import pieces_of_object, pieces_of_text, utf8_texts
from sinks.loki.wire import JsonWire, ProtobufWire, Wire
from sinks.ndjson import encode_gap, encode_lines, gap_stamp_ns, rfc3339
from sinks.settings import format_byte_size, format_duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sinks.interface import Slice
    from sinks.network import Compression
    from sinks.service import ServiceSettings

Format: TypeAlias = Literal["protobuf", "json"]
OldLines: TypeAlias = Literal["dead_letter", "restamp", "send"]
LongLines: TypeAlias = Literal["split", "dead_letter", "send"]

_NS_PER_S = 1_000_000_000
#: Lines get the time of their sending in steps: within one, a resend is an exact duplicate.
_RESTAMP_STEP_NS = 600 * _NS_PER_S


@dataclass(frozen=True, slots=True)
class LokiOptions:
    """What the encoder has to know of the settings."""

    labels: tuple[Label, ...]
    service: ServiceSettings
    format: Format
    compression: Compression
    structured_metadata: bool
    max_line_bytes: int
    long_lines: LongLines
    old_lines: OldLines
    reject_old_after_s: float

    @property
    def wire(self) -> Wire:
        """How requests are written."""
        return ProtobufWire() if self.format == "protobuf" else JsonWire(self.compression)


@dataclass(frozen=True, slots=True)
class Push:
    """One request, and what its entries are: column by column, in the order of the request.

    Attributes:
        body: Compressed.
        size_bytes: What it was before.
        labels: The stream, as Loki writes it.
        records: The number of each entry's record in the batch; a record may have several entries.
        stamps_ns: Their stamps.
        lengths: Their lines' lengths, in bytes.
    """

    body: bytes
    size_bytes: int
    labels: str
    records: array[int]
    stamps_ns: array[int]
    lengths: array[int]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A batch, ready to be sent.

    Attributes:
        pushes: The requests; none when nothing is left to be sent.
        refused: Records that are not sent, because Loki would not take them.
    """

    pushes: tuple[Push, ...]
    refused: dict[int, Refusal]


@dataclass(slots=True)
class _Entries:
    """The entries of one stream, in order of arrival.

    `moved` has the true stamp of those whose stamp was changed.
    """

    records: list[int] = field(default_factory=list)
    stamps_ns: list[int] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)
    metadata: list[bytes] = field(default_factory=list)
    moved: dict[int, int] = field(default_factory=dict)

    def add(self, record: int, stamp_ns: int, line: bytes, metadata: bytes) -> None:
        self.records.append(record)
        self.stamps_ns.append(stamp_ns)
        self.lines.append(line)
        self.metadata.append(metadata)


def encode_batch(slices: Sequence[Slice], options: LokiOptions, now_ns: int) -> Encoded:
    """The requests of a batch.

    Args:
        slices: The batch's, all of them: records are numbered through them.
        options: The settings.
        now_ns: What time it is; only what is too old depends on it.
    """
    encoder = _Encoder(options, now_ns)
    first = 0
    for source in slices:
        encoder.add(source, first)
        first += source.record_count
    return encoder.encoded()


class _Encoder:
    def __init__(self, options: LokiOptions, now_ns: int) -> None:
        self._options = options
        self._wire = options.wire
        self._restamped_ns = now_ns - now_ns % _RESTAMP_STEP_NS
        sends_old = options.old_lines == "send"
        self._oldest_ns = now_ns - int(options.reject_old_after_s * _NS_PER_S)
        self._oldest_ns = -(1 << 63) if sends_old else self._oldest_ns
        self._streams: dict[tuple[tuple[str, str], ...], _Entries] = {}
        self._refused: dict[int, Refusal] = {}

    def add(self, source: Slice, first: int) -> None:
        """Take a slice, whose first record has this number; an end record is nothing here."""
        if source.end is not None:
            return
        labels = render_labels(self._options.labels, source.stream, self._options.service)
        entries = self._streams.setdefault(labels, _Entries())
        common = b""
        if self._options.structured_metadata:
            common = common_metadata(self._wire, source, {name for name, _ in labels})
        if source.gap is not None:
            self._add_gap(entries, source, common, first)
        elif source.line_count:
            self._add_lines(entries, source, common, first)

    def encoded(self) -> Encoded:
        """What was taken."""
        pushes = [
            self._push(labels, entries)
            for labels, entries in self._streams.items()
            if entries.records
        ]
        return Encoded(tuple(pushes), self._refused)

    def _add_lines(self, entries: _Entries, source: Slice, common: bytes, first: int) -> None:
        stamps_ns = source.columns.stamps_ns
        if self._options.structured_metadata:
            column = _metadata(self._wire, source, common)
            lines, metadata = utf8_texts(self._wire, source.columns.texts, column)
        else:
            lines = encode_lines(source)[:-1].split(b"\n")
            metadata = [b""] * len(lines)
        longest = max(map(len, lines))
        too_long = longest > self._options.max_line_bytes and self._options.long_lines != "send"
        if too_long or min(stamps_ns) < self._oldest_ns:
            for offset, row in enumerate(zip(stamps_ns, lines, metadata, strict=True)):
                self._add_checked(entries, first + offset, source.first_line + offset, *row)
            return
        entries.records += range(first, first + len(lines))
        entries.stamps_ns += stamps_ns
        entries.lines += lines
        entries.metadata += metadata

    def _add_checked(
        self, entries: _Entries, record: int, number: int, stamp_ns: int, line: bytes, meta: bytes
    ) -> None:
        too_old = stamp_ns < self._oldest_ns
        too_long = len(line) > self._options.max_line_bytes and self._options.long_lines != "send"
        refusal = self._refusal(stamp_ns, line, too_old=too_old, too_long=too_long)
        if refusal is not None:
            self._refused[record] = refusal
            return
        # One after the other, as the lines are, and the pieces of a line: Loki promises no order to
        # entries of one stamp.
        first_ns = self._restamped_ns + number % _RESTAMP_STEP_NS if too_old else stamp_ns
        pieces = [line]
        if too_long:
            cut = pieces_of_text if self._options.structured_metadata else pieces_of_object
            pieces = cut(line, self._options.max_line_bytes)
        for index, text in enumerate(pieces):
            at_ns = first_ns + index
            if at_ns != stamp_ns:
                entries.moved[len(entries.records)] = stamp_ns
            more = b""
            if too_long and self._options.structured_metadata:
                more = self._wire.field("piece", str(index + 1))
            entries.add(record, at_ns, text, meta + more)

    def _refusal(
        self, stamp_ns: int, line: bytes, *, too_old: bool, too_long: bool
    ) -> Refusal | None:
        options = self._options
        if too_old and options.old_lines == "dead_letter":
            limit = format_duration(options.reject_old_after_s)
            reason = f"older than reject_old_after, {limit}: {rfc3339(max(stamp_ns, 0))}"
            return Refusal(reason, "too_old")
        if too_long and options.long_lines == "dead_letter":
            limit = format_byte_size(options.max_line_bytes)
            reason = f"{len(line)} bytes are more than max_line_bytes, {limit}"
            return Refusal(reason, "too_long")
        return None

    def _add_gap(self, entries: _Entries, source: Slice, common: bytes, record: int) -> None:
        """A gap record is never too old: it is moved to when it was noticed, or to now."""
        gap = source.gap or {}
        stamp_ns = at_ns = gap_stamp_ns(source)
        if stamp_ns < self._oldest_ns:
            noticed_ns = gap.get("noticed_ns")
            fresh = isinstance(noticed_ns, int) and noticed_ns >= self._oldest_ns
            at_ns = noticed_ns if fresh and isinstance(noticed_ns, int) else self._restamped_ns
            entries.moved[len(entries.records)] = stamp_ns
        if self._options.structured_metadata:
            entries.add(record, at_ns, _gap_text(source), gap_metadata(self._wire, source) + common)
        else:
            entries.add(record, at_ns, encode_gap(source)[:-1], b"")

    def _push(self, labels: tuple[tuple[str, str], ...], entries: _Entries) -> Push:
        stamps_ns, metadata = entries.stamps_ns, entries.metadata
        if self._options.structured_metadata:
            _separate(entries)
            for index, true_ns in entries.moved.items():
                metadata[index] += self._wire.field("stamp", rfc3339(max(true_ns, 0)))
        order = sorted(range(len(stamps_ns)), key=stamps_ns.__getitem__)
        lines = [entries.lines[i] for i in order]
        stamps_ns = [stamps_ns[i] for i in order]
        body = self._wire.body(labels, stamps_ns, lines, [metadata[i] for i in order])
        return Push(
            body=self._wire.compress(body),
            size_bytes=len(body),
            labels=selector(labels),
            records=array("q", [entries.records[i] for i in order]),
            stamps_ns=array("q", stamps_ns),
            lengths=array("q", map(len, lines)),
        )


def _metadata(wire: Wire, source: Slice, common: bytes) -> list[bytes]:
    numbers = range(source.first_line, source.first_line + source.line_count)
    return list(LineMetadata(wire, source, common).of(numbers))


def _separate(entries: _Entries) -> None:
    """Let no two entries have the same stamp and the same line."""
    stamps_ns = entries.stamps_ns
    if len(set(stamps_ns)) == len(stamps_ns):
        return
    seen: set[tuple[int, bytes]] = set()
    for index, line in enumerate(entries.lines):
        stamp_ns = stamps_ns[index]
        while (stamp_ns, line) in seen:
            stamp_ns += 1
        seen.add((stamp_ns, line))
        if stamp_ns != stamps_ns[index]:
            entries.moved.setdefault(index, stamps_ns[index])
            stamps_ns[index] = stamp_ns


def _gap_text(source: Slice) -> bytes:
    gap = source.gap or {}
    where = f"after line {gap.get('after_line')}" if source.first_line else "at the beginning"
    if gap.get("before_line") is not None and source.first_line:
        where = f"between line {gap.get('after_line')} and line {gap.get('before_line')}"
    found = " (found since: this gap record takes the earlier one back)"
    told = f"gap: lines are missing {where}, cause {gap.get('cause')}, {gap.get('bounds')} bounds"
    return (told + (found if gap.get("filled_ns") else "")).encode("utf-8", "replace")
