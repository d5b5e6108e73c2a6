"""What an OTLP destination was given, read back with the published messages and compared."""

from __future__ import annotations

import gzip
import hashlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from benchmarks.corpus import stamp_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

_UID = "log.record.uid"
_NUMBER_BYTES = 8


@dataclass(frozen=True, slots=True)
class Body:
    """The body of one request, as it was sent.

    Attributes:
        arrived_ns: When the last of it was there, by the wall clock.
    """

    arrived_ns: int
    content: bytes | bytearray

    def framed(self) -> bytes:
        """As bytes that `unframed` reads."""
        numbers = (self.arrived_ns, len(self.content))
        return b"".join(n.to_bytes(_NUMBER_BYTES, "big") for n in numbers) + self.content


def unframed(content: bytes) -> Iterator[Body]:
    """Every body in what `framed` made of them, put together."""
    position = 0
    while position < len(content):
        middle, start = position + _NUMBER_BYTES, position + 2 * _NUMBER_BYTES
        arrived_ns = int.from_bytes(content[position:middle], "big")
        position = start + int.from_bytes(content[middle:start], "big")
        yield Body(arrived_ns, content[start:position])


@dataclass(frozen=True, slots=True, order=True)
class Run:
    """Lines that follow each other in one body.

    Attributes:
        first: What the first is known by: its line number, or its stamp where there is none.
        sha256: Of the lines as the sandbox API sent them, stamps and newlines included.
    """

    first: int
    lines: int
    size_bytes: int
    sha256: bytes


def difference(found: Iterable[Run], corpus: Path, lines: int, *, numbered: bool) -> str:
    """How what was delivered differs from the corpus's first so many lines; empty when it does not.

    It does not when each line is there once, with its stamp and its text, byte for byte.

    Args:
        found: What was delivered, in any order.
        corpus: What was served.
        lines: How much of it.
        numbered: Whether runs are known by line numbers, not by stamps.
    """
    ordered = sorted(found)
    delivered = sum(run.lines for run in ordered)
    if delivered != lines:
        return f"{delivered} lines arrived, not {lines}"
    so_far = 0
    with corpus.open("rb") as file:
        for run in ordered:
            if numbered and run.first != so_far:
                return f"line {so_far} is missing, or line {run.first} is there twice"
            so_far += run.lines
            if hashlib.sha256(file.read(run.size_bytes)).digest() != run.sha256:
                return f"other stamps or texts in the {run.lines} lines up to line {so_far}"
    return ""


def read_runs(bodies: Sequence[Body], sandbox_id: str) -> list[Run]:
    """The lines of all bodies, read on every core; see `runs`."""
    with ProcessPoolExecutor() as pool:
        found = pool.map(partial(runs, sandbox_id=sandbox_id), bodies, chunksize=4)
        return [run for of_body in found for run in of_body]


def runs(body: Body, sandbox_id: str) -> list[Run]:
    """The lines of a body.

    Args:
        body: A request.
        sandbox_id: Whose record ids the lines have; when empty they have none and go by stamp.

    Raises:
        ValueError: A record is of another sandbox.
    """
    found: list[Run] = []
    first, lines = 0, list[bytes]()
    for record in records(body):
        key = _line_number(record, sandbox_id) if sandbox_id else record.time_unix_nano
        if lines and sandbox_id and key != first + len(lines):
            found.append(_run(first, lines))
            lines = []
        first = first if lines else key
        lines.append(_as_served(record))
    return [*found, _run(first, lines)] if lines else found


def records(body: Body) -> Iterator[LogRecord]:
    """Every log record of a body.

    Raises:
        ValueError: It is no request, or not whole.
    """
    try:
        request = ExportLogsServiceRequest.FromString(gzip.decompress(body.content))
    except (DecodeError, EOFError, OSError) as error:
        raise ValueError(f"a body of {len(body.content)} bytes is no request: {error}") from error
    for resource_logs in request.resource_logs:
        for scope_logs in resource_logs.scope_logs:
            yield from scope_logs.log_records


def names(bodies: Sequence[Body]) -> Iterator[tuple[str, int]]:
    """The sandbox and the line number of every record, by its id."""
    for body in bodies:
        yield from map(_name, records(body))


def _run(first: int, lines: Sequence[bytes]) -> Run:
    content = b"".join(lines)
    return Run(first, len(lines), len(content), hashlib.sha256(content).digest())


def _line_number(record: LogRecord, sandbox_id: str) -> int:
    sandbox, line = _name(record)
    if sandbox != sandbox_id:
        raise ValueError(f"a record of {sandbox}, which nobody asked for")
    return line


def _name(record: LogRecord) -> tuple[str, int]:
    """What a record's id says, which is `<sandbox>/<container>/<generation>/<line>`."""
    uid = next((each.value.string_value for each in record.attributes if each.key == _UID), "")
    try:
        sandbox, _, _, line = uid.split("/")
        return sandbox, int(line)
    except ValueError:
        raise ValueError(f"not the id of a line: {uid!r}") from None


def _as_served(record: LogRecord) -> bytes:
    seconds, nanoseconds = divmod(record.time_unix_nano, 1_000_000_000)
    return f"{_to_the_second(seconds)}.{nanoseconds:09d}Z {record.body.string_value}\n".encode()


@lru_cache(maxsize=64)
def _to_the_second(seconds: int) -> str:
    return stamp_text(seconds * 1_000_000_000).partition(".")[0]


@dataclass(frozen=True, slots=True)
class CatchingUp:
    """How a backlog was worked off.

    Attributes:
        lines: So many arrived until then.
        duration_s: From the arrival of the first body to that of the last one of the backlog.
        oldest_s: How old the first line was when it arrived.
    """

    lines: int
    duration_s: float
    oldest_s: float


def catching_up(bodies: Sequence[Body], live_s: float) -> CatchingUp:
    """From the first body to the first whose newest line is at most so old when it arrives.

    Lines are stamped with the moment of their sending.

    Raises:
        ValueError: That never came.
    """
    total, first_ns, oldest_ns = 0, 0, 0
    for body in sorted(bodies, key=lambda each: each.arrived_ns):
        stamps_ns = [record.time_unix_nano for record in records(body)]
        if not total:
            first_ns, oldest_ns = body.arrived_ns, min(stamps_ns)
        total += len(stamps_ns)
        if body.arrived_ns - max(stamps_ns) <= live_s * 1e9:
            duration_s = (body.arrived_ns - first_ns) / 1e9
            return CatchingUp(total, duration_s, (first_ns - oldest_ns) / 1e9)
    raise ValueError("the backlog was never worked off")
