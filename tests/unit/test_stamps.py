from __future__ import annotations

import pytest

from forwarder import stamps
from forwarder.stamps import MAX_STAMP_NS, decode_lines, format_stamp, parse_stamp

#: 2026-01-02T03:04:05Z
SECOND = 1_767_323_045 * 1_000_000_000


@pytest.mark.parametrize(
    ("fraction", "nanoseconds"),
    [
        (b"", 0),
        (b".1", 100_000_000),
        (b".12", 120_000_000),
        (b".123", 123_000_000),
        (b".000001", 1_000),
        (b".123456789", 123_456_789),
        (b".1234567899", 123_456_789),
        (b".000000000999", 0),
    ],
)
def test_a_fraction_is_read_in_full_down_to_the_nanosecond(
    fraction: bytes, nanoseconds: int
) -> None:
    line = b"2026-01-02T03:04:05" + fraction + b"Z text"
    assert parse_stamp(line) == (SECOND + nanoseconds, len(line) - 4)
    assert decode_lines(line, 0) == ([SECOND + nanoseconds], [b"text"])


@pytest.mark.parametrize(
    ("offset", "minutes_east"), [(b"Z", 0), (b"+00:00", 0), (b"+02:30", 150), (b"-23:59", -1439)]
)
def test_an_offset_from_utc_is_taken_off(offset: bytes, minutes_east: int) -> None:
    line = b"2026-01-02T03:04:05.5" + offset + b" text"
    assert decode_lines(line, 0) == (
        [SECOND + 500_000_000 - minutes_east * 60_000_000_000],
        [b"text"],
    )


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"text",
        b" 2026-01-02T03:04:05Z text",
        b"2026-01-02T03:04:05Ztext",
        b"2026-01-02T03:04:05Z\ttext",
        b"2026-01-02T03:04:05 text",
        b"2026-01-02T03:04:05. text",
        b"2026-01-02T03:04:05.Z text",
        b"2026-01-02 03:04:05Z text",
        b"2026-01-02T03:04:05.123456789z text",
        b"2026-01-02T03:04:60.123456789Z a leap second",
        b"2026-01-02T24:00:00.123456789Z text",
        b"2026-02-30T03:04:05.123456789Z text",
        b"2026-01-02T03:04:05.123456789+24:00 text",
        b"2026-01-02T03:04:05.123456789+02:60 text",
        b"0000-01-02T03:04:05.123456789Z text",
        b"0001-01-01T00:00:00.000000000Z year one",
        b"1969-12-31T23:59:59.999999999Z before the epoch",
        b"1970-01-01T00:00:00.000000000+00:01 before the epoch in UTC",
        b"2262-04-11T23:47:16.854775808Z beyond 64 bits",
        b"9999-12-31T23:59:59.999999999Z year 9999",
        # Python reads these nineteen characters as times, RFC 3339 does not.
        b"2026-W01-1T03:04:05.123456789Z a week date",
        b"2026-01-02x03:04:05.123456789Z text",
        b"2026-01-02T03:04+01.123456789Z text",
        b"20260102T030405.123.123456789Z text",
        b"2026-01-02T03:04:0\xb2.123456789Z text",
    ],
)
def test_what_is_no_stamp_stays_in_the_text_and_the_line_takes_the_stamp_before(
    line: bytes,
) -> None:
    assert parse_stamp(line) is None
    before = b"2026-01-02T03:04:05Z first"
    assert decode_lines(before + b"\n" + line + b"\n", 0) == ([SECOND, SECOND], [b"first", line])
    assert decode_lines(line + b"\n", 7) == ([7], [line])


def test_the_last_nanosecond_that_64_bits_hold_is_a_stamp() -> None:
    line = b"2262-04-11T23:47:16.854775807Z end"
    assert decode_lines(line, 0) == ([MAX_STAMP_NS], [b"end"])
    assert decode_lines(b"2262-04-11T23:47:15.999999999Z end", 0)[0] == [MAX_STAMP_NS - 854775808]


def test_an_empty_text_may_have_lost_its_space() -> None:
    raw = b"2026-01-02T03:04:05Z\n2026-01-02T03:04:05Z \n2026-01-02T03:04:05.000000001Z "
    assert decode_lines(raw, 0) == ([SECOND, SECOND, SECOND + 1], [b"", b"", b""])
    assert parse_stamp(raw) == (SECOND, 20)
    assert parse_stamp(raw, 21) == (SECOND, 42)


def test_the_text_keeps_every_byte_but_the_newline() -> None:
    raw = b"2026-01-02T03:04:05.000000000Z  two spaces \r\n2026-01-02T03:04:05Z \xff\x00\n\n"
    assert decode_lines(raw, 0)[1] == [b" two spaces \r", b"\xff\x00", b""]


def test_no_bytes_are_no_lines() -> None:
    assert decode_lines(b"", 0) == ([], [])


def test_a_stamp_is_written_as_the_server_writes_it() -> None:
    assert format_stamp(0) == "1970-01-01T00:00:00.000000000Z"
    assert format_stamp(SECOND + 9) == "2026-01-02T03:04:05.000000009Z"
    assert format_stamp(MAX_STAMP_NS) == "2262-04-11T23:47:16.854775807Z"


def test_the_seconds_that_are_remembered_are_bounded() -> None:
    for second in range(stamps._SECONDS_KEPT + 2):
        text = format_stamp(SECOND + second * 1_000_000_000).encode()
        assert parse_stamp(text) == (SECOND + second * 1_000_000_000, len(text))
    assert len(stamps._seconds) <= stamps._SECONDS_KEPT
