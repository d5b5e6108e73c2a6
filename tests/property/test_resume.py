"""Taking lines exactly once, in a world that does its worst.

A log server in memory is read through a `Taker` as a follower reads it, with faults drawn at
random between any two bytes. Whatever happens, what was committed is the server's log byte for
byte, and every line that the server no longer had is inside a declared gap.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle, islice
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forwarder.errors import LogStreamError
from forwarder.model import Checkpoint, FrameDraft, FrameKind, Gap
from forwarder.source.overlap import Taken
from forwarder.source.resume import SECOND_NS, SessionLostError, since_ns, tail_ns
from forwarder.spool.interface import Tail
from forwarder.stamps import parse_stamp
from forwarder.taker import MISTRUST_AFTER, Take, Taker
from tests.fakes.log_server import Lie, Line, LogServer, SinceRules, stamped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.fakes.log_server import Connection

#: Raise it to look longer: `PROPERTY_FACTOR=40 pytest --timeout 0 tests/property`.
FACTOR = int(os.environ.get("PROPERTY_FACTOR", "1"))

BEGIN_NS = 1_780_000_000 * SECOND_NS + 123_456_789

ample = partial(
    settings,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


# The follower's part ------------------------------------------------------------------------------


@dataclass
class Reader:
    """Drives a `Taker` as a follower does, over a spool that is a list of frames.

    Attributes:
        held_from: For each gap, by its place among the frames, what the server held just then.
    """

    server: LogServer
    overlap_ns: int
    max_line_bytes: int = 1 << 20
    tail_bytes: int = 1 << 30
    frames: list[FrameDraft] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    held_from: dict[int, int] = field(default_factory=dict)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)

    def __post_init__(self) -> None:
        self.reopened = 0
        self.resumed = 0
        self.start()

    def start(self) -> None:
        """Begin from what was committed: also what a killed daemon does."""
        self.taker = Taker(
            self.checkpoint, max_line_bytes=self.max_line_bytes, overlap_ns=self.overlap_ns
        )
        self.connect()

    def connect(self, extra_bytes: int = 0) -> None:
        """Continue the session, or open a new stream."""
        if not self.taker.session[0]:
            self.reopen()
            return
        self.taker.resume()
        try:
            self.connection: Connection = self.server.resume(
                *self.taker.session, extra_bytes=extra_bytes
            )
            self.resumed += 1
        except LogStreamError:
            self.reopen()

    def reopen(self) -> None:
        self.commit()
        self.taker.reopen(self._tail())
        self.connection = self.server.open(since_ns(self.checkpoint, self.overlap_ns))
        self.reopened += 1

    def read(self, sizes: Sequence[int], *, lie: Lie | None = None, lie_at: int = -1) -> None:
        """Read entries of these sizes; offsets that cannot be believed end the stream."""
        for number, size in enumerate(sizes):
            entry = self.connection.send(size, lie if number == lie_at else None)
            try:
                self.taker.receive([entry])
            except SessionLostError:
                self.reopen()
                return

    def read_all(self, sizes: Sequence[int] = (1 << 20,)) -> None:
        while self.connection.rest_bytes:
            self.read(sizes)

    def commit(self) -> None:
        self.store(self.taker.take(now_ns=7))

    def store(self, take: Take | None) -> None:
        if take is not None:
            at = len(self.frames)
            self.frames += take.frames
            self.gaps += [gap for gap in take.gaps if not gap.filled_ns]
            self.checkpoint = take.checkpoint
            for index in range(at, len(self.frames)):
                if self.frames[index].kind is FrameKind.GAP:
                    self.held_from[index] = self.server.held_from

    def _tail(self) -> Tail:
        """The spool's rule: the newest frames, down to a stamp, cut short at a size."""
        from_ns = self.checkpoint.high_stamp_ns - tail_ns(self.overlap_ns)
        chosen: list[FrameDraft] = []
        size = 0
        for frame in reversed([one for one in self.frames if one.kind is not FrameKind.GAP]):
            if chosen and frame.high_stamp_ns < from_ns:
                break
            size += len(frame.raw)
            if chosen and size > self.tail_bytes:
                return Tail(_taken(chosen), from_ns=chosen[-1].first_stamp_ns)
            chosen.append(frame)
        return Tail(_taken(chosen))

    # What must hold ------------------------------------------------------------------------------

    @property
    def text(self) -> bytes:
        return b"".join(one.raw for one in self.frames if one.kind is not FrameKind.GAP)

    def check_numbers(self) -> None:
        """Line and part numbers are complete and unrepeated; high stamps never go back."""
        line = part = high_ns = 0
        for frame in self.frames:
            assert frame.first_line == line
            line += frame.lines
            assert frame.high_stamp_ns >= high_ns
            high_ns = frame.high_stamp_ns
            if frame.kind is FrameKind.PART:
                part += 1
                assert (frame.part, frame.lines) == (part, 1)
                part = 0 if frame.raw.endswith(b"\n") else part
            else:
                assert not part or frame is self.frames[-1]
                assert frame.part == 0
            if frame.kind is FrameKind.LINES:
                assert frame.lines == frame.raw.count(b"\n") + (not frame.raw.endswith(b"\n"))
        assert self.checkpoint.next_line == line

    def delivered(self) -> list[bytes | int]:
        """The lines, with their newlines, and for each gap its place among the frames."""
        found: list[bytes | int] = []
        parts = b""
        for at, frame in enumerate(self.frames):
            if frame.kind is FrameKind.GAP:
                found.append(at)
            elif frame.kind is FrameKind.PART:
                parts += frame.raw
                if parts.endswith(b"\n"):
                    found.append(parts)
                    parts = b""
            else:
                lines = frame.raw.split(b"\n")
                found += [line + b"\n" for line in lines[:-1]] + [
                    line for line in lines[-1:] if line
                ]
        return found + ([parts] if parts else [])


