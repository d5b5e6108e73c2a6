from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

import pytest
from structlog.testing import capture_logs

from forwarder.errors import SpoolUnavailableError, SpoolUntrustedError
from forwarder.model import SinkHealth
from forwarder.outlet import HOLD_INITIAL_S, HOLD_MAX_S, SinkOutlet
from sinks.interface import (
    BatchRejectedError,
    PartlyDeliveredError,
    Refusal,
    SinkMisconfiguredError,
    SinkUnavailableError,
)
from sinks.plan import DeliveryPlan
from sinks.testing import FailingSink, GatedSink, MemorySink, MemoryState, batch_of, slice_of
from tests.fakes.clock import FakeClock
from tests.fakes.delivery import settled_down, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from forwarder.spool.interface import Spool
    from sinks.interface import Batch, Sink, SinkState, StateChanges

DOWN = SinkUnavailableError("down")
NO_KEY = SinkMisconfiguredError("no key")


class Notes:
    """The one thing that an outlet asks of a spool."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, str]] = []
        self.errors: list[Exception] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def note_sink(self, sink: str, state: str, detail: str) -> None:
        assert sink == "archive"
        await self.gate.wait()
        if self.errors:
            raise self.errors.pop(0)
        self.notes.append((state, detail))


class State(MemoryState):
    """What a sink remembers, as the outlet sees it."""

    def apply(self, changes: Mapping[str, bytes | None]) -> None:
        self.commit(changes)


class Bench:
    """An outlet with all that it needs; in time that stands still unless told otherwise."""

    def __init__(
        self, sink: Sink, *, plan: DeliveryPlan | None = None, clock: FakeClock | None = None
    ) -> None:
        self.clock = clock or FakeClock(instant=False)
        self.notes = Notes()
        self.state = State()
        self.tasks: list[asyncio.Task[StateChanges]] = []
        self.outlet = SinkOutlet(
            "archive",
            sink,
            plan=plan or DeliveryPlan(),
            spool=cast("Spool", self.notes),
            clock=self.clock,
        )

    def write(self, *first_ids: int, records: int = 1) -> list[asyncio.Task[StateChanges]]:
        tasks = [
            asyncio.ensure_future(self.outlet.write(batch(first_id, records)))
            for first_id in first_ids
        ]
        self.tasks += tasks
        return tasks


def batch(first_id: int = 1, records: int = 1) -> Batch:
    lines = [(5, b"%d" % number) for number in range(records)]
    return batch_of(slice_of(lines), first_id=first_id)


@asynccontextmanager
async def bench(
    sink: Sink,
    *,
    in_flight: int = 1,
    timeout_s: float | None = None,
    give_up_after_s: float = float("inf"),
    clock: FakeClock | None = None,
) -> AsyncIterator[Bench]:
    """One whose sink is open; what is under way at the end is cancelled, and has to end."""
    plan = DeliveryPlan(in_flight=in_flight, timeout_s=timeout_s, give_up_after_s=give_up_after_s)
    one = Bench(sink, plan=plan, clock=clock)
    await one.outlet.open(one.state)
    await one.outlet.running()
    yield one
    for task in one.tasks:
        task.cancel()
    await asyncio.gather(*one.tasks, return_exceptions=True)


class Script:
    """Does in each `write` what it is told to for that batch, and notes every call.

    Args:
        acts: By the batch's first frame: what its writes do, in order. A verdict is raised, an
            event waited for; without more of them a write succeeds.
        opens: What `open` raises, in order.
    """

    def __init__(
        self,
        acts: Mapping[int, list[Exception | asyncio.Event]],
        *,
        opens: tuple[Exception, ...] = (),
    ) -> None:
        self.acts = {first_id: list(acts[first_id]) for first_id in acts}
        self.opens = list(opens)
        self.calls: list[str] = []
        self.under_way = 0

    async def open(self, state: SinkState) -> None:
        self.calls.append(f"open during {self.under_way}")
        if self.opens:
            raise self.opens.pop(0)

    async def write(self, batch: Batch) -> StateChanges:
        self.calls.append(f"write {batch.first_id}")
        self.under_way += 1
        acts = self.acts.get(batch.first_id, [])
        try:
            while acts:
                act = acts.pop(0)
                if isinstance(act, Exception):
                    raise act
                await act.wait()
        finally:
            self.under_way -= 1
        return {f"written {batch.first_id}": b"yes"}

    async def close(self) -> None:
        self.calls.append(f"close during {self.under_way}")

    @property
    def writes(self) -> list[str]:
        return [call for call in self.calls if call.startswith("write")]


# Several at once ----------------------------------------------------------------------------------


async def test_so_many_are_written_at_once_as_the_plan_says() -> None:
    sink = GatedSink()
    async with bench(sink, in_flight=3) as one:
        tasks = one.write(1, 2, 3, 4, 5)
        await sink.came(3)
        await settled_down(lambda: len(sink.waiting))
        assert [waiting.first_id for waiting in sink.waiting] == [1, 2, 3]
        sink.release(2)
        await until(lambda: [waiting.first_id for waiting in sink.waiting] == [1, 3, 4])
        sink.release(1, 3, 4, 5)
        await asyncio.gather(*tasks)
        assert sink.most == 3


async def test_a_sink_that_is_down_is_asked_by_one_request_at_a_time() -> None:
    gate = asyncio.Event()
    twice: list[Exception | asyncio.Event] = [gate, DOWN, DOWN]
    once: list[Exception | asyncio.Event] = [gate, DOWN]
    sink = Script({1: twice, 2: twice, 3: once, 4: once})
    async with bench(sink, in_flight=4) as one:
        tasks = one.write(1, 2, 3, 4)
        await until(lambda: sink.under_way == 4)
        gate.set()
        await one.clock.slept_times(1)
        await settled_down(lambda: len(sink.calls))
        assert len(sink.writes) == 4
        for attempts in (5, 6):
            one.clock.advance(30.0)
            await one.clock.slept_times(attempts - 3)
            await settled_down(lambda: len(sink.calls))
            assert len(sink.writes) == attempts
        one.clock.advance(30.0)
        await asyncio.gather(*tasks)
        assert len(sink.writes) == 10


async def test_several_that_fail_together_are_one_failure() -> None:
    gate = asyncio.Event()
    sink = Script({n: [gate, SinkUnavailableError("down")] for n in (1, 2, 3, 4)})
    async with bench(sink, in_flight=4) as one:
        one.write(1, 2, 3, 4)
        await until(lambda: sink.under_way == 4)
        gate.set()
        await one.clock.slept_times(1)
        await settled_down(lambda: len(one.clock.slept))
        assert one.clock.slept == [0.125]


async def test_several_that_are_misconfigured_together_are_one_hold() -> None:
    gate = asyncio.Event()
    sink = Script({n: [gate, NO_KEY] for n in (1, 2, 3, 4)})
    async with bench(sink, in_flight=4) as one:
        tasks = one.write(1, 2, 3, 4)
        await until(lambda: sink.under_way == 4)
        gate.set()
        await one.clock.slept_times(1)
        assert one.clock.slept == [HOLD_INITIAL_S / 2]
        one.clock.advance(HOLD_MAX_S)
        await asyncio.gather(*tasks)
        assert sink.calls.count("close during 0") == 1


async def test_a_success_that_began_before_a_failure_does_not_end_the_pause() -> None:
    late = asyncio.Event()
    sink = Script({1: [late], 2: [SinkUnavailableError("slow down", retry_after_s=60.0)]})
    async with bench(sink, in_flight=2) as one:
        first, second = one.write(1, 2)
        await one.clock.slept_times(1)
        late.set()
        await first
        (third,) = one.write(3)
        await settled_down(lambda: len(sink.calls))
        assert (sink.writes, one.outlet.health) == (["write 1", "write 2"], SinkHealth.RETRYING)
        one.clock.advance(60.0)
        await asyncio.gather(second, third)
        assert one.outlet.health is SinkHealth.RUNNING


async def test_nothing_is_being_written_while_a_held_sink_is_closed_and_opened() -> None:
    late = asyncio.Event()
    sink = Script({1: [late], 2: [NO_KEY]})
    async with bench(sink, in_flight=2) as one:
        tasks = one.write(1, 2)
        await until(lambda: one.outlet.health is SinkHealth.HELD)
        await settled_down(lambda: len(sink.calls))
        assert sink.calls == ["open during 0", "write 1", "write 2"]
        late.set()
        await one.clock.slept_times(1)
        one.clock.advance(HOLD_MAX_S)
        await asyncio.gather(*tasks)
        assert sink.calls[3:] == ["close during 0", "open during 0", "write 2"]


async def test_a_hold_outranks_a_failure_that_was_noticed_before_it() -> None:
    late = asyncio.Event()
    sink = Script({1: [late, NO_KEY], 2: [DOWN]})
    async with bench(sink, in_flight=2) as one:
        tasks = one.write(1, 2)
        await one.clock.slept_times(1)
        late.set()
        await until(lambda: one.outlet.health is SinkHealth.HELD)
        one.clock.advance(30.0)
        await asyncio.gather(*tasks)
        assert one.outlet.health is SinkHealth.RUNNING


# Pauses -------------------------------------------------------------------------------------------


async def test_the_pause_grows_until_something_gets_through() -> None:
    clock = FakeClock()
    sink = FailingSink([DOWN, DOWN, DOWN, None, DOWN])
    async with bench(sink, clock=clock) as one:
        await one.outlet.write(batch())
        await one.outlet.write(batch())
        assert clock.slept == [0.125, 0.25, 0.5, 0.125]


async def test_a_refusal_is_an_answer() -> None:
    clock = FakeClock()
    sink = FailingSink([DOWN, BatchRejectedError("bad"), DOWN])
    async with bench(sink, clock=clock) as one:
        with pytest.raises(BatchRejectedError):
            await one.outlet.write(batch())
        assert one.outlet.health is SinkHealth.RUNNING
        await one.outlet.write(batch())
        assert clock.slept == [0.125, 0.125]


async def test_where_nothing_was_taken_the_whole_comes_again_after_a_pause_that_grows() -> None:
    clock = FakeClock()
    busy = PartlyDeliveredError("busy", again=[0, 1], retry_after_s=3.0)
    sink = FailingSink([busy, PartlyDeliveredError("busy", again=[1, 0]), busy])
    async with bench(sink, clock=clock) as one:
        await one.outlet.write(batch(records=2))
        assert clock.slept == [3.0, 0.25, 3.0]


async def test_where_some_was_taken_the_rest_waits_and_the_pause_does_not_grow() -> None:
    clock = FakeClock()
    sink = FailingSink([PartlyDeliveredError("busy", again=[1])] * 3)
    async with bench(sink, clock=clock) as one:
        for _ in range(3):
            with pytest.raises(PartlyDeliveredError):
                await one.outlet.write(batch(records=2))
            assert one.outlet.health is SinkHealth.RETRYING
        await one.outlet.write(batch())
        assert clock.slept == [0.125] * 3
    assert one.notes.notes == [("running", ""), ("retrying", "busy")]


async def test_where_all_is_settled_nothing_waits() -> None:
    clock = FakeClock()
    refused = PartlyDeliveredError("bad", refused={0: Refusal("bad")})
    sink = FailingSink([refused, None])
    async with bench(sink, clock=clock) as one:
        with pytest.raises(PartlyDeliveredError):
            await one.outlet.write(batch(records=2))
        await one.outlet.write(batch())
        assert clock.slept == []


@pytest.mark.parametrize(
    "verdict",
    [
        PartlyDeliveredError("x", again=[2]),
        PartlyDeliveredError("x", refused={-1: Refusal("x")}),
        PartlyDeliveredError("x", again=[0], refused={5: Refusal("x")}),
    ],
)
async def test_a_verdict_on_records_that_were_not_sent_is_a_bug(
    verdict: PartlyDeliveredError,
) -> None:
    clock = FakeClock()
    async with bench(FailingSink([verdict]), clock=clock) as one:
        with capture_logs() as logs:
            assert await one.outlet.write(batch(records=2)) == {}
    assert [log["event"] for log in logs].count("sink met a bug") == 1
    assert clock.slept == [0.125]


# Time, and its end --------------------------------------------------------------------------------


async def test_a_write_without_an_answer_is_cancelled_and_tried_again() -> None:
    never = asyncio.Event()
    sink = Script({1: [never]})
    async with bench(sink, timeout_s=0.01, clock=FakeClock()) as one:
        assert await one.outlet.write(batch()) == {"written 1": b"yes"}
        assert ("retrying", "no answer within 0.01 s") in one.notes.notes
        assert sink.writes == ["write 1"] * 2


async def test_a_time_out_of_the_sinks_own_is_its_bug() -> None:
    async with bench(FailingSink([TimeoutError()]), timeout_s=60.0, clock=FakeClock()) as one:
        with capture_logs() as logs:
            await one.outlet.write(batch())
    assert [log["event"] for log in logs].count("sink met a bug") == 1


class Hanging(MemorySink):
    """Neither opens the first time, nor closes."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = 0

    async def open(self, state: SinkState) -> None:
        self.opened += 1
        if self.opened == 1:
            await asyncio.Event().wait()

    async def close(self) -> None:
        await asyncio.Event().wait()


