"""Records as bulk requests: what exactly goes over the wire."""

from __future__ import annotations

import gzip
import pickle
from base64 import b64decode
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from sinks.bulk.documents import (
    BulkOptions,
    document_records,
    encode_bulk,
    encode_fallback,
)
from sinks.bulk.names import IndexName
from sinks.identity import record_ids
from sinks.interface import Refusal, Slice, Stream
from sinks.service import ServiceSettings
from sinks.testing import end_of, gap_of, slice_of

if TYPE_CHECKING:
    from collections.abc import Sequence

NOW_NS = 1_763_899_200_000_000_001
NOW = "2025-11-23T12:00:00.000000001Z"
PLAIN = BulkOptions(IndexName.parse("logs"), ServiceSettings(), compression="none")
REFUSED = Refusal("failed to parse", "document_parsing_exception")


def parsed(body: bytes | None) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(action, document) pairs, as a server reads them: by newlines."""
    assert body is not None
    assert body.endswith(b"\n")
    lines = [orjson.loads(line) for line in body[:-1].split(b"\n")]
    return list(zip(lines[::2], lines[1::2], strict=True))


def documents(*slices: Slice, options: BulkOptions = PLAIN) -> list[dict[str, Any]]:
    return [document for _, document in parsed(encode_bulk(slices, options))]


def actions(*slices: Slice, options: BulkOptions = PLAIN) -> list[dict[str, Any]]:
    return [action for action, _ in parsed(encode_bulk(slices, options))]


def some(*texts: bytes | str, **more: Any) -> Slice:
    return slice_of([(NOW_NS + i, text) for i, text in enumerate(texts)], **more)


def test_a_line_is_a_create_action_and_a_document() -> None:
    assert encode_bulk([some("hello", first_line=17)], PLAIN) == (
        b'{"create":{"_index":"logs","_id":"sbx-1/main/0/17"}}\n'
        b'{"@timestamp":"2025-11-23T12:00:00.000000001Z","message":"hello",'
        b'"cwsandbox":{"id":"sbx-1","generation":0},"container":{"name":"main"},'
        b'"service":{"name":"unknown_service"},'
        b'"event":{"created":"2025-11-23T12:00:00.000000001Z","id":"sbx-1/main/0/17",'
        b'"sequence":17}}\n'
    )


def test_what_is_known_of_the_stream_stands_in_every_document() -> None:
    stream = Stream(
        "sbx-1",
        "side",
        display_name="my run",
        tags=("service:trainer", 'a"b'),
        image="ghcr.io/acme/python:3.11",
        annotations={"not": "sent"},
        attributes={"team": "ml", "cost.center": "7"},
    )
    for document in documents(some("a", "b", stream=stream, generation=3)):
        assert document["cwsandbox"] == {"id": "sbx-1", "generation": 3, "name": "my run"}
        assert document["container"] == {
            "name": "side",
            "image": {"name": "ghcr.io/acme/python:3.11"},
        }
        assert document["service"] == {"name": "trainer"}
        assert document["tags"] == ["service:trainer", 'a"b']
        assert document["labels"] == {"team": "ml", "cost_center": "7"}


@pytest.mark.parametrize(("name", "label"), [(".", "_"), ("", "_"), (" ", "_"), ("a..b", "a__b")])
def test_a_label_has_a_name_that_an_index_takes(name: str, label: str) -> None:
    stream = Stream("sbx-1", "main", attributes={name: "x"})
    assert documents(some("a", stream=stream))[0]["labels"] == {label: "x"}


def test_every_line_has_its_stamp_number_and_id() -> None:
    found = documents(some("a", "b", first_line=7))
    assert [x["@timestamp"] for x in found] == [NOW, NOW.replace("001Z", "002Z")]
    assert [x["event"]["sequence"] for x in found] == [7, 8]
    assert [x["event"]["id"] for x in found] == ["sbx-1/main/0/7", "sbx-1/main/0/8"]


def test_the_document_s_id_is_the_record_id_everywhere() -> None:
    hostile = Stream('sbx/"\n', "m\u00e9")
    slices = [
        some("a", "b", stream=hostile, generation=2),
        some("p", part=3, first_line=4),
        gap_of(first_line=5),
    ]
    expected = [record_id for source in slices for record_id in record_ids(source)]
    assert [action["create"]["_id"] for action in actions(*slices)] == expected
    assert [document["event"]["id"] for document in documents(*slices)] == expected


def test_without_document_ids_the_server_makes_its_own() -> None:
    options = BulkOptions(PLAIN.index, PLAIN.service, document_ids=False, compression="none")
    slices = [some("a", "b"), gap_of(first_line=2)]
    assert actions(*slices, options=options) == [{"create": {"_index": "logs"}}] * 3
    assert documents(*slices, options=options) == documents(*slices)


def test_each_line_goes_to_the_index_of_its_own_stamp() -> None:
    options = BulkOptions(IndexName.parse("logs-{date}"), ServiceSettings(), compression="none")
    midnight_ns = NOW_NS - 1 + 12 * 3_600_000_000_000
    source = slice_of([(midnight_ns - 1, "a"), (midnight_ns, "b")])
    gap = gap_of(first_line=2, from_stamp_ns=midnight_ns - 1)
    indices = [action["create"]["_index"] for action in actions(source, gap, options=options)]
    assert indices == ["logs-2025.11.23", "logs-2025.11.24", "logs-2025.11.23"]


@pytest.mark.parametrize(
    "text", ["", " ", '"\\', "a,\n  b".replace("\n", "\r"), "\u2028\x00\x7f", "x" * 100_000, "{}}"]
)
def test_text_is_the_message(text: str) -> None:
    found = documents(some("before", text, "after"))
    assert [document["message"] for document in found] == ["before", text, "after"]
    assert not any("message_base64" in document["cwsandbox"] for document in found)


@pytest.mark.parametrize(
    "text", [b"\xff\xfe", b"\xed\xa0\x80", b"ok \x80", bytes(b for b in range(256) if b != 10)]
)
def test_bytes_that_are_no_text_come_legibly_and_losslessly(text: bytes) -> None:
    before, found, after = documents(some("before", text, "after"))
    assert found["message"] == text.decode("utf-8", "replace")
    assert b64decode(found["cwsandbox"]["message_base64"]) == text
    assert found["cwsandbox"]["id"] == "sbx-1"
    assert (before["message"], after["message"]) == ("before", "after")
    assert "message_base64" not in before["cwsandbox"]


def test_a_part_of_a_long_line_says_which() -> None:
    part = documents(some("p", part=2, first_line=9))[0]
    assert part["cwsandbox"]["part"] == 2
    assert part["event"] == {"created": NOW, "id": "sbx-1/main/0/9.2", "sequence": 9}


def test_a_gap_is_a_document_of_its_own_kind_with_all_its_keys() -> None:
    gap = gap_of(first_line=5, from_stamp_ns=NOW_NS, cause="anchor_lost", missing_bytes=7)
    document = documents(gap)[0]
    assert document["@timestamp"] == NOW
    assert document["cwsandbox"] == {"id": "sbx-1", "generation": 0, "gap": gap.gap}
    assert document["event"]["kind"] == "pipeline_error"
    assert document["event"]["sequence"] == 5
    assert document["message"] == "lines are missing before line 5: anchor_lost"


def test_a_gap_that_is_taken_back_says_so() -> None:
    document = documents(gap_of(first_line=5, from_stamp_ns=NOW_NS, filled_ns=NOW_NS))[0]
    assert document["message"] == "lines that were missing before line 5 were found"
    assert document["cwsandbox"]["gap"]["filled_ns"] == NOW_NS


def test_nothing_that_is_printed_looks_like_a_gap() -> None:
    document = documents(some('x","cwsandbox":{"gap":{"kind":"range"}},"y":"'))[0]
    assert "gap" not in document["cwsandbox"]
    assert "kind" not in document["event"]


def test_an_end_is_no_document() -> None:
    assert encode_bulk([end_of(first_line=1)], PLAIN) == b""
    assert encode_bulk([some()], PLAIN) == b""
    assert len(documents(some("a"), end_of(first_line=1), some("b"))) == 2


@pytest.mark.parametrize(
    ("slices", "numbers"),
    [
        ([], []),
        ([some("a", "b"), gap_of(first_line=2)], [0, 1, 2]),
        ([end_of(), some("a", "b"), end_of(), some("c")], [1, 2, 4]),
    ],
)
def test_each_document_is_known_by_its_record(slices: Sequence[Slice], numbers: list[int]) -> None:
    assert list(document_records(slices)) == numbers


def test_the_body_is_compressed_and_the_same_every_time() -> None:
    options = BulkOptions(PLAIN.index, PLAIN.service, compression="gzip")
    body = encode_bulk([some("a")], options)
    assert body == encode_bulk([some("a")], options)
    assert body is not None
    assert gzip.decompress(body) == encode_bulk([some("a")], PLAIN)


def test_a_body_that_no_server_takes_is_not_made() -> None:
    options = BulkOptions(PLAIN.index, PLAIN.service, compression="none", max_body_bytes=500)
    assert encode_bulk([some("x" * 100)], options) is not None
    assert encode_bulk([some("x" * 500)], options) is None


def test_the_options_go_to_another_process() -> None:
    assert pickle.loads(pickle.dumps(PLAIN)) == PLAIN


def test_a_refused_record_comes_once_more_with_nothing_that_could_be_refused() -> None:
    stream = Stream("sbx-1", "main", tags=("t",), attributes={"a": "b"}, display_name="n")
    slices = [end_of(), some("a", b"\xff", stream=stream, first_line=3)]
    (_, first), (action, second) = parsed(encode_fallback(slices, {1: REFUSED, 2: REFUSED}, PLAIN))
    assert first == {
        "@timestamp": NOW,
        "message": "a",
        "error": {"type": "document_parsing_exception", "message": "failed to parse"},
        "cwsandbox": {"id": "sbx-1", "generation": 0},
        "container": {"name": "main"},
        "event": {"created": NOW.replace("001Z", "002Z"), "id": "sbx-1/main/0/3", "sequence": 3},
    }
    assert action == {"create": {"_index": "logs", "_id": "sbx-1/main/0/4"}}
    assert second["message"] == "\N{REPLACEMENT CHARACTER}"
    assert second["cwsandbox"]["message_base64"] == "/w=="


def test_a_refused_gap_comes_once_more_as_text() -> None:
    gap = gap_of(first_line=2, from_stamp_ns=NOW_NS)
    body = encode_fallback([some("a", "b"), gap], {2: REFUSED}, PLAIN)
    ((action, document),) = parsed(body)
    assert orjson.loads(document["cwsandbox"]["gap_json"]) == gap.gap
    assert action["create"]["_id"] == record_ids(gap)[0]


def test_a_refused_record_comes_without_an_id_where_there_are_none() -> None:
    options = BulkOptions(PLAIN.index, PLAIN.service, document_ids=False, compression="none")
    ((action, _),) = parsed(encode_fallback([some("a")], {0: REFUSED}, options))
    assert action == {"create": {"_index": "logs"}}
