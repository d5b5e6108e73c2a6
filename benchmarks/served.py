"""What the benchmark server serves: logs that are there from the start, paced ones, silent ones."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from benchmarks import corpus, wire

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class CorpusSpec:
    """A sandbox that has already written the corpus's first `size_bytes` bytes."""

    id: str
    size_bytes: int
    message_bytes: int
    grpc: bool = False
    """Prepared for the gRPC port instead of the Connect port; both are served either way."""


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """Sandboxes `<tag>-00000` and so on, with that tag, that write together `lines_per_s`.

    They begin when the stream of every one is open, and end after `duration_s`. With 0 lines/s
    they stay silent and never end.
    """

    tag: str
    count: int
    lines_per_s: int = 0
    duration_s: float = 0.0

    @property
    def ids(self) -> list[str]:
        return [f"{self.tag}-{number:05d}" for number in range(self.count)]


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """Everything a server process has to know."""

    corpus_path: str = ""
    corpora: tuple[CorpusSpec, ...] = ()
    groups: tuple[GroupSpec, ...] = ()
    with_grpc: bool = False

    def to_json(self) -> dict[str, object]:
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, object]) -> ServerSpec:
        corpora, groups = plain["corpora"], plain["groups"]
        assert isinstance(corpora, list)
        assert isinstance(groups, list)
        return cls(
            str(plain["corpus_path"]),
            tuple(CorpusSpec(**each) for each in corpora),
            tuple(GroupSpec(**each) for each in groups),
            bool(plain["with_grpc"]),
        )


@dataclass(eq=False)
class ServedSandbox:
    """One sandbox and its log. Times are those of the monotonic clock, 0 for "not yet"."""

    id: str
    tags: tuple[str, ...] = ()
    raw: bytearray | memoryview = field(default_factory=bytearray, repr=False)
    written_to_end: bool = False
    message_bytes: int = wire.ONE_LINE
    connect_body: bytearray | None = field(default=None, repr=False)
    grpc_entries: list[bytes] | None = field(default=None, repr=False)
    streams_opened: int = 0
    first_opened_ns: int = 0
    served_to_end_ns: int = 0
    _growth: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    @property
    def ended(self) -> bool:
        """Whether GetSandbox says COMPLETED: a log that was written before counts once served."""
        return self.written_to_end and self.served_to_end_ns > 0

    def opened(self) -> None:
        """Note that a stream was opened."""
        self.streams_opened += 1
        self.first_opened_ns = self.first_opened_ns or time.monotonic_ns()

    def served_to_end(self) -> None:
        """Note that a stream has delivered everything."""
        self.served_to_end_ns = self.served_to_end_ns or time.monotonic_ns()

    def append(self, line: bytes) -> None:
        """Write a line and wake the streams."""
        assert isinstance(self.raw, bytearray)
        self.raw += line
        self._wake()

    def end(self) -> None:
        """Write no more."""
        self.written_to_end = True
        self._wake()

    async def growth(self, position: int) -> bool:
        """Wait until there is more after `position`; False when there never will be."""
        while len(self.raw) <= position:
            if self.written_to_end:
                return False
            await self._growth.wait()
        return True

    def position_since(self, since_ns: int) -> int:
        """Where the first line with a stamp of at least `since_ns` begins."""
        wanted = corpus.stamp_text(since_ns).encode()
        raw = self.raw
        low, high = 0, len(raw)
        # The stamps rise and have a fixed width: their texts sort as they do.
        while low < high:
            middle = self._line_start((low + high) // 2)
            if bytes(raw[middle : middle + len(wanted)]) < wanted:
                low = self._next_line(middle)
            else:
                high = middle
        return low

    def position_of_tail(self, lines: int) -> int:
        """Where the newest so many lines begin."""
        position = len(self.raw)
        for _ in range(lines):
            if position == 0:
                break
            position = self._line_start(position - 1)
        return position

    def report(self) -> dict[str, object]:
        """What a measurement wants to know."""
        return {
            "bytes": len(self.raw),
            "sha256": hashlib.sha256(self.raw).hexdigest(),
            "streams_opened": self.streams_opened,
            "first_opened_ns": self.first_opened_ns,
            "served_to_end_ns": self.served_to_end_ns,
        }

    def _line_start(self, position: int) -> int:
        step = 512
        while position > 0:
            base = max(0, position - step)
            found = bytes(self.raw[base:position]).rfind(b"\n")
            if found >= 0:
                return base + found + 1
            position = base
        return 0

    def _next_line(self, position: int) -> int:
        while position < len(self.raw):
            found = bytes(self.raw[position : position + 512]).find(b"\n")
            if found >= 0:
                return position + found + 1
            position += 512
        return len(self.raw)

    def _wake(self) -> None:
        self._growth.set()
        self._growth.clear()


class Answers:
    """Whole answers, encoded before anything is measured, shared by sandboxes that say the same."""

    def __init__(self, raw: memoryview) -> None:
        self._raw = raw
        self._bodies: dict[tuple[int, int], bytearray] = {}
        self._entries: dict[tuple[int, int], list[bytes]] = {}

    def sandbox(self, spec: CorpusSpec) -> ServedSandbox:
        """A sandbox that has its whole answer ready."""
        view = self._raw[: spec.size_bytes]
        key = (spec.size_bytes, spec.message_bytes)
        start = wire.Session()
        if spec.grpc and key not in self._entries:
            self._entries[key] = list(wire.entries(view, spec.message_bytes, start, 0))
        elif not spec.grpc and key not in self._bodies:
            self._bodies[key] = wire.body(view, spec.message_bytes, start, 0)
        return ServedSandbox(
            spec.id,
            tags=("corpus",),
            raw=view,
            written_to_end=True,
            message_bytes=spec.message_bytes,
            connect_body=None if spec.grpc else self._bodies[key],
            grpc_entries=self._entries[key] if spec.grpc else None,
        )


class Group:
    """Sandboxes that write at a common pace, each line stamped with the moment of its sending."""

    #: Lines that are due together are written together; a finer tick only burns the core.
    TICK_S = 0.001

    def __init__(self, spec: GroupSpec) -> None:
        self.spec = spec
        self.sandboxes = [ServedSandbox(name, tags=(spec.tag,)) for name in spec.ids]
        self._everyone_reads = asyncio.Event()

    def opened(self) -> None:
        """Note that a stream of one of the sandboxes was opened."""
        if all(sandbox.streams_opened for sandbox in self.sandboxes):
            self._everyone_reads.set()

    async def run(self) -> None:
        """Write until the time is over; at once done for silent sandboxes."""
        if self.spec.lines_per_s == 0:
            return
        await self._everyone_reads.wait()
        rng = random.Random(self.spec.tag)
        total = int(self.spec.lines_per_s * self.spec.duration_s)
        started_s = time.monotonic()
        sent = 0
        while sent < total:
            due = min(total, int((time.monotonic() - started_s) * self.spec.lines_per_s))
            for number in range(sent, due):
                line = f"{corpus.stamp_text(time.time_ns())} {corpus.text(rng)}\n"
                self.sandboxes[number % self.spec.count].append(line.encode())
            sent = due
            await asyncio.sleep(self.TICK_S)
        for sandbox in self.sandboxes:
            sandbox.end()
