from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from forwarder.discovery import (
    SEEN_INTERVAL_S,
    TROUBLE_INTERVAL_S,
    Discovery,
    Selector,
    Wanted,
    wanted_streams,
)
from forwarder.errors import SandboxNotFoundError, SourceUnavailableError
from forwarder.model import Container, Sandbox, SandboxState, StreamInfo, StreamKey
from tests.fakes.clock import FakeClock
from tests.fakes.source import FakeSource

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

RUNNING = SandboxState.RUNNING
TWO = (Container("side", "busybox"), Container("main", "python", primary=True))


def down() -> SourceUnavailableError:
    return SourceUnavailableError("down", code="unavailable")


class Found:
    """Hears what discovery says.

    Attributes:
        told: Every answer, in order.
    """

    def __init__(self) -> None:
        self.told: list[list[Wanted]] = []
        self._news = asyncio.Condition()

    def __call__(self, _: Selector, wanted: Sequence[Wanted]) -> None:
        self.told.append(list(wanted))

    @property
    def keys(self) -> set[StreamKey]:
        return {one.info.key for wanted in self.told for one in wanted}

    async def times(self, count: int) -> None:
        while len(self.told) < count:
            await asyncio.sleep(0)


@asynccontextmanager
async def looking(
    source: FakeSource,
    clock: FakeClock,
    found: Found,
    *selectors: Selector,
    known: Sequence[StreamInfo] = (),
    tell: Callable[[str], Awaitable[None]] | None = None,
) -> AsyncIterator[tuple[Discovery, asyncio.Task[None]]]:
    discovery = Discovery(
        selectors,
        source=source,
        interval_s=5.0,
        clock=clock,
        found=found,
        known=known,
        tell=tell,
    )
    task = asyncio.create_task(discovery.run())
    try:
        yield discovery, task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


# Which streams of a sandbox -----------------------------------------------------------------------


def test_all_containers_are_wanted_unless_less_is_asked_for() -> None:
    wanted = wanted_streams(Sandbox("a", RUNNING, containers=TWO), Selector(id="a"))
    assert [one.info.key for one in wanted] == [StreamKey("a", "side"), StreamKey("a", "main")]
    assert [one.container for one in wanted] == ["side", ""], "the primary one needs no name"
    assert [one.info.image for one in wanted] == ["busybox", "python"]


def test_only_the_primary_container_can_be_wanted() -> None:
    sandbox = Sandbox("a", RUNNING, containers=TWO)
    (only,) = wanted_streams(sandbox, Selector(id="a", primary_only=True))
    assert (only.info.key, only.container) == (StreamKey("a", "main"), "")


def test_where_none_is_said_to_be_primary_the_first_container_is() -> None:
    sandbox = Sandbox("a", RUNNING, containers=(Container("one"), Container("two")))
    wanted = wanted_streams(sandbox, Selector(id="a"))
    assert [one.container for one in wanted] == ["", "two"]


def test_named_containers_are_wanted_and_a_name_that_is_not_there_is_not() -> None:
    sandbox = Sandbox("a", RUNNING, containers=TWO)
    wanted = wanted_streams(sandbox, Selector(id="a", containers=("side", "none")))
    assert [one.info.key.container for one in wanted] == ["side"]


def test_a_sandbox_whose_containers_are_not_named_has_one_stream() -> None:
    (only,) = wanted_streams(Sandbox("a", RUNNING), Selector(id="a"))
    assert (only.info.key, only.container) == (StreamKey("a", ""), "")


def test_what_is_known_of_a_sandbox_goes_with_its_streams() -> None:
    sandbox = Sandbox(
        "a", RUNNING, "name", TWO, ("t",), annotations={"note": "x"}, runner_id="runner"
    )
    selector = Selector(id="a", attributes={"env": "prod"})
    for one in wanted_streams(sandbox, selector):
        assert (one.info.display_name, one.info.tags, one.info.runner_id) == (
            "name",
            ("t",),
            "runner",
        )
        assert one.info.annotations == {"note": "x"}
        assert one.info.attributes == {"env": "prod"}


# By id --------------------------------------------------------------------------------------------


async def test_a_sandbox_named_by_its_id_is_looked_at_again_now_and_then() -> None:
    """It may have been given up meanwhile, because the API did not know it for a while."""
    source, found, clock = FakeSource(), Found(), FakeClock()
    source.answer("a", Sandbox("a", RUNNING, containers=TWO))
    async with looking(source, clock, found, Selector(id="a")) as (discovery, _):
        await found.times(3)
        assert discovery.complete.is_set()
    assert set(clock.slept) == {SEEN_INTERVAL_S}
    assert found.keys == {StreamKey("a", "main"), StreamKey("a", "side")}