def _taken(newest_first: list[FrameDraft]) -> list[Taken]:
    return [Taken(one.kind, one.part, one.raw) for one in reversed(newest_first)]


def check_exact(reader: Reader) -> None:
    """R1 to R3 where the server still has everything."""
    assert reader.text == reader.server.text
    assert not reader.gaps
    reader.check_numbers()


def check_gaps(reader: Reader) -> None:
    """R1 to R3 where the server has dropped lines; every line's text must be unique."""
    lines = [line.raw for line in reader.server.lines]
    number = {raw: index for index, raw in enumerate(lines)}
    last, gap, cut_off = -1, False, False
    for one in reader.delivered():
        if isinstance(one, int):
            # No gap is declared while the last line taken could still be read.
            assert reader.held_from[one] > last
            gap, cut_off = True, False
            continue
        assert not cut_off
        index = number.get(one)
        if index is None:
            # The beginning of a line that a gap cuts off.
            begun = one.removesuffix(b"\n")
            index = next(n for n in range(last + 1, len(lines)) if lines[n].startswith(begun))
            cut_off = True
        assert index > last
        if index > last + 1:
            # What came before the first line ever seen is nobody's loss.
            assert gap or last < 0
            assert reader.server.held_from >= index
        last, gap = index - cut_off, False
    assert gap or last == len(lines) - 1
    reader.check_numbers()


# What is drawn ------------------------------------------------------------------------------------

SIZES = st.lists(st.sampled_from([0, 1, 2, 7, 30, 31, 32, 64, 100, 1000]), min_size=1, max_size=6)
RULES = st.builds(SinceRules, st.booleans(), st.booleans(), st.booleans())
Action = tuple[str, tuple[object, ...]]
Script = list[Action]


@dataclass(frozen=True)
class World:
    """One run: a server, a reader, and what happens to them."""

    rules: SinceRules
    overlap_ns: int
    max_line_bytes: int
    window_bytes: int
    tail_bytes: int
    script: Script


TEXTS = st.sampled_from(
    [
        b"",
        b"tick",
        b"tock",
        b"\r",
        b"h\xc3\xa9llo \xe2\x98\x83",
        b"\xff\x00",
        b"word " * 20,
        b"".join(b"%d," % number for number in range(60)),
    ]
)
ADVANCE_NS = st.sampled_from([0, 0, 0, 1, 1_000_000, 400_000_000, SECOND_NS, 4 * SECOND_NS])


