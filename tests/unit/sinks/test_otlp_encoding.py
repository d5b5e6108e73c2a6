"""What is sent, read back with the classes that OpenTelemetry publishes."""

from __future__ import annotations

import pickle
from random import Random
from typing import TYPE_CHECKING

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs

from sinks.compress import compress
from sinks.identity import record_ids
from sinks.interface import BatchRejectedError, Columns, Slice, Stream
from sinks.ndjson import gap_stamp_ns
from sinks.otlp.attributes import gap_body, gap_severity, resource_attributes
from sinks.otlp.encoding import Encoding, empty_body, encode_body
from sinks.otlp.json_text import encode_json
from sinks.otlp.protobuf import encode_protobuf
from sinks.service import ServiceSettings
from sinks.severity import severity
from sinks.testing import end_of, gap_of, slice_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sinks.otlp.wire import Value

SERVICE = ServiceSettings()
MAX_STAMP_NS = 2**63 - 1

#: Around these a line number has one digit, or its varint one byte, more.
STEPS = [0, 7, 95, 120, 990, 1_990, 16_380, 127_990, 999_990, 2_097_140, 10**9 - 3, 2**53]

stamps = st.integers(1, MAX_STAMP_NS)
texts = st.one_of(
    st.binary(max_size=20),
    st.text(max_size=20).map(str.encode),
    st.sampled_from([b"x" * n for n in (119, 120, 126, 127, 128, 16_380, 20_000)]),
    st.sampled_from([b"ERROR x", b"level=warn", b'{"level":"info"}', b"\xed\xa0\x80"]),
)
streams = st.builds(
    Stream,
    st.text(min_size=1, max_size=12),
    st.sampled_from(["main", "side/car", "\udc80"]),
    st.text(max_size=5),
    st.lists(st.text(max_size=5), max_size=2).map(tuple),
    st.sampled_from(["", "python", "ghcr.io:443/acme/python:3.11@sha256:0af"]),
    st.sampled_from(["", "runner-1"]),
    st.dictionaries(st.text(min_size=1, max_size=5), st.text(max_size=5), max_size=2),
    st.dictionaries(st.text(min_size=1, max_size=5), st.text(max_size=5), max_size=2),
)
generations = st.sampled_from([0, 1, 300])


@st.composite
def line_slices(draw: st.DrawFn) -> Slice:
    return slice_of(
        draw(st.lists(st.tuples(stamps, texts), max_size=25)),
        stream=draw(streams),
        first_line=draw(st.sampled_from(STEPS)) + draw(st.integers(0, 9)),
        generation=draw(generations),
    )


@st.composite
def parts(draw: st.DrawFn) -> Slice:
    line = (draw(stamps), draw(texts))
    return slice_of([line], stream=draw(streams), part=draw(st.integers(1, 200)))


@st.composite
def gaps(draw: st.DrawFn) -> Slice:
    return gap_of(
        stream=draw(streams),
        first_line=draw(st.integers(0, 500)),
        from_stamp_ns=draw(stamps),
        filled_ns=draw(st.sampled_from([0, 5])),
        missing_bytes=draw(st.sampled_from([None, 7])),
        generation=draw(generations),
    )


ends = streams.map(lambda stream: end_of(stream=stream))
batches = st.lists(st.one_of(line_slices(), parts(), gaps(), ends), max_size=5)


def value(plain: Value | bytes) -> AnyValue:
    match plain:
        case None:
            return AnyValue()
        case str():
            return AnyValue(string_value=plain.encode("utf-8", "replace").decode())
        case bytes():
            return AnyValue(bytes_value=plain)
        case int():
            return AnyValue(int_value=plain)
        case _:
            return AnyValue(array_value=ArrayValue(values=[value(item) for item in plain]))


def key_values(plain: Mapping[str, Value]) -> list[KeyValue]:
    return [
        KeyValue(key=key.encode("utf-8", "replace").decode(), value=value(item))
        for key, item in plain.items()
    ]