async def test_an_id_that_the_api_does_not_know_is_wanted_all_the_same_to_be_told() -> None:
    source, found = FakeSource(), Found()
    source.answer("gone", SandboxNotFoundError("unknown", code="not_found"))
    selector = Selector(id="gone", containers=("side",), attributes={"env": "prod"})
    async with looking(source, FakeClock(), found, selector) as (discovery, _):
        await found.times(1)
        assert discovery.complete.is_set()
    (only,) = found.told[0]
    assert (only.info.key, only.seen) == (StreamKey("gone", ""), False)
    assert only.info.attributes == {"env": "prod"}


async def test_an_unknown_id_is_asked_for_again_ever_more_slowly_until_it_is_known() -> None:
    source, found, clock = FakeSource(), Found(), FakeClock(chance=1.0)
    unknown = SandboxNotFoundError("unknown", code="not_found")
    source.answer("late", *[unknown] * 7, Sandbox("late", RUNNING, containers=TWO))
    async with looking(source, clock, found, Selector(id="late")):
        await found.times(8)
    assert clock.slept[:7] == [5, 5, 5, 5, 8, 16, 30]
    seen = [[one.seen for one in wanted] for wanted in found.told[:8]]
    assert seen == [[False]] * 7 + [[True] * 2]


async def test_an_id_is_asked_for_until_the_api_answers() -> None:
    source, found, clock = FakeSource(), Found(), FakeClock()
    source.answer("a", down(), down(), Sandbox("a", RUNNING))
    with capture_logs() as logs:
        async with looking(source, clock, found, Selector(id="a")):
            await found.times(1)
    assert source.asked[:3] == ["a"] * 3
    assert clock.slept[:2] == [0.25, 0.5]
    assert [one["event"] for one in logs] == ["discovery failing", "discovery works again"]


# By tags ------------------------------------------------------------------------------------------


async def test_sandboxes_are_found_by_their_tags_while_running() -> None:
    source, found, clock = FakeSource(), Found(), FakeClock()
    first, second = Sandbox("a", RUNNING), Sandbox("b", SandboxState.COMPLETED)
    source.answer_list(["x", "y"], [], [first], [first, second])
    async with looking(source, clock, found, Selector(tags=("x", "y"))):
        await found.times(3)
    assert set(source.listed) == {("x", "y")}
    told = [[one.info.key.sandbox_id for one in wanted] for wanted in found.told[:3]]
    assert told == [[], ["a"], ["a", "b"]], "also one that has ended: it is read once"
    assert clock.slept[:2] == [5.0, 5.0]


async def test_a_listing_that_fails_is_tried_again_and_says_nothing_is_gone() -> None:
    source, found, clock = FakeSource(), Found(), FakeClock()
    one = Sandbox("a", RUNNING)
    source.answer_list(["x"], [one], down(), down(), [one])
    async with looking(source, clock, found, Selector(tags=("x",))):
        await found.times(2)
    told = [[one.info.key.sandbox_id for one in wanted] for wanted in found.told[:2]]
    assert told == [["a"], ["a"]]
    assert clock.slept[:3] == [5.0, 0.25, 0.5]


async def test_each_outage_is_told_once_and_begins_with_a_short_wait() -> None:
    source, found, clock = FakeSource(), Found(), FakeClock()
    source.answer_list(["x"], down(), down(), [], down(), [])
    with capture_logs() as logs:
        async with looking(source, clock, found, Selector(tags=("x",))):
            await found.times(2)
    assert [one["event"] for one in logs] == ["discovery failing", "discovery works again"] * 2
    assert clock.slept[:4] == [0.25, 0.5, 5.0, 0.25]


# Streams of earlier that the API no longer names --------------------------------------------------


def known(sandbox_id: str, *tags: str, container: str = "main") -> StreamInfo:
    return StreamInfo(StreamKey(sandbox_id, container), tags=tags)


async def test_a_stream_that_no_listing_names_any_more_is_wanted_once() -> None:
    source, found, clock = FakeSource(), Found(), FakeClock()
    source.answer_list(["x"], down(), [Sandbox("here", RUNNING, containers=TWO)])
    streams = [known("here", "x"), known("gone", "x", "y"), known("else", "y")]
    selector = Selector(tags=("x",), attributes={"env": "prod"})
    async with looking(source, clock, found, selector, known=streams):
        await found.times(2)
    told = [{(str(one.info.key), one.seen) for one in wanted} for wanted in found.told[:2]]
    listed = {("here/main", True), ("here/side", True)}
    assert told == [listed | {("gone/main", False)}, listed]
    (gone,) = [one for one in found.told[0] if not one.seen]
    assert (gone.container, gone.info.attributes) == ("main", {"env": "prod"})


