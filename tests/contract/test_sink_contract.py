"""What every sink promises. Each one of them runs this suite; so should a third-party sink."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import orjson
import pytest

from sinks.file import FileSettings, FileSink
from sinks.interface import Sink, Stream
from sinks.testing import (
    STREAM,
    MemorySink,
    MemoryState,
    Record,
    RecordKey,
    batch_of,
    deliver,
    end_of,
    gap_of,
    slice_of,
)
from tests.contract.destination_console import ConsoleLines
from tests.contract.destination_elasticsearch import ElasticsearchIndex
from tests.contract.destination_http import JsonLines
from tests.contract.destination_loki import LokiStreams
from tests.contract.destination_otlp import OtlpCollector
from tests.unit.sinks.renaming_disk import read_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

NOW_NS = 1_763_899_200_000_000_001
STAMP_LENGTH = len("2025-11-23T12:00:00.000000001Z ")


class Destination(Protocol):
    """A place that outlives its sinks, and a reader of it that is not one of them."""

    def new_sink(self) -> Sink: ...

    def texts(self, stream: Stream = STREAM) -> list[bytes]:
        """The texts of a stream's lines, the parts of a long line joined."""
        ...

    def gaps(self, stream: Stream = STREAM) -> list[dict[str, Any]]: ...


class TextFiles:
    def __init__(self, root: Path) -> None:
        self.root = root

    def new_sink(self) -> Sink:
        path = f"{self.root}/{{sandbox_id}}/{{container}}"
        return FileSink("contract", FileSettings(path=path))

    def lines(self, stream: Stream) -> list[bytes]:
        path = self.root / stream.sandbox_id / stream.container
        return path.read_bytes().removesuffix(b"\n").split(b"\n") if path.exists() else []

    def texts(self, stream: Stream = STREAM) -> list[bytes]:
        return [x[STAMP_LENGTH:] for x in self.lines(stream) if not x.startswith(b"#gap ")]

    def gaps(self, stream: Stream = STREAM) -> list[dict[str, Any]]:
        gaps = [x[len("#gap ") :] for x in self.lines(stream) if x.startswith(b"#gap ")]
        return [orjson.loads(gap)["gap"] for gap in gaps]


class RotatedFiles(TextFiles):
    """The same lines, in files that are put away and compressed all the time."""

    def new_sink(self) -> Sink:
        settings: dict[str, Any] = {
            "path": f"{self.root}/{{sandbox_id}}/{{container}}.log",
            "rotate": {"size": 1024, "at_end": True},
            "compress": "zstd",
        }
        return FileSink("contract", FileSettings.model_validate(settings))

    def lines(self, stream: Stream) -> list[bytes]:
        data = read_all(self.root / stream.sandbox_id, f"{stream.container}.log")
        return data.removesuffix(b"\n").split(b"\n") if data else []


class NdjsonFiles:
    def __init__(self, root: Path) -> None:
        self.path = root / "all.ndjson"

    def new_sink(self) -> Sink:
        return FileSink("contract", FileSettings(path=str(self.path), format="ndjson"))

    def records(self, stream: Stream) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        records = [orjson.loads(line) for line in self.path.read_bytes().splitlines()]
        return [r for r in records if (r["sandbox_id"], r["container"]) == stream.identity]

    def texts(self, stream: Stream = STREAM) -> list[bytes]:
        texts: list[bytes] = []
        for record in self.records(stream):
            if "gap" in record:
                continue
            encoded = record.get("text_base64")
            text = record["text"].encode() if encoded is None else b64decode(encoded)
            if record.get("part", 0) > 1:
                texts[-1] += text
            else:
                texts.append(text)
        return texts

    def gaps(self, stream: Stream = STREAM) -> list[dict[str, Any]]:
        return [record["gap"] for record in self.records(stream) if "gap" in record]