def lines_drawn(
    overlap_ns: int, *, unique: bool, bare: bool
) -> st.SearchStrategy[tuple[object, ...]]:
    """(advance, how late, text, stamp shown) for some lines that are written together."""
    late = st.just(0) | st.sampled_from([0, overlap_ns // 3, overlap_ns])
    shown = st.sampled_from([True, True, True, True, not bare])
    return st.tuples(
        st.lists(st.tuples(ADVANCE_NS, late, TEXTS, shown), min_size=1, max_size=8), st.just(unique)
    )


FAULTS: st.SearchStrategy[Action] = st.one_of(
    st.tuples(st.just("cut"), st.sampled_from([0, 0, 1, 40, 64, 100, 5000]).map(lambda n: (n,))),
    st.tuples(st.just("skip"), st.sampled_from([1, 5, 40]).map(lambda n: (n,))),
    st.tuples(
        st.just("resume_with_a_lie"),
        st.tuples(
            st.sampled_from([0, 1, 64, 100, 5000]), st.integers(1, 200), st.sampled_from(Lie)
        ),
    ),
    st.sampled_from([(name, ()) for name in ("kill", "lose", "unanswered", "name_once")]),
)
READS: st.SearchStrategy[Action] = st.tuples(
    st.just("read"),
    st.tuples(
        SIZES,
        st.integers(1, 40),
        st.sampled_from([None, None, None, *Lie]),
        st.integers(0, 5),
    ),
)


def _episodes(
    writes: st.SearchStrategy[Action], *, retention: bool, small_tail: bool
) -> st.SearchStrategy[Script]:
    """Write, read, perhaps commit, break, and read on."""
    commit = st.sampled_from([[], [("commit", ())]])
    faults = FAULTS
    if small_tail:
        hour_ns = 3600 * SECOND_NS
        faults = FAULTS | st.tuples(
            st.just("set_clock"), st.sampled_from([-hour_ns, hour_ns]).map(lambda n: (n,))
        )
    if retention:
        faults = FAULTS | st.tuples(st.just("outage"), st.tuples(writes, st.integers(0, 9)))
    return st.builds(
        lambda write, read, commits, fault, again: [write, read, *commits, fault, *again],
        writes,
        READS,
        commit,
        faults,
        st.lists(READS, max_size=2),
    )


@st.composite
def worlds(draw: st.DrawFn, *, retention: bool = False, small_tail: bool = False) -> World:
    overlap_ns = draw(st.sampled_from([0, 2 * SECOND_NS, 15 * SECOND_NS]))
    writes = st.tuples(
        st.just("write"),
        lines_drawn(overlap_ns, unique=retention or small_tail, bare=not small_tail),
    )
    episodes = draw(
        st.lists(
            _episodes(writes, retention=retention, small_tail=small_tail), min_size=1, max_size=6
        )
    )
    return World(
        draw(RULES),
        overlap_ns,
        draw(st.sampled_from([40, 64, 10_000])),
        draw(st.sampled_from([1 << 20, 1 << 20, 100, 0])),
        draw(st.sampled_from([300, 1000])) if small_tail else 1 << 30,
        [action for episode in episodes for action in episode],
    )


def _unique(number: int, text: bytes) -> bytes:
    """The text made unique by its first byte, so that its beginning is too, and no stamp's."""
    return bytes([ord("@") + number]) + text


class Run:
    """Plays a world's script."""

    def __init__(self, world: World) -> None:
        self.server = LogServer(world.rules, window_bytes=world.window_bytes)
        self.clock_ns = BEGIN_NS
        self.reader = Reader(self.server, world.overlap_ns, world.max_line_bytes, world.tail_bytes)
        for name, arguments in world.script:
            getattr(self, name)(*arguments)

    def write(self, drawn: list[tuple[int, int, bytes, bool]], unique: bool) -> None:
        for advance_ns, late_ns, text, shown in drawn:
            self.clock_ns += advance_ns
            lines = self.server.lines
            if unique:
                text = _unique(len(lines), text)  # noqa: PLW2901 - that is the point
            if shown or self.server.held_from == len(lines):
                # What no line is before is stamped; and the very first is never late.
                stamp_ns = self.clock_ns - (late_ns if lines else 0)
                self.server.write(stamped(stamp_ns, text))
            else:
                self.server.write(Line(lines[-1].stamp_ns, text + b"\n"))

    def read(self, sizes: list[int], count: int, lie: Lie | None, lie_at: int) -> None:
        self.reader.read(list(islice(cycle(sizes), count)), lie=lie, lie_at=lie_at)

    def commit(self) -> None:
        self.reader.commit()

    def kill(self) -> None:
        self.reader.start()

    def cut(self, extra_bytes: int) -> None:
        self.reader.connect(extra_bytes)

    def set_clock(self, change_ns: int) -> None:
        """The server's clock is set; one line is taken before anything breaks again.

        Without it nobody could know: what is stamped an hour ago was not asked for. It begins a
        frame, because a frame is found by its first and its last stamp.
        """
        if self.reader.connection.filtered:
            return
        self.reader.read_all()
        self.reader.commit()
        self.clock_ns += change_ns
        self.write([(0, 0, b"set", True)], unique=True)
        self.reader.read_all()
        self.reader.commit()

    def lose(self) -> None:
        self.server.forget_sessions()
        self.reader.connect()

    def unanswered(self) -> None:
        """A new stream that ends before it brings anything."""
        self.reader.reopen()
        self.reader.reopen()

    def name_once(self) -> None:
        self.reader.connection.named = False

    def resume_with_a_lie(self, extra_bytes: int, size: int, lie: Lie) -> None:
        # Never one that makes a replayed entry exactly the one that was asked for: nothing could
        # tell it from the truth.
        self.reader.connect(extra_bytes)
        self.reader.read([size, size], lie=lie, lie_at=0)

    def skip(self, size: int) -> None:
        # Offsets that proved wrong three times in a row are not looked at, so that the stream goes
        # on; then nothing tells of bytes that are missing.
        if self.reader.taker._mismatches < MISTRUST_AFTER:
            self.reader.connection.skip(size)

    def outage(self, write: Action, back: int) -> None:
        """Cut off while lines are written, until the server holds only so many of them."""
        getattr(self, write[0])(*write[1])
        before = max(len(self.server.lines) - back, 0)
        # A line without a stamp has that of the line before it; nobody knows it without that line.
        while before < len(self.server.lines) and not parse_stamp(self.server.lines[before].raw):
            before += 1
        self.server.forget_lines(before)
        self.lose()

    def end(self, ending: str, last: bytes) -> Reader:
        """The sandbox ends, perhaps in the middle of a line, and is read to its end."""
        reader = self.reader
        self.server.write(
            stamped(self.clock_ns, _unique(len(self.server.lines), last), ended=False)
        )
        if ending == "refused":
            reader.read_all([1000])
            for size in (0, 40):
                reader.reopen()
                reader.read([size])
            reader.reopen()
            reader.store(reader.taker.keep_unfinished(now_ns=8))
        else:
            reader.reopen()
            reader.read_all([7, 100, 31])
            reader.store(reader.taker.finish(now_ns=8, read_to_end=False))
        return reader


ENDINGS = st.sampled_from(["read again", "refused"])


@ample(max_examples=600 * FACTOR)
@given(worlds(), ENDINGS, TEXTS)
def test_every_line_is_taken_exactly_once_whatever_breaks(
    world: World, ending: str, last: bytes
) -> None:
    check_exact(Run(world).end(ending, last))


@ample(max_examples=300 * FACTOR)
@given(worlds(small_tail=True), ENDINGS, TEXTS)
def test_a_tail_cut_short_by_its_size_loses_and_doubles_nothing(
    world: World, ending: str, last: bytes
) -> None:
    check_exact(Run(world).end(ending, last))


@ample(max_examples=600 * FACTOR)
@given(worlds(retention=True), TEXTS)
def test_what_the_server_dropped_is_inside_declared_gaps_and_nothing_else_is(
    world: World, last: bytes
) -> None:
    # Every line is unique here: where the server drops some of many lines that are equal in stamp
    # and text, nobody can tell which of them are missing.
    check_gaps(Run(world).end("read again", last))
