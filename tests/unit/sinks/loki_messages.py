"""Loki's push request as protobuf knows it, to read what the hand-written encoder makes."""

from __future__ import annotations

from typing import Any

import cramjam
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from sinks.interface import Columns, Slice

_FIELD = descriptor_pb2.FieldDescriptorProto
_TYPES = {"string": _FIELD.TYPE_STRING, "int64": _FIELD.TYPE_INT64, "int32": _FIELD.TYPE_INT32}
_MESSAGES = {
    "Timestamp": ["int64 seconds", "int32 nanos"],
    "Pair": ["string name", "string value"],
    "Entry": ["Timestamp timestamp", "string line", "*Pair structured_metadata"],
    "Stream": ["string labels", "*Entry entries"],
    "PushRequest": ["*Stream streams"],
}


def _push_request() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="loki.proto", package="loki", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, text in enumerate(fields, start=1):
            kind, _, field = text.lstrip("*").partition(" ")
            label = _FIELD.LABEL_REPEATED if text[0] == "*" else _FIELD.LABEL_OPTIONAL
            made = message.field.add(name=field, number=number, label=label)
            if kind in _TYPES:
                made.type = _TYPES[kind]
            else:
                made.type, made.type_name = _FIELD.TYPE_MESSAGE, f".loki.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("loki.PushRequest"))


PushRequest = _push_request()


def parsed(body: bytes) -> Any:
    """The message in a body as it is sent."""
    return PushRequest.FromString(bytes(cramjam.snappy.decompress_raw(body)))


def entries(body: bytes) -> list[tuple[int, str, dict[str, str]]]:
    """The entries of a request's only stream: stamp in nanoseconds, line, metadata."""
    (stream,) = parsed(body).streams
    found = []
    for entry in stream.entries:
        metadata = {pair.name: pair.value for pair in entry.structured_metadata}
        assert len(metadata) == len(entry.structured_metadata), "a name twice"
        stamp_ns = entry.timestamp.seconds * 1_000_000_000 + entry.timestamp.nanos
        found.append((stamp_ns, entry.line, metadata))
    return found


def decode_numbered(source: Slice) -> Columns:
    """Columns of lines that are only numbered, for a slice that goes to another process."""
    numbers = range(source.line_count)
    stamps_ns = [source.received_ns + number for number in numbers]
    return Columns(stamps_ns, [b"line %d" % number for number in numbers])