class Memory:
    def __init__(self) -> None:
        self.kept: dict[RecordKey, Record] = {}

    def new_sink(self) -> Sink:
        return MemorySink(self.kept)

    def records(self, stream: Stream) -> list[Record]:
        return [r for r in self.kept.values() if (r.sandbox_id, r.container) == stream.identity]

    def texts(self, stream: Stream = STREAM) -> list[bytes]:
        texts: list[bytes] = []
        for record in self.records(stream):
            if record.gap is not None or record.end is not None:
                continue
            if record.part > 1:
                texts[-1] += record.text
            else:
                texts.append(record.text)
        return texts

    def gaps(self, stream: Stream = STREAM) -> list[dict[str, Any]]:
        return [dict(record.gap) for record in self.records(stream) if record.gap is not None]


@pytest.fixture(
    params=[
        "file-text",
        "file-ndjson",
        "file-rotated",
        "memory",
        "elasticsearch",
        "loki",
        "console",
        "http",
        "otlp-protobuf",
        "otlp-json",
        "otlp-grpc",
    ]
)
def destination(request: pytest.FixtureRequest, tmp_path: Path) -> Destination:
    makers: dict[str, Callable[[], Destination]] = {
        "file-text": lambda: TextFiles(tmp_path),
        "file-ndjson": lambda: NdjsonFiles(tmp_path),
        "file-rotated": lambda: RotatedFiles(tmp_path),
        "memory": Memory,
        "elasticsearch": lambda: ElasticsearchIndex(request.getfixturevalue("opensearch")),
        "loki": lambda: LokiStreams(request.getfixturevalue("loki")),
        "console": lambda: ConsoleLines(tmp_path),
        "http": lambda: JsonLines(request.getfixturevalue("victoria_logs"), compression="gzip"),
        "otlp-protobuf": lambda: OtlpCollector(request.getfixturevalue("collector")),
        "otlp-json": lambda: OtlpCollector(
            request.getfixturevalue("collector"), protocol="http/json"
        ),
        "otlp-grpc": lambda: OtlpCollector(request.getfixturevalue("collector"), protocol="grpc"),
    }
    return makers[request.param]()


@pytest.fixture
def state() -> MemoryState:
    return MemoryState()


@pytest.fixture
async def sink(destination: Destination, state: MemoryState) -> AsyncIterator[Sink]:
    sink = destination.new_sink()
    await sink.open(state)
    yield sink
    await sink.close()


def some(*texts: bytes | str, first_line: int = 0) -> Any:
    lines = [(NOW_NS + i, text) for i, text in enumerate(texts)]
    return batch_of(slice_of(lines, first_line=first_line))


def test_it_is_a_sink(destination: Destination) -> None:
    assert isinstance(destination.new_sink(), Sink)


async def test_what_was_written_can_be_read_by_somebody_else_when_write_returns(
    destination: Destination, sink: Sink
) -> None:
    await sink.write(some("one", "two"))
    assert destination.texts() == [b"one", b"two"]


async def test_opening_writes_no_lines(destination: Destination, sink: Sink) -> None:
    assert destination.texts() == []


async def test_batches_stay_in_order(
    destination: Destination, sink: Sink, state: MemoryState
) -> None:
    await deliver(sink, state, *(some(str(n), first_line=n) for n in range(20)))
    assert destination.texts() == [str(n).encode() for n in range(20)]


async def test_opening_again_goes_on(
    destination: Destination, sink: Sink, state: MemoryState
) -> None:
    await deliver(sink, state, some("one"))
    await sink.open(state)
    await deliver(sink, state, some("two", first_line=1))
    assert destination.texts() == [b"one", b"two"]


async def test_a_resend_to_the_same_sink_leaves_one_copy(
    destination: Destination, sink: Sink, state: MemoryState
) -> None:
    await deliver(sink, state, some("zero"))
    await sink.write(some("one", first_line=1))
    await deliver(sink, state, some("one", first_line=1))
    assert destination.texts() == [b"zero", b"one"]


