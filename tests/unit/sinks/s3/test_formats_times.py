"""Stamps of an archive's lines, read back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.stamps import parse_stamp
from sinks.ndjson import rfc3339
from sinks.s3.formats.times import known_time, split_stamp

stamp_like = st.from_regex(
    rb"\A\d{4}-[01]\d-[0-3]\d[T ][0-2]\d:[0-6]\d:[0-6]\d(\.\d{0,11})?(Z|[+-][0-2]\d:[0-6]\d|)[ a]?",
    fullmatch=False,
).map(lambda line: line.replace(b"\n", b" "))


@given(st.integers(0, 2**63 - 1))
def test_what_was_written_is_read(stamp_ns: int) -> None:
    assert known_time(rfc3339(stamp_ns)) == stamp_ns


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2026-11-23T04:05:06Z",
        "2026-11-23T04:05:06.000000007",
        "2026-11-23T04:05:06.00000007+Z",
        "2026-11-23T04:05:60.000000007Z",
        "2026-W47-1T04:05:06.000000007Z",
        "2026-11-23T04:05:06.0000000\N{SUPERSCRIPT TWO}7Z",
    ],
)
def test_anything_else_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="no time"):
        known_time(text)


@given(st.one_of(stamp_like, st.binary(max_size=40).map(lambda line: line.replace(b"\n", b""))))
def test_a_line_has_the_stamp_that_the_daemon_finds(line: bytes) -> None:
    found = parse_stamp(line)
    assert split_stamp(line) == (None if found is None else (found[0], line[found[1] :]))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"1970-01-01T00:00:01.5Z text", (1_500_000_000, b"text")),
        (b"1970-01-01T00:00:01Z", (1_000_000_000, b"")),
        (b"1970-01-01T02:00:01+02:00  two spaces", (1_000_000_000, b" two spaces")),
        (b"1970-01-01T00:00:01Ztext", None),
        (b"1970-01-01T00:00:01+02:00 before 1970", None),
    ],
)
def test_stamps_have_many_forms(line: bytes, expected: tuple[int, bytes] | None) -> None:
    assert split_stamp(line) == expected