async def test_opening_and_closing_have_their_time_too() -> None:
    sink = Hanging()
    with capture_logs() as logs:
        async with bench(sink, timeout_s=0.01, clock=FakeClock()) as one:
            await one.outlet.write(batch())
            await one.outlet.close()
    assert sink.opened == 2
    assert [log["event"] for log in logs].count("sink did not close") == 2


async def test_after_so_long_of_failing_a_batch_is_given_up() -> None:
    sink = FailingSink([SinkUnavailableError("down")] * 1000)
    async with bench(sink, give_up_after_s=3600.0, clock=FakeClock()) as one:
        with pytest.raises(PartlyDeliveredError) as given_up:
            await one.outlet.write(batch(records=2))
        reason = Refusal("given up: down", "given_up", maybe_stored=True)
        assert given_up.value.refused == {0: reason, 1: reason}
        assert 3600.0 <= one.clock.monotonic_s() <= 3630.0


async def test_a_batch_of_which_nothing_is_ever_taken_is_given_up_too() -> None:
    sink = FailingSink([PartlyDeliveredError("busy", again=[0])] * 1000)
    async with bench(sink, give_up_after_s=60.0, clock=FakeClock()) as one:
        with pytest.raises(PartlyDeliveredError, match="busy") as given_up:
            await one.outlet.write(batch())
        assert given_up.value.refused[0].status == "given_up"


