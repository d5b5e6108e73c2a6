from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import pytest
from structlog.testing import capture_logs

from forwarder.discovery import Selector, Wanted
from forwarder.errors import SpoolError, SpoolUnavailableError, SpoolUntrustedError
from forwarder.follower import Follower
from forwarder.following import FollowSettings
from forwarder.intake import Intake
from forwarder.metrics import Metrics
from forwarder.model import Sandbox, SandboxState, StreamInfo, StreamKey, StreamState
from forwarder.spool.files import StateDir
from forwarder.spool.sqlite import open_spool
from forwarder.supervisor import REVIVE_AFTER_S, Supervisor
from tests.fakes.clock import FakeClock
from tests.fakes.following import followed
from tests.fakes.source import FakeSource, Pause, emit, interrupted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class ScriptedFollower:
    """Runs until it is told to end, or fails; cancelling takes as long as `unwinding` is clear."""

    def __init__(self, error: Exception | None) -> None:
        self.started = asyncio.Event()
        self.end = asyncio.Event()
        self.unwinding = asyncio.Event()
        self.unwinding.set()
        self.stopped = False
        self.final = StreamState.COMPLETE
        self._error = error

    async def run(self) -> StreamState:
        self.started.set()
        if self._error is not None:
            raise self._error
        try:
            await self.end.wait()
        except asyncio.CancelledError:
            await self.unwinding.wait()
            self.stopped = True
            raise
        return self.final


class Cast:
    """Makes followers; the next ones of a sandbox fail as told.

    Attributes:
        made: All followers of each sandbox, in order.
        errors: By sandbox: what its next followers raise.
    """

    def __init__(self) -> None:
        self.made: dict[str, list[ScriptedFollower]] = {}
        self.errors: dict[str, list[Exception]] = {}

    def make(self, wanted: Wanted) -> Follower:
        sandbox_id = wanted.info.key.sandbox_id
        errors = self.errors.get(sandbox_id)
        follower = ScriptedFollower(errors.pop(0) if errors else None)
        self.made.setdefault(sandbox_id, []).append(follower)
        return cast("Follower", follower)


#: Who wants them.
SELECTOR = Selector(tags=("x",))


def wanted(sandbox_id: str, container: str = "main", display_name: str = "") -> Wanted:
    """A stream; that of the primary container, unless it is another one's."""
    info = StreamInfo(StreamKey(sandbox_id, container), display_name)
    return Wanted(info, "" if container in {"main", ""} else container)


@asynccontextmanager
async def running(supervisor: Supervisor) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(supervisor.run())
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, SpoolError):
            await task


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


async def test_a_stream_has_one_follower_however_often_it_is_wanted(clock: FakeClock) -> None:
    followers = Cast()
    supervisor = Supervisor(followers.make, clock=clock)
    async with running(supervisor):
        for _ in range(3):
            supervisor.want(
                SELECTOR, [wanted("a"), wanted("b"), wanted("a", display_name="renamed")]
            )
            await asyncio.sleep(0)
        assert {key: len(made) for key, made in followers.made.items()} == {"a": 1, "b": 1}
        assert (supervisor.following, supervisor.finished) == (2, 0)


async def test_two_containers_of_a_sandbox_are_two_streams(clock: FakeClock) -> None:
    followers = Cast()
    supervisor = Supervisor(followers.make, clock=clock)
    async with running(supervisor):
        supervisor.want(SELECTOR, [wanted("a", "main"), wanted("a", "side")])
        await asyncio.sleep(0)
        assert len(followers.made["a"]) == 2


async def test_a_stream_that_was_read_to_its_end_is_not_followed_again(clock: FakeClock) -> None:
    followers = Cast()
    supervisor = Supervisor(followers.make, clock=clock)
    async with running(supervisor):
        supervisor.want(SELECTOR, [wanted("a")])
        await asyncio.sleep(0)
        followers.made["a"][0].end.set()
        await supervisor.wait_all_final()
        supervisor.want(SELECTOR, [wanted("a")])
        await asyncio.sleep(0)
        assert len(followers.made["a"]) == 1
        assert (supervisor.following, supervisor.finished) == (0, 1)


