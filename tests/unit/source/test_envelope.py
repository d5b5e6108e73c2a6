"""The Connect envelope parser."""

from __future__ import annotations

import gzip
import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.source.envelope import (
    FLAG_COMPRESSED,
    FLAG_END,
    Broken,
    End,
    EnvelopeReader,
    pack,
)

BODY = pack(b"one") + pack(b"") + pack(b"three" * 10) + pack(b"{}", FLAG_END)
MESSAGES = [b"one", b"", b"three" * 10]


def feed(pieces: list[bytes], reader: EnvelopeReader) -> list[bytes]:
    return [message for piece in pieces for message in reader.feed(piece)]


@pytest.mark.parametrize("cut", range(len(BODY) + 1))
def test_a_cut_anywhere_changes_nothing(cut: int) -> None:
    reader = EnvelopeReader()
    assert feed([BODY[:cut], BODY[cut:]], reader) == MESSAGES
    assert reader.outcome == End(b"{}")


def test_single_bytes_are_enough() -> None:
    reader = EnvelopeReader()
    assert feed([bytes([byte]) for byte in BODY], reader) == MESSAGES
    assert reader.outcome == End(b"{}")


@given(
    messages=st.lists(st.binary(max_size=300), max_size=20),
    cuts=st.lists(st.integers(min_value=0, max_value=7000), max_size=30),
)
def test_any_messages_survive_any_cuts(messages: list[bytes], cuts: list[int]) -> None:
    body = b"".join(map(pack, messages)) + pack(b"{}", FLAG_END)
    places = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
    pieces = [body[start:end] for start, end in itertools.pairwise(places)]
    reader = EnvelopeReader()
    assert feed(pieces, reader) == messages
    assert reader.outcome == End(b"{}")


@given(st.binary(max_size=2000), st.integers(min_value=1, max_value=50))
def test_no_bytes_at_all_make_it_raise(garbage: bytes, size: int) -> None:
    reader = EnvelopeReader(gzip=True, max_message_bytes=1000)
    feed([garbage[at : at + size] for at in range(0, len(garbage), size)], reader)


@pytest.mark.parametrize("length", range(len(BODY)))
def test_a_body_without_the_end_envelope_has_no_outcome(length: int) -> None:
    reader = EnvelopeReader()
    reader.feed(BODY[:length])
    assert reader.outcome is None


def test_what_follows_the_end_is_ignored() -> None:
    reader = EnvelopeReader()
    assert reader.feed(BODY + pack(b"ghost")) == MESSAGES
    assert reader.feed(pack(b"ghost")) == []
    assert reader.outcome == End(b"{}")


def test_messages_before_an_unknown_flag_are_kept() -> None:
    reader = EnvelopeReader()
    assert reader.feed(pack(b"one") + pack(b"two", 0b100) + pack(b"ghost")) == [b"one"]
    assert isinstance(reader.outcome, Broken)
    assert reader.outcome.code == "internal"


def test_a_message_over_the_limit_is_refused_by_its_header_alone() -> None:
    reader = EnvelopeReader(max_message_bytes=10)
    assert reader.feed(pack(b"x" * 10) + struct.pack(">BI", 0, 11)) == [b"x" * 10]
    assert isinstance(reader.outcome, Broken)
    assert (reader.outcome.code, reader.outcome.reason) == (
        "resource_exhausted",
        "MESSAGE_TOO_LARGE",
    )


def test_a_compressed_message_is_read_when_gzip_was_announced() -> None:
    reader = EnvelopeReader(gzip=True)
    packed = gzip.compress(b"one" * 1000)
    body = pack(packed, FLAG_COMPRESSED) + pack(b"two") + pack(b"", FLAG_COMPRESSED)
    assert reader.feed(body[:-5]) == [b"one" * 1000, b"two"]
    assert reader.outcome is None


def test_a_compressed_end_is_read() -> None:
    reader = EnvelopeReader(gzip=True)
    assert reader.feed(pack(gzip.compress(b"{}"), FLAG_COMPRESSED | FLAG_END)) == []
    assert reader.outcome == End(b"{}")


def test_a_compressed_message_that_was_not_announced_breaks_the_stream() -> None:
    reader = EnvelopeReader()
    assert reader.feed(pack(gzip.compress(b"one"), FLAG_COMPRESSED)) == []
    assert isinstance(reader.outcome, Broken)


def test_a_message_that_grows_too_large_when_decompressed_breaks_the_stream() -> None:
    reader = EnvelopeReader(gzip=True, max_decompressed_bytes=1000)
    assert reader.feed(pack(gzip.compress(b"x" * 1000), FLAG_COMPRESSED)) == [b"x" * 1000]
    assert reader.feed(pack(gzip.compress(b"x" * 1001), FLAG_COMPRESSED)) == []
    assert isinstance(reader.outcome, Broken)
    assert reader.outcome.reason == "MESSAGE_TOO_LARGE"


@pytest.mark.parametrize("damaged", [b"not gzip", gzip.compress(b"one" * 100, mtime=0)[:-4], b""])
def test_a_damaged_compressed_message_breaks_the_stream(damaged: bytes) -> None:
    reader = EnvelopeReader(gzip=True)
    assert reader.feed(pack(damaged, FLAG_COMPRESSED)) == []
    assert isinstance(reader.outcome, Broken)
    assert reader.outcome.code == "internal"
