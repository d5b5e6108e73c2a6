"""Whatever a log has, an object of any format gives it back."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forwarder.stamps import decode_lines
from sinks.archive import ArchivedRecord
from sinks.interface import Columns, Slice, Stream
from sinks.ndjson import gap_stamp_ns, rfc3339
from sinks.s3.formats.gaps import gap_line
from sinks.s3.formats.registry import get_format
from sinks.s3.pieces import encode_pieces
from sinks.s3.runs import RunBuilder
from sinks.testing import end_of, gap_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sinks.s3.formats.interface import Compression, FormatName

FORMATS: tuple[FormatName, ...] = ("ndjson", "text", "otlp_json", "parquet")
COMPRESSIONS: tuple[Compression, ...] = ("zstd", "gzip", "none")
STREAMS = (
    Stream("sbx-1", "main"),
    Stream("sbx-1", "side", display_name="Näme", tags=("a", "b"), attributes={"service.name": "s"}),
    Stream("sbx-2", "main", image="ghcr.io/acme/python:3.11", annotations={"k": 'v"'}),
)
BASE_NS = 1_795_478_400_000_000_000


@dataclass
class Log:
    """Plays a stream as the daemon takes it: what is told to it becomes slices."""

    stream: Stream
    slices: list[Slice]
    generation: int = 0
    next_line: int = 0
    stamp_ns: int = BASE_NS

    def lines(self, lines: Iterable[tuple[int | None, bytes]], *, ended: bool = True) -> None:
        """Whole lines; those without a stamp are told with None."""
        raw = b"\n".join(_line(stamp_ns, text) for stamp_ns, text in lines)
        raw += b"\n" if ended or not raw or raw.endswith(b"\n") else b""
        columns = Columns(*decode_lines(raw, self.stamp_ns))
        self._add(raw, columns)
        self.stamp_ns = columns.stamps_ns[-1]
        self.next_line += len(columns.texts)

    def parts(self, texts: Sequence[bytes], *, first: int, ended: bool) -> None:
        """Parts of one line, which ends behind them."""
        for index, text in enumerate(texts):
            part = first + index
            raw = _line(self.stamp_ns, text) if part == 1 else text
            raw += b"\n" if ended and index == len(texts) - 1 else b""
            self._add(raw, Columns((self.stamp_ns,), (text,)), part)
        self.next_line += 1

    def gap(self, cause: str) -> None:
        """Something is missing."""
        from_ns, generation = self.stamp_ns - 5, self.generation
        self.slices.append(
            gap_of(
                stream=self.stream,
                first_line=self.next_line,
                cause=cause,
                before_line=self.next_line + 1,
                from_stamp_ns=from_ns,
                generation=generation,
            )
        )

    def end(self) -> None:
        """The stream is over, for now."""
        self.slices.append(end_of(stream=self.stream, first_line=self.next_line))

    def restart(self) -> None:
        """The container begins anew."""
        self.generation += 1
        self.next_line = 0

    def _add(self, raw: bytes, columns: Columns, part: int = 0) -> None:
        self.slices.append(
            Slice(
                stream=self.stream,
                first_line=self.next_line,
                line_count=len(columns.texts),
                raw=raw,
                received_ns=BASE_NS,
                decode=lambda _: columns,
                part=part,
                generation=self.generation,
            )
        )


def _line(stamp_ns: int | None, text: bytes) -> bytes:
    return text if stamp_ns is None else rfc3339(stamp_ns).encode() + b" " + text


def written(slices: Sequence[Slice], name: FormatName, compression: Compression) -> bytes:
    """An object of everything."""
    form = get_format(name, 3)
    file = io.BytesIO()
    writer = form.writer(file, compression)
    for piece in encode_pieces(form, slices, False):
        writer.add(piece.chunk)
    writer.finish()
    return file.getvalue()


def read_back(
    data: bytes, slices: Sequence[Slice], name: FormatName, compression: Compression
) -> list[ArchivedRecord]:
    form = get_format(name, 3)
    builder = RunBuilder()
    for piece in encode_pieces(form, slices, False):
        source = slices[piece.place]
        builder.add(0, source, piece.start, piece.stop, piece.first_ns, piece.last_ns)
    batches = form.read(io.BytesIO(data), compression, builder.runs(0))
    return [record for batch in batches for record in batch]


def records_of(slices: Iterable[Slice]) -> list[ArchivedRecord]:
    """What must come back."""
    found = []
    for source in slices:
        identity = (*source.stream.identity, source.generation)
        if source.gap is not None:
            line, ns = gap_line(source.gap), gap_stamp_ns(source)
            found.append(ArchivedRecord(*identity, line, 0, ns, b"", source.gap))
        elif source.end is None:
            numbers = range(source.first_line, source.first_line + source.line_count)
            columns = zip(numbers, source.columns.stamps_ns, source.columns.texts, strict=True)
            found += [ArchivedRecord(*identity, n, source.part, ns, t) for n, ns, t in columns]
    return found


def with_parts_in_the_first(records: Iterable[ArchivedRecord]) -> list[ArchivedRecord]:
    """The same where the first of parts that follow each other has the text of them all."""
    found: list[ArchivedRecord] = []
    first = 0
    for record in records:
        last = found[-1] if found else None
        goes_on = (
            last is not None
            and record.part > 1
            and (record.part, record.line, record.generation)
            == (last.part + 1, last.line, last.generation)
        )
        if goes_on:
            found[first] = replace(found[first], text=found[first].text + record.text)
            found.append(replace(record, text=b""))
        else:
            first = len(found)
            found.append(record)
    return found


stamps = st.one_of(st.none(), st.integers(0, 2**63 - 1), st.integers(BASE_NS, BASE_NS + 10**9))
texts = st.one_of(
    st.binary(max_size=20),
    st.text('a",\\[]{}\r\t\x00\x1c\x85\u2028é', max_size=12).map(str.encode),
    st.sampled_from([b"", b"#gap {}", b"\xff", "\N{GRINNING FACE}".encode()[:2], bytes(range(11))]),
).map(lambda text: text.replace(b"\n", b""))
whole = st.tuples(
    st.just("lines"), st.lists(st.tuples(stamps, texts), min_size=1, max_size=5), st.booleans()
)
parted = st.tuples(
    st.just("parts"),
    st.lists(texts.filter(bool), min_size=1, max_size=4),
    st.integers(1, 3),
    st.booleans(),
)
events = st.one_of(
    whole, parted, st.tuples(st.sampled_from(["gap", "end", "restart"])), whole, parted
)


@st.composite
def logs(draw: st.DrawFn, streams: int) -> list[Slice]:
    """What several streams say, mixed."""
    slices: list[Slice] = []
    mixed = [Log(stream, slices) for stream in STREAMS[:streams]]
    for log in mixed:
        log.lines([(BASE_NS, b"first")])
    for log, event in draw(st.lists(st.tuples(st.sampled_from(mixed), events), max_size=12)):
        match event:
            case ("lines", lines, bool() as ended):
                log.lines(lines, ended=ended)
            case ("parts", some, int() as first, bool() as ended):
                log.parts(some, first=first, ended=ended)
            case ("gap",):
                log.gap("anchor_lost")
            case ("end",):
                log.end()
            case _:
                log.restart()
    return slices


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("name", ["ndjson", "otlp_json", "parquet"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(slices=logs(streams=3))
def test_everything_comes_back_as_it_was(
    name: FormatName, compression: Compression, slices: list[Slice]
) -> None:
    data = written(slices, name, compression)
    assert read_back(data, slices, name, compression) == records_of(slices)
    assert written(slices, name, compression) == data


@pytest.mark.parametrize("compression", COMPRESSIONS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(slices=logs(streams=1))
def test_text_comes_back_with_its_parts_put_together(
    compression: Compression, slices: list[Slice]
) -> None:
    data = written(slices, "text", compression)
    found = read_back(data, slices, "text", compression)
    assert found == with_parts_in_the_first(records_of(slices))
    assert written(slices, "text", compression) == data


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("name", FORMATS)
def test_every_byte_comes_back(name: FormatName, compression: Compression) -> None:
    log = Log(STREAMS[0], [])
    every = [bytes([value]) for value in range(256) if value != ord("\n")]
    log.lines([(BASE_NS + at, text) for at, text in enumerate(every)])
    log.lines([(BASE_NS, b"".join(every))])
    data = written(log.slices, name, compression)
    assert read_back(data, log.slices, name, compression) == records_of(log.slices)


@pytest.mark.parametrize("name", FORMATS)
def test_a_huge_line_comes_back_from_its_parts(name: FormatName) -> None:
    log = Log(STREAMS[0], [])
    parts = [bytes([65 + number]) * (1 << 20) for number in range(5)]
    log.parts(parts, first=1, ended=True)
    log.lines([(BASE_NS, b"behind it")])
    data = written(log.slices, name, "zstd")
    records = read_back(data, log.slices, name, "zstd")
    assert [(one.line, one.part) for one in records] == [*((0, n) for n in range(1, 6)), (1, 0)]
    assert b"".join(one.text for one in records[:5]) == b"".join(parts)
    assert records[5].text == b"behind it"


@pytest.mark.parametrize("name", FORMATS)
def test_many_tiny_slices_of_many_streams_come_back(name: FormatName) -> None:
    slices: list[Slice] = []
    streams = [Stream(f"sbx-{number}", "main") for number in range(1 if name == "text" else 40)]
    logs_ = [Log(stream, slices) for stream in streams]
    for line in range(2000):
        logs_[line % len(logs_)].lines([(BASE_NS + line, b"line %d" % line)])
    data = written(slices, name, "zstd")
    assert read_back(data, slices, name, "zstd") == records_of(slices)
