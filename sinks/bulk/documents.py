r"""Records as a bulk request: an action and a document each, encoded column by column. Pure.

A line::

    {"create":{"_index":"logs-sandbox-default","_id":"sbx-1/main/0/17"}}
    {"@timestamp":"2026-11-23T04:05:06.000000007Z","message":"hello",
     "cwsandbox":{"id":"sbx-1","generation":0},"container":{"name":"main"},
     "service":{"name":"trainer"},
     "event":{"created":"2026-11-23T04:05:06.100000000Z","id":"sbx-1/main/0/17","sequence":17}}

Objects are nested, not dotted, so that ingest pipelines find them. A gap record has an object under
`cwsandbox.gap`; whatever a sandbox prints arrives inside the string `message`, so that no output
can look like one. End records are no documents.
"""

from __future__ import annotations

from base64 import b64encode
from bisect import bisect_right
from dataclasses import dataclass
from itertools import repeat
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import orjson

from sinks.compress import compress
from sinks.identity import id_prefix, id_suffix, record_id, record_ids
from sinks.ndjson import gap_stamp_ns, rfc3339, rfc3339_column
from sinks.service import service_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sinks.bulk.names import IndexName
    from sinks.interface import Refusal, Slice
    from sinks.network import Compression
    from sinks.service import ServiceSettings

#: What both servers take at most by default (`http.max_content_length`), decompressed. They answer
#: more with a 413 and close, which over a slow line can look like a broken connection.
MAX_BODY_BYTES = 100 << 20


@dataclass(frozen=True, slots=True)
class BulkOptions:
    """How records become a request.

    Attributes:
        index: Where they go.
        service: Where `service.name` comes from.
        document_ids: Whether documents get their record id as `_id`.
        compression: Of the whole body.
        max_body_bytes: The largest body before compression.
    """

    index: IndexName
    service: ServiceSettings
    document_ids: bool = True
    compression: Compression = "gzip"
    max_body_bytes: int = MAX_BODY_BYTES


def encode_bulk(slices: Sequence[Slice], options: BulkOptions) -> bytes | None:
    """The body of a request, compressed; empty without documents, None when it is too large."""
    return _packed("".join([_encode_slice(source, options) for source in slices]), options)


def document_records(slices: Sequence[Slice]) -> Sequence[int]:
    """The number of each document's record in the batch: end records have none."""
    if all(source.end is None for source in slices):
        return range(sum(source.record_count for source in slices))
    numbers: list[int] = []
    first = 0
    for source in slices:
        if source.end is None:
            numbers += range(first, first + source.record_count)
        first += source.record_count
    return numbers


def encode_fallback(
    slices: Sequence[Slice], refused: Mapping[int, Refusal], options: BulkOptions
) -> bytes | None:
    """A request with refused records once more, as documents that every mapping takes.

    Args:
        slices: The batch's.
        refused: Why each was, by its number in the batch; the documents come in this order.
        options: Where they go now.
    """
    starts: list[tuple[int, Slice]] = []
    first = 0
    for source in slices:
        starts.append((first, source))
        first += source.record_count
    documents = []
    for number, refusal in refused.items():
        first, source = starts[bisect_right(starts, number, key=itemgetter(0)) - 1]
        documents.append(_fallback(source, number - first, refusal, options))
    return _packed("".join(documents), options)


def _packed(text: str, options: BulkOptions) -> bytes | None:
    body = text.encode()
    if len(body) > options.max_body_bytes:
        return None
    return compress(body, options.compression) if body else b""


def _encode_slice(source: Slice, options: BulkOptions) -> str:
    if source.end is not None:
        return ""
    return (
        _encode_gap(source, options) if source.gap is not None else _encode_lines(source, options)
    )


def _encode_lines(source: Slice, options: BulkOptions) -> str:
    columns = source.columns
    prefix, suffix = id_prefix(source), id_suffix(source)
    before, after = _wrapping(source, options)
    texts, exact = _messages(columns.texts)
    rows = zip(
        _actions(source, columns.stamps_ns, options),
        rfc3339_column(columns.stamps_ns),
        texts,
        exact,
        range(source.first_line, source.first_line + source.line_count),
        strict=True,
    )
    return "".join(
        [
            f'{action}{{"@timestamp":"{time}","message":{text},"cwsandbox":{{{base64}{before}'
            f'"id":"{prefix}{number}{suffix}","sequence":{number}{after}'
            for action, time, text, base64, number in rows
        ]
    )


def _actions(source: Slice, stamps_ns: Sequence[int], options: BulkOptions) -> Iterable[str]:
    """The action line before each line's document. Neither names nor ids need JSON's escapes."""
    names = options.index.column(_name_values(source, options), stamps_ns)
    if not options.document_ids:
        return (f'{{"create":{{"_index":"{name}"}}}}\n' for name in names)
    return (
        f'{{"create":{{"_index":"{name}","_id":"{record_id}"}}}}\n'
        for name, record_id in zip(names, record_ids(source), strict=True)
    )


