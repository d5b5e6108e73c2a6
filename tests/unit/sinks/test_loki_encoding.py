"""What a batch becomes on the wire to Loki, read back with protobuf and JSON readers."""

from __future__ import annotations

import pickle
from base64 import b64decode
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinks.identity import record_ids
from sinks.interface import Slice, Stream
from sinks.loki import LokiSettings
from sinks.loki.encoding import Encoded, encode_batch
from sinks.loki.wire import JsonWire, ProtobufWire
from sinks.testing import end_of, gap_of, slice_of
from tests.unit.sinks.loki_messages import PushRequest, entries, parsed

NOW_NS = 1_763_899_200_000_000_000
DAY_NS = 86_400_000_000_000
STREAM = Stream("sbx-1", "main", image="python:3")


def encode(*slices: Slice, now_ns: int = NOW_NS, **given: Any) -> Encoded:
    settings = {"type": "loki", "endpoint": "http://127.0.0.1:3100", **given}
    return encode_batch(slices, LokiSettings.model_validate(settings).options, now_ns)


def sent(*slices: Slice, **given: Any) -> list[tuple[int, str, dict[str, str]]]:
    """The entries of a batch of one Loki stream."""
    (push,) = encode(*slices, **given).pushes
    return entries(push.body)


def lines(*texts: bytes | str, at_ns: int = NOW_NS, step_ns: int = 1, **given: Any) -> Slice:
    stamped = [(at_ns + i * step_ns, text) for i, text in enumerate(texts)]
    return slice_of(stamped, **{"stream": STREAM, **given})


TEXTS = st.text(st.characters(codec="utf-8"), max_size=40)
ENTRIES = st.lists(
    st.tuples(
        st.integers(-(1 << 63), (1 << 63) - 1),
        TEXTS,
        st.dictionaries(TEXTS.filter(bool), TEXTS.filter(bool), max_size=3),
    ),
    max_size=5,
)


@given(ENTRIES)
def test_protobuf_is_byte_for_byte_what_protobuf_itself_writes(
    given_entries: list[tuple[int, str, dict[str, str]]],
) -> None:
    wire = ProtobufWire()
    body = wire.body(
        (("job", 'a"b'),),
        [stamp_ns for stamp_ns, _, _ in given_entries],
        [line.encode() for _, line, _ in given_entries],
        [b"".join(wire.field(*pair) for pair in pairs.items()) for _, _, pairs in given_entries],
    )
    message = PushRequest()
    stream = message.streams.add(labels='{job="a\\"b"}')
    for stamp_ns, line, pairs in given_entries:
        entry = stream.entries.add(line=line)
        entry.timestamp.SetInParent()
        entry.timestamp.seconds, entry.timestamp.nanos = divmod(stamp_ns, 1_000_000_000)
        for name, value in pairs.items():
            entry.structured_metadata.add(name=name, value=value)
    assert body == message.SerializeToString()


@given(ENTRIES)
def test_json_says_the_same(given_entries: list[tuple[int, str, dict[str, str]]]) -> None:
    wire = JsonWire("none")
    body = wire.body(
        (("job", 'a"b'),),
        [stamp_ns for stamp_ns, _, _ in given_entries],
        [line.encode() for _, line, _ in given_entries],
        [b"".join(wire.field(*pair) for pair in pairs.items()) for _, _, pairs in given_entries],
    )
    values = [
        [str(stamp_ns), line, pairs] if pairs else [str(stamp_ns), line]
        for stamp_ns, line, pairs in given_entries
    ]
    assert orjson.loads(body) == {"streams": [{"stream": {"job": 'a"b'}, "values": values}]}


