"""Bytes to lines: the same records however the bytes were cut; stamps against a slow reader."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from itertools import accumulate, pairwise, zip_longest

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.model import Block, FrameKind
from forwarder.source import lines
from forwarder.source.lines import LineCutter
from forwarder.stamps import MAX_STAMP_NS, decode_lines, format_stamp, parse_stamp

#: Raise it to look longer: `PROPERTY_FACTOR=40 pytest --timeout 0 tests/property`.
FACTOR = int(os.environ.get("PROPERTY_FACTOR", "1"))

STAMPS = st.integers(0, MAX_STAMP_NS).map(lambda ns: format_stamp(ns).encode() + b" ")
ODD_STAMPS = st.sampled_from(
    [
        b"2026-01-02T03:04:05Z ",
        b"2026-01-02T03:04:05Z",
        b"2026-01-02T03:04:05.1Z ",
        b"2026-01-02T03:04:05.123456789012Z ",
        b"2026-01-02T03:04:05.123+02:00 ",
        b"2026-01-02T03:04:05.123456789-11:30 ",
        b"2026-01-02T03:04:60.123456789Z ",
        b"0001-01-01T00:00:00.000000000Z ",
        b"9999-12-31T23:59:59.999999999Z ",
        b"2262-04-11T23:47:16.854775808Z ",
        b"2026-W01-1T03:04:05.123456789Z ",
        b"2026-01-02x03:04:05.123456789Z ",
        b"2026-02-30T03:04:05.123456789Z ",
    ]
)
TEXTS = st.one_of(
    st.binary(max_size=12),
    st.text("aé☃\r ", max_size=8).map(str.encode),
    st.integers(1, 300).map(lambda size: b"x" * size),
)
PIECES = st.one_of(STAMPS, ODD_STAMPS, TEXTS, st.sampled_from([b"\n", b"\n", b"\r\n", b"\n\n"]))
#: Any bytes, with more newlines, stamps and characters of several bytes than chance would bring.
STREAMS = st.lists(PIECES, max_size=25).map(b"".join)


def cut(data: bytes, sizes: list[int], taking: list[bool], limit: int) -> list[Block]:
    """Feed in pieces of these sizes; take after a piece where it says so; then finish."""
    cutter = LineCutter(limit)
    ends = [*(end for end in accumulate(sizes) if end < len(data)), len(data)]
    blocks: list[Block] = []
    for at, (start, end) in enumerate(pairwise([0, *ends])):
        cutter.feed(data[start:end])
        if taking and taking[at % len(taking)]:
            blocks += cutter.take()
            assert cutter.buffered_bytes <= limit
    return blocks + cutter.finish()


def records(blocks: list[Block]) -> list[tuple[int, int, bytes]]:
    """(part, stamp, bytes) of every line and part: what must not depend on the cutting."""
    found: list[tuple[int, int, bytes]] = []
    for block in blocks:
        if block.kind is FrameKind.PART:
            found.append((block.part, block.first_stamp_ns, block.raw))
            continue
        whole = block.raw.split(b"\n")
        stamps, _ = decode_lines(block.raw, block.first_stamp_ns)
        raws = [line + b"\n" for line in whole[:-1]] + [line for line in whole[-1:] if line]
        found += zip([0] * len(raws), stamps, raws, strict=True)
    return found


def check_blocks(data: bytes, blocks: list[Block], limit: int) -> None:
    assert b"".join(block.raw for block in blocks) == data
    part = 0
    for block, following in zip_longest(blocks, blocks[1:]):
        if block.kind is FrameKind.PART:
            part += 1
            assert (block.part, block.lines) == (part, 1)
            ended = block.raw.endswith(b"\n")
            assert block.raw.find(b"\n") in {-1, len(block.raw) - 1}
            assert ended or following is None or len(block.raw) == limit
            assert 0 < len(block.raw.removesuffix(b"\n")) <= limit
            assert following is None or ended == (following.part != part + 1)
            part = 0 if ended else part
            continue
        assert part == 0
        assert block.part == 0
        assert block.raw.endswith(b"\n") or following is None
        texts = block.raw.removesuffix(b"\n").split(b"\n")
        assert block.lines == len(texts)
        assert max(map(len, texts)) <= limit
        stamps, _ = decode_lines(block.raw, block.first_stamp_ns)
        assert (stamps[0], stamps[-1]) == (block.first_stamp_ns, block.last_stamp_ns)


@settings(max_examples=500 * FACTOR, deadline=None)
@given(
    STREAMS,
    st.lists(st.integers(0, 40), max_size=60),
    st.lists(st.booleans(), max_size=5),
    st.sampled_from([1, 2, 20, 31, 64, 10_000]),
    st.sampled_from([1, 50, 200, lines.BLOCK_BYTES]),
)
def test_the_records_do_not_depend_on_how_the_bytes_were_cut(
    data: bytes, sizes: list[int], taking: list[bool], limit: int, block_bytes: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "BLOCK_BYTES", block_bytes)
        blocks = cut(data, sizes, taking, limit)
    check_blocks(data, blocks, limit)
    assert records(blocks) == records(cut(data, [], [], limit))


def joined(blocks: list[Block]) -> list[tuple[int, bytes, int, int, int]]:
    """The blocks, with those of lines that follow each other made one."""
    found: list[tuple[int, bytes, int, int, int]] = []
    for one in blocks:
        mine = (one.part, one.raw, one.lines, one.first_stamp_ns, one.last_stamp_ns)
        if found and not one.part and not found[-1][0]:
            _, raw, count, first_ns, _ = found.pop()
            mine = (0, raw + one.raw, count + one.lines, first_ns, one.last_stamp_ns)
        found.append(mine)
    return found


def test_a_text_of_ten_kib_cut_at_every_position_gives_the_same_records() -> None:
    written = [
        format_stamp(1_780_000_000_000_000_000 + number * 1_000_003).encode()
        + " naïve ☃ ".encode() * (number % 7)
        + (b"\r\n" if number % 3 else b"\n") * (1 + number % 2)
        for number in range(160)
    ]
    data = b"".join(written)[:10_240]
    assert len(data) == 10_240
    whole = joined(cut(data, [], [], 100))
    assert sum(part > 0 for part, *_ in whole) > 20
    for position in range(len(data) + 1):
        assert joined(cut(data, [position], [True], 100)) == whole


@settings(max_examples=200 * FACTOR, deadline=None)
@given(st.lists(st.binary(max_size=500), max_size=20), st.sampled_from([1, 10, 100]))
def test_never_more_is_buffered_than_one_line_and_what_was_just_fed(
    pieces: list[bytes], limit: int
) -> None:
    cutter = LineCutter(limit)
    for piece in pieces:
        cutter.feed(piece)
        assert cutter.buffered_bytes <= limit + len(piece)
        cutter.take()
        assert cutter.buffered_bytes == sum(map(len, cutter._pieces)) <= limit


# A slow reader of stamps, after RFC 3339 ----------------------------------------------------------

_FORM = re.compile(
    rb"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(\.\d+)?(?:Z|([+-])(\d\d):(\d\d))( |$)"
)


def slow_stamp(line: bytes) -> tuple[int, bytes] | None:
    found = _FORM.match(line)
    if found is None:
        return None
    try:
        zone = UTC
        if found[8]:
            if int(found[9]) > 23 or int(found[10]) > 59:
                return None
            east = timedelta(hours=int(found[9]), minutes=int(found[10]))
            zone = timezone(east if found[8] == b"+" else -east)
        moment = datetime(*(int(found[n]) for n in range(1, 7)), tzinfo=zone)  # type: ignore[arg-type,misc] # six numbers
    except ValueError:
        return None
    whole = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)
    fraction = int(Decimal((found[7] or b".0").decode()).scaleb(9))
    stamp_ns = whole * 10**9 + fraction
    return (stamp_ns, line[found.end() :]) if 0 <= stamp_ns < 2**63 else None


def slow_decode(raw: bytes, stamp_ns: int) -> tuple[list[int], list[bytes]]:
    stamps, texts = [], []
    for line in raw.removesuffix(b"\n").split(b"\n") if raw else []:
        found = slow_stamp(line)
        stamp_ns, text = found or (stamp_ns, line)
        stamps.append(stamp_ns)
        texts.append(text)
    return stamps, texts


@settings(max_examples=500 * FACTOR, deadline=None)
@given(STREAMS, st.integers(0, MAX_STAMP_NS))
def test_decoding_agrees_with_a_slow_reader(raw: bytes, first_stamp_ns: int) -> None:
    assert decode_lines(raw, first_stamp_ns) == slow_decode(raw, first_stamp_ns)


@settings(max_examples=500 * FACTOR, deadline=None)
@given(st.from_regex(_FORM, fullmatch=True), st.binary(max_size=3))
def test_whatever_has_the_form_of_a_stamp_agrees_with_a_slow_reader(
    stamp: bytes, text: bytes
) -> None:
    line = (stamp + text).replace(b"\n", b"")
    assert decode_lines(line + b"\n", 7) == slow_decode(line + b"\n", 7)


@settings(max_examples=500 * FACTOR, deadline=None)
@given(st.integers(0, MAX_STAMP_NS))
def test_a_written_stamp_is_read_back(stamp_ns: int) -> None:
    text = format_stamp(stamp_ns).encode()
    assert parse_stamp(text) == (stamp_ns, len(text))
    assert decode_lines(text + b" x", 0) == ([stamp_ns], [b"x"])
