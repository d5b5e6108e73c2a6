"""Lines as an `ExportLogsServiceRequest` in protobuf, encoded column by column. Pure.

A line's record is eight pieces of bytes, most of them shared::

    head | text | observed time, slice's attributes, uid's beginning | last digits of the line
         | rest of the uid, line's beginning | low bits of the line | high bits, time's tag | time

Only the text's length changes from one to the next, so that a head depends on nothing else. Lines
are taken in runs in which the line number keeps its leading digits and bits.
"""

from __future__ import annotations

from functools import cache, lru_cache
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from sinks.identity import id_prefix, id_suffix, record_ids
from sinks.ndjson import gap_stamp_ns
from sinks.otlp import attributes as names
from sinks.otlp import wire
from sinks.severity import severity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from sinks.interface import Slice, Stream
    from sinks.service import ServiceSettings

# The fields of the messages, each with its wire type; see logs.proto.
_RESOURCE_LOGS = b"\x0a"
_RESOURCE = b"\x0a"
_RESOURCE_ATTRIBUTE = b"\x0a"
_SCOPE_LOGS = b"\x12"
_SCOPE = b"\x0a"
_SCOPE_NAME = b"\x0a"
_LOG_RECORD = b"\x12"
_TIME = b"\x09"
_SEVERITY_NUMBER = b"\x10"
_SEVERITY_TEXT = b"\x1a"
_BODY = b"\x2a"
_ATTRIBUTE = b"\x32"
_OBSERVED_TIME = b"\x59"
_EVENT_NAME = b"\x62"

_TIME_BYTES = 8

_DIGITS = 1_000
_BITS = 14
#: Line numbers at which their digits or their varint become longer, below the first thousand.
_EARLY_STEPS = (10, 100, 128)


def encode_protobuf(
    slices: Sequence[Slice], service: ServiceSettings, *, detect_severity: bool
) -> bytes:
    """One request with every line and gap record; empty when there is none.

    Slices of one resource are put together, in their order.
    """
    scope = wire.delimited(_SCOPE, wire.delimited(_SCOPE_NAME, wire.utf8(names.SCOPE_NAME)))
    groups: dict[bytes, list[bytes]] = {}
    resources: dict[int, bytes] = {}
    prefixes: dict[tuple[int, int], bytes] = {}
    for source in slices:
        if source.end is not None or not source.record_count:
            continue
        stream = source.stream
        resource = resources.get(id(stream))
        if resource is None:
            resource = resources[id(stream)] = _resource(stream, service)
        records = groups.setdefault(resource, [scope])
        if source.gap is not None:
            records.append(_gap_record(source, source.gap))
            continue
        prefix = prefixes.get((id(stream), source.generation))
        if prefix is None:
            prefix = prefixes[id(stream), source.generation] = id_prefix(source).encode()
        records.extend(_line_records(source, prefix, detect_severity=detect_severity))
    return b"".join(chain.from_iterable(_resource_logs(*group) for group in groups.items()))


def _resource(stream: Stream, service: ServiceSettings) -> bytes:
    attributes = names.resource_attributes(stream, service)
    return wire.delimited(_RESOURCE, wire.key_values(_RESOURCE_ATTRIBUTE, attributes))


def _resource_logs(resource: bytes, records: Sequence[bytes]) -> Iterator[bytes]:
    """The pieces of a `ResourceLogs`, its content not copied once more."""
    content_bytes = sum(map(len, records))
    scope_logs = _SCOPE_LOGS + wire.varint(content_bytes)
    yield _RESOURCE_LOGS + wire.varint(len(resource) + len(scope_logs) + content_bytes)
    yield resource
    yield scope_logs
    yield from records


def _gap_record(source: Slice, gap: Mapping[str, str | int | None]) -> bytes:
    number, text = names.gap_severity(gap)
    attributes = {
        names.UID: record_ids(source)[0],
        **names.slice_attributes(source),
        **names.gap_attributes(gap),
    }
    fields = (
        _TIME + gap_stamp_ns(source).to_bytes(_TIME_BYTES, "little"),
        _OBSERVED_TIME + source.received_ns.to_bytes(_TIME_BYTES, "little"),
        _SEVERITY_NUMBER + wire.varint(number),
        wire.delimited(_SEVERITY_TEXT, text.encode()),
        wire.delimited(_BODY, wire.any_value(names.gap_body(gap))),
        wire.key_values(_ATTRIBUTE, attributes),
        wire.delimited(_EVENT_NAME, names.GAP_EVENT.encode()),
    )
    return wire.delimited(_LOG_RECORD, b"".join(fields))


def _line_records(source: Slice, prefix: bytes, *, detect_severity: bool) -> Iterator[bytes]:
    """The records of a slice, run by run."""
    columns = source.columns
    texts = columns.texts
    times = [stamp_ns.to_bytes(_TIME_BYTES, "little") for stamp_ns in columns.stamps_ns]
    all_text = _is_utf8(b"\n".join(texts))
    observed = _OBSERVED_TIME + source.received_ns.to_bytes(_TIME_BYTES, "little")
    shared = observed + wire.key_values(_ATTRIBUTE, names.slice_attributes(source))
    suffix = id_suffix(source).encode()
    for run in _runs(source.first_line, source.first_line + source.line_count):
        start, stop = run.first - source.first_line, run.stop - source.first_line
        columns_of_run = (texts[start:stop], times[start:stop])
        fixed = _fixed_pieces(run, shared, prefix, suffix)
        severities = _severities(columns_of_run[0]) if detect_severity else None
        yield _run_records(run, fixed, *columns_of_run, severities, all_text=all_text)