@given(
    first_line=st.integers(0, 1_000_000_000_000),
    count=st.integers(1, 12),
    generation=st.integers(0, 3),
    sandbox_id=TEXTS.filter(bool),
    form=st.sampled_from(["protobuf", "json"]),
)
def test_every_line_carries_its_own_record_id(
    first_line: int, count: int, generation: int, sandbox_id: str, form: str
) -> None:
    stream = Stream(sandbox_id, "main")
    source = lines(*["x"] * count, stream=stream, first_line=first_line, generation=generation)
    (push,) = encode(source, format=form, compression="none").pushes
    if form == "protobuf":
        found = [metadata for _, _, metadata in entries(push.body)]
    else:
        found = [value[2] for value in orjson.loads(push.body)["streams"][0]["values"]]
    assert [metadata["log_record_uid"] for metadata in found] == record_ids(source)
    assert [int(metadata["line"]) for metadata in found] == [first_line + i for i in range(count)]
    assert {metadata["sandbox_id"] for metadata in found} == {sandbox_id}


def test_a_line_has_its_text_its_stamp_and_what_tells_it_from_all_others() -> None:
    stream = Stream(
        "sbx-1",
        "side",
        display_name="a run",
        tags=("prod", "b"),
        attributes={
            "deployment.environment.name": "prod",
            "line": "x",
            "gap_kind": "no",
            "_a": "b",
        },
    )
    assert sent(lines("hello", stream=stream, first_line=41, generation=2)) == [
        (
            NOW_NS,
            "hello",
            {
                "sandbox_id": "sbx-1",
                "container": "side",
                "generation": "2",
                "line": "41",
                "log_record_uid": "sbx-1/side/2/41",
                "display_name": "a run",
                "tags": "prod,b",
                "deployment_environment_name": "prod",
                "attribute_line": "x",
                "attribute_gap_kind": "no",
                "attribute__a": "b",
            },
        )
    ]


def test_a_part_has_its_number_also_in_its_record_id() -> None:
    ((_, _, metadata),) = sent(lines("aaa", part=2, ended=False, first_line=7))
    assert (metadata["part"], metadata["log_record_uid"]) == ("2", "sbx-1/main/0/7.2")


def test_what_is_a_label_is_not_metadata_too() -> None:
    labels = {"container": "{container}", "env": "{attribute:env}", "job": "x"}
    stream = Stream("sbx-1", "main", attributes={"env": "prod"})
    (push,) = encode(lines("a", stream=stream), labels=labels).pushes
    assert push.labels == '{container="main", env="prod", job="x"}'
    ((_, _, metadata),) = entries(push.body)
    assert "container" not in metadata
    assert metadata["attribute_env"] == "prod"


def test_attributes_whose_names_become_one_are_all_there() -> None:
    stream = Stream("sbx-1", "main", attributes={"a-b": "1", "a.b": "2", "a_b": "3"})
    ((_, _, metadata),) = sent(lines("a", stream=stream))
    names = ("a_b", "attribute_a_b", "attribute_attribute_a_b")
    assert [metadata[name] for name in names] == ["1", "2", "3"]


def test_too_much_metadata_is_left_out_from_the_end() -> None:
    attributes = {f"a{n:03}": "x" * 1000 for n in range(300)}
    stream = Stream("sbx-1", "main", tags=("t",), attributes=attributes)
    ((_, _, metadata),) = sent(lines("a", stream=stream))
    assert len(metadata) <= 128
    assert sum(len(name) + len(value) for name, value in metadata.items()) <= 65_536
    assert {"line", "log_record_uid", "tags", "a000", "a058"} <= metadata.keys()
    assert "a299" not in metadata


def test_many_small_attributes_leave_room_for_what_a_record_has_of_its_own() -> None:
    stream = Stream("sbx-1", "main", attributes={f"a{n:03}": "x" for n in range(300)})
    ((_, _, metadata),) = sent(lines("a", stream=stream))
    assert 90 < len(metadata) <= 128


@pytest.mark.parametrize("text", [b"\xff\xfe", b"\xed\xa0\x80", bytes(range(128, 256))])
@pytest.mark.parametrize("form", ["protobuf", "json"])
def test_text_that_is_not_utf8_comes_as_base64_and_its_neighbours_do_not(
    text: bytes, form: str
) -> None:
    (push,) = encode(lines("before", text, "é"), format=form, compression="none").pushes
    if form == "protobuf":
        found = entries(push.body)
    else:
        values = orjson.loads(push.body)["streams"][0]["values"]
        found = [(int(stamp), line, metadata) for stamp, line, metadata in values]
    assert [line for _, line, _ in found][::2] == ["before", "é"]
    assert b64decode(found[1][1]) == text
    assert [metadata.get("encoding") for _, _, metadata in found] == [None, "base64", None]


