"""One stream against a scripted API, with the real intake and the real spool behind it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from forwarder.errors import (
    CredentialsRefusedError,
    InvalidRequestError,
    LogStreamError,
    SandboxNotFoundError,
    SandboxNotRunningError,
    SourceError,
    SourceUnavailableError,
)
from forwarder.inquiry import CONFIRMATIONS
from forwarder.model import Sandbox, SandboxState, StreamState
from forwarder.reopening import RESUMES_MAX
from forwarder.source.resume import tail_ns
from forwarder.spool.interface import Delivery
from tests.fakes.source import Break, FakeSource, Pause, emit, interrupted
from tests.fakes.stream_scene import (
    DOWN,
    ENDED,
    NOT_FOUND,
    NOT_RUNNING,
    OVERLAP_S,
    REFUSED,
    RUNNING,
    SECOND_NS,
    SESSION_GONE,
    UNREACHABLE,
    WIDTH,
    Scene,
    asked,
    cut_after_the_answer,
    line,
    lines,
    stream_scene,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.fakes.source import Action


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with stream_scene(tmp_path) as scene:
        yield scene


# The end of a sandbox -----------------------------------------------------------------------------


async def test_a_sandbox_that_ended_unseen_and_left_an_empty_log_leaves_a_gap(scene: Scene) -> None:
    await scene.taken(1, 2, 3)
    source = FakeSource()
    source.answer("s", ENDED)
    source.stream(SESSION_GONE)
    source.stream(NOT_RUNNING)
    source.stream()
    assert await scene.run(source) is StreamState.COMPLETE
    assert await scene.shown() == [line(1), line(2), line(3), "anchor_lost"]
    assert asked(source) == [f"resume A {3 * WIDTH}", "follow since -3", "read since -3"]


async def test_what_an_ended_sandbox_wrote_unseen_is_read_from_its_log(scene: Scene) -> None:
    await scene.taken(1, 2, 3)
    source = FakeSource()
    source.answer("s", ENDED)
    source.stream(SESSION_GONE)
    source.stream(NOT_RUNNING)
    source.stream(lines(1, 2, 3, 4))
    assert await scene.run(source) is StreamState.COMPLETE
    assert await scene.shown() == [line(1), line(2), line(3), line(4)]


async def test_after_a_clean_end_an_empty_log_is_no_gap(scene: Scene) -> None:
    source = FakeSource()
    source.answer("s", ENDED)
    source.stream(lines(1, 2, session="A"))
    source.stream()  # the session is read once more: an early end may not have been the last one
    source.stream()
    assert await scene.run(source) is StreamState.COMPLETE
    assert await scene.shown() == [line(1), line(2)]
    assert await scene.stored() == (StreamState.COMPLETE, "")


async def test_after_a_clean_end_a_refusal_to_be_read_again_is_no_gap(scene: Scene) -> None:
    source = FakeSource()
    source.answer("s", ENDED)
    source.stream(emit(line(1), b"without an end", session="A"))
    source.stream(NOT_RUNNING)
    source.stream(NOT_RUNNING)
    assert await scene.run(source) is StreamState.COMPLETE
    assert await scene.shown() == [line(1), b"without an end"]
    assert await scene.stored() == (StreamState.COMPLETE, "")


async def test_after_a_broken_stream_a_refusal_to_be_read_again_is_a_gap(scene: Scene) -> None:
    source = FakeSource()
    source.answer("s", ENDED)
    source.stream(emit(line(1), b"cut o", session="A"), UNREACHABLE)
    source.stream(NOT_RUNNING)
    source.stream(NOT_RUNNING)
    assert await scene.run(source) is StreamState.COMPLETE
    assert await scene.shown() == [line(1), b"cut o\n", "tail_unknown"]
    state, detail = await scene.stored()
    assert (state, "last lines are unknown" in detail) == (StreamState.COMPLETE, True)


async def test_a_stream_that_was_read_to_its_end_is_never_asked_for_again(scene: Scene) -> None:
    source = FakeSource()
    source.answer("s", ENDED)
    source.stream()
    source.stream()
    await scene.run(source)
    again = FakeSource()
    assert await scene.run(again) is StreamState.COMPLETE
    assert (again.requests, again.asked) == ([], [])


async def test_the_last_reading_is_repeated_until_it_is_whole(scene: Scene) -> None:
    source = FakeSource()
    source.answer("s", ENDED)
    source.stream(lines(1))
    source.stream(lines(1), UNREACHABLE)
    source.stream(REFUSED)
    source.stream(lines(1, 2))
    assert await scene.run(source) is StreamState.COMPLETE
    assert await scene.shown() == [line(1), line(2)]


# A sandbox that is not known ----------------------------------------------------------------------


async def test_a_stream_that_has_lines_is_given_up_only_after_several_answers(scene: Scene) -> None:
    source = FakeSource()
    source.stream(lines(1, session="A"), NOT_FOUND)
    assert await scene.run(source) is StreamState.NOT_FOUND
    assert source.asked == ["s"] * CONFIRMATIONS
    assert scene.clock.slept == [0.5, 1, 2, 4, 8, 16]
    assert await scene.shown() == [line(1), "tail_unknown"]
    assert await scene.stored() == (StreamState.NOT_FOUND, "the API does not know this sandbox")


async def test_a_quiet_sandbox_that_the_api_knew_is_given_up_only_after_several_answers(
    scene: Scene,
) -> None:
    source = FakeSource()
    source.stream(NOT_FOUND)
    assert await scene.follower(source, known=True).run() is StreamState.NOT_FOUND
    assert source.asked == ["s"] * CONFIRMATIONS


async def test_a_stream_that_has_none_is_given_up_sooner_and_without_a_gap(scene: Scene) -> None:
    source = FakeSource()
    source.stream(NOT_FOUND)
    assert await scene.run(source) is StreamState.NOT_FOUND
    assert source.asked == ["s"] * 2
    assert await scene.shown() == []


async def test_a_sandbox_that_is_known_again_in_time_is_followed_on(scene: Scene) -> None:
    source, unknown = FakeSource(), SandboxNotFoundError("no such sandbox", code="not_found")
    source.answer("s", *[unknown] * (CONFIRMATIONS - 1), RUNNING, ENDED)
    source.stream(lines(1, session="A"), NOT_FOUND)
    source.stream(lines(2, session="A", offset=WIDTH))
    source.stream()
    source.stream()
    assert await scene.run(source) is StreamState.COMPLETE
    assert await scene.shown() == [line(1), line(2)]
    assert asked(source)[1] == f"resume A {WIDTH}"


async def test_a_stream_that_stays_unknown_has_one_gap_however_often_it_is_tried(
    scene: Scene,
) -> None:
    for _ in range(3):
        source = FakeSource()
        source.stream(NOT_FOUND if await scene.shown() else lines(1, session="A"), NOT_FOUND)
        assert await scene.run(source) is StreamState.NOT_FOUND
    assert await scene.shown() == [line(1), "tail_unknown"]


async def test_a_stream_that_was_followed_again_and_given_up_again_has_another_gap(
    scene: Scene,
) -> None:
    first, second = FakeSource(), FakeSource()
    first.stream(lines(1, session="A"), NOT_FOUND)
    second.stream(lines(1, 2, session="B"), NOT_FOUND)
    for source in (first, second):
        assert await scene.run(source) is StreamState.NOT_FOUND
    shown = [line(1), "tail_unknown", "+tail_unknown", line(2), "tail_unknown"]
    assert await scene.shown() == shown


async def test_an_unfinished_first_line_is_kept_when_its_sandbox_is_forgotten(scene: Scene) -> None:
    source = FakeSource()
    source.stream(emit(b"2026-01-01T00:00:09Z unfinis", session="A"), NOT_FOUND)
    assert await scene.run(source) is StreamState.NOT_FOUND
    assert await scene.shown() == [b"2026-01-01T00:00:09Z unfinis\n", "tail_unknown"]


async def test_a_clean_end_and_a_sandbox_that_is_forgotten_is_no_gap_and_may_come_back(
    scene: Scene,
) -> None:
    source = FakeSource()
    source.stream(lines(1, session="A"))
    assert await scene.run(source) is StreamState.NOT_FOUND
    assert await scene.shown() == [line(1)]


async def test_a_stream_that_ended_is_opened_again_while_nobody_says_why(scene: Scene) -> None:
    source = FakeSource()
    source.answer("s", SourceUnavailableError("down", code="unavailable"), ENDED)
    source.stream(lines(1, session="A"))
    source.stream(lines(2, session="A", offset=WIDTH))
    source.stream()
    source.stream(lines(1, 2))
    await scene.run(source)
    assert asked(source)[1] == f"resume A {WIDTH}"
    assert await scene.shown() == [line(1), line(2)]


async def test_get_sandbox_is_asked_until_it_answers_when_no_stream_can_be_opened(
    scene: Scene,
) -> None:
    source = FakeSource()
    down = SourceUnavailableError("down", code="unavailable")
    source.answer("s", down, down, CredentialsRefusedError("no", code="unauthenticated"), ENDED)
    source.stream(NOT_RUNNING)
    source.stream(lines(1))
    assert await scene.run(source) is StreamState.COMPLETE
    assert len(source.asked) == 4


# Resume or reopen ---------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [(DOWN,), cut_after_the_answer()], ids=["refused", "cut"])
async def test_a_session_that_is_refused_again_and_again_is_given_up(
    scene: Scene, answer: tuple[Action, ...]
) -> None:
    source, pause = FakeSource(), Pause()
    source.stream(lines(1, session="A"), UNREACHABLE)
    for _ in range(RESUMES_MAX):
        source.stream(*answer)
    source.stream(lines(1, 2, session="B"), pause)
    await scene.run_until(source, pause)
    expected = [
        "follow since the beginning",
        *[f"resume A {WIDTH}"] * RESUMES_MAX,
        "follow since -5",
    ]
    assert asked(source) == expected
    assert await scene.shown() == [line(1), line(2)]


async def test_a_session_lives_on_while_nobody_answers(scene: Scene) -> None:
    source, pause = FakeSource(), Pause()
    source.stream(lines(1, session="A"), UNREACHABLE)
    for _ in range(5 * RESUMES_MAX):
        source.stream(UNREACHABLE)
    source.stream(lines(2, session="A", offset=WIDTH), pause)
    await scene.run_until(source, pause)
    assert set(asked(source)[1:]) == {f"resume A {WIDTH}"}
    assert await scene.shown() == [line(1), line(2)]


async def test_a_session_that_brings_something_every_time_is_resumed_for_ever(scene: Scene) -> None:
    source, pause = FakeSource(), Pause()
    count = 3 * RESUMES_MAX
    for number in range(count):
        source.stream(lines(10 + number, session="A", offset=WIDTH * number), interrupted())
    source.stream(pause)
    await scene.run_until(source, pause)
    assert asked(source)[1:] == [f"resume A {WIDTH * number}" for number in range(1, count + 1)]


def _in_band(code: str) -> SourceError:
    return LogStreamError("as scripted", code=code)


@pytest.mark.parametrize(
    ("error", "resumed"),
    [
        (_in_band("STREAM_INTERRUPTED"), True),
        (_in_band("SESSION_NOT_FOUND"), False),
        (_in_band("REPLAY_GAP"), False),
        (_in_band("RUNNER_UNAVAILABLE"), False),
        (_in_band("RUNNER_DRAINING"), False),
        (_in_band("INVALID_RESUME_OFFSET"), False),
        (_in_band("A_CODE_OF_TOMORROW"), False),
        (_in_band("SANDBOX_NOT_FOUND"), True),
        (_in_band("PERMISSION_DENIED"), True),
        (SourceUnavailableError("x", code="unavailable"), True),
        (SourceUnavailableError("x", code="connection"), True),
        (CredentialsRefusedError("x", code="permission_denied"), True),
        (SandboxNotRunningError("x", code="failed_precondition"), True),
        (InvalidRequestError("x", code="invalid_argument"), False),
        (None, True),
    ],
    ids=lambda value: value.code if isinstance(value, SourceError) else str(value),
)
async def test_what_ended_a_stream_says_how_it_goes_on(
    scene: Scene,
    error: SourceError | None,
    resumed: bool,
) -> None:
    source, pause = FakeSource(), Pause()
    source.answer("s", RUNNING)
    source.stream(lines(1, 2, session="A"), *([Break(error)] if error else []))
    source.stream(pause)
    await scene.run_until(source, pause)
    assert asked(source)[1:] == [f"resume A {2 * WIDTH}" if resumed else "follow since -4"]


async def test_a_stream_without_a_session_is_read_again_from_before_its_checkpoint(
    scene: Scene,
) -> None:
    await scene.taken(1, 2, 9, session="")
    source, pause = FakeSource(), Pause()
    source.stream(lines(9, 10), pause)
    await scene.run_until(source, pause)
    assert asked(source) == ["follow since 3"]
    assert await scene.shown() == [line(1), line(2), line(9), line(10)]


async def test_an_overlap_that_was_made_longer_neither_repeats_nor_declares_a_gap(
    scene: Scene,
) -> None:
    """What was deleted under the shorter one cannot be compared with."""
    spool = scene.spool.spool
    await spool.open_sink("archive", from_oldest=True)
    for number in range(40):
        await scene.taken(number, session="")
    await spool.advance("archive", spool.last_frame_id, {}, Delivery(delivered=40))
    assert await spool.prune(keep_tail_ns=tail_ns(OVERLAP_S * SECOND_NS)) > 20
    last_id = spool.last_frame_id
    source, pause = FakeSource(), Pause()
    source.stream(lines(*range(8, 43)), pause)
    await scene.run_until(source, pause, overlap_s=30)
    assert asked(source) == ["follow since 8"]
    assert (await scene.shown())[-3:] == [line(40), line(41), line(42)]
    assert sum(one.lines for one in await spool.read(last_id, max_bytes=1 << 20)) == 3


async def test_an_unfinished_line_goes_on_in_the_resumed_session(scene: Scene) -> None:
    await scene.taken(1, rest=line(2)[:20])
    source, pause = FakeSource(), Pause()
    source.stream(lines(2, session="A", offset=WIDTH), pause)
    await scene.run_until(source, pause)
    assert asked(source) == [f"resume A {WIDTH}"], "what was not stored is asked for again"
    assert await scene.shown() == [line(1), line(2)]


# How long it waits --------------------------------------------------------------------------------


async def test_readings_that_bring_nothing_new_come_ever_more_slowly(scene: Scene) -> None:
    await scene.taken(1, 2, session="")
    source, news, end = FakeSource(), Pause(), Pause()
    source.answer("s", RUNNING)
    for _ in range(7):
        source.stream(lines(1, 2))
    source.stream(lines(1, 2, 3), news)
    source.stream(lines(1, 2, 3), end)
    task = asyncio.create_task(scene.run_until(source, end))
    await news.reached.wait()
    assert scene.clock.slept == [0.5, 1, 2, 4, 8, 8, 8]
    await scene.intake.flush()
    news.until.set()
    await task
    assert scene.clock.slept[7:] == [0.5], "something new came"
    assert await scene.shown() == [line(1), line(2), line(3)]


async def test_refused_credentials_are_tried_slowly_and_for_ever(scene: Scene) -> None:
    source = FakeSource()
    source.answer("s", ENDED)
    refusals = 2000
    for _ in range(refusals):
        source.stream(REFUSED)
    source.stream(lines(1))
    source.stream(lines(1))
    assert await scene.run(source) is StreamState.COMPLETE
    assert scene.clock.slept[:8] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert set(scene.clock.slept[8:refusals]) == {60}
    assert await scene.shown() == [line(1)]


async def test_a_server_may_ask_for_a_longer_pause(scene: Scene) -> None:
    source, pause = FakeSource(), Pause()
    busy = SourceUnavailableError("busy", code="resource_exhausted", retry_after_s=17)
    source.stream(Break(busy))
    source.stream(pause)
    await scene.run_until(source, pause)
    assert scene.clock.slept == [17]


# What is told -------------------------------------------------------------------------------------


async def test_every_change_of_state_is_stored_once(scene: Scene) -> None:
    source, silence, held = FakeSource(), Pause(), Pause()
    source.answer("s", Sandbox("s", SandboxState.CREATING), ENDED)
    for _ in range(3):
        source.stream(REFUSED)
    source.stream(NOT_RUNNING)
    source.stream(lines(1, session="A"), held, lines(2, session="A", offset=WIDTH), silence)
    source.stream()
    source.stream()
    task = asyncio.create_task(scene.run(source))
    for pause in (held, silence):
        await pause.reached.wait()
        await scene.intake.flush()
        pause.until.set()
    await task
    assert scene.spool.states == [
        (StreamState.HELD, "unauthenticated: wrong key"),
        (StreamState.WAITING, "the sandbox is CREATING"),
        (StreamState.FOLLOWING, ""),
        (StreamState.COMPLETE, ""),
    ]


async def test_a_gap_is_logged_as_an_error(scene: Scene) -> None:
    source = FakeSource()
    source.stream(lines(1, session="A"), NOT_FOUND)
    with capture_logs() as logs:
        await scene.run(source)
    gaps = [one for one in logs if one["event"] == "gap"]
    assert [(one["log_level"], one["cause"], one["after_line"]) for one in gaps] == [
        ("error", "tail_unknown", 0)
    ]


# Starting and stopping ----------------------------------------------------------------------------


async def test_what_a_stopped_follower_had_read_is_stored_before_the_next_one_begins(
    scene: Scene,
) -> None:
    source, pause = FakeSource(), Pause()
    gate = scene.spool.gates["commit"] = asyncio.Event()
    source.stream(lines(1, session="A"), pause)
    first = asyncio.create_task(scene.follower(source).run())
    await pause.reached.wait()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    again, pause = FakeSource(), Pause()
    again.stream(lines(2, session="A", offset=WIDTH), pause)
    second = asyncio.create_task(scene.run_until(again, pause))
    for _ in range(20):
        await asyncio.sleep(0)
    assert (scene.spool.calls.count("open_stream"), again.requests) == (1, [])
    gate.set()
    await second
    assert asked(again) == [f"resume A {WIDTH}"]
    assert await scene.shown() == [line(1), line(2)]


async def test_a_stopped_follower_leaves_no_stream_open(scene: Scene) -> None:
    source, pause = FakeSource(), Pause()
    source.stream(lines(1), pause)
    await scene.run_until(source, pause)
    assert source.open_streams == 0
