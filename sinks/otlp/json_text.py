"""Lines as an `ExportLogsServiceRequest` in OTLP's JSON, encoded column by column. Pure.

Keys are lowerCamelCase, enumerations numbers, 64-bit integers decimal strings, and bytes base64.
"""

from __future__ import annotations

from base64 import b64encode
from itertools import repeat
from typing import TYPE_CHECKING, Any

import orjson

from sinks.identity import id_prefix, id_suffix, record_ids
from sinks.ndjson import gap_stamp_ns
from sinks.otlp import attributes as names
from sinks.severity import severity

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sinks.interface import Slice
    from sinks.otlp.wire import Value
    from sinks.service import ServiceSettings


def encode_json(
    slices: Sequence[Slice], service: ServiceSettings, *, detect_severity: bool
) -> bytes:
    """One request with every line and gap record; empty when there is none.

    Slices of one resource are put together, in their order.
    """
    groups: dict[str, list[str]] = {}
    resources: dict[int, str] = {}
    for source in slices:
        if source.end is not None or not source.record_count:
            continue
        resource = resources.get(id(source.stream))
        if resource is None:
            attributes = names.resource_attributes(source.stream, service)
            resource = resources[id(source.stream)] = _text(_key_values(attributes))
        records = groups.setdefault(resource, [])
        if source.gap is not None:
            records.append(_gap_record(source, source.gap))
        else:
            records.extend(_line_records(source, detect_severity=detect_severity))
    if not groups:
        return b""
    scope = _text({"name": names.SCOPE_NAME})
    resource_logs = (
        f'{{"resource":{{"attributes":{resource}}},'
        f'"scopeLogs":[{{"scope":{scope},"logRecords":[{",".join(records)}]}}]}}'
        for resource, records in groups.items()
    )
    return f'{{"resourceLogs":[{",".join(resource_logs)}]}}'.encode()


def _gap_record(source: Slice, gap: Mapping[str, str | int | None]) -> str:
    number, text = names.gap_severity(gap)
    attributes = {
        names.UID: record_ids(source)[0],
        **names.slice_attributes(source),
        **names.gap_attributes(gap),
    }
    return _text(
        {
            "timeUnixNano": str(gap_stamp_ns(source)),
            "observedTimeUnixNano": str(source.received_ns),
            "severityNumber": number,
            "severityText": text,
            "body": _any_value(names.gap_body(gap)),
            "attributes": _key_values(attributes),
            "eventName": names.GAP_EVENT,
        }
    )


def _line_records(source: Slice, *, detect_severity: bool) -> Iterator[str]:
    columns = source.columns
    shared = _text(_key_values(names.slice_attributes(source)))[1:-1]
    observed = f'"observedTimeUnixNano":"{source.received_ns}"'
    attributes = f'"attributes":[{shared}{"," if shared else ""}{{"key":"{names.UID}","value":'
    uid, suffix = f'{{"stringValue":"{id_prefix(source)}', id_suffix(source)
    line = f'{suffix}"}}}},{{"key":"{names.LINE}","value":{{"intValue":"'
    bodies = _bodies(columns.texts)
    levels = _severities(columns.texts) if detect_severity else repeat("", source.line_count)
    numbers = range(source.first_line, source.first_line + source.line_count)
    for stamp_ns, body, level, number in zip(
        columns.stamps_ns, bodies, levels, numbers, strict=True
    ):
        yield (
            f'{{"timeUnixNano":"{stamp_ns}",{observed},{level}"body":{body},'
            f'{attributes}{uid}{number}{line}{number}"}}}}]}}'
        )


def _bodies(texts: Sequence[bytes]) -> list[str]:
    """Each text as an `AnyValue`."""
    try:
        # One call for all: with indentation a newline stands behind every element, and inside a
        # JSON string there is never one.
        column = orjson.dumps([text.decode() for text in texts], option=orjson.OPT_INDENT_2)
    except UnicodeDecodeError:
        return [_text(_any_value(_text_or_bytes(text))) for text in texts]
    strings = column.decode()[4:-2].split(",\n  ")
    return [f'{{"stringValue":{string}}}' for string in strings]


def _text_or_bytes(text: bytes) -> str | bytes:
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text


def _severities(texts: Sequence[bytes]) -> Iterator[str]:
    """The members of a record that say how severe it is; none where the text does not say."""
    for text in texts:
        found = severity(text)
        if found is None:
            yield ""
        else:
            yield f'"severityNumber":{found[0]},"severityText":"{found[1].decode()}",'


def _any_value(value: Value | bytes) -> dict[str, Any]:
    match value:
        case None:
            return {}
        case str():
            return {"stringValue": value}
        case bytes():
            return {"bytesValue": b64encode(value).decode()}
        case int():
            return {"intValue": str(value)}
        case _:
            return {"arrayValue": {"values": [_any_value(item) for item in value]}}


def _key_values(attributes: Mapping[str, Value]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _any_value(value)} for key, value in attributes.items()]


def _text(value: object) -> str:
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:  # a lone surrogate, in a name or a tag
        return orjson.dumps(_encodable(value)).decode()


def _encodable(value: Any) -> Any:
    """The same with `?` for what is no character."""
    match value:
        case str():
            return value.encode("utf-8", "replace").decode()
        case dict():
            return {_encodable(key): _encodable(item) for key, item in value.items()}
        case list():
            return [_encodable(item) for item in value]
        case _:
            return value