def test_each_loki_stream_has_a_request_of_its_own() -> None:
    one = Stream("sbx-1", "main", tags=("service:a",))
    other = Stream("sbx-2", "main", tags=("service:b",))
    third = Stream("sbx-3", "main", tags=("service:a",))
    encoded = encode(lines("1", stream=one), lines("2", stream=other), lines("3", stream=third))
    assert [list(push.records) for push in encoded.pushes] == [[0, 2], [1]]
    assert [len(parsed(push.body).streams) for push in encoded.pushes] == [1, 1]


def test_entries_are_sorted_by_time_and_those_of_one_stamp_keep_their_order() -> None:
    source = slice_of([(NOW_NS + 5, "c"), (NOW_NS, "a"), (NOW_NS, "b")])
    late = slice_of([(NOW_NS, "z"), (NOW_NS + 3, "y")], stream=Stream("sbx-2", "main"))
    (push,) = encode(source, late).pushes
    assert [line for _, line, _ in entries(push.body)] == ["a", "b", "z", "y", "c"]
    assert list(push.records) == [1, 2, 3, 4, 0]
    assert list(push.lengths) == [1] * 5


def test_equal_lines_of_one_stamp_are_moved_apart_so_that_loki_keeps_them_all() -> None:
    found = sent(lines("", "", "x", "", step_ns=0))
    assert [(stamp_ns - NOW_NS, line) for stamp_ns, line, _ in found] == [
        (0, ""),
        (0, "x"),
        (1, ""),
        (2, ""),
    ]
    stamp = "2025-11-23T12:00:00.000000000Z"
    assert [metadata.get("stamp") for _, _, metadata in found] == [None, None, stamp, stamp]
    assert [metadata["line"] for _, _, metadata in found] == ["0", "2", "1", "3"]


@given(st.lists(st.tuples(st.integers(NOW_NS, NOW_NS + 4), st.sampled_from("ab")), max_size=12))
def test_no_two_entries_of_a_request_have_one_stamp_and_one_text(
    given_lines: list[tuple[int, bytes | str]],
) -> None:
    encoded = encode(slice_of(given_lines))
    found = [entry for push in encoded.pushes for entry in entries(push.body)]
    assert len({(stamp_ns, line) for stamp_ns, line, _ in found}) == len(given_lines)
    assert sorted(int(metadata["line"]) for _, _, metadata in found) == [*range(len(given_lines))]
    assert [stamp_ns for stamp_ns, _, _ in found] == sorted(stamp_ns for stamp_ns, _, _ in found)


@pytest.mark.parametrize("form", ["protobuf", "json"])
def test_the_same_batch_gives_the_same_bytes_at_another_time(form: str) -> None:
    batch = [lines("a", "b"), gap_of(stream=STREAM, first_line=2, from_stamp_ns=NOW_NS)]
    later = encode(*batch, now_ns=NOW_NS + DAY_NS, format=form)
    assert encode(*batch, format=form) == later


def test_an_end_record_is_nothing_but_counts_as_a_record() -> None:
    encoded = encode(end_of(stream=STREAM), lines("a"), end_of(stream=STREAM, first_line=1))
    assert [list(push.records) for push in encoded.pushes] == [[1]]
    assert encode(end_of(stream=STREAM)).pushes == ()