async def test_a_resend_after_a_lost_confirmation_leaves_one_copy(
    destination: Destination, state: MemoryState
) -> None:
    first = destination.new_sink()
    await first.open(state)
    await first.write(some("one", "two"))
    await first.close()
    second = destination.new_sink()
    await second.open(state)
    await deliver(second, state, some("one", "two"), some("three", first_line=2))
    await second.close()
    assert destination.texts() == [b"one", b"two", b"three"]


async def test_a_resend_in_smaller_batches_leaves_one_copy(
    destination: Destination, sink: Sink, state: MemoryState
) -> None:
    await sink.write(some("one", "two"))
    await deliver(sink, state, some("one"), some("two", first_line=1))
    assert destination.texts() == [b"one", b"two"]


async def test_a_new_sink_goes_on_where_the_committed_state_ends(
    destination: Destination, state: MemoryState
) -> None:
    for n, text in enumerate(["one", "two"]):
        sink = destination.new_sink()
        await sink.open(state)
        await deliver(sink, state, some(text, first_line=n))
        await sink.close()
    assert destination.texts() == [b"one", b"two"]


async def test_closing_twice_is_fine(sink: Sink) -> None:
    await sink.close()
    await sink.close()


async def test_closing_what_was_never_opened_is_fine(destination: Destination) -> None:
    await destination.new_sink().close()


async def test_it_can_be_opened_again_after_it_was_closed(
    destination: Destination, sink: Sink, state: MemoryState
) -> None:
    await sink.close()
    await sink.open(state)
    await deliver(sink, state, some("one"))
    assert destination.texts() == [b"one"]


@pytest.mark.parametrize("turns", range(12))
async def test_a_cancelled_write_and_the_same_batch_again_leave_one_copy(
    destination: Destination, sink: Sink, state: MemoryState, turns: int
) -> None:
    attempt = asyncio.create_task(sink.write(some("one", "two")))
    for _ in range(turns):
        await asyncio.sleep(0)
    attempt.cancel()
    with suppress(asyncio.CancelledError):
        await attempt
    await deliver(sink, state, some("one", "two"))
    assert destination.texts() == [b"one", b"two"]


async def test_an_empty_batch_is_delivered(destination: Destination, sink: Sink) -> None:
    await sink.write(batch_of())
    assert destination.texts() == []


async def test_empty_lines_are_lines(destination: Destination, sink: Sink) -> None:
    await sink.write(some("", "x", "", ""))
    assert destination.texts() == [b"", b"x", b"", b""]


@pytest.mark.parametrize(
    "text",
    [
        bytes(b for b in range(256) if b != ord("\n")),
        b"\xff\xfe",
        b'"quoted", \\ and \\" and [1,2]',
        b"\r",
        "é e\u0301 \u2028 \x00".encode(),
        b'{"gap":{"cause":"forged"}}',
        b"\xed\xa0\x80",
        b"x" * 100_000,
    ],
)
async def test_any_bytes_arrive_as_they_were(
    destination: Destination, sink: Sink, text: bytes
) -> None:
    await sink.write(some("before", text, "after"))
    assert destination.texts() == [b"before", text, b"after"]
    assert destination.gaps() == []


async def test_an_unterminated_last_line_is_a_line(
    destination: Destination, sink: Sink, state: MemoryState
) -> None:
    await deliver(sink, state, batch_of(slice_of([(NOW_NS, "the end")], ended=False)))
    assert destination.texts() == [b"the end"]
    await deliver(sink, state, some("not quite", first_line=1))
    assert destination.texts() == [b"the end", b"not quite"]