async def test_what_is_held_or_a_bug_is_never_given_up() -> None:
    verdicts: list[Exception | None] = [NO_KEY] * 50
    verdicts += [SinkUnavailableError("down"), *[LookupError("bug")] * 50]
    sink = FailingSink(verdicts)
    with capture_logs():
        async with bench(sink, give_up_after_s=60.0, clock=FakeClock()) as one:
            await one.outlet.write(batch())
    assert len(sink.attempts) == 102
    assert one.clock.monotonic_s() > 600.0


# Bugs in sinks ------------------------------------------------------------------------------------


class Cancelling(MemorySink):
    """Raises what only the engine may; the first time in each method."""

    def __init__(self) -> None:
        super().__init__()
        self._done: set[str] = set()

    async def _once(self, name: str) -> None:
        if name not in self._done:
            self._done.add(name)
            raise asyncio.CancelledError

    async def open(self, state: SinkState) -> None:
        await self._once("open")

    async def write(self, batch: Batch) -> StateChanges:
        await self._once("write")
        return await super().write(batch)

    async def close(self) -> None:
        await self._once("close")


async def test_a_cancellation_that_nobody_asked_for_loses_no_batch() -> None:
    sink = Cancelling()
    with capture_logs() as logs:
        async with bench(sink, clock=FakeClock()) as one:
            await one.outlet.write(batch())
            await one.outlet.close()
    assert len(sink.batches) == 1
    assert [log["event"] for log in logs].count("sink met a bug") == 2