def test_a_gap_is_an_entry_of_its_own_with_all_its_keys() -> None:
    gap = gap_of(stream=STREAM, first_line=5, from_stamp_ns=NOW_NS, missing_bytes=77, before_line=9)
    ((stamp_ns, text, metadata),) = sent(gap)
    assert stamp_ns == NOW_NS
    assert text == (
        "gap: lines are missing between line 4 and line 9, cause anchor_lost, exact bounds"
    )
    told = {name.removeprefix("gap_"): v for name, v in metadata.items() if name[:4] == "gap_"}
    assert told == {key: str(v) for key, v in (gap.gap or {}).items() if v is not None}
    assert metadata["log_record_uid"] == record_ids(gap)[0]
    assert "line" not in metadata


def test_a_gap_that_is_taken_back_says_so() -> None:
    ((_, text, _),) = sent(gap_of(stream=STREAM, from_stamp_ns=NOW_NS, filled_ns=5))
    assert "at the beginning" in text
    assert "takes the earlier one back" in text


OLD = {"at_ns": NOW_NS - 8 * DAY_NS, "step_ns": 8 * DAY_NS}


def test_lines_that_are_too_old_are_refused_and_the_others_sent() -> None:
    encoded = encode(lines("old", "new", **OLD), lines("new"))
    assert [list(push.records) for push in encoded.pushes] == [[1, 2]]
    (refusal,) = encoded.refused.values()
    assert list(encoded.refused) == [0]
    assert refusal.status == "too_old"
    assert refusal.reason == "older than reject_old_after, 7d: 2025-11-15T12:00:00.000000000Z"
    assert not refusal.maybe_stored


def test_a_line_exactly_as_old_as_allowed_is_sent() -> None:
    assert not encode(lines("x", at_ns=NOW_NS - 7 * DAY_NS)).refused
    assert encode(lines("x", at_ns=NOW_NS - 7 * DAY_NS - 1)).refused


def test_old_lines_are_sent_as_they_are_when_told_to() -> None:
    found = sent(lines("old", "new", **OLD), old_lines="send")
    assert [stamp_ns for stamp_ns, _, _ in found] == [NOW_NS - 8 * DAY_NS, NOW_NS]


def test_restamped_lines_keep_their_order_and_their_own_stamp_as_metadata() -> None:
    source = lines("b", "a", at_ns=NOW_NS - 8 * DAY_NS, step_ns=-1, first_line=3)
    found = sent(source, old_lines="restamp", now_ns=NOW_NS + 61_000_000_000)
    assert [(stamp_ns - NOW_NS, line, metadata["stamp"]) for stamp_ns, line, metadata in found] == [
        (3, "b", "2025-11-15T12:00:00.000000000Z"),
        (4, "a", "2025-11-15T11:59:59.999999999Z"),
    ]


def test_a_restamped_line_that_meets_its_equal_keeps_its_own_stamp() -> None:
    first_ns = NOW_NS - 8 * DAY_NS
    twin = lines("a", at_ns=first_ns + 7, stream=Stream("sbx-2", "main", image="python:3"))
    found = sent(lines("a", at_ns=first_ns), twin, old_lines="restamp")
    assert [(stamp_ns - NOW_NS, metadata["stamp"]) for stamp_ns, _, metadata in found] == [
        (0, "2025-11-15T12:00:00.000000000Z"),
        (1, "2025-11-15T12:00:00.000000007Z"),
    ]


def test_a_restamped_line_is_the_same_for_ten_minutes() -> None:
    source = lines("a", at_ns=NOW_NS - 8 * DAY_NS)
    minutes = [
        encode(source, old_lines="restamp", now_ns=NOW_NS + n * 60_000_000_000) for n in (0, 9, 10)
    ]
    assert minutes[0] == minutes[1] != minutes[2]


@pytest.mark.parametrize("old_lines", ["dead_letter", "restamp"])
def test_a_gap_record_is_never_too_old(old_lines: str) -> None:
    gap = gap_of(stream=STREAM, from_stamp_ns=NOW_NS - 9 * DAY_NS, noticed_ns=NOW_NS - 5)
    ((stamp_ns, _, metadata),) = sent(gap, old_lines=old_lines)
    assert (stamp_ns, metadata["stamp"]) == (NOW_NS - 5, "2025-11-14T12:00:00.000000000Z")
    ancient = gap_of(stream=STREAM, from_stamp_ns=1, noticed_ns=2)
    ((stamp_ns, _, _),) = sent(ancient, old_lines=old_lines)
    assert stamp_ns == NOW_NS


