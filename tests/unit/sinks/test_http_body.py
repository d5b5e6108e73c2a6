"""What the http sink sends."""

from __future__ import annotations

import gzip
import hashlib
import hmac
from base64 import b64encode
from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinks.http_body import BodyOptions, encode_body, sign
from sinks.identity import record_ids
from sinks.interface import Stream
from sinks.service import ServiceSettings
from sinks.testing import end_of, gap_of, slice_of

STAMP_NS = 1_763_870_706_000_000_007
OPTIONS = BodyOptions("ndjson", "none", ServiceSettings())
ARRAY = replace(OPTIONS, format="json_array")
STREAM = Stream("sbx-1", "my app", tags=("service:train",), attributes={"team": "a"})


def test_a_line_says_what_it_is_and_where_it_comes_from() -> None:
    source = slice_of([(STAMP_NS, "hello")], stream=STREAM, first_line=41, generation=2)
    source.received_ns = STAMP_NS + 1_000_000_000
    assert encode_body([source], OPTIONS).content == (
        b'{"id":"sbx-1/my~20app/2/41","time":"2025-11-23T04:05:06.000000007Z",'
        b'"sandbox_id":"sbx-1","container":"my app","tags":["service:train"],'
        b'"attributes":{"team":"a"},"generation":2,'
        b'"observed_time":"2025-11-23T04:05:07.000000007Z","service":"train",'
        b'"line":41,"text":"hello"}\n'
    )


def test_a_gap_is_an_object_that_no_text_can_be() -> None:
    gap = gap_of(first_line=8, from_stamp_ns=STAMP_NS, noticed_ns=STAMP_NS)
    forged = slice_of([(STAMP_NS, orjson.dumps({"gap": gap.gap}))])
    first, second = encode_body([gap, forged], OPTIONS).content.splitlines()
    record = orjson.loads(first)
    assert record["gap"] == gap.gap
    assert record["id"] == record_ids(gap)[0]
    assert record["service"] == "unknown_service"
    assert "text" not in record
    assert "line" not in record
    assert "gap" not in orjson.loads(second)


def test_the_end_of_a_stream_is_no_record() -> None:
    assert encode_body([end_of()], OPTIONS).is_empty
    assert encode_body([], OPTIONS).is_empty
    with_lines = encode_body([slice_of([(1, "x")]), end_of(first_line=1)], OPTIONS)
    assert not with_lines.is_empty
    assert with_lines.content.count(b"\n") == 1


def test_bytes_that_are_not_utf_8_come_as_base64() -> None:
    record = orjson.loads(encode_body([slice_of([(1, b"\xff\xfe")])], OPTIONS).content)
    assert record["text_base64"] == b64encode(b"\xff\xfe").decode()


texts = st.one_of(
    st.binary(max_size=20), st.text(st.sampled_from('a",\\[]{} \r\t\u2028é'), max_size=12)
)
slices = st.one_of(
    st.builds(lambda found: slice_of([(1, text) for text in found]), st.lists(texts, max_size=4)),
    st.builds(lambda line: gap_of(first_line=line), st.integers(0, 99)),
    st.builds(lambda line: end_of(first_line=line), st.integers(0, 99)),
    st.builds(lambda part: slice_of([(1, "x")], part=part), st.integers(1, 9)),
)


@given(st.lists(slices, max_size=4))
def test_an_array_has_the_same_records_as_lines(found: list[object]) -> None:
    lines = encode_body(found, OPTIONS)  # type: ignore[arg-type]  # slices
    array = encode_body(found, ARRAY)  # type: ignore[arg-type]  # slices
    records = [orjson.loads(line) for line in lines.content.split(b"\n")[:-1]]
    assert orjson.loads(array.content) == records
    assert lines.is_empty == array.is_empty == (not records)
    ids = [
        one
        for source in found
        if source.end is None  # type: ignore[attr-defined]  # slices
        for one in record_ids(source)  # type: ignore[arg-type]  # slices
    ]
    assert [record["id"] for record in records] == ids


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_the_key_is_that_of_the_records_whatever_the_compression(compression: str) -> None:
    options = replace(OPTIONS, compression=compression)  # type: ignore[arg-type]  # parametrized
    one, other = slice_of([(1, "x")]), slice_of([(1, "y")])
    keys = {encode_body([source], options).key for source in (one, other)}
    assert keys == {encode_body([source], OPTIONS).key for source in (one, other)}
    assert len(keys) == 2


def test_the_key_stays_when_a_sandbox_gets_other_tags() -> None:
    lines = [(1, "x"), (2, "y")]
    before = encode_body([slice_of(lines, stream=STREAM)], OPTIONS)
    after = encode_body([slice_of(lines, stream=replace(STREAM, tags=("new",)))], OPTIONS)
    assert before.content != after.content
    assert before.key == after.key
    moved = slice_of(lines, stream=STREAM, first_line=1)
    assert encode_body([moved], OPTIONS).key != before.key


def test_a_compressed_body_is_the_body() -> None:
    source = slice_of([(1, "x")])
    packed = encode_body([source], replace(OPTIONS, compression="gzip"))
    assert gzip.decompress(packed.content) == encode_body([source], OPTIONS).content


def test_a_signature_is_what_the_documentation_says() -> None:
    wanted = hmac.new(b"secret", b"1700000000.body", hashlib.sha256).hexdigest()
    assert sign(b"body", "secret", 1_700_000_000) == f"sha256={wanted}"
