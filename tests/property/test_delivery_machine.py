"""Delivery to a destination that says anything, with crashes: nothing lost, all counted once."""

from __future__ import annotations

import asyncio
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from structlog.testing import capture_logs

from forwarder.errors import SpoolUnavailableError
from forwarder.spool.files import StateDir
from forwarder.spool.requests import Wish
from forwarder.spool.sqlite import open_spool
from sinks.interface import SinkMisconfiguredError, SinkUnavailableError
from sinks.plan import DeliveryPlan
from sinks.testing import MemorySink, PickySink
from tests.fakes.clock import FakeClock
from tests.fakes.delivery import (
    FAST,
    NAME,
    ask,
    cursor_of,
    dispatcher,
    overview,
    running,
    take,
    until_seen,
)
from tests.fakes.spool import MeddledSpool

if TYPE_CHECKING:
    from sinks.interface import Batch, SinkState, StateChanges
    from sinks.testing import Record, RecordKey


@dataclass
class Mood:
    """How a destination is for a while.

    Attributes:
        seed: Of its whims.
        trouble: How many of ten attempts fail for no reason of their own.
        named: Whether it says which records it means.
        max_bytes: What is too large for it.
        patience: After so many attempts the daemon dies.
    """

    seed: int
    trouble: int
    named: bool
    max_bytes: int
    patience: int


class MoodySink(PickySink):
    """Takes its time, fails at whim before or after it took a batch, and refuses poison."""

    def __init__(self, mood: Mood, poison: set[bytes], kept: dict[RecordKey, Record]) -> None:
        later = {b"%d later" % number for number in range(0, 400, 3)} if mood.named else set()
        super().__init__(
            poison,
            later=later,
            max_bytes=mood.max_bytes,
            named=mood.named,
            inner=MemorySink(kept),
        )
        self.worn_out = asyncio.Event()
        self._mood = mood
        self._random = random.Random(mood.seed)
        self._under_way = 0
        self._open = False

    async def open(self, state: SinkState) -> None:
        assert not self._open
        assert not self._under_way
        self._open = True
        await super().open(state)

    async def close(self) -> None:
        assert self._open
        assert not self._under_way
        self._open = False
        await super().close()

    async def write(self, batch: Batch) -> StateChanges:
        assert self._open
        if len(self.attempts) >= self._mood.patience:
            self.worn_out.set()
        self._under_way += 1
        try:
            return await self._write(batch)
        finally:
            self._under_way -= 1

    async def _write(self, batch: Batch) -> StateChanges:
        fails = self._random.randrange(10) < self._mood.trouble
        for _ in range(self._random.randrange(12)):
            await asyncio.sleep(0)
        verdict = self._random.choice(
            [SinkUnavailableError("down"), SinkMisconfiguredError("no key"), LookupError("a bug")]
        )
        if fails and self._random.randrange(2):
            raise verdict
        changes = await super().write(batch)
        if fails:
            raise SinkUnavailableError("taken, and the answer was lost")
        return changes


moods = st.builds(
    Mood,
    seed=st.integers(0, 999),
    trouble=st.sampled_from([0, 0, 2, 5]),
    named=st.booleans(),
    max_bytes=st.sampled_from([1 << 20, 100, 40]),
    patience=st.integers(1, 40),
)
plans = st.builds(
    DeliveryPlan,
    max_records=st.sampled_from([None, 1, 3]),
    max_bytes=st.sampled_from([1, 30, 1000]),
    in_flight=st.integers(1, 4),
    fixed=st.booleans(),
    dead_letter_bytes=st.just(1 << 30),
)
PATIENT = Mood(0, 0, named=False, max_bytes=1 << 20, patience=10**9)