class Stubborn(MemorySink):
    """Makes something else of being cancelled, as many libraries do."""

    def __init__(self, verdict: Exception | None) -> None:
        super().__init__()
        self.entered = asyncio.Event()
        self.verdict = verdict

    async def write(self, batch: Batch) -> StateChanges:
        self.entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if self.verdict is not None:
                raise self.verdict from None
        return await super().write(batch)


@pytest.mark.parametrize("verdict", [DOWN, NO_KEY, LookupError("bug")])
async def test_a_sink_that_makes_a_verdict_of_being_cancelled_does_not_go_on(
    verdict: Exception,
) -> None:
    sink = Stubborn(verdict)
    async with bench(sink) as one:
        (task,) = one.write(1)
        await sink.entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert one.clock.slept == []


async def test_a_sink_that_finishes_although_it_is_cancelled_has_delivered() -> None:
    sink = Stubborn(None)
    async with bench(sink) as one:
        (task,) = one.write(1)
        await sink.entered.wait()
        task.cancel()
        assert await task == {}


class Forgetful(MemorySink):
    async def write(self, batch: Batch) -> StateChanges:
        await super().write(batch)
        return cast("StateChanges", None)


async def test_a_sink_that_forgets_to_return_something_has_returned() -> None:
    sink = Forgetful()
    async with bench(sink, clock=FakeClock()) as one:
        assert await one.outlet.write(batch()) == {}
        assert len(sink.batches) == 1