class _Run(NamedTuple):
    """Line numbers from `first` to before `stop` that differ only in their low digits and bits."""

    first: int
    stop: int


def _runs(first: int, stop: int) -> Iterator[_Run]:
    while first < stop:
        end = min(first - first % _DIGITS + _DIGITS, ((first >> _BITS) + 1) << _BITS, stop)
        if first < _EARLY_STEPS[-1]:
            end = min(end, next(step for step in _EARLY_STEPS if first < step))
        yield _Run(first, end)
        first = end


def _fixed_pieces(
    run: _Run, shared: bytes, prefix: bytes, suffix: bytes
) -> tuple[bytes, bytes, bytes]:
    """What stands between text, last digits, low bits and time, the same for the whole run."""
    digits = str(run.first).encode()
    leading = digits[:-3] if run.first >= _DIGITS else b""
    uid_bytes = len(prefix) + len(digits) + len(suffix)
    uid = wire.open_key_value(_ATTRIBUTE, names.UID, wire.STRING_VALUE, uid_bytes)
    line_bytes = len(wire.varint(run.first))
    line = wire.open_key_value(_ATTRIBUTE, names.LINE, wire.INT_VALUE, line_bytes)
    high = wire.varint(run.first >> _BITS) if run.first >> _BITS else b""
    return shared + uid + prefix + leading, suffix + line, high + _TIME


def _run_records(
    run: _Run,
    fixed: tuple[bytes, bytes, bytes],
    texts: Sequence[bytes],
    times: Sequence[bytes],
    severities: Sequence[bytes] | None,
    *,
    all_text: bool,
) -> bytes:
    before_digits, before_bits, before_time = fixed
    digits, bits = _digits(run), _bits(run)
    rest_bytes = sum(map(len, fixed)) + len(digits[0]) + len(bits[0]) + _TIME_BYTES
    count = len(texts)
    columns: tuple[Iterable[bytes], ...] = (
        _heads_of(texts, rest_bytes, severities, all_text=all_text),
        texts,
        [before_digits] * count,
        digits,
        [before_bits] * count,
        bits,
        [before_time] * count,
        times,
    )
    if severities is not None:
        columns = (*columns, severities)
    # Slice assignment and one join: no line costs a call of its own.
    pieces: list[bytes] = [b""] * (len(columns) * count)
    for place, column in enumerate(columns):
        pieces[place :: len(columns)] = column
    return b"".join(pieces)


def _heads_of(
    texts: Sequence[bytes], rest_bytes: int, severities: Sequence[bytes] | None, *, all_text: bool
) -> Iterable[bytes]:
    if severities is None and all_text:
        return map(_heads(rest_bytes, wire.STRING_VALUE).__getitem__, map(len, texts))
    return [
        _heads(
            rest_bytes + len(level),
            wire.STRING_VALUE if all_text or _is_utf8(text) else wire.BYTES_VALUE,
        )[len(text)]
        for text, level in zip(texts, severities or [b""] * len(texts), strict=True)
    ]


def _severities(texts: Sequence[bytes]) -> list[bytes]:
    """The fields of a record that say how severe it is; none where the text does not say."""
    fields = []
    for text in texts:
        found = severity(text)
        fields.append(b"" if found is None else _severity_fields(*found))
    return fields


@lru_cache(maxsize=256)
def _severity_fields(number: int, text: bytes) -> bytes:
    return _SEVERITY_NUMBER + wire.varint(number) + wire.delimited(_SEVERITY_TEXT, text)


class _Heads(dict[int, bytes]):
    """What a record begins with up to its text, by the length of the text."""

    #: Longer texts are too few to remember heads for.
    _MAX_KEPT_BYTES = 2_048

    def __init__(self, rest_bytes: int, value_tag: bytes) -> None:
        super().__init__()
        self._rest_bytes = rest_bytes
        self._value_tag = value_tag

    def __missing__(self, text_bytes: int) -> bytes:
        value = self._value_tag + wire.varint(text_bytes)
        body = _BODY + wire.varint(len(value) + text_bytes) + value
        record_bytes = len(body) + text_bytes + self._rest_bytes
        head = _LOG_RECORD + wire.varint(record_bytes) + body
        if text_bytes <= self._MAX_KEPT_BYTES:
            self[text_bytes] = head
        return head


@lru_cache(maxsize=64)
def _heads(rest_bytes: int, value_tag: bytes) -> _Heads:
    return _Heads(rest_bytes, value_tag)


def _digits(run: _Run) -> Sequence[bytes]:
    """The last three digits of each line number; fewer only where it has no more."""
    low = run.first % _DIGITS
    return _digit_table(padded=run.first >= _DIGITS)[low : low + run.stop - run.first]


@cache
def _digit_table(*, padded: bool) -> list[bytes]:
    return [f"{number:0{3 if padded else 0}d}".encode() for number in range(_DIGITS)]


def _bits(run: _Run) -> Sequence[bytes]:
    """The varint of each line number, or its first two bytes where higher ones follow."""
    low = run.first % (1 << _BITS)
    table = _bit_table(more_follow=run.first >= 1 << _BITS)
    return table[low : low + run.stop - run.first]


@cache
def _bit_table(*, more_follow: bool) -> list[bytes]:
    if more_follow:
        return [bytes((n & 0x7F | 0x80, n >> 7 | 0x80)) for n in range(1 << _BITS)]
    return [wire.varint(number) for number in range(1 << _BITS)]


def _is_utf8(text: bytes) -> bool:
    if text.isascii():
        return True
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