class DeliveryMachine(RuleBasedStateMachine):
    """Lines are taken; the daemon lives and dies; letters are sent again."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory(dir=FAST)
        self.runner = asyncio.Runner()
        self.path = Path(self.directory.name)
        self.spool = self.runner.run(open_spool(StateDir(self.path), now=lambda: 1))
        self.kept: dict[RecordKey, Record] = {}
        self.poison: set[bytes] = set()
        self.texts: list[bytes] = []
        self.gaps = 0
        self.cursor = 0

    @rule(
        frames=st.lists(
            st.lists(st.sampled_from(["fine", "fine", "later", "poison"]), max_size=6),
            min_size=1,
            max_size=8,
        )
    )
    def take(self, frames: list[list[str]]) -> None:
        """Frames of lines, each with what becomes of it; without lines a gap record."""
        raws = []
        for kinds in frames:
            first = len(self.texts)
            self.texts += [b"%d %s" % (first + at, kind.encode()) for at, kind in enumerate(kinds)]
            self.poison |= {text for text in self.texts[first:] if text.endswith(b"poison")}
            raws.append(b"\n".join(self.texts[first:]))
            self.gaps += not kinds
        self.runner.run(take(self.spool, *raws))

    @precondition(lambda self: self.texts)
    @rule(mood=moods, plan=plans, forgets=st.booleans())
    def live(self, mood: Mood, plan: DeliveryPlan, forgets: bool) -> None:
        """The daemon runs until the destination has worn it out, or has everything."""
        self.runner.run(self._live(mood, plan, forgets=forgets))

    @precondition(lambda self: self.texts)
    @rule(healed=st.booleans(), mood=moods, plan=plans)
    def replay(self, healed: bool, mood: Mood, plan: DeliveryPlan) -> None:
        """Somebody wants dead letters to be sent again, with or without having mended anything."""
        if healed:
            self.poison.clear()
        ask(self.path, Wish.REPLAY)
        self.runner.run(self._live(mood, plan, forgets=False))

    async def _live(self, mood: Mood, plan: DeliveryPlan, *, forgets: bool) -> None:
        meddled = MeddledSpool(self.spool)
        sink = MoodySink(mood, self.poison, self.kept)
        archive = dispatcher(sink, meddled.spool, FakeClock(), plan=plan)
        with capture_logs():
            async with running(archive) as tasks:
                archive.replay()
                done = asyncio.ensure_future(archive.wait_past(self.spool.last_frame_id))
                worn_out = asyncio.ensure_future(sink.worn_out.wait())
                async with asyncio.timeout(20.0):
                    await asyncio.wait(
                        {done, worn_out, *tasks}, return_when=asyncio.FIRST_COMPLETED
                    )
                assert not tasks[0].done(), tasks[0]
                if forgets:  # what was confirmed and not committed is forgotten, as by a kill
                    meddled.errors["advance"] = [SpoolUnavailableError("killed")] * 99
                done.cancel()
                worn_out.cancel()
        before, self.cursor = self.cursor, await cursor_of(self.spool)
        assert self.cursor >= before
        await self._add_up()

    async def _add_up(self) -> None:
        seen = await overview(self.spool)
        assert seen.taken == len(self.texts)
        assert seen.dropped == 0
        assert seen.delivered <= sum(1 for key in self.kept if not key[-1])

    def teardown(self) -> None:
        """In the end everything is there, or among the dead letters."""
        try:
            if self.texts:
                self.runner.run(self._finish())
            self.runner.run(self.spool.close())
        finally:
            self.runner.close()
            self.directory.cleanup()

    async def _finish(self) -> None:
        sink = MoodySink(PATIENT, self.poison, self.kept)
        archive = dispatcher(sink, self.spool, FakeClock(), plan=DeliveryPlan(in_flight=4))
        with capture_logs():
            async with running(archive):
                archive.replay()
                async with asyncio.timeout(20.0):
                    await archive.wait_past(self.spool.last_frame_id)
                await until_seen(self.spool, lambda one: one.replaying == 0)
        seen = await overview(self.spool)
        assert (seen.pending, seen.dropped) == (0, 0)
        ask(self.path, Wish.REPLAY)
        with capture_logs():
            letters = await self.spool.letters_to_replay(NAME, max_bytes=1 << 30)
        refused = [one.letter.first_line + at for one in letters for at in range(one.letter.lines)]
        arrived = [record.line for record in self.kept.values() if record.gap is None]
        assert sorted(arrived + refused) == list(range(len(self.texts))), "once, here or there"
        assert (seen.dead_lettered, seen.delivered) == (len(refused), len(arrived))
        assert len(self.kept) - len(arrived) == self.gaps


DeliveryMachine.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=8,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestDelivery = DeliveryMachine.TestCase