@pytest.mark.parametrize(("first", "second"), [("", "main"), ("main", "")])
async def test_a_container_is_followed_once_also_when_its_name_was_not_known_at_first(
    clock: FakeClock, first: str, second: str
) -> None:
    followers = Cast()
    supervisor = Supervisor(followers.make, clock=clock)
    async with running(supervisor):
        supervisor.want(SELECTOR, [wanted("a", first)])
        await asyncio.sleep(0)
        supervisor.want(SELECTOR, [wanted("a", second), wanted("a", "side")])
        await asyncio.sleep(0)
        assert len(followers.made["a"]) == 2, "the primary container and the other one"
        followers.made["a"][0].end.set()
        while supervisor.finished < 1:
            await asyncio.sleep(0)
        supervisor.want(SELECTOR, [wanted("a", second)])
        await asyncio.sleep(0)
        assert len(followers.made["a"]) == 3, "the spool knows that it is the same"


async def test_streams_that_are_over_and_listed_no_more_are_forgotten(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forwarder.supervisor.REMEMBERED", 2)
    followers = Cast()
    supervisor = Supervisor(followers.make, clock=clock)
    async with running(supervisor):
        for name in "abcdef":
            supervisor.want(SELECTOR, [wanted(name)])
            await asyncio.sleep(0)
            followers.made[name][0].end.set()
            await supervisor.wait_all_final()
        assert supervisor.finished <= 3
        supervisor.want(SELECTOR, [wanted("f")])
        await asyncio.sleep(0)
        assert len(followers.made["f"]) == 1


async def test_a_cancellation_that_nobody_asked_for_leaves_no_stream_dead(clock: FakeClock) -> None:
    followers = Cast()
    followers.errors["a"] = [cast("Exception", asyncio.CancelledError())]
    supervisor = Supervisor(followers.make, clock=clock)
    with capture_logs() as logs:
        async with running(supervisor):
            supervisor.want(SELECTOR, [wanted("a")])
            while len(followers.made.get("a", [])) < 2:
                await asyncio.sleep(0)
            await followers.made["a"][1].started.wait()
            assert supervisor.following == 1
    assert "follower met a bug, starting it again" in [one["event"] for one in logs]


async def test_a_stream_that_was_given_up_is_followed_again_when_its_sandbox_is_seen(
    clock: FakeClock,
) -> None:
    followers = Cast()
    supervisor = Supervisor(followers.make, clock=clock)
    one = wanted("a")
    async with running(supervisor):
        for times in (1, 2):
            supervisor.want(SELECTOR, [one])
            await asyncio.sleep(0)
            assert len(followers.made["a"]) == times
            followers.made["a"][-1].final = StreamState.NOT_FOUND
            followers.made["a"][-1].end.set()
            await supervisor.wait_all_final()
            clock.advance(REVIVE_AFTER_S - 1)
            supervisor.want(SELECTOR, [one])
            assert supervisor.following == 0, "not so soon"
            clock.advance(1)
            supervisor.want(SELECTOR, [replace(one, seen=False)])
            assert supervisor.following == 0, "the API does not know it"
        assert supervisor.finished == 1


async def test_waiting_for_all_to_be_final_waits_for_the_last_one(clock: FakeClock) -> None:
    followers = Cast()
    supervisor = Supervisor(followers.make, clock=clock)
    await supervisor.wait_all_final()
    async with running(supervisor):
        supervisor.want(SELECTOR, [wanted("a"), wanted("b")])
        waiting = [asyncio.create_task(supervisor.wait_all_final()) for _ in range(2)]
        await asyncio.sleep(0)
        followers.made["a"][0].end.set()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not any(one.done() for one in waiting)
        followers.made["b"][0].end.set()
        await asyncio.gather(*waiting)


async def test_a_bug_in_a_follower_restarts_it_and_no_other(clock: FakeClock) -> None:
    followers = Cast()
    followers.errors["a"] = [LookupError("a bug"), LookupError("again")]
    supervisor = Supervisor(followers.make, clock=clock)
    with capture_logs() as logs:
        async with running(supervisor):
            supervisor.want(SELECTOR, [wanted("a"), wanted("b")])
            await clock.slept_times(2)
            while len(followers.made["a"]) < 3:
                await asyncio.sleep(0)
            await followers.made["a"][2].started.wait()
            assert len(followers.made["b"]) == 1
            assert supervisor.following == 2
    assert clock.slept == [0.5, 1.0]
    assert [one["stream"] for one in logs if one["log_level"] == "error"] == ["a/main"] * 2


async def test_a_spool_without_room_does_not_end_the_daemon(clock: FakeClock) -> None:
    followers = Cast()
    followers.errors["a"] = [SpoolUnavailableError("no room")]
    supervisor = Supervisor(followers.make, clock=clock)
    async with running(supervisor) as task:
        supervisor.want(SELECTOR, [wanted("a")])
        await clock.slept_times(1)
        while len(followers.made["a"]) < 2:
            await asyncio.sleep(0)
        assert not task.done()


async def test_a_spool_that_failed_ends_the_daemon_and_every_follower(clock: FakeClock) -> None:
    followers = Cast()
    followers.errors["a"] = [SpoolUntrustedError("broken")]
    supervisor = Supervisor(followers.make, clock=clock)
    supervisor.want(SELECTOR, [wanted("b"), wanted("a")])
    async with running(supervisor) as task:
        with pytest.raises(SpoolUntrustedError, match="broken"):
            await task
        assert followers.made["b"][0].stopped


async def test_a_spool_that_failed_before_anybody_looked_is_not_missed(clock: FakeClock) -> None:
    followers = Cast()
    followers.errors["a"] = [SpoolUntrustedError("broken")]
    supervisor = Supervisor(followers.make, clock=clock)
    supervisor.want(SELECTOR, [wanted("a")])
    while not followers.made:
        await asyncio.sleep(0)
    with pytest.raises(SpoolUntrustedError, match="broken"):
        await supervisor.run()


async def test_stopping_waits_for_every_follower_and_starts_no_other(clock: FakeClock) -> None:
    followers = Cast()
    supervisor = Supervisor(followers.make, clock=clock)
    async with running(supervisor):
        supervisor.want(SELECTOR, [wanted("a"), wanted("b")])
        await asyncio.sleep(0)
        slow = followers.made["b"][0]
        slow.unwinding.clear()
        stopping = asyncio.create_task(supervisor.stop())
        while not followers.made["a"][0].stopped:
            await asyncio.sleep(0)
        assert not stopping.done()
        slow.unwinding.set()
        await stopping
        assert slow.stopped
        supervisor.want(SELECTOR, [wanted("c")])
        await asyncio.sleep(0)
        assert "c" not in followers.made


async def test_a_cancelled_supervisor_leaves_no_follower_behind(clock: FakeClock) -> None:
    followers = Cast()
    supervisor = Supervisor(followers.make, clock=clock)
    async with running(supervisor) as task:
        supervisor.want(SELECTOR, [wanted("a")])
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert followers.made["a"][0].stopped


async def test_a_real_follower_takes_a_stream_that_breaks_and_is_resumed_once(
    tmp_path: Path, clock: FakeClock
) -> None:
    """The whole of the reading side on a scripted source."""
    source = FakeSource()
    silence = Pause()
    source.stream(emit(b"2026-01-02T03:04:05Z one\n2026-01", session="s"), silence, interrupted())
    source.stream(emit(b"-02T03:04:06Z two\n", session="s", offset=32))
    source.stream()
    source.stream()
    source.answer("a", Sandbox("a", SandboxState.COMPLETED))
    metrics = Metrics()
    spool = await open_spool(StateDir(tmp_path), now=clock.time_ns)
    intake = Intake(spool, interval_s=0, buffer_bytes=1 << 20, clock=clock, metrics=metrics)

    def make(wanted: Wanted) -> Follower:
        settings = FollowSettings(1 << 20, 5.0, 0.1, 1.0, 60.0)
        shared = followed(source, spool, intake, clock, settings=settings, metrics=metrics)
        return Follower(wanted.info, container=wanted.container, shared=shared)

    supervisor = Supervisor(make, clock=clock)
    committing = asyncio.create_task(intake.run())
    async with running(supervisor):
        supervisor.want(SELECTOR, [wanted("a")])
        await silence.reached.wait()
        await intake.flush()
        assert metrics.taken_lines == 1
        silence.until.set()
        await supervisor.wait_all_final()
    committing.cancel()
    frames = await spool.read(0, max_bytes=1000)
    assert b"".join(one.raw for one in frames if one.kind.holds_lines) == (
        b"2026-01-02T03:04:05Z one\n2026-01-02T03:04:06Z two\n"
    )
    assert [(one.session_id, one.offset, one.follow) for one in source.requests] == [
        ("", 0, True),
        ("s", 32, True),
        ("s", 50, True),
        ("", 0, False),
    ]
    assert source.open_streams == 0
    assert (await spool.overview()).streams[0].state is StreamState.COMPLETE
    await spool.close()
    await asyncio.gather(committing, return_exceptions=True)