def _encode_gap(source: Slice, options: BulkOptions) -> str:
    stamp_ns = gap_stamp_ns(source)
    gap = dict(source.gap or {})
    fields = _fields(source, options)
    event = {
        "created": rfc3339(source.received_ns),
        "kind": "pipeline_error",
        "id": record_ids(source)[0],
        "sequence": source.first_line,
    }
    fields["cwsandbox"]["gap"] = gap
    head = {"@timestamp": rfc3339(stamp_ns), "message": _gap_message(source)}
    document = orjson.dumps({**head, **fields, "event": event}).decode()
    return f"{next(iter(_actions(source, [stamp_ns], options)))}{document}\n"


def _gap_message(source: Slice) -> str:
    gap = source.gap or {}
    if gap.get("filled_ns"):
        return f"lines that were missing before line {source.first_line} were found"
    return f"lines are missing before line {source.first_line}: {gap.get('cause')}"


def _fields(source: Slice, options: BulkOptions) -> dict[str, Any]:
    """What a slice's documents have in common."""
    stream = source.stream
    own: dict[str, Any] = {"id": stream.sandbox_id, "generation": source.generation}
    if stream.display_name:
        own["name"] = stream.display_name
    if source.part:
        own["part"] = source.part
    container: dict[str, Any] = {"name": stream.container}
    if stream.image:
        container["image"] = {"name": stream.image}
    fields: dict[str, Any] = {"cwsandbox": own, "container": container}
    fields["service"] = {"name": service_name(stream, options.service)}
    if stream.tags:
        fields["tags"] = stream.tags
    if stream.attributes:
        fields["labels"] = {_label(name): text for name, text in stream.attributes.items()}
    return fields


def _label(name: str) -> str:
    """A dot would make an object of it, and one name could then not be text and object at once."""
    return name.replace(".", "_").strip() or "_"


def _wrapping(source: Slice, options: BulkOptions) -> tuple[str, str]:
    """What stands in `cwsandbox` and behind it as far as the event's id, and at the very end."""
    fields = _fields(source, options)
    own = orjson.dumps(fields.pop("cwsandbox")).decode()
    rest = orjson.dumps(fields).decode()
    created = rfc3339(source.received_ns)
    return f'{own[1:]},{rest[1:-1]},"event":{{"created":"{created}",', "}}\n"


def _messages(texts: Sequence[bytes]) -> tuple[Iterable[str], Iterable[str]]:
    """Each text as a JSON string and, where that is not all of it, the member with its bytes."""
    if not texts:
        return (), ()
    try:
        # One call for all: with indentation a newline stands behind every element, and inside a
        # JSON string there is never one.
        column = orjson.dumps([text.decode() for text in texts], option=orjson.OPT_INDENT_2)
    except UnicodeDecodeError:
        pairs = [_message(text) for text in texts]
        return [text for text, _ in pairs], [exact for _, exact in pairs]
    return column.decode()[4:-2].split(",\n  "), repeat("", len(texts))


def _message(text: bytes) -> tuple[str, str]:
    try:
        return orjson.dumps(text.decode()).decode(), ""
    except UnicodeDecodeError:
        legible = orjson.dumps(text.decode("utf-8", "replace")).decode()
        return legible, f'"message_base64":"{b64encode(text).decode()}",'


def _fallback(source: Slice, index: int, refusal: Refusal, options: BulkOptions) -> str:
    is_gap = source.gap is not None
    stamp_ns = gap_stamp_ns(source) if is_gap else source.columns.stamps_ns[index]
    own_id = record_id(source, index)
    text = b"" if is_gap else source.columns.texts[index]
    own: dict[str, Any] = {"id": source.stream.sandbox_id, "generation": source.generation}
    if is_gap:
        # As text: an object could be what was refused.
        own["gap_json"] = orjson.dumps(dict(source.gap or {})).decode()
    message = _gap_message(source) if is_gap else text.decode("utf-8", "replace")
    if not is_gap and "\N{REPLACEMENT CHARACTER}" in message:
        own["message_base64"] = b64encode(text).decode()
    document = {
        "@timestamp": rfc3339(stamp_ns),
        "message": message,
        "error": {"type": refusal.status, "message": refusal.reason},
        "cwsandbox": own,
        "container": {"name": source.stream.container},
        "event": {
            "created": rfc3339(source.received_ns),
            "id": own_id,
            "sequence": source.first_line + index,
        },
    }
    name = next(iter(options.index.column(_name_values(source, options), [stamp_ns])))
    action: dict[str, str] = {"_index": name}
    if options.document_ids:
        action["_id"] = own_id
    return f"{orjson.dumps({'create': action}).decode()}\n{orjson.dumps(document).decode()}\n"


def _name_values(source: Slice, options: BulkOptions) -> dict[str, str]:
    stream = source.stream
    return {
        "service": service_name(stream, options.service),
        "container": stream.container,
        "display_name": stream.display_name,
        "sandbox_id": stream.sandbox_id,
    }
