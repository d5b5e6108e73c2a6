"""From slices to the body of a request: the function that encoders' processes run. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sinks.compress import compress
from sinks.interface import BatchRejectedError
from sinks.otlp.json_text import encode_json
from sinks.otlp.protobuf import encode_protobuf

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sinks.interface import Slice
    from sinks.network import Compression
    from sinks.service import ServiceSettings


@dataclass(frozen=True, slots=True)
class Encoding:
    """How bodies are made.

    Attributes:
        form: What the request is written in.
        compression: What is done with it afterwards; `none` where the transport compresses.
        max_bytes: The most that a body may have, before and after compression.
        service: Where `service.name` comes from.
        detect_severity: Whether to look for a severity in the texts.
    """

    form: Literal["protobuf", "json"]
    compression: Compression
    max_bytes: int
    service: ServiceSettings
    detect_severity: bool = False


def encode_body(slices: Sequence[Slice], encoding: Encoding) -> bytes | None:
    """The body of a request with these slices; None when they hold nothing that is sent.

    Raises:
        BatchRejectedError: It is larger than may be sent.
    """
    encode = encode_json if encoding.form == "json" else encode_protobuf
    body = encode(slices, encoding.service, detect_severity=encoding.detect_severity)
    if not body:
        return None
    _check_size(body, "", encoding)
    compressed = compress(body, encoding.compression)
    _check_size(compressed, " when compressed", encoding)
    return compressed


def empty_body(encoding: Encoding) -> bytes:
    """A request without records: it asks whether requests are taken at all."""
    body = b'{"resourceLogs":[]}' if encoding.form == "json" else b""
    return compress(body, encoding.compression)


def _check_size(body: bytes, when: str, encoding: Encoding) -> None:
    if len(body) > encoding.max_bytes:
        text = f"a request of {len(body)} bytes{when}; not more than {encoding.max_bytes} are sent"
        raise BatchRejectedError(text, status="too_large", too_large=True)