def expected_records(source: Slice, *, detect: bool) -> list[LogRecord]:
    """The records of a slice as anybody would make them who has never heard of speed."""
    shared: dict[str, Value] = {}
    if source.generation:
        shared["cwsandbox.generation"] = source.generation
    if source.part:
        shared["cwsandbox.part"] = source.part
    ids = record_ids(source)
    if source.gap is not None:
        number, text = gap_severity(source.gap)
        gap = {f"cwsandbox.gap.{key}": item for key, item in source.gap.items()}
        return [
            LogRecord(
                time_unix_nano=gap_stamp_ns(source),
                observed_time_unix_nano=source.received_ns,
                severity_number=number,  # type: ignore[arg-type]  # an enumeration's number
                severity_text=text,
                body=value(gap_body(source.gap)),
                attributes=key_values({"log.record.uid": ids[0], **shared, **gap}),
                event_name="cwsandbox.gap",
            )
        ]
    records = []
    for index, (stamp_ns, text_) in enumerate(
        zip(source.columns.stamps_ns, source.columns.texts, strict=True)
    ):
        try:
            body: str | bytes = text_.decode()
        except UnicodeDecodeError:
            body = text_
        line: dict[str, Value] = {
            "log.record.uid": ids[index],
            "cwsandbox.line": source.first_line + index,
        }
        record = LogRecord(
            time_unix_nano=stamp_ns,
            observed_time_unix_nano=source.received_ns,
            body=value(body),
            attributes=key_values({**shared, **line}),
        )
        level = severity(text_) if detect else None
        if level is not None:
            record.severity_number = level[0]  # type: ignore[assignment]  # as above
            record.severity_text = level[1].decode()
        records.append(record)
    return records


def expected_request(slices: Sequence[Slice], *, detect: bool) -> ExportLogsServiceRequest:
    request = ExportLogsServiceRequest()
    groups: dict[bytes, ResourceLogs] = {}
    for source in slices:
        if source.end is not None or not source.record_count:
            continue
        attributes = key_values(resource_attributes(source.stream, SERVICE))
        key = b"".join(item.SerializeToString() for item in attributes)
        if key not in groups:
            groups[key] = request.resource_logs.add()
            groups[key].resource.attributes.extend(attributes)
            groups[key].scope_logs.add().scope.name = "sandbox-forwarder"
        groups[key].scope_logs[0].log_records.extend(expected_records(source, detect=detect))
    return request


@given(batches, st.booleans())
def test_protobuf_is_what_the_published_classes_would_have_sent(
    slices: list[Slice], detect: bool
) -> None:
    body = encode_protobuf(slices, SERVICE, detect_severity=detect)
    expected = expected_request(slices, detect=detect)
    assert ExportLogsServiceRequest.FromString(body) == expected
    # No length or number is written longer than it has to be.
    assert len(body) == expected.ByteSize()


def test_a_time_of_0_is_said_to_be_unknown() -> None:
    source = slice_of([(0, "x")])
    body = encode_protobuf([source], SERVICE, detect_severity=False)
    assert ExportLogsServiceRequest.FromString(body) == expected_request([source], detect=False)


@given(batches, st.booleans())
def test_json_says_the_same(slices: list[Slice], detect: bool) -> None:
    body = encode_json(slices, SERVICE, detect_severity=detect)
    expected = expected_request(slices, detect=detect)
    read = json_format.Parse(body or b"{}", ExportLogsServiceRequest())
    assert read == expected


def test_json_has_long_numbers_as_text_and_enumerations_as_numbers() -> None:
    body = encode_json([slice_of([(17, "ERROR x")])], SERVICE, detect_severity=True)
    assert b'"timeUnixNano":"17"' in body
    assert b'"severityNumber":17,"severityText":"ERROR"' in body
    assert b'{"key":"cwsandbox.line","value":{"intValue":"0"}}' in body


def test_lines_that_run_over_thousands_keep_their_ids_and_numbers() -> None:
    source = slice_of([(n, str(n)) for n in range(40_000)], first_line=95)
    request = ExportLogsServiceRequest.FromString(
        encode_protobuf([source], SERVICE, detect_severity=False)
    )
    records = request.resource_logs[0].scope_logs[0].log_records
    assert [record.attributes[0].value.string_value for record in records] == record_ids(source)
    assert [r.attributes[1].value.int_value for r in records] == list(range(95, 40_095))


