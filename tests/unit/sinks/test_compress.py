"""How bodies are compressed."""

from __future__ import annotations

import gzip

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from sinks.compress import compress, encoding_headers


@given(st.binary(max_size=2000))
def test_every_body_comes_back(body: bytes) -> None:
    assert gzip.decompress(compress(body, "gzip")) == body
    assert zstandard.ZstdDecompressor().decompress(compress(body, "zstd")) == body
    assert compress(body, "none") == body


@pytest.mark.parametrize("method", ["gzip", "zstd", "none"])
def test_the_same_body_is_the_same_request(method: str) -> None:
    body = b"line\n" * 5000
    first = compress(body, method)  # type: ignore[arg-type]  # parametrized
    assert compress(body, method) == first  # type: ignore[arg-type]  # parametrized
    assert len(first) < 1000 or method == "none"


def test_a_gzip_header_has_no_time() -> None:
    assert compress(b"x", "gzip")[4:8] == b"\0\0\0\0"


def test_the_header_says_what_was_done() -> None:
    assert encoding_headers("gzip") == {"content-encoding": "gzip"}
    assert encoding_headers("zstd") == {"content-encoding": "zstd"}
    assert encoding_headers("none") == {}
