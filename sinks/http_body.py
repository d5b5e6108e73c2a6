"""Request bodies of the http sink. Pure; runs in worker processes, too."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sinks.compress import compress
from sinks.identity import record_id, record_ids
from sinks.ndjson import encode_identified, encode_identified_gap, rfc3339
from sinks.service import ServiceSettings, service_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sinks.interface import Slice
    from sinks.network import Compression

BodyFormat = Literal["ndjson", "json_array"]


@dataclass(frozen=True, slots=True)
class BodyOptions:
    """How bodies are made."""

    format: BodyFormat
    compression: Compression
    service: ServiceSettings


@dataclass(frozen=True, slots=True)
class Body:
    """What is sent.

    Attributes:
        content: Compressed.
        key: Names the records in it: the same for the same records, whatever the compression.
        is_empty: Whether there is no record in it.
    """

    content: bytes
    key: str
    is_empty: bool


def encode_body(slices: Sequence[Slice], options: BodyOptions) -> Body:
    """Lines and gap records as one body. An end record is nothing here, as in files."""
    ndjson = b"".join(_encode_slice(source, options) for source in slices)
    body = ndjson if options.format == "ndjson" else _json_array(ndjson)
    key = _names(slices)
    return Body(compress(body, options.compression), key, is_empty=not ndjson)


def _names(slices: Sequence[Slice]) -> str:
    """A digest of ids and bytes: tags may change between two attempts, and the records do not."""
    digest = hashlib.sha256()
    for source in slices:
        if source.end is None:
            names = record_ids(source) if source.gap is not None else [record_id(source, 0)]
            digest.update(f"{names[0]} {source.line_count} {len(source.raw)}\n".encode())
            digest.update(source.raw)
    return digest.hexdigest()


def sign(content: bytes, secret: str, timestamp_s: int) -> str:
    """`sha256=` and the HMAC of timestamp, a dot, and the body as it is sent."""
    message = hmac.new(secret.encode(), b"%d." % timestamp_s, hashlib.sha256)
    message.update(content)
    return f"sha256={message.hexdigest()}"


def _encode_slice(source: Slice, options: BodyOptions) -> bytes:
    if source.end is not None:
        return b""
    more = {
        "observed_time": rfc3339(source.received_ns),
        "service": service_name(source.stream, options.service),
    }
    encode = encode_identified if source.gap is None else encode_identified_gap
    return encode(source, more)


def _json_array(ndjson: bytes) -> bytes:
    # Inside a JSON string a newline never stands as itself.
    return b"[" + ndjson.removesuffix(b"\n").replace(b"\n", b",\n") + b"]"
