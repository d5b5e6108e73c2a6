"""Which bytes of a batch go into which file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sinks.files.layout import Mark, OpenLine, lay_out, split
from sinks.files.rotation import Moment, newest_moment
from sinks.interface import Columns, Slice, Stream
from sinks.template import Template
from sinks.testing import STREAM, batch_of, end_of, gap_of, slice_of

if TYPE_CHECKING:
    from sinks.files.layout import Piece

HOUR_NS = 3_600_000_000_000
NOON_NS = 1_763_899_200_000_000_000
BY_HOUR = Template.parse("{date}T{hour}")


def undecodable(raw: bytes, line_count: int, *, part: int = 0) -> Slice:
    """A slice whose reading would show that somebody wanted its columns."""

    def decode(_: Slice) -> Columns:
        pytest.fail("the columns were decoded")

    return Slice(STREAM, 0, line_count, raw, 0, decode, part)


def shown(files: dict[str, list[Piece]]) -> dict[str, list[bytes]]:
    return {path: [piece.raw for piece in pieces] for path, pieces in files.items()}


def test_text_without_an_hour_in_its_path_is_never_decoded() -> None:
    source = undecodable(b"anything\n", 1)
    assert shown(split(batch_of(source), Template.parse("x"), "text")) == {"x": [b"anything\n"]}


def test_a_slice_of_one_hour_is_never_decoded() -> None:
    raw = b"2025-11-23T12:00:00Z a\n2025-11-23T12:59:59.999999999Z b\n2025-11-23T12:1x no\n"
    assert shown(split(batch_of(undecodable(raw, 3)), BY_HOUR, "text")) == {"2025-11-23T12": [raw]}


@pytest.mark.parametrize(
    "raw",
    [
        b"2025-11-23T14:00:00+02:00 a\n",  # another hour than it seems
        b"2025-11-23T14:00:60Z a\n",  # no such second
        b"2025-13-23T14:00:00Z a\n",
        b"2025-11-23T12:00:00Zzz a\n",
        b"no stamp\n",
    ],
)
def test_the_short_cut_is_taken_only_with_a_plain_utc_stamp(raw: bytes) -> None:
    source = slice_of([(NOON_NS, "a")])
    source.raw = raw
    assert shown(split(batch_of(source), BY_HOUR, "text")) == {"2025-11-23T12": [raw]}


def test_later_parts_belong_to_the_hour_of_their_line_whatever_they_begin_with() -> None:
    part = slice_of([(NOON_NS, "2020-01-01T00:00:00Z forged")], part=2)
    assert list(split(batch_of(part), BY_HOUR, "text")) == ["2025-11-23T12"]


def test_a_slice_is_cut_where_the_hour_changes_and_its_bytes_stay() -> None:
    lines = [(NOON_NS - 2, "a"), (NOON_NS, "b\r"), (NOON_NS - 1, ""), (NOON_NS + HOUR_NS, "d")]
    source = slice_of(lines, ended=False)
    files = shown(split(batch_of(source), BY_HOUR, "text"))
    assert files == {
        "2025-11-23T11": [
            b"2025-11-23T11:59:59.999999998Z a\n",
            b"2025-11-23T11:59:59.999999999Z \n",
        ],
        "2025-11-23T12": [b"2025-11-23T12:00:00.000000000Z b\r\n"],
        "2025-11-23T13": [b"2025-11-23T13:00:00.000000000Z d"],
    }


def test_a_line_without_a_stamp_goes_where_the_line_before_it_went() -> None:
    source = slice_of([(NOON_NS - 1, "a"), (NOON_NS - 1, "b"), (NOON_NS, "c")])
    first, _, last = source.raw.splitlines(keepends=True)
    source.raw = first + b"bare\n" + last
    files = shown(split(batch_of(source), BY_HOUR, "text"))
    assert files == {"2025-11-23T11": [first + b"bare\n"], "2025-11-23T12": [last]}


def test_a_gap_goes_into_the_hour_where_it_begins() -> None:
    gap = gap_of(from_stamp_ns=NOON_NS, noticed_ns=NOON_NS + 5 * HOUR_NS)
    assert list(split(batch_of(gap), BY_HOUR, "text")) == ["2025-11-23T12"]


def test_ndjson_is_decoded_before_threads_share_it() -> None:
    calls = []

    def decode(source: Slice) -> Columns:
        calls.append(source)
        return Columns([NOON_NS], [b"x"])

    source = Slice(STREAM, 0, 1, b"2025-11-23T12:00:00Z x\n", 0, decode)
    split(batch_of(source), Template.parse("x"), "ndjson")
    assert len(calls) == 1


@pytest.mark.parametrize(
    "mark",
    [
        Mark(0),
        Mark(5, OpenLine()),
        Mark(2**60, OpenLine("sbx", "", 0)),
        Mark(1, OpenLine("s", "c", 9)),
        Mark(1, OpenLine("s", "c", 9, 2), newest_ns=3, number=4, put_away_as=5),
    ],
)
def test_a_mark_comes_back_as_it_was(mark: Mark) -> None:
    assert Mark.decode(mark.encode()) == mark


def test_a_mark_of_an_earlier_version_is_understood() -> None:
    mark = Mark.decode(b'{"length":7,"open":["sbx-1","main",2]}')
    assert mark == Mark(7, OpenLine("sbx-1", "main", 2))


def test_an_end_record_belongs_into_no_file() -> None:
    assert split(batch_of(end_of()), BY_HOUR, "ndjson") == {}


@pytest.mark.parametrize(
    "raw",
    [
        b"2025-11-23T12:00:00.000000007Z b\n",
        b"2025-11-23T12:00:00.000000007Z no newline",
        b"2025-11-23T13:00:00.000000007+01:00 b\n",
        b"bare\n",
    ],
)
def test_the_newest_moment_is_that_of_the_last_line(raw: bytes) -> None:
    source = slice_of([(NOON_NS, "a"), (NOON_NS + 7, "b")])
    source.raw = source.raw.splitlines(keepends=True)[0] + raw
    source.received_ns = NOON_NS + 100
    assert newest_moment(parts(source)) == Moment(NOON_NS + 7, NOON_NS + 100)
    source.received_ns = NOON_NS + 3
    assert newest_moment(parts(source)) == Moment(NOON_NS + 3, NOON_NS + 7)
    assert newest_moment(parts(gap_of(noticed_ns=NOON_NS))) == Moment()


def parts(*slices: Slice) -> list[Piece]:
    return split(batch_of(*slices), Template.parse("x"), "text")["x"]


def test_an_empty_slice_changes_nothing() -> None:
    open_line = OpenLine("sbx-1", "main", 2)
    assert lay_out(parts(slice_of([])), open_line, "text") == ([], open_line)


@pytest.mark.parametrize(
    ("open_line", "newline"),
    [
        (None, False),
        (OpenLine("sbx-1", "main", 2), False),
        (OpenLine("sbx-1", "main", 3), True),
        (OpenLine("sbx-1", "main", 2, 1), True),
        (OpenLine("sbx-1", "other", 2), True),
        (OpenLine("sbx-2", "main", 2), True),
        (OpenLine("sbx-1", "main", 0), True),
        (OpenLine(), True),
    ],
)
def test_only_the_next_part_of_the_same_line_joins_it(
    open_line: OpenLine | None, newline: bool
) -> None:
    part = slice_of([(NOON_NS, "x")], part=2)
    expected = [b"\n", b"x\n"] if newline else [b"x\n"]
    assert lay_out(parts(part), open_line, "text") == (expected, None)


def test_a_first_part_never_joins_an_open_line() -> None:
    part = slice_of([(NOON_NS, "x")], part=1, ended=False)
    buffers, open_line = lay_out(parts(part), OpenLine("sbx-1", "main", 1), "text")
    assert buffers[0] == b"\n"
    assert open_line == OpenLine("sbx-1", "main", 2)


def test_a_streams_last_line_is_left_open_for_nobody() -> None:
    stream = Stream("", "")
    last = slice_of([(NOON_NS, "x")], stream=stream, ended=False)
    more = slice_of([(NOON_NS, "y")], stream=stream)
    buffers, open_line = lay_out(parts(last, more), None, "text")
    assert buffers == [last.raw, b"\n", more.raw]
    assert open_line is None
