"""How request bodies are compressed. Pure; both libraries release the interpreter lock."""

from __future__ import annotations

from typing import TYPE_CHECKING

import zstandard
from isal import igzip

if TYPE_CHECKING:
    from sinks.network import Compression

#: isal's fastest but one: nearly zlib's ratio at a fifth of its time.
_GZIP_LEVEL = 1
_ZSTD_LEVEL = 1


def compress(body: bytes, method: Compression) -> bytes:
    """The body as it goes over the wire; the same bytes for the same body and method."""
    match method:
        case "gzip":
            # A header without a time: the same body must be the same request.
            return bytes(igzip.compress(body, _GZIP_LEVEL, mtime=0))
        case "zstd":
            return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(body)
        case "none":
            return body


def encoding_headers(method: Compression) -> dict[str, str]:
    """The header that says so."""
    return {} if method == "none" else {"content-encoding": method}
