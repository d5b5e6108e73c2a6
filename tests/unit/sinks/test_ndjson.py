"""Lines as NDJSON."""

from __future__ import annotations

from base64 import b64encode

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinks.interface import Stream
from sinks.ndjson import encode_gap, encode_lines, rfc3339
from sinks.testing import gap_of, slice_of

STAMP_NS = 1_763_870_706_000_000_007
FULL = Stream(
    "sbx-1",
    "main",
    display_name="Näme",
    tags=("training", "prod"),
    attributes={"service.name": 'a"b'},
    annotations={"not": "shown"},
)


def test_a_line_is_an_object_of_its_own() -> None:
    source = slice_of([(STAMP_NS, "hello"), (STAMP_NS + 1, "")], first_line=41)
    assert encode_lines(source) == (
        b'{"time":"2025-11-23T04:05:06.000000007Z","sandbox_id":"sbx-1","container":"main",'
        b'"line":41,"text":"hello"}\n'
        b'{"time":"2025-11-23T04:05:06.000000008Z","sandbox_id":"sbx-1","container":"main",'
        b'"line":42,"text":""}\n'
    )


def test_what_the_stream_has_besides_its_identity_is_there_when_it_has_it() -> None:
    record = orjson.loads(encode_lines(slice_of([(STAMP_NS, "x")], stream=FULL)))
    assert record == {
        "time": "2025-11-23T04:05:06.000000007Z",
        "sandbox_id": "sbx-1",
        "container": "main",
        "display_name": "Näme",
        "tags": ["training", "prod"],
        "attributes": {"service.name": 'a"b'},
        "line": 0,
        "text": "x",
    }


def test_a_part_has_its_number() -> None:
    record = orjson.loads(encode_lines(slice_of([(STAMP_NS, "x")], part=3, ended=False)))
    assert (record["line"], record["part"], record["text"]) == (0, 3, "x")


def test_text_that_is_not_utf_8_comes_as_base64_and_its_neighbours_as_text() -> None:
    out = encode_lines(slice_of([(STAMP_NS, "ä"), (STAMP_NS, b"\xff"), (STAMP_NS, 'q"')]))
    records = [orjson.loads(line) for line in out.splitlines()]
    assert [record.get("text") for record in records] == ["ä", None, 'q"']
    assert records[1]["text_base64"] == b64encode(b"\xff").decode()
    assert "text_base64" not in records[0]


def test_some_of_a_slice_keep_their_line_numbers() -> None:
    source = slice_of([(STAMP_NS, "a"), (STAMP_NS, "b"), (STAMP_NS, "c")], first_line=10)
    records = [orjson.loads(line) for line in encode_lines(source, 1, 3).splitlines()]
    assert [(record["line"], record["text"]) for record in records] == [(11, "b"), (12, "c")]
    assert encode_lines(source, 1, 1) == b""


def test_a_gap_is_an_object_under_gap() -> None:
    gap = gap_of(first_line=8, from_stamp_ns=STAMP_NS, cause="offset_jump", missing_bytes=5)
    assert orjson.loads(encode_gap(gap)) == {
        "time": "2025-11-23T04:05:06.000000007Z",
        "sandbox_id": "sbx-1",
        "container": "main",
        "gap": {
            "kind": "range",
            "cause": "offset_jump",
            "bounds": "exact",
            "generation": 0,
            "after_line": 7,
            "before_line": None,
            "from_stamp_ns": STAMP_NS,
            "to_stamp_ns": 0,
            "from_offset": None,
            "to_offset": None,
            "noticed_ns": 1,
            "filled_ns": 0,
            "missing_bytes": 5,
        },
    }


def test_what_a_gap_says_that_is_not_known_here_is_passed_on() -> None:
    gap = gap_of()
    gap.gap = {**(gap.gap or {}), "one_day": "new"}
    assert orjson.loads(encode_gap(gap))["gap"]["one_day"] == "new"


def test_the_generation_stands_next_to_the_line_when_it_is_not_0() -> None:
    source = slice_of([(STAMP_NS, "x")], first_line=3, generation=2)
    assert b'"container":"main","generation":2,"line":3,"text"' in encode_lines(source)
    assert orjson.loads(encode_gap(gap_of(generation=2)))["generation"] == 2
    assert "generation" not in orjson.loads(encode_gap(gap_of()))


@pytest.mark.parametrize(
    ("from_ns", "to_ns", "noticed_ns", "second"),
    [(3, 2, 1, 3), (0, 2, 1, 2), (0, 0, 1, 1), (0, 0, 0, 0)],
)
def test_a_gap_stands_where_it_begins_as_far_as_that_is_known(
    from_ns: int, to_ns: int, noticed_ns: int, second: int
) -> None:
    gap = gap_of(
        from_stamp_ns=from_ns * 10**9, to_stamp_ns=to_ns * 10**9, noticed_ns=noticed_ns * 10**9
    )
    time = orjson.loads(encode_gap(gap))["time"]
    assert time == f"1970-01-01T00:00:0{second}.000000000Z"


@pytest.mark.parametrize(
    ("stamp_ns", "text"),
    [
        (0, "1970-01-01T00:00:00.000000000Z"),
        (1, "1970-01-01T00:00:00.000000001Z"),
        (-1, "1969-12-31T23:59:59.999999999Z"),
        (2**63 - 1, "2262-04-11T23:47:16.854775807Z"),
    ],
)
def test_stamps_have_nine_digits(stamp_ns: int, text: str) -> None:
    assert rfc3339(stamp_ns) == text


line_texts = st.one_of(
    st.binary(max_size=30), st.text(st.sampled_from('a",\\[] \r\t\u2028é'), max_size=12)
)


@given(st.lists(st.tuples(st.integers(0, 2**63 - 1), line_texts)))
def test_every_text_comes_back_from_its_json(lines: list[tuple[int, bytes | str]]) -> None:
    out = encode_lines(slice_of(lines))
    records = [orjson.loads(line) for line in out.split(b"\n")[:-1]]
    wanted = [text if isinstance(text, bytes) else text.encode() for _, text in lines]
    for record, text in zip(records, wanted, strict=True):
        try:
            expected = {"text": text.decode()}
        except UnicodeDecodeError:
            expected = {"text_base64": b64encode(text).decode()}
        assert {name: record[name] for name in record if name.startswith("text")} == expected