async def test_streams_of_an_id_that_is_not_known_any_more_are_wanted_as_they_were() -> None:
    source, found = FakeSource(), Found()
    streams = [known("a"), known("a", container="side"), known("b")]
    selector = Selector(id="a", containers=("main",))
    async with looking(source, FakeClock(), found, selector, known=streams):
        await found.times(1)
    (only,) = found.told[0]
    assert (str(only.info.key), only.seen) == ("a/main", False)


async def test_a_container_that_a_known_sandbox_no_longer_names_is_wanted_all_the_same() -> None:
    source, found = FakeSource(), Found()
    source.answer("a", Sandbox("a", RUNNING, containers=TWO))
    streams = [known("a"), known("a", container="old")]
    async with looking(source, FakeClock(), found, Selector(id="a"), known=streams):
        await found.times(1)
    (*seen, left) = found.told[0]
    assert (len(seen), str(left.info.key), left.seen) == (2, "a/old", False)


async def test_a_stream_without_a_name_is_that_of_the_primary_container() -> None:
    source, found = FakeSource(), Found()
    source.answer("a", Sandbox("a", RUNNING, containers=TWO))
    streams = [known("a", container="")]
    async with looking(source, FakeClock(), found, Selector(id="a"), known=streams):
        await found.times(1)
    assert {one.info.key.container for one in found.told[0]} == {"main", "side"}


# Trouble ------------------------------------------------------------------------------------------


async def test_trouble_is_told_repeated_every_minute_and_taken_back() -> None:
    source, found, clock = FakeSource(), Found(), FakeClock(instant=False)
    source.answer_list(["x"], down(), down(), [])
    told: list[str] = []

    async def tell(text: str) -> None:
        told.append(text)

    with capture_logs() as logs:
        async with looking(source, clock, found, Selector(tags=("x",)), tell=tell) as (one, _):
            await clock.slept_times(2)
            assert (told, one.trouble, one.answered) == (["down"], "down", False)
            clock.advance(TROUBLE_INTERVAL_S)
            await clock.slept_times(4)
            assert told == ["down"], "the note is still there"
            assert one.trouble_since_s == 0
            clock.advance(TROUBLE_INTERVAL_S)
            await found.times(1)
            await clock.slept_times(6)
            assert (told, one.trouble, one.answered) == (["down", ""], "", True)
    events = [one["event"] for one in logs]
    assert events.count("discovery still failing: new sandboxes are not seen") == 1


# All selectors ------------------------------------------------------------------------------------


async def test_everything_is_known_only_when_every_selector_was_answered_once() -> None:
    source, found, clock = FakeSource(), Found(), FakeClock(instant=False)
    source.answer("a", Sandbox("a", RUNNING))
    source.answer_list(["x"], down(), [])
    selectors = [Selector(id="a"), Selector(tags=("x",)), Selector(tags=("y",))]
    async with looking(source, clock, found, *selectors) as (discovery, _):
        await found.times(2)
        await clock.slept_times(2)
        assert not discovery.complete.is_set()
        clock.advance(1.0)
        await discovery.complete.wait()
        assert len(found.told) == 3


async def test_a_selector_that_fails_keeps_no_other_from_going_on() -> None:
    source, found, clock = FakeSource(), Found(), FakeClock()
    source.answer_list(["x"], down())
    source.answer_list(["y"], [Sandbox("b", RUNNING)])
    selectors = [Selector(tags=("x",)), Selector(tags=("y",))]
    async with looking(source, clock, found, *selectors) as (discovery, _):
        await found.times(3)
        assert not discovery.complete.is_set()
    assert found.keys == {StreamKey("b", "")}


async def test_without_a_selector_everything_is_known_at_once() -> None:
    async with looking(FakeSource(), FakeClock(), Found()) as (discovery, task):
        await task
        await discovery.complete.wait()


@pytest.mark.parametrize(
    ("selector", "name"), [(Selector(id="a"), "a"), (Selector(tags=("x", "y")), "tags x, y")]
)
def test_a_selector_is_called_what_the_operator_wrote(selector: Selector, name: str) -> None:
    assert str(selector) == name
