"""The spool against a model of it: any order of everything it does, with restarts and crashes."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from forwarder.model import (
    Checkpoint,
    DeadLetter,
    FrameDraft,
    FrameKind,
    Gap,
    GapCause,
    StreamInfo,
    StreamKey,
    StreamState,
)
from forwarder.spool import recent
from forwarder.spool.dead_letters import Choice
from forwarder.spool.dropping import drop_oldest, drop_tails
from forwarder.spool.files import StateDir
from forwarder.spool.interface import Delivery, DropReason, Replayed, StreamCommit
from forwarder.spool.keeping import NOTHING_KEPT, release_kept
from forwarder.spool.overview import gap_of_record
from forwarder.spool.requests import LetterRequest, Wish, put_request
from forwarder.spool.room import SpoolLimits
from forwarder.spool.sqlite import SqliteSpool, open_spool
from forwarder.spool.verify import verify

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from forwarder.model import Frame

_T = TypeVar("_T")

#: Where syncing costs nothing: what a power cut does is not asked here.
FAST = "/dev/shm" if Path("/dev/shm").is_dir() else None

#: So little stays in memory that frames are read from both places.
RECENT_BYTES = 20_000

#: What a flipped bit in a payload looks like.
FLIP = "UPDATE frame SET data = CAST(x'00' || substr(data, 2) AS BLOB) WHERE id = ?"

#: How much of a live stream every prune keeps.
KEEP_TAIL_NS = 30

KEYS = [StreamKey(f"sbx-{number}", name) for number in range(4) for name in ("", "side")]
SINKS = ["archive", "alerts", "metrics", "audit", "search", "spare"]

#: Where sinks write; two have no place of their own.
PLACES = ["/a", "/b", "/c", "/d", "", ""]


@dataclass
class Draft:
    """What hypothesis chooses of a frame; the model gives it its place."""

    kind: FrameKind
    raw: bytes
    lines: int
    stamp_ns: int
    last_ns: int
    restarted: bool = False  # it is the first of a new generation


@dataclass
class Stored:
    """A frame that was committed."""

    id: int
    stream: StreamKey
    draft: FrameDraft
    lines: int
    record: Gap | None = None  # that of what was given up here


@dataclass
class StreamModel:
    id: int
    info: StreamInfo
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    state: StreamState = StreamState.WAITING
    lines: int = 0
    bytes: int = 0
    gaps: int = 0


@dataclass
class LetterModel:
    letter: DeadLetter
    attempts: int = 1
    wanted: bool = False


@dataclass
class SinkModel:
    cursor: int
    delivery: Delivery = field(default_factory=Delivery)
    remembered: dict[str, bytes] = field(default_factory=dict)
    health: str = "starting"
    destination: str = ""
    retired: int = 0
    missed: set[int] = field(default_factory=set)
    letters: dict[int, LetterModel] = field(default_factory=dict)
    dropped_for: Counter[str] = field(default_factory=Counter)

    def drop(self, reason: DropReason, lines: int) -> None:
        self.delivery += Delivery(dropped=lines)
        self.dropped_for[reason] += lines

    @property
    def wanted(self) -> list[int]:
        return sorted(one for one, letter in self.letters.items() if letter.wanted)

    @property
    def done(self) -> int:
        one = self.delivery
        return one.delivered + one.filtered + one.dead_lettered + one.dropped


drafts = st.builds(
    Draft,
    kind=st.sampled_from(FrameKind),
    raw=st.binary(max_size=30) | st.binary(min_size=300, max_size=1500),
    lines=st.integers(1, 9),
    stamp_ns=st.integers(0, 120),
    last_ns=st.integers(0, 120),
    restarted=st.sampled_from([False] * 5 + [True]),
)
states = st.sampled_from([None, *StreamState, StreamState.COMPLETE, StreamState.COMPLETE])
parts_of_streams = st.lists(
    st.tuples(st.sampled_from(KEYS), st.lists(drafts, max_size=3), states),
    min_size=1,
    max_size=5,
    unique_by=lambda part: part[0],
)
keeps = st.sampled_from([0, 4])
offsets = st.integers(0, 2**64 - 1)
changes = st.dictionaries(
    st.sampled_from(["a", "b", "c"]), st.none() | st.binary(max_size=5), max_size=2
)


@st.composite
def letters_of(draw: st.DrawFn, stream_id: int, lines: int) -> list[DeadLetter]:
    """Dead letters with so many lines, and perhaps one that holds none."""
    sizes: list[int] = []
    while (left := lines - sum(sizes)) > 0:
        sizes.append(draw(st.integers(1, left)))
    if draw(st.booleans()):
        sizes.append(0)
    status = draw(st.sampled_from(["400", "413"]))
    raw = draw(st.binary(max_size=200))
    unnamed = 0 if lines else 3
    return [
        refusal(stream_id, size, line=number, raw=raw, status=status, unnamed=unnamed)
        for number, size in enumerate(sizes)
    ]


def refusal(
    stream_id: int,
    lines: int,
    *,
    line: int = 0,
    raw: bytes = b"text",
    status: str = "400",
    unnamed: int = 0,
) -> DeadLetter:
    kind = FrameKind.LINES if lines else FrameKind.GAP
    raw = b"" if unnamed else raw
    stamps = (100, 7)
    return DeadLetter(stream_id, kind, line, lines, *stamps, raw, status, "why", 9, unnamed=unnamed)


class SpoolMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.kept_bytes = recent.RECENT_BYTES
        recent.RECENT_BYTES = RECENT_BYTES
        self.runner = asyncio.Runner()
        self.root = Path(tempfile.mkdtemp(prefix="spool-model-", dir=FAST))
        self.lives = 0
        self.passed_ns = 0
        self.keep_ns = 0
        self.kept_from = NOTHING_KEPT
        self.streams: dict[StreamKey, StreamModel] = {}
        self.known_sinks: dict[str, SinkModel] = {}
        self.destinations: dict[str, str] = {}
        self.frames: list[Stored] = []
        self.held: set[int] = set()
        self.given_up: set[int] = set()
        self.uncompared: set[int] = set()
        self.shortened: set[StreamKey] = set()
        self.newest_id = 0
        self.newest_letter = 0
        self.committed: set[StreamKey] = set()
        self.spool = self.start(self.home())

    def run(self, work: Coroutine[None, None, _T]) -> _T:
        return self.runner.run(work)

    def home(self) -> StateDir:
        return StateDir(self.root / str(self.lives))

    def start(self, state: StateDir) -> SqliteSpool:
        state.path.mkdir(exist_ok=True)
        self.destinations = {}
        self.kept_from = 0 if self.keep_ns else NOTHING_KEPT
        limits = SpoolLimits(keep_ns=self.keep_ns)
        return self.run(open_spool(state, now=lambda: self.now_ns, limits=limits))

    @property
    def now_ns(self) -> int:
        return self.passed_ns + 1

    def teardown(self) -> None:
        problems = verify(self.home()).problems
        assert not [one for one in problems if one.startswith(("sink", "dead letter", "table"))]
        self.run(self.spool.close())
        self.runner.close()
        shutil.rmtree(self.root)
        recent.RECENT_BYTES = self.kept_bytes

    def after(self, cursor: int) -> list[Stored]:
        return [one for one in self.frames if one.id > cursor and one.id in self.held]

    def of(self, key: StreamKey) -> list[Stored]:
        return [one for one in self.frames if one.stream == key]

    @property
    def sinks(self) -> dict[str, SinkModel]:
        """Those that are configured."""
        return {name: sink for name, sink in self.known_sinks.items() if not sink.retired}

    @property
    def lowest_cursor(self) -> int:
        return min((sink.cursor for sink in self.sinks.values()), default=0)

    # Streams -------------------------------------------------------------------------------------

    @initialize(keep_ns=keeps)
    def begin(self, keep_ns: int) -> None:
        self.keep_ns = keep_ns
        self.run(self.spool.close())
        self.spool = self.start(self.home())
        self.open_sink(SINKS[0], from_oldest=True)
        for key in KEYS:
            self.open_stream(key, "")

    @rule(key=st.sampled_from(KEYS), name=st.text(max_size=3))
    def open_stream(self, key: StreamKey, name: str) -> None:
        info = StreamInfo(key, display_name=name, tags=("t", name), attributes={"k": name})
        record = self.run(self.spool.open_stream(info))
        known = self.streams.setdefault(key, StreamModel(record.id, info))
        known.info = info
        assert record.key == key
        assert record.id == known.id
        assert record.checkpoint == known.checkpoint
        assert record.state == known.state
        assert len({stream.id for stream in self.streams.values()}) == len(self.streams)

    @rule(parts=parts_of_streams, offset=offsets)
    def commit(
        self, parts: list[tuple[StreamKey, list[Draft], StreamState | None]], offset: int
    ) -> None:
        commits = [
            self.to_commit(key, chosen, state, offset)
            for key, chosen, state in parts
            if self.streams[key].state is not StreamState.COMPLETE
        ]
        self.run(self.spool.commit(commits))
        for one in commits:
            self.follow(one)
        assert self.spool.last_frame_id == self.newest_id

    @rule(
        parts=parts_of_streams,
        more=parts_of_streams,
        lazy=st.none() | st.sampled_from(SINKS),
        refused=st.integers(0, 3),
        data=st.data(),
    )
    def work(
        self,
        parts: list[tuple[StreamKey, list[Draft], StreamState | None]],
        more: list[tuple[StreamKey, list[Draft], StreamState | None]],
        lazy: str | None,
        refused: int,
        data: st.DataObject,
    ) -> None:
        """The usual: something comes in, goes out, is refused, deleted, and more comes in."""
        self.commit(parts, 0)
        self.drain(lazy, refused)
        self.commit(more, 0)
        if self.with_letters:
            self.replay(data, data.draw(st.sampled_from([0, 1 << 20])))

    def to_commit(
        self, key: StreamKey, chosen: list[Draft], state: StreamState | None, offset: int
    ) -> StreamCommit:
        stream = self.streams[key]
        at = stream.checkpoint
        line, high_ns, generation = at.next_line, at.high_stamp_ns, at.generation
        frames = []
        gaps = []
        for one in chosen:
            if one.restarted:
                line, generation = 0, generation + 1
            lines = {FrameKind.LINES: one.lines, FrameKind.PART: 1}.get(one.kind, 0)
            if one.kind is FrameKind.GAP:
                gaps.append(Gap(GapCause.ANCHOR_LOST, line - 1, 0, 0, 1, to_offset=offset))
            if one.kind.holds_lines:
                high_ns = max(high_ns, one.stamp_ns, one.last_ns)
            part = 1 if one.kind is FrameKind.PART else 0
            stamps = (one.stamp_ns, one.last_ns, high_ns, self.now_ns)
            frames.append(FrameDraft(one.kind, one.raw, line, lines, part, *stamps, generation))
            line += lines
        session = (f"session {offset % 3}", offset)
        after = Checkpoint(line, 0, high_ns, high_ns, *session, generation)
        return StreamCommit(stream.id, frames, after, gaps, state, "why" if state else "")

    def follow(self, commit: StreamCommit) -> None:
        key, stream = next(
            (key, stream) for key, stream in self.streams.items() if stream.id == commit.stream_id
        )
        for draft in commit.frames:
            self.frames.append(Stored(len(self.frames) + 1, key, draft, draft.lines))
            self.held.add(len(self.frames))
            self.newest_id = len(self.frames)
        self.committed.add(key)
        stream.checkpoint = commit.checkpoint
        stream.state = commit.state or stream.state
        stream.lines += commit.lines
        stream.bytes += commit.raw_bytes
        stream.gaps += len(commit.gaps)

    @rule(
        key=st.sampled_from(KEYS),
        reach_ns=st.integers(-5, KEEP_TAIL_NS),
        max_bytes=st.sampled_from([0, 100, 2000, 1 << 20]),
    )
    def tail(self, key: StreamKey, reach_ns: int, max_bytes: int) -> None:
        """A live stream's tail is there whatever was pruned: all that ever was is looked at."""
        stream = self.streams[key]
        if stream.state is StreamState.COMPLETE:
            return
        from_ns = stream.checkpoint.high_stamp_ns - reach_ns
        tail = self.run(self.spool.tail(stream.id, from_ns=from_ns, max_bytes=max_bytes))
        lines = self.usable(key)
        reaching = [one for one in lines if one.high_stamp_ns >= from_ns] or lines[-1:]
        expected: list[FrameDraft] = []
        for draft in reversed(reaching):
            if expected and sum(len(one.raw) for one in [*expected, draft]) > max_bytes:
                break
            expected.insert(0, draft)
        # Without a stamp there is nothing to cut by; of a stream that was unknown little is kept.
        if stream.checkpoint.high_stamp_ns == 0 or key in self.shortened:
            assert [one.raw for one in tail.frames][-1:] == [one.raw for one in lines][-1:]
            return
        assert [(one.kind, one.part, one.raw) for one in tail.frames] == [
            (one.kind, one.part, one.raw) for one in expected
        ]
        holes = [one.draft.high_stamp_ns for one in self.of(key) if self.is_hole(one)]
        if not expected:
            assert tail.from_ns == (max(stream.checkpoint.high_stamp_ns, 1) if holes else 0)
            return
        cut = len(expected) < len(reaching) or max(holes, default=-1) >= max(from_ns, 0)
        assert tail.from_ns == expected[0].first_stamp_ns or not cut
        assert tail.from_ns == 0 or cut or holes

    def usable(self, key: StreamKey) -> list[FrameDraft]:
        """The frames of lines behind the last that was given up, or is not kept any more."""
        frames = self.of(key)
        while any(self.is_hole(one) for one in frames):
            frames = frames[1:]
        return [one.draft for one in frames if one.draft.kind.holds_lines]

    def is_hole(self, one: Stored) -> bool:
        """Whether lines are missing here. A re-read brings no records of ours: these are none."""
        return one.id in self.given_up | self.uncompared and one.lines > 0

    # Sinks ---------------------------------------------------------------------------------------

    @rule(name=st.sampled_from(SINKS), from_oldest=st.booleans())
    def open_sink(self, name: str, from_oldest: bool) -> None:
        record = self.run(self.spool.open_sink(name, from_oldest=from_oldest))
        if name not in self.known_sinks:
            begin = min(self.held) - 1 if from_oldest and self.held else len(self.frames)
            destination = self.destinations.get(name, "")
            # What it can never get was not lost to it: it was gone when the sink was made.
            gone = {one.id for one in self.frames} - (self.held - self.given_up)
            self.known_sinks[name] = SinkModel(begin, destination=destination, missed=gone)
        assert record.missed == self.bring_back(self.known_sinks[name])
        assert record.cursor == self.sinks[name].cursor
        assert record.state == self.sinks[name].remembered
        self.read_backlog(name)

    def read(self, name: str, max_bytes: int) -> list[Frame]:
        """What a sink reads next is what comes next, wherever it is read from."""
        cursor = self.sinks[name].cursor
        frames = list(self.run(self.spool.read(cursor, max_bytes=max_bytes)))
        expected = self.after(cursor)
        assert bool(frames) == bool(expected)
        assert [one.id for one in frames] == [one.id for one in expected[: len(frames)]]
        for frame, stored in zip(frames, expected, strict=False):
            assert_same(frame, stored, self.streams[stored.stream].id)
            assert self.spool.stream_info(frame.stream_id) == self.streams[stored.stream].info
        size = sum(len(frame.raw) for frame in frames)
        assert len(frames) == 1 or size <= max_bytes
        return frames

    @precondition(lambda self: self.sinks)
    @rule(
        data=st.data(),
        max_bytes=st.sampled_from([0, 1000, 1 << 20]),
        part=st.integers(0, 5),
        changes=changes,
    )
    def deliver(
        self, data: st.DataObject, max_bytes: int, part: int, changes: dict[str, bytes | None]
    ) -> None:
        name = data.draw(st.sampled_from(sorted(self.sinks)))
        frames = self.read(name, max_bytes)
        if not frames:
            return
        frames = frames[: data.draw(st.integers(1, len(frames)))]
        lines = sum(frame.lines for frame in frames)
        aside = min(part, lines)
        delivery = Delivery(lines - aside, *[aside if part % 3 == one else 0 for one in range(3)])
        letters = data.draw(letters_of(frames[0].stream_id, delivery.dead_lettered))
        self.advance(name, frames, changes, delivery, letters)

    def advance(
        self,
        name: str,
        frames: list[Frame],
        changes: dict[str, bytes | None],
        delivery: Delivery,
        letters: list[DeadLetter],
    ) -> None:
        self.run(self.spool.advance(name, frames[-1].id, changes, delivery, letters))
        sink = self.sinks[name]
        sink.cursor = frames[-1].id
        sink.delivery += dataclasses.replace(delivery, dropped=0)
        sink.drop(DropReason.REFUSED_UNNAMED, delivery.dropped)
        for letter in letters:
            self.newest_letter += 1
            sink.letters[self.newest_letter] = LetterModel(letter)
        self.keep(sink, changes)

    # Dead letters --------------------------------------------------------------------------------

    @precondition(lambda self: self.with_letters)
    @rule(data=st.data(), wish=st.sampled_from([*Wish, Wish.REPLAY]), some=st.booleans())
    def ask(self, data: st.DataObject, wish: Wish, *, some: bool) -> None:
        """An operator asks; a sink that is not configured has letters, too."""
        name = data.draw(st.sampled_from(self.with_letters))
        sink = self.known_sinks[name]
        ids = None
        if some:
            ids = tuple(data.draw(st.lists(st.sampled_from(sorted(sink.letters)), min_size=1)))
        upto_id = data.draw(st.sampled_from(sorted(sink.letters)))
        status = data.draw(st.sampled_from([None, "400", "413"]))
        put_request(self.home(), LetterRequest(wish, name, Choice(upto_id, ids, status)))
        self.run(self.spool.letters_to_replay("nobody", max_bytes=0))
        for letter_id, one in list(sink.letters.items()):
            chosen = letter_id <= upto_id and (ids is None or letter_id in ids)
            if not chosen or status not in {None, one.letter.status}:
                continue
            if wish is Wish.REPLAY:
                one.wanted = one.wanted or not one.letter.unnamed
            else:
                del sink.letters[letter_id]
                sink.delivery += Delivery(dead_lettered=-one.letter.lines)
                sink.drop(DropReason.DEAD_LETTERS_DROPPED, one.letter.lines)

    @precondition(lambda self: self.with_letters)
    @rule(data=st.data(), max_bytes=st.sampled_from([0, 100, 1 << 20]))
    def replay(self, data: st.DataObject, max_bytes: int) -> None:
        """What was asked for is sent again: delivered, refused again, or a part of each."""
        self.ask(data, Wish.REPLAY, some=False)
        wanting = [name for name, sink in self.known_sinks.items() if sink.wanted]
        name = data.draw(st.sampled_from(wanting or SINKS))
        sink = self.known_sinks.get(name, SinkModel(0))
        found = self.run(self.spool.letters_to_replay(name, max_bytes=max_bytes))
        assert bool(found) == bool(sink.wanted)
        assert [one.id for one in found] == sink.wanted[: len(found)]
        outcome = {}
        for held in found:
            known = sink.letters[held.id]
            assert (held.letter, held.attempts) == (known.letter, known.attempts)
            assert self.spool.stream_info(held.letter.stream_id).key in self.streams
            lines = held.letter.lines
            refused = data.draw(st.integers(0, lines))
            dropped = data.draw(st.integers(0, lines - refused))
            again = data.draw(letters_of(held.letter.stream_id, refused))
            outcome[held.id] = Replayed(again, dropped)
        self.run(self.spool.settle_replay(name, {**outcome, 10**9: Replayed()}))
        for letter_id, replayed in outcome.items():
            self.settled(sink, letter_id, replayed)

    def settled(self, sink: SinkModel, letter_id: int, replayed: Replayed) -> None:
        before = sink.letters.pop(letter_id)
        for one in replayed.again:
            if letter_id in sink.letters:
                self.newest_letter += 1
                letter_id = self.newest_letter
            sink.letters[letter_id] = LetterModel(one, before.attempts + 1)
        again = sum(one.lines for one in replayed.again)
        gone = before.letter.lines - again
        sink.delivery += Delivery(gone - replayed.dropped, dead_lettered=-gone)
        sink.drop(DropReason.REFUSED_UNNAMED, replayed.dropped)

    @property
    def with_letters(self) -> list[str]:
        return sorted(name for name, sink in self.known_sinks.items() if sink.letters)

    @rule(lazy=st.none() | st.sampled_from(SINKS), refused=st.integers(0, 3))
    def drain(self, lazy: str | None, refused: int) -> None:
        """Every sink takes everything, save perhaps one, and what nobody needs is deleted."""
        for name in self.sinks:
            while name != lazy and (frames := self.read(name, 1000)):
                lines = sum(frame.lines for frame in frames)
                aside = min(refused, lines)
                letters = [refusal(frames[0].stream_id, aside)] if aside else []
                self.advance(name, frames, {}, Delivery(lines - aside, 0, aside), letters)
        self.prune()

    @precondition(lambda self: self.sinks)
    @rule(data=st.data(), changes=changes, health=st.sampled_from(["running", "held"]))
    def remember(self, data: st.DataObject, changes: dict[str, bytes | None], health: str) -> None:
        name = data.draw(st.sampled_from(sorted(self.sinks)))
        self.run(self.spool.remember(name, changes))
        self.run(self.spool.note_sink(name, health, "why"))
        self.keep(self.sinks[name], changes)
        self.sinks[name].health = health

    @staticmethod
    def keep(sink: SinkModel, changes: dict[str, bytes | None]) -> None:
        merged = {**sink.remembered, **changes}
        sink.remembered = {key: value for key, value in merged.items() if value is not None}

    def bring_back(self, sink: SinkModel) -> int:
        """What was deleted while a sink was not configured is dropped, and counted once."""
        if not sink.retired:
            return 0
        sink.retired = 0
        gone = {one.id: one.lines for one in self.frames if one.id > sink.cursor}
        missed = set(gone) - (self.held - self.given_up) - sink.missed
        sink.missed |= missed
        lines = sum(gone[one] for one in missed)
        sink.drop(DropReason.NOT_CONFIGURED, lines)
        return lines

    # Lines that are given up ----------------------------------------------------------------------

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        """The disk gives something else back: noticed when read, and a record from then on."""
        broken = data.draw(st.sampled_from(sorted(self.held)))
        self.run(self.spool._writer.run(lambda one: one.execute(FLIP, (broken,))))
        self.spool._recent.forget(broken)
        (frame,) = self.run(self.spool.read(broken - 1, max_bytes=0))
        assert (frame.id, frame.kind, frame.lines) == (broken, FrameKind.GAP, 0)
        self.replace([self.frames[broken - 1]], frame)

    @rule(data=st.data(), most=st.integers(1, 6))
    def drop(self, data: st.DataObject, most: int) -> None:
        """The oldest lines go that some sink wants, none that a sink was handed."""
        handed = {
            name: sink.cursor + data.draw(st.integers(0, 3))
            for name, sink in self.sinks.items()
            if data.draw(st.booleans())
        }
        expected = self.droppable(handed)[:most]
        left = iter(range(most))
        dropped = self.run(
            self.spool._writer.run(
                lambda one: drop_oldest(
                    one,
                    handed=handed,
                    enough=lambda _: next(left, None) is None,
                    now_ns=self.now_ns,
                )
            )
        )
        self.spool._recent.forget(dropped.newest_id)
        assert sum(lines for _, lines in dropped.gaps) == sum(one.lines for one in expected)
        for run in self.runs(expected, handed):
            (frame,) = self.run(self.spool.read(run[-1].id - 1, max_bytes=0))
            assert (frame.id, frame.kind) == (run[-1].id, FrameKind.GAP)
            self.replace(run, frame)

    @rule(most=st.integers(1, 6))
    def drop_tails(self, most: int) -> None:
        """The oldest go that are kept for nothing but comparison."""
        past = [one for one in sorted(self.held) if one <= self.lowest_cursor][:most]
        left = iter(range(most))
        newest_id = self.run(
            self.spool._writer.run(
                lambda one: drop_tails(one, enough=lambda _: next(left, None) is None)
            )
        )
        self.spool._recent.forget(newest_id)
        assert newest_id == max(past, default=0)
        self.held -= set(past)
        self.uncompared |= set(past)

    def droppable(self, handed: dict[str, int]) -> list[Stored]:
        return [
            one
            for one in self.frames
            if self.sinks
            and one.id in self.held
            and one.id > self.lowest_cursor
            and one.draft.kind.holds_lines
            and not self.is_handed(one, handed)
        ]

    def is_handed(self, one: Stored, handed: dict[str, int]) -> bool:
        return any(self.sinks[name].cursor < one.id <= upto for name, upto in handed.items())

    def runs(self, dropped: list[Stored], handed: dict[str, int]) -> list[list[Stored]]:
        """What becomes one record: neighbours in a stream on the same side of every cursor."""
        borders = {sink.cursor for sink in self.known_sinks.values()}
        borders |= {upto for name, upto in handed.items() if upto > self.sinks[name].cursor}
        runs: list[list[Stored]] = []
        for key in self.streams:
            before: Stored | None = None
            for one in (one for one in self.of(key) if one.id in self.held):
                goes = one in dropped
                apart = (
                    before is None
                    or before.draft.generation != one.draft.generation
                    or any(before.id <= at < one.id for at in borders)
                )
                if goes and not apart and before is not None and self.joins(before, runs, handed):
                    if not runs or runs[-1][-1] is not before:
                        runs.append([before])
                    runs[-1].append(one)
                elif goes:
                    runs.append([one])
                before = one
        return runs

    def joins(self, before: Stored, runs: list[list[Stored]], handed: dict[str, int]) -> bool:
        """Whether a frame goes as well, or is the record of some that went."""
        if runs and runs[-1][-1] is before:
            return True
        earlier = before.record is not None and before.record.cause is GapCause.SPOOL_FULL
        return earlier and before.id > self.lowest_cursor and not self.is_handed(before, handed)

    def replace(self, run: list[Stored], frame: Frame) -> None:
        """A record is in their place now, exactly as wide as they were."""
        first, last = run[0], run[-1]
        lines = sum(one.draft.lines for one in run)
        gap = gap_of_record(frame.raw)
        stream = self.streams[last.stream]
        grown = first.record is not None and len(run) > 1
        start = first.record.after_line + 1 if grown and first.record else first.draft.first_line
        assert gap.generation == frame.generation == first.draft.generation
        if lines or first.record is None:
            assert (gap.after_line + 1, gap.before_line) == (
                start,
                last.draft.first_line + last.draft.lines,
            )
        stream.gaps += 0 if grown else 1
        for sink in self.sinks.values():
            if sink.cursor < last.id:
                full = gap.cause is GapCause.SPOOL_FULL
                sink.drop(DropReason.SPOOL_FULL if full else DropReason.DAMAGED, lines)
                sink.missed |= {one.id for one in run}
        self.held -= {one.id for one in run[:-1]}
        self.given_up |= {one.id for one in run}
        last.record = gap
        last.draft = dataclasses.replace(
            last.draft,
            kind=FrameKind.GAP,
            raw=frame.raw,
            first_line=frame.first_line,
            lines=0,
            part=0,
            first_stamp_ns=frame.first_stamp_ns,
            last_stamp_ns=frame.last_stamp_ns,
            received_ns=frame.received_ns,
        )

    @rule(names=st.lists(st.sampled_from(SINKS), unique=True), places=st.permutations(PLACES))
    def configure_sinks(self, names: list[str], places: list[str]) -> None:
        destinations = dict(zip(names, places, strict=False))
        self.rename_sinks(destinations)
        pending = {
            name: self.pending(sink)
            for name, sink in self.sinks.items()
            if name not in destinations
        }
        assert self.run(self.spool.configure_sinks(destinations)) == pending
        self.destinations = destinations
        self.passed_ns += 1
        for name in pending:
            self.known_sinks[name].retired = self.passed_ns
        for name in destinations.keys() & self.known_sinks.keys():
            self.known_sinks[name].destination = destinations[name]

    def rename_sinks(self, destinations: dict[str, str]) -> None:
        """A new name for a known destination is the sink that wrote there last."""
        for name, place in destinations.items():
            if name in self.known_sinks or not place:
                continue
            olds = [
                old
                for old, sink in self.known_sinks.items()
                if sink.destination == place and old not in destinations
            ]
            if olds:
                old = max(olds, key=lambda old: self.known_sinks[old].retired or sys.maxsize)
                self.known_sinks[name] = self.known_sinks.pop(old)

    def pending(self, sink: SinkModel) -> int:
        return sum(one.draft.lines for one in self.after(sink.cursor))

    # The whole -----------------------------------------------------------------------------------

    def prune(self) -> None:
        """A record in the place of what was kept may stay until its stream's next commit."""
        self.pass_kept()
        doomed = {one for key in self.streams for one in self.doomed(key)} & self.held
        doomed = {one for one in doomed if one < self.kept_from}
        count = self.run(self.spool.prune(keep_tail_ns=KEEP_TAIL_NS))
        self.shortened |= {
            key for key, one in self.streams.items() if one.state is StreamState.NOT_FOUND
        }
        rows = self.run(
            self.spool._writer.run(lambda one: one.execute("SELECT id FROM frame").fetchall())
        )
        left = {row[0] for row in rows}
        assert left <= self.held
        assert self.held - left <= doomed
        assert count == len(self.held - left)
        late = [self.frames[one - 1] for one in doomed & left]
        assert all(one.record and one.stream not in self.committed for one in late)
        self.held = left
        self.committed.clear()

    @rule(by_ns=st.integers(1, 6))
    def time_passes(self, by_ns: int) -> None:
        self.passed_ns += by_ns

    def kept(self) -> list[int]:
        """What may be kept though every sink is past it, in order."""
        return [one for one in sorted(self.held) if self.kept_from <= one <= self.lowest_cursor]

    def pass_kept(self) -> None:
        """Up to the first frame that was not held for so long, nothing is kept any more."""
        if not self.keep_ns:
            return
        received = {one: self.frames[one - 1].draft.received_ns for one in self.kept()}
        young = (one for one, at_ns in received.items() if self.now_ns - at_ns < self.keep_ns)
        self.kept_from = max(self.kept_from, next(young, self.lowest_cursor + 1))

    @rule(most=st.integers(1, 6))
    def release(self, most: int) -> None:
        """For want of room the oldest go that are only kept, save the tails of streams."""
        looked_at = self.kept()
        chosen = looked_at[:most]
        doomed = {one for key in self.streams for one in self.doomed(key)}
        left = iter(range(most))
        keeping = self.spool._gate.keeping
        released = self.run(
            self.spool._writer.run(
                lambda one: release_kept(
                    one,
                    keeping.from_id,
                    keep_tail_ns=KEEP_TAIL_NS,
                    enough=lambda _: next(left, None) is None,
                )
            )
        )
        keeping.pass_to(released.from_id)
        self.spool._recent.forget(released.newest_id)
        assert released.frames == len(doomed & set(chosen))
        self.held -= doomed & set(chosen)
        if chosen:
            self.shortened |= {
                key for key, one in self.streams.items() if one.state is StreamState.NOT_FOUND
            }
        behind = chosen[-1] + 1 if len(looked_at) > most else self.lowest_cursor + 1
        self.kept_from = max(self.kept_from, behind)

    def doomed(self, key: StreamKey) -> set[int]:
        """What nobody needs: every sink is past it, and it is not in a live stream's tail."""
        stream = self.streams[key]
        past = [one for one in self.of(key) if one.id <= self.lowest_cursor]
        if stream.state is StreamState.COMPLETE:
            return {one.id for one in past}
        everything = stream.state is StreamState.NOT_FOUND
        high_ns = stream.checkpoint.high_stamp_ns
        lines = [
            one.id for one in self.of(key) if one.draft.kind.holds_lines and one.id in self.held
        ]
        before_ns = high_ns - KEEP_TAIL_NS
        old = {one.id for one in past if everything or one.draft.high_stamp_ns < before_ns}
        return old - set(lines[-1:])

    @rule(crash=st.booleans(), keep_ns=keeps)
    def restart(self, crash: bool, keep_ns: int) -> None:
        """After a crash what is in the files now is all that is left."""
        dead = self.spool
        if crash:
            before = self.home()
            self.lives += 1
            shutil.copytree(before.path, self.home().path)
            (self.home().path / "spool.db-shm").unlink(missing_ok=True)
        else:
            self.run(dead.close())
        self.keep_ns = keep_ns
        self.spool = self.start(self.home())
        self.run(dead.close())
        self.look_around()

    def look_around(self) -> None:
        """Everything acknowledged is there."""
        self.newest_id = max(self.held, default=0)
        self.committed = set(KEYS)
        assert self.spool.last_frame_id == self.newest_id
        for key, stream in self.streams.items():
            self.open_stream(key, stream.info.display_name)
        for name in self.sinks:
            self.open_sink(name, from_oldest=True)

    def read_backlog(self, name: str) -> None:
        """Read everything a sink has not had, batch by batch, without moving its cursor."""
        cursor = self.sinks[name].cursor
        seen: list[int] = []
        while frames := self.run(self.spool.read(cursor, max_bytes=1000)):
            seen += [frame.id for frame in frames]
            cursor = frames[-1].id
        assert seen == [one.id for one in self.after(self.sinks[name].cursor)]

    @invariant()
    def the_numbers_add_up(self) -> None:
        overview = self.run(self.spool.overview())
        assert overview.frames == len(self.held)
        past = [self.frames[one - 1] for one in self.held if one <= self.lowest_cursor]
        assert overview.kept_lines == sum(one.draft.lines for one in past)
        assert overview.kept_bytes == sum(len(one.draft.raw) for one in past)
        assert {one.name for one in overview.sinks} == set(self.sinks)
        for one in overview.sinks:
            sink = self.sinks[one.name]
            mine = (one.delivered, one.filtered, one.dead_lettered, one.dropped)
            assert Delivery(*mine) == sink.delivery
            assert one.pending == self.pending(sink)
            assert one.pending_bytes == sum(len(x.draft.raw) for x in self.after(sink.cursor))
            assert one.taken == sink.done + one.pending
            assert one.state == sink.health
            assert one.dropped_for == {
                why: lines for why, lines in sink.dropped_for.items() if lines
            }
            letters = sink.letters.values()
            assert (one.dead_letters, one.replaying) == (len(letters), len(sink.wanted))
            assert one.dead_lettered == sum(letter.letter.lines for letter in letters)
            assert one.dead_letter_bytes == sum(letter.letter.size_bytes for letter in letters)
        assert {one.key for one in overview.streams} == set(self.streams)
        for stream in overview.streams:
            known = self.streams[stream.key]
            assert (stream.lines, stream.bytes) == (known.lines, known.bytes)
            assert stream.generation == known.checkpoint.generation
            assert (stream.state, stream.gaps) == (known.state, known.gaps)


def assert_same(frame: Frame, stored: Stored, stream_id: int) -> None:
    draft = stored.draft
    assert frame.stream_id == stream_id
    assert (frame.kind, frame.raw, frame.part) == (draft.kind, draft.raw, draft.part)
    assert (frame.first_line, frame.lines) == (draft.first_line, draft.lines)
    assert frame.generation == draft.generation
    assert (frame.first_stamp_ns, frame.last_stamp_ns, frame.received_ns) == (
        draft.first_stamp_ns,
        draft.last_stamp_ns,
        draft.received_ns,
    )


SpoolMachine.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestSpoolAgreesWithItsModel = SpoolMachine.TestCase