def test_a_resend_is_the_same_bytes_however_the_slices_are_cut() -> None:
    whole = [slice_of([(n, f"line {n}") for n in range(300)])]
    cut = [slice_of([(n, f"line {n}")], first_line=n) for n in range(300)]
    # Only the time of receiving belongs to a slice.
    for source in (*whole, *cut):
        source.received_ns = 5
    for encode in (encode_protobuf, encode_json):
        body = encode(whole, SERVICE, detect_severity=False)
        assert body == encode(cut, SERVICE, detect_severity=False)


def encoding(**more: object) -> Encoding:
    return Encoding(**{"form": "protobuf", "compression": "gzip", **more})  # type: ignore[arg-type]


def limited(max_bytes: int, **more: object) -> Encoding:
    return encoding(max_bytes=max_bytes, service=SERVICE, **more)


@pytest.mark.parametrize("form", ["protobuf", "json"])
@pytest.mark.parametrize("slices", [[], [end_of()], [slice_of([])]])
def test_a_batch_without_lines_and_gaps_has_no_body(form: str, slices: list[Slice]) -> None:
    assert encode_body(slices, limited(10**6, form=form)) is None


def test_a_body_may_be_as_large_as_the_limit_and_no_larger() -> None:
    slices = [slice_of([(1, "x" * 1000)])]
    size = len(encode_protobuf(slices, SERVICE, detect_severity=False))
    assert encode_body(slices, limited(size)) is not None
    with pytest.raises(BatchRejectedError, match=f"of {size} bytes; not more than") as refused:
        encode_body(slices, limited(size - 1))
    assert refused.value.too_large


def test_the_limit_counts_after_compression_too() -> None:
    # What cannot be compressed becomes longer.
    slices = [slice_of([(1, Random(0).randbytes(4_000).replace(b"\n", b""))])]
    body = encode_protobuf(slices, SERVICE, detect_severity=False)
    assert len(compress(body, "zstd")) > len(body)
    with pytest.raises(BatchRejectedError, match="when compressed") as refused:
        encode_body(slices, limited(len(body), compression="zstd"))
    assert refused.value.too_large


def test_a_refusal_for_size_comes_out_of_another_process_as_it_was() -> None:
    with pytest.raises(BatchRejectedError) as refused:
        encode_body([slice_of([(1, "x" * 1000)])], limited(10))
    again = pickle.loads(pickle.dumps(refused.value))
    assert (str(again), again.too_large, again.status) == (str(refused.value), True, "too_large")


def test_the_empty_request_has_no_records() -> None:
    assert empty_body(limited(10, compression="none")) == b""
    assert empty_body(limited(10, compression="none", form="json")) == b'{"resourceLogs":[]}'


def test_slices_of_one_resource_are_put_together_in_their_order() -> None:
    one, other = Stream("one", "main"), Stream("other", "main")
    slices = [
        slice_of([(1, "a")], stream=one),
        slice_of([(2, "b")], stream=other),
        slice_of([(3, "c")], stream=Stream("one", "main"), first_line=1),
    ]
    request = ExportLogsServiceRequest.FromString(
        encode_protobuf(slices, SERVICE, detect_severity=False)
    )
    bodies = [
        [record.body.string_value for record in logs.scope_logs[0].log_records]
        for logs in request.resource_logs
    ]
    assert bodies == [["a", "c"], ["b"]]


def test_the_texts_count_and_not_the_raw_bytes() -> None:
    source = Slice(
        *(Stream("s", "c"), 0, 1, b"raw", 9), decode=lambda _: Columns([7], [b"\xff decoded"])
    )
    request = ExportLogsServiceRequest.FromString(
        encode_protobuf([source], SERVICE, detect_severity=False)
    )
    (record,) = request.resource_logs[0].scope_logs[0].log_records
    assert record.body.bytes_value == b"\xff decoded"
    assert (record.time_unix_nano, record.observed_time_unix_nano) == (7, 9)
