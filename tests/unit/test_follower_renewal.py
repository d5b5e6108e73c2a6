"""What a follower does beside reading: probes, restarts, messages nobody can read, ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import orjson
import pytest

from forwarder.errors import (
    CredentialsRefusedError,
    SandboxNotFoundError,
    SourceUnavailableError,
)
from forwarder.follower import STORED_ATTEMPTS, UNREAD_S, WAITING_S
from forwarder.model import Container, ContainerStatus, FrameKind, Sandbox, SandboxState
from forwarder.reopening import ASK_AFTER, FIRST_FRESH_PROBE, RESUMES_MAX, TOO_LARGE_MAX
from forwarder.source.stored import StoredLogsUnavailableError
from forwarder.source.stored_lines import StoredLine
from forwarder.stream_limits import StreamLimits
from tests.fakes.clock import FakeClock
from tests.fakes.source import Break, FakeSource, Pause, emit, interrupted
from tests.fakes.stream_scene import (
    BEGIN_S,
    DOWN,
    ENDED,
    NOT_FOUND,
    NOT_RUNNING,
    REFUSED,
    RUNNING,
    SECOND_NS,
    SESSION_GONE,
    UNREACHABLE,
    Scene,
    asked,
    line,
    lines,
    stream_scene,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence
    from pathlib import Path

TOO_LARGE = Break(
    SourceUnavailableError("x", code="resource_exhausted", reason="MESSAGE_TOO_LARGE")
)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with stream_scene(tmp_path) as scene:
        yield scene


class Patience:
    """Limits whose time the test moves, with everything else passing at once."""

    def __init__(self, scene: Scene) -> None:
        self.clock = FakeClock(instant=False)
        scene.limits = StreamLimits(idle_s=60, life_s=3600, max_opening=50, clock=self.clock)
        self._running = asyncio.create_task(scene.limits.run())

    async def pass_s(self, seconds: float) -> None:
        """So much time passes; whoever is due is ended."""
        while not self.clock.sleeping:
            await asyncio.sleep(0)
        self.clock.advance(seconds)
        for _ in range(20):
            await asyncio.sleep(0)

    async def end(self) -> None:
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)


@pytest.fixture
async def patience(scene: Scene) -> AsyncIterator[Patience]:
    patience = Patience(scene)
    yield patience
    await patience.end()


# Silence and age ----------------------------------------------------------------------------------


async def test_a_silent_stream_is_opened_again_where_it_was_and_at_once(
    scene: Scene, patience: Patience
) -> None:
    source, silence = FakeSource(), Pause()
    source.stream(lines(1, session="A"), silence)
    source.stream(lines(2, session="A", offset=len(line(1))))
    source.stream()
    source.stream(lines(1, 2))
    source.answer("s", ENDED)
    following = asyncio.create_task(scene.run(source))
    await silence.reached.wait()
    await patience.pass_s(61)
    await following
    assert asked(source)[:2] == ["follow since the beginning", f"resume A {len(line(1))}"]
    assert await scene.shown() == [line(1), line(2)]
    assert scene.metrics.reconnects["probe"] == 1


async def test_now_and_then_a_silent_stream_is_opened_anew_for_its_session_may_be_stuck(
    scene: Scene, patience: Patience
) -> None:
    source = FakeSource()
    silences = [Pause() for _ in range(FIRST_FRESH_PROBE)]
    source.stream(lines(1, session="A"), silences[0])
    for silence in silences[1:]:
        source.stream(silence)
    source.stream(lines(1, 2, session="B"))
    source.stream()
    source.stream(lines(1, 2))
    source.answer("s", RUNNING, ENDED)
    following = asyncio.create_task(scene.run(source))
    for silence in silences:
        await silence.reached.wait()
        await patience.pass_s(61)
    await following
    assert asked(source)[FIRST_FRESH_PROBE].startswith("follow since -5")
    assert await scene.shown() == [line(1), line(2)]


async def test_a_stream_that_is_heard_is_not_probed_but_renewed_when_it_is_old(
    scene: Scene, patience: Patience
) -> None:
    source = FakeSource()
    pauses = [Pause() for _ in range(80)]
    actions = [
        one
        for number, pause in enumerate(pauses)
        for one in (lines(number, session="A", offset=number * len(line(0))), pause)
    ]
    source.stream(*actions)
    source.stream()
    source.stream()
    source.stream()
    source.answer("s", ENDED)
    following = asyncio.create_task(scene.run(source))
    for pause in pauses:
        if following.done():
            break
        reached = asyncio.create_task(pause.reached.wait())
        await asyncio.wait({reached, following}, return_when=asyncio.FIRST_COMPLETED)
        reached.cancel()
        await patience.pass_s(50)
        pause.until.set()
    await following
    assert scene.metrics.reconnects["probe"] == 0
    assert scene.metrics.reconnects["renew"] == 1


# Restarts -----------------------------------------------------------------------------------------


def restarted(count: int, state: SandboxState = SandboxState.RUNNING) -> Sandbox:
    """The sandbox, with its container started again so often."""
    return Sandbox(
        "s",
        state,
        containers=(Container("main", primary=True),),
        container_statuses=(ContainerStatus("main", SandboxState.RUNNING, count),),
    )


async def generations(scene: Scene) -> list[tuple[int, int]]:
    """Generation and first line of every frame that holds lines."""
    frames = await scene.spool.spool.read(0, max_bytes=1 << 30)
    return [(one.generation, one.first_line) for one in frames if one.kind.holds_lines]


async def test_a_restarted_container_is_read_on_with_line_numbers_of_its_own(scene: Scene) -> None:
    source = FakeSource()
    source.stream(lines(1, 2, session="A"))
    source.stream()
    source.stream(lines(8, 9, session="B"))
    source.stream()
    source.stream(lines(8, 9))
    source.answer("s", restarted(1), restarted(1, SandboxState.COMPLETED))
    await scene.run(source)
    assert await scene.shown() == [line(1), line(2), line(8), line(9)]
    assert await generations(scene) == [(0, 0), (1, 0)]


async def test_a_container_that_was_restarted_unseen_leaves_a_gap_at_the_end_of_its_old_log(
    scene: Scene,
) -> None:
    await scene.taken(1, 2)
    source = FakeSource()
    source.stream(SESSION_GONE)
    source.stream(lines(8, session="B"))
    source.stream()
    source.stream(lines(8))
    source.answer("s", restarted(1), restarted(1, SandboxState.COMPLETED))
    await scene.run(source)
    assert await scene.shown() == [line(1), line(2), "restarted", line(8)]
    assert await generations(scene) == [(0, 0), (1, 0)]


async def test_a_stream_is_opened_anew_while_nobody_says_whether_its_container_was_restarted(
    scene: Scene,
) -> None:
    await scene.taken(1, 2)
    source = FakeSource()
    source.stream(SESSION_GONE)
    source.stream(lines(2, 3, session="B"))
    source.stream()
    source.stream(lines(2, 3))
    source.answer("s", SourceUnavailableError("down", code="unavailable"), ENDED)
    await scene.run(source)
    assert await scene.shown() == [line(1), line(2), line(3)]


# Messages that are too large ----------------------------------------------------------------------


async def test_a_message_that_nobody_can_read_is_given_up_with_a_gap_and_not_tried_for_ever(
    scene: Scene,
) -> None:
    source = FakeSource()
    source.stream(lines(1, session="A"), TOO_LARGE)
    for _ in range(TOO_LARGE_MAX - 1):
        source.stream(TOO_LARGE)
    source.stream(lines(9, session="B"))
    source.stream()
    source.stream(lines(9))
    source.answer("s", RUNNING, ENDED)
    await scene.run(source)
    assert await scene.shown() == [line(1), "message_too_large", line(9)]
    assert asked(source)[TOO_LARGE_MAX] == "follow since 2"


# Doubts -------------------------------------------------------------------------------------------


async def test_a_replay_gap_that_the_log_still_holds_is_filled_and_no_sink_hears_of_it(
    scene: Scene,
) -> None:
    source = FakeSource()
    source.stream(lines(1, session="A"), interrupted("REPLAY_GAP"))
    source.stream(lines(1, 2, session="B"))
    source.stream()
    source.stream(lines(1, 2))
    source.answer("s", ENDED)
    await scene.run(source)
    assert await scene.shown() == [line(1), line(2)]
    (stream,) = (await scene.spool.spool.overview()).streams
    assert stream.gaps == 0


# Ends ---------------------------------------------------------------------------------------------


async def ends(scene: Scene) -> list[tuple[str, int]]:
    """State and number of lines of every end record."""
    frames = await scene.spool.spool.read(0, max_bytes=1 << 30)
    records = [orjson.loads(one.raw) for one in frames if one.kind is FrameKind.END]
    return [(record["state"], record["lines"]) for record in records]


async def test_the_end_of_a_stream_is_a_record_behind_its_last_line_once(scene: Scene) -> None:
    source = FakeSource()
    source.stream(lines(1, 2, session="A"))
    source.stream()
    source.stream(lines(1, 2))
    source.answer("s", ENDED)
    await scene.run(source)
    await scene.run(FakeSource())
    frames = await scene.spool.spool.read(0, max_bytes=1 << 30)
    assert [one.kind for one in frames] == [FrameKind.LINES, FrameKind.END]
    assert await ends(scene) == [("complete", 2)]


async def test_a_sandbox_that_was_never_known_has_no_end(scene: Scene) -> None:
    source = FakeSource()
    source.stream(NOT_FOUND)
    await scene.run(source)
    assert await ends(scene) == []


async def test_a_sandbox_of_which_nothing_could_be_read_was_never_followed(scene: Scene) -> None:
    source = FakeSource()
    source.stream(NOT_RUNNING)
    source.stream(NOT_RUNNING)
    source.answer("s", ENDED)
    await scene.run(source)
    assert await scene.shown() == ["never_followed"]


# Stored logs --------------------------------------------------------------------------------------


class FakeStored:
    """Stored logs that answer what they are told.

    Attributes:
        answers: One for each reading: pages, and an error at the end or none.
        asked: The stamp from which each reading began.
    """

    def __init__(self, *answers: Sequence[Sequence[int] | Exception]) -> None:
        self.answers = list(answers)
        self.asked: list[int] = []

    async def lines(
        self, _: str, __: str, *, since_ns: int
    ) -> AsyncGenerator[Sequence[StoredLine], None]:
        self.asked.append(since_ns)
        for page in self.answers.pop(0):
            if isinstance(page, Exception):
                raise page
            yield [
                StoredLine((BEGIN_S + number) * SECOND_NS, line(number)[31:-1]) for number in page
            ]

    async def close(self) -> None:
        """Nothing is open."""


def ended_unread(scene: Scene, stored: FakeStored) -> FakeSource:
    """A sandbox that ended, and whose log cannot be streamed any more."""
    scene.archive = stored  # type: ignore[assignment]  # a fake of the client
    source = FakeSource()
    source.stream(NOT_RUNNING)
    source.stream(NOT_RUNNING)
    source.answer("s", ENDED)
    return source


async def test_the_end_that_cannot_be_streamed_is_read_from_the_stored_logs(scene: Scene) -> None:
    await scene.taken(1, 2)
    source = ended_unread(scene, FakeStored([[1, 2, 3], [20, 21]]))
    await scene.run(source)
    assert await scene.shown() == [line(1), line(2), line(3), line(20), line(21), "tail_unknown"]


async def test_stored_logs_that_break_off_are_read_on_and_repeat_nothing(scene: Scene) -> None:
    await scene.taken(1)
    outage = SourceUnavailableError("down", code="unavailable")
    source = ended_unread(scene, FakeStored([[1, 2, 30], outage], [[1, 2, 30, 31]]))
    await scene.run(source)
    assert await scene.shown() == [line(1), line(2), line(30), line(31), "tail_unknown"]


async def test_a_log_that_is_not_stored_leaves_its_gap(scene: Scene) -> None:
    await scene.taken(1)
    off = StoredLogsUnavailableError("not enabled", code="failed_precondition", for_good=True)
    await scene.run(ended_unread(scene, FakeStored([off])))
    assert await scene.shown() == [line(1), "tail_unknown"]


async def test_a_follower_without_a_connection_never_reads_stored_logs(scene: Scene) -> None:
    stored = FakeStored()
    scene.archive = stored  # type: ignore[assignment]  # a fake of the client
    source = FakeSource()
    source.stream(lines(1, session="A"), UNREACHABLE)
    source.stream(emit(line(2), session="A", offset=len(line(1))))
    source.stream()
    source.stream(lines(1, 2))
    source.answer("s", ENDED)
    await scene.run(source)
    assert stored.asked == []


# Last words ---------------------------------------------------------------------------------------


async def test_a_clean_end_is_doubted_once_and_what_the_session_still_holds_is_taken(
    scene: Scene,
) -> None:
    source = FakeSource()
    source.stream(lines(1, session="A"))
    source.stream(lines(2, session="A", offset=len(line(1))))
    source.stream(NOT_RUNNING)
    source.answer("s", ENDED)
    await scene.run(source)
    assert await scene.shown() == [line(1), line(2)]


async def test_a_session_that_is_gone_after_a_clean_end_is_no_gap(scene: Scene) -> None:
    source = FakeSource()
    source.stream(lines(1, session="A"))
    source.stream(SESSION_GONE)
    source.stream(NOT_RUNNING)
    source.stream(NOT_RUNNING)
    source.answer("s", ENDED)
    await scene.run(source)
    assert await scene.shown() == [line(1)]


# Ends that are none, and ends that nobody tells ---------------------------------------------------


async def test_a_clean_end_of_a_running_sandbox_does_not_hide_a_restart_afterwards(
    scene: Scene,
) -> None:
    source = FakeSource()
    source.stream(lines(1, session="A"))
    source.stream(SESSION_GONE)
    source.stream(lines(8, session="B"))
    source.stream()
    source.stream(lines(8))
    source.answer("s", restarted(0), restarted(1), restarted(1, SandboxState.COMPLETED))
    await scene.run(source)
    assert await scene.shown() == [line(1), "restarted", line(8)]


async def test_a_clean_end_of_a_running_sandbox_does_not_hide_an_unread_end_afterwards(
    scene: Scene,
) -> None:
    source = FakeSource()
    source.stream(lines(1, session="A"))
    source.stream(NOT_RUNNING)
    source.stream(NOT_RUNNING)
    source.answer("s", RUNNING, ENDED)
    await scene.run(source)
    assert await scene.shown() == [line(1), "tail_unknown"]


@pytest.mark.parametrize("code", ["unavailable", "RUNNER_UNAVAILABLE"])
async def test_a_stream_that_is_refused_again_and_again_is_asked_about(
    scene: Scene, code: str
) -> None:
    refused = interrupted(code) if code.isupper() else DOWN
    source = FakeSource()
    source.stream(lines(1, session="A"), UNREACHABLE)
    for _ in range(ASK_AFTER):
        source.stream(refused)
    source.stream(lines(1, 2))
    source.answer("s", ENDED)
    await scene.run(source)
    assert await scene.shown() == [line(1), line(2)]


async def test_a_log_that_is_refused_for_hours_after_its_sandbox_ended_is_given_up(
    scene: Scene,
) -> None:
    source = FakeSource()
    source.stream(lines(1, session="A"), NOT_RUNNING)
    for _ in range(2000):
        source.stream(DOWN)
    source.answer("s", ENDED)
    await scene.run(source)
    assert await scene.shown() == [line(1), "tail_unknown"]
    assert sum(scene.clock.slept) > UNREAD_S


async def test_one_not_found_while_the_rest_is_read_ends_nothing(scene: Scene) -> None:
    await scene.taken(1)
    source = FakeSource()
    source.stream(NOT_RUNNING)
    source.stream(NOT_FOUND)
    source.stream(lines(1, 2))
    source.answer("s", ENDED)
    await scene.run(source)
    assert await scene.shown() == [line(1), line(2)]


async def test_a_stream_that_was_given_up_without_a_gap_takes_none_back(scene: Scene) -> None:
    first, second = FakeSource(), FakeSource()
    first.stream(lines(1, session="A"))
    second.stream(lines(1, 2, session="B"))
    second.stream()
    second.stream(lines(1, 2))
    second.answer("s", ENDED)
    for source in (first, second):
        await scene.run(source)
    assert await scene.shown() == [line(1), line(2)]


async def test_refused_credentials_do_not_cost_a_session(scene: Scene) -> None:
    source, pause = FakeSource(), Pause()
    source.stream(lines(1, session="A"), REFUSED)
    for _ in range(RESUMES_MAX + 2):
        source.stream(REFUSED)
    source.stream(pause)
    await scene.run_until(source, pause)
    assert {one.session_id for one in source.requests[1:]} == {"A"}


async def test_stored_logs_of_a_sandbox_that_they_do_not_know_are_asked_once(scene: Scene) -> None:
    await scene.taken(1)
    stored = FakeStored([SandboxNotFoundError("unknown", code="not_found")])
    await scene.run(ended_unread(scene, stored))
    assert len(stored.asked) == 1
    assert await scene.shown() == [line(1), "tail_unknown"]


async def test_stored_logs_that_refuse_our_credentials_are_waited_for(scene: Scene) -> None:
    await scene.taken(1)
    refused = CredentialsRefusedError("wrong key", code="unauthenticated")
    stored = FakeStored(*[[refused]] * (STORED_ATTEMPTS + 5), [[1, 2]])
    await scene.run(ended_unread(scene, stored))
    assert await scene.shown() == [line(1), line(2), "tail_unknown"]


async def test_a_sandbox_that_does_not_run_yet_is_tried_every_few_seconds(scene: Scene) -> None:
    source, pause = FakeSource(), Pause()
    for _ in range(20):
        source.stream(NOT_RUNNING)
    source.stream(pause)
    source.answer("s", Sandbox("s", SandboxState.CREATING))
    await scene.run_until(source, pause)
    assert max(scene.clock.slept) <= WAITING_S


async def test_a_last_reading_that_ends_before_what_is_known_is_repeated(scene: Scene) -> None:
    await scene.taken(1, 2, 3)
    source = FakeSource()
    source.stream(NOT_RUNNING)
    source.stream(lines(1, 2))
    source.stream(lines(1, 2, 3, 4))
    source.answer("s", ENDED)
    await scene.run(source)
    assert await scene.shown() == [line(1), line(2), line(3), line(4)]