@pytest.mark.parametrize(
    "text", [b"x" * 10_000, "xé".encode() + "é".encode() * 5_000, b"\xff" * 9_000]
)
def test_a_line_that_is_too_long_comes_in_pieces_that_make_it_again(text: bytes) -> None:
    found = sent(lines("before", text, "after", step_ns=100), max_line_bytes=4096 + 1)
    pieces = [entry for entry in found if "piece" in entry[2]]
    assert all(len(line.encode()) <= 4097 for _, line, _ in found)
    assert [metadata["piece"] for _, _, metadata in pieces] == [
        str(n + 1) for n in range(len(pieces))
    ]
    assert len({metadata["log_record_uid"] for _, _, metadata in pieces}) == 1
    assert [stamp_ns - NOW_NS for stamp_ns, _, _ in pieces] == [100 + n for n in range(len(pieces))]
    assert {metadata.get("stamp") for _, _, metadata in pieces[1:]} == {
        "2025-11-23T12:00:00.000000100Z"
    }
    if pieces[0][2].get("encoding") == "base64":
        joined = b"".join(b64decode(line) for _, line, _ in pieces)
    else:
        joined = "".join(line for _, line, _ in pieces).encode()
    assert joined == text
    assert [found[0][1], found[-1][1]] == ["before", "after"]


def test_a_line_of_exactly_the_limit_is_whole() -> None:
    assert "piece" not in sent(lines("x" * 4096), max_line_bytes=4096)[0][2]
    assert "piece" in sent(lines("x" * 4097), max_line_bytes=4096)[0][2]


def test_a_line_that_is_too_long_is_refused_when_told_to() -> None:
    encoded = encode(lines("x" * 5000, "y"), max_line_bytes=4096, long_lines="dead_letter")
    assert encoded.refused[0].status == "too_long"
    assert encoded.refused[0].reason == "5000 bytes are more than max_line_bytes, 4KiB"
    assert [list(push.records) for push in encoded.pushes] == [[1]]


def test_a_line_that_is_too_long_is_sent_when_told_to() -> None:
    ((_, line, _),) = sent(lines("x" * 5000), max_line_bytes=4096, long_lines="send")
    assert line == "x" * 5000


def test_without_structured_metadata_each_line_is_an_object() -> None:
    gap = gap_of(stream=STREAM, first_line=2, from_stamp_ns=NOW_NS)
    found = sent(lines("a", b"\xff"), gap, structured_metadata=False)
    assert [metadata for _, _, metadata in found] == [{}, {}, {}]
    one, gap_record, two = (orjson.loads(line) for _, line, _ in found)
    assert (one["text"], one["line"], one["sandbox_id"]) == ("a", 0, "sbx-1")
    assert (two["text_base64"], two["line"]) == ("/w==", 1)
    assert gap_record["gap"] == gap.gap


@pytest.mark.parametrize("text", [b"x" * 10_000, b"\0" * 3_000, b"\xff" * 9_000])
def test_without_structured_metadata_the_pieces_are_objects(text: bytes) -> None:
    found = sent(lines(text), structured_metadata=False, max_line_bytes=4096)
    assert all(len(line.encode()) <= 4096 for _, line, _ in found)
    records = [orjson.loads(line) for _, line, _ in found]
    assert [record["piece"] for record in records] == [n + 1 for n in range(len(records))]
    if "text" in records[0]:
        assert "".join(record["text"] for record in records).encode() == text
    else:
        assert b"".join(b64decode(record["text_base64"]) for record in records) == text


def test_options_and_requests_can_go_to_a_worker_and_back() -> None:
    options = LokiSettings.model_validate({"type": "loki", "endpoint": "http://x"}).options
    assert pickle.loads(pickle.dumps(options)) == options
    encoded = encode(lines("a"))
    assert pickle.loads(pickle.dumps(encoded)) == encoded