async def test_what_a_sink_returned_it_finds_in_its_state_at_once() -> None:
    async with bench(Script({})) as one:
        await one.outlet.write(batch())
        assert one.state.values == {"written 1": b"yes"}


async def test_closing_twice_closes_once() -> None:
    sink = Script({})
    async with bench(sink) as one:
        await one.outlet.close()
        await one.outlet.close()
    assert sink.calls == ["open during 0", "close during 0"]


# What is said of it -------------------------------------------------------------------------------


async def test_a_change_is_noted_and_logged_once() -> None:
    verdicts: list[Exception | None] = [SinkUnavailableError("down")] * 3
    verdicts.append(SinkUnavailableError("still down"))
    with capture_logs() as logs:
        async with bench(FailingSink(verdicts), clock=FakeClock()) as one:
            await one.outlet.write(batch())
            await one.outlet.note()
    assert one.notes.notes == [
        *(("running", ""), ("retrying", "down")),
        *(("retrying", "still down"), ("running", "")),
    ]
    levels = [(log["event"], log["log_level"]) for log in logs]
    assert levels == [
        ("sink running", "info"),
        ("sink retrying", "error"),
        ("sink running", "info"),
    ]


async def test_what_cannot_be_noted_for_want_of_room_is_noted_later() -> None:
    async with bench(MemorySink(), clock=FakeClock()) as one:
        one.notes.errors = [SpoolUnavailableError("no room")]
        one.notes.notes.clear()
        one.outlet._turn_to(SinkHealth.RETRYING, "down")
        await one.outlet.note()
        assert one.notes.notes == []
        await one.outlet.write(batch())
        assert one.notes.notes == [("retrying", "down")]


async def test_a_spool_that_failed_while_the_sink_opens_ends_it() -> None:
    one = Bench(Script({}, opens=(SpoolUntrustedError("broken"),)))
    with pytest.raises(SpoolUntrustedError, match="broken"):
        await one.outlet.open(one.state)


async def test_a_spool_that_failed_during_a_write_ends_it() -> None:
    async with bench(FailingSink([SpoolUntrustedError("broken")])) as one:
        with pytest.raises(SpoolUntrustedError, match="broken"):
            await one.outlet.write(batch())
        assert one.clock.slept == []


async def test_some_that_was_taken_before_a_failure_does_not_shorten_its_pause() -> None:
    late = asyncio.Event()
    sink = Script({1: [late, PartlyDeliveredError("busy", again=[1])], 2: [DOWN, DOWN, DOWN]})
    async with bench(sink, in_flight=2) as one:
        first, second = one.write(1, 2, records=2)
        for count in (1, 2):
            await one.clock.slept_times(count)
            one.clock.advance(30.0)
        await one.clock.slept_times(3)
        late.set()
        with pytest.raises(PartlyDeliveredError):
            await first
        one.clock.advance(30.0)
        await second
        assert one.clock.slept == [0.125, 0.25, 0.5]


async def test_a_spool_that_failed_ends_a_write() -> None:
    async with bench(FailingSink([DOWN]), clock=FakeClock()) as one:
        one.notes.errors = [SpoolUntrustedError("broken")]
        with pytest.raises(SpoolUntrustedError, match="broken"):
            await one.outlet.write(batch())


async def test_an_answer_is_not_lost_to_a_cancellation_while_the_change_is_noted() -> None:
    async with bench(FailingSink([DOWN]), clock=FakeClock()) as one:
        one.write(1)
        (task,) = one.tasks
        await one.clock.slept_times(1)
        one.notes.gate.clear()
        assert await task == {}
        assert one.outlet.health is SinkHealth.RUNNING


async def test_while_it_is_held_from_outside_it_says_so_and_goes_on_writing() -> None:
    ready = False

    async def look() -> bool:
        return ready

    async with bench(MemorySink()) as one:
        holding = asyncio.ensure_future(one.outlet.hold_until(look, "full"))
        await one.clock.slept_times(1)
        assert one.notes.notes[-1] == ("held", "full")
        await one.outlet.write(batch())
        assert one.outlet.health is SinkHealth.HELD
        ready = True
        one.clock.advance(HOLD_MAX_S)
        await holding
        await one.outlet.note()
        assert (one.outlet.health, one.notes.notes[-1]) == (SinkHealth.RUNNING, ("running", ""))