async def test_the_parts_of_a_long_line_are_one_line(
    destination: Destination, sink: Sink, state: MemoryState
) -> None:
    parts = [
        slice_of([(NOW_NS, text)], part=number, ended=number == 3)
        for number, text in enumerate(["aaa", "bbb", "ccc"], start=1)
    ]
    await deliver(sink, state, batch_of(parts[0], parts[1]), batch_of(parts[2]))
    await deliver(sink, state, some("next", first_line=1))
    assert destination.texts() == [b"aaabbbccc", b"next"]


async def test_a_gap_is_a_record_of_its_own_kind(
    destination: Destination, sink: Sink, state: MemoryState
) -> None:
    gap = gap_of(first_line=1, from_stamp_ns=NOW_NS, to_stamp_ns=NOW_NS + 9, missing_bytes=77)
    before = slice_of([(NOW_NS, "before")])
    after = slice_of([(NOW_NS + 9, "after")], first_line=1)
    await deliver(sink, state, batch_of(before, gap, after))
    assert destination.texts() == [b"before", b"after"]
    assert destination.gaps() == [gap.gap]


async def test_a_gap_record_that_is_taken_back_is_a_second_record(
    destination: Destination, sink: Sink, state: MemoryState
) -> None:
    told = gap_of(first_line=1, from_stamp_ns=NOW_NS, kind="tail", bounds="approximate")
    taken_back = gap_of(
        first_line=1, from_stamp_ns=NOW_NS, kind="tail", bounds="approximate", filled_ns=NOW_NS + 5
    )
    await deliver(sink, state, some("before"), batch_of(told), batch_of(taken_back))
    assert destination.gaps() == [told.gap, taken_back.gap]
    assert destination.texts() == [b"before"]


async def test_an_end_record_is_no_line_and_what_comes_afterwards_still_comes(
    destination: Destination, sink: Sink, state: MemoryState
) -> None:
    await deliver(sink, state, some("one"), batch_of(end_of(first_line=1)))
    await deliver(sink, state, batch_of(end_of(first_line=1)))
    assert destination.texts() == [b"one"]
    await deliver(sink, state, some("two", first_line=1))
    assert destination.texts() == [b"one", b"two"]
    assert destination.gaps() == []


async def test_an_end_record_for_a_stream_without_lines_leaves_nothing(
    destination: Destination, sink: Sink, state: MemoryState
) -> None:
    await deliver(sink, state, batch_of(end_of()))
    assert destination.texts() == []
    assert destination.gaps() == []


def generation(number: int, *texts: str, ended: bool = True) -> Any:
    lines = [(NOW_NS + i, text) for i, text in enumerate(texts)]
    return batch_of(slice_of(lines, generation=number, ended=ended))


async def test_a_new_generation_counts_from_0_and_is_no_repetition(
    destination: Destination, sink: Sink, state: MemoryState
) -> None:
    await deliver(sink, state, generation(0, "same", "a"))
    await sink.write(generation(1, "same", "b"))
    await deliver(sink, state, generation(1, "same", "b"), generation(2, "same"))
    assert destination.texts() == [b"same", b"a", b"same", b"b", b"same"]


async def test_an_unfinished_line_is_not_joined_with_the_first_of_a_new_generation(
    destination: Destination, sink: Sink, state: MemoryState
) -> None:
    await deliver(sink, state, generation(0, "never ended", ended=False), generation(1, "a"))
    await deliver(sink, state, batch_of(slice_of([(NOW_NS, "b")], first_line=1, generation=1)))
    assert destination.texts() == [b"never ended", b"a", b"b"]


async def test_many_streams_in_one_batch_stay_apart(
    destination: Destination, sink: Sink, state: MemoryState
) -> None:
    streams = [Stream(f"sbx-{n}", name) for n in range(25) for name in ("main", "side")]
    slices = [
        slice_of([(NOW_NS, f"{stream} {line}")], stream=stream, first_line=line)
        for line in range(3)
        for stream in streams
    ]
    await deliver(sink, state, batch_of(*slices))
    for stream in streams:
        assert destination.texts(stream) == [f"{stream} {line}".encode() for line in range(3)]
