"""Each fault of a log source by itself: found, survived, and told exactly where lines are gone.

The daemon is a process, the service is real, the log is dictated. What is left at the end is
compared to the byte: both files with what was written, and every gap record with what is missing.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Literal

import pytest

from forwarder.local.settings import LocalSettings, StatusFault
from tests.crash.dictated import stage
from tests.fakes.daemon import until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

#: A server without a session to resume is asked for the time before the last line, over and over.
NEVER = 1_000_000
ON_END = "--until-complete"


# Silence and age ----------------------------------------------------------------------------------


async def _held_back(directory: Path) -> None:
    """The server has lines and does not send them (A5)."""
    async with stage(directory, source={"idle_probe": "1s"}) as one:
        async with one.daemon(ON_END) as daemon:
            await one.say_and_deliver(daemon, 50)
            one.server.faults.silent = True
            await one.say_and_deliver(daemon, 50)
            assert one.server.counters.streams_resumed > 0
            await one.finish(daemon)
        one.check_exact()


async def _no_answer_before_the_first_line(directory: Path) -> None:
    """More silent sandboxes than are opened at once, none of which is answered at all."""
    settings = LocalSettings(announce_session=False)
    source = {"idle_probe": "1s", "max_opening": 1}
    async with stage(directory, settings, sandboxes=3, source=source) as one:
        async with one.daemon(ON_END) as daemon:
            await until(lambda: one.server.counters.streams_fresh > 4, "probes without an answer")
            await one.say_and_deliver(daemon, 50)
            await one.finish(daemon)
        one.check_exact()


async def _silent_without_a_session(directory: Path) -> None:
    """Probes can only read the log again, and each of them brings what is known."""
    async with stage(directory, source={"idle_probe": "1s"}) as one:
        one.server.faults.hide_session = True
        async with one.daemon(ON_END) as daemon:
            await one.say_and_deliver(daemon, 50)
            await until(lambda: one.server.counters.streams_fresh > 3, "probes")
            await one.say_and_deliver(daemon, 50)
            await one.finish(daemon)
        one.check_exact()


async def _open_for_long(directory: Path) -> None:
    """A stream that never falls silent is opened again all the same when it is old."""
    async with stage(directory, source={"stream_life": "10s"}) as one:
        async with one.daemon(ON_END) as daemon:
            while one.server.counters.streams_resumed == 0:
                await one.say_and_deliver(daemon, 5)
            await one.finish(daemon)
        one.check_exact()


@pytest.mark.slow
async def test_silence_is_never_taken_for_peace_and_no_stream_lives_for_ever(
    tmp_path: Path,
) -> None:
    trials = (_held_back, _no_answer_before_the_first_line, _silent_without_a_session)
    await _together(tmp_path, *trials, _open_for_long)


# Sessions and offsets -----------------------------------------------------------------------------


async def test_a_session_that_changes_under_the_stream_costs_no_line(tmp_path: Path) -> None:
    async with stage(tmp_path) as one:
        async with one.daemon(ON_END) as daemon:
            for _ in range(2):
                await one.say_and_deliver(daemon, 50)
                one.server.faults.change_session = True
                await one.say_and_deliver(daemon, 50)
                one.server.faults.change_session = False
            assert one.server.counters.streams_fresh > 2
            await one.finish(daemon)
        one.check_exact()


async def test_a_server_without_sessions_is_read_again_from_before_the_last_line(
    tmp_path: Path,
) -> None:
    async with stage(tmp_path) as one:
        one.server.faults.hide_session = True
        async with one.daemon(ON_END) as daemon:
            for how in ("cut", "reset", "clean_end", "cut", "reset"):
                await one.say_and_deliver(daemon, 30)
                one.sandbox.say(1000)
                one.server.break_streams(how)
            await one.finish(daemon)
            assert one.server.counters.streams_resumed == 0
        one.check_exact()


LIES: dict[str, dict[str, Any]] = {
    "backwards": {"offset_shift": -7},
    "ahead": {"offset_shift": 10},
    "nothing": {"offset_value": 0},
    "repeated": {"offset_value": 500},
    "half-of-all-numbers": {"offset_value": 1 << 63},
    "the-largest-number": {"offset_value": (1 << 64) - 1},
}


async def _lie(directory: Path, lie: dict[str, Any]) -> None:
    """The server lies from the first byte, then is honest, then lies in the middle of a stream."""
    async with stage(directory) as one:
        faults = one.server.faults
        faults.merge(lie)
        async with one.daemon(ON_END) as daemon:
            for change in ({}, {"offset_shift": 0, "offset_value": None}, lie):
                await one.say_and_deliver(daemon, 20)
                one.server.break_streams("cut")
                await one.say_and_deliver(daemon, 20)
                faults.merge(change)
            await one.say_and_deliver(daemon, 20)
            await one.finish(daemon)
        one.check_exact()
        assert one.server.counters.streams_invalid == 0


async def test_offsets_that_lie_in_whatever_way_cost_no_line_and_repeat_none(
    tmp_path: Path,
) -> None:
    async with asyncio.TaskGroup() as trials:
        for name, lie in LIES.items():
            trials.create_task(_lie(tmp_path / name, lie))


# The rest of the API ------------------------------------------------------------------------------


async def test_a_key_that_is_refused_holds_the_stream_until_its_file_has_the_new_one(
    tmp_path: Path,
) -> None:
    key_file = tmp_path / "key"
    async with stage(tmp_path) as one:
        right, wrong = one.server.api_key, "a-key-of-yesterday"
        key_file.write_text(right)
        one.take_key_from(key_file)
        async with one.daemon(ON_END) as daemon:
            await one.say_and_deliver(daemon, 50)
            one.server.break_streams("status", "unauthenticated")
            await one.say_and_deliver(daemon, 50)
            key_file.write_text(wrong)
            one.server.break_streams("cut")
            await daemon.event("stream held", detail="API key")
            one.sandbox.say(50)
            key_file.write_text(right)
            await one.delivered(daemon)
            await one.finish(daemon)
            said = "\n".join([*map(str, daemon.events), *daemon.texts])
            assert right not in said
            assert wrong not in said
        one.check_exact()


HOWS: tuple[Literal["cut", "reset"], ...] = ("cut", "reset")


async def test_streams_break_and_go_on_while_nothing_else_of_the_api_answers(
    tmp_path: Path,
) -> None:
    async with stage(tmp_path, sandboxes=2) as one:
        async with one.daemon(ON_END) as daemon:
            await one.say_and_deliver(daemon, 20)
            down = StatusFault("unavailable", calls=NEVER)
            one.server.faults.statuses = {"GetSandbox": down, "ListSandboxes": down}
            for how in HOWS * 2:
                one.server.break_streams(how)
                await one.say_and_deliver(daemon, 20)
                one.server.forget_sessions()
            one.server.break_streams("error", "RUNNER_DRAINING")
            await one.say_and_deliver(daemon, 20)
            assert down.calls < NEVER
            one.server.faults.statuses = {}
            await one.finish(daemon)
        one.check_exact()


async def test_a_stream_that_ends_cleanly_goes_on_while_nothing_else_of_the_api_answers(
    tmp_path: Path,
) -> None:
    async with stage(tmp_path) as one, one.daemon() as daemon:
        await one.say_and_deliver(daemon, 20)
        down = StatusFault("unavailable", calls=NEVER)
        one.server.faults.statuses = {"GetSandbox": down}
        one.server.break_streams("clean_end")
        one.sandbox.say(20)
        # So many answers that say nothing of the sandbox are patience enough.
        await until(lambda: one.sandbox.log == one.text(one.sandbox) or down.calls < NEVER - 15)
        assert one.sandbox.log == one.text(one.sandbox)


async def test_a_sandbox_that_is_unknown_for_a_moment_is_followed_on(tmp_path: Path) -> None:
    async with stage(tmp_path) as one:
        async with one.daemon(ON_END) as daemon:
            await one.say_and_deliver(daemon, 50)
            unknown = StatusFault("not_found", calls=3)
            one.server.faults.statuses = {"GetSandbox": unknown}
            one.server.break_streams("status", "not_found")
            await one.say_and_deliver(daemon, 50)
            assert unknown.calls == 0
            await one.finish(daemon)
        one.check_exact()
        assert one.gaps(one.sandbox) == []


async def test_a_sandbox_that_was_given_up_and_is_back_takes_its_gap_back(tmp_path: Path) -> None:
    async with stage(tmp_path) as one:
        async with one.daemon() as daemon:
            await one.say_and_deliver(daemon, 50)
            unknown = StatusFault("not_found", calls=NEVER)
            one.server.faults.statuses = {"GetSandbox": unknown, "StreamLogs": unknown}
            one.server.break_streams("cut")
            await one.shows(daemon, b"#gap ")
        (gap,) = one.gaps(one.sandbox)
        assert (gap.cause, gap.kind, gap.filled_ns) == ("tail_unknown", "tail", 0)
        one.sandbox.say(50)
        one.server.faults.statuses = {}
        async with one.daemon(ON_END) as daemon:
            await one.finish(daemon)
        (row,) = one.gaps(one.sandbox)
        assert row.filled_ns >= row.noticed_ns
        declared, taken_back = one.gap_records(one.sandbox)
        assert (declared["after_line"], declared["filled_ns"]) == (49, 0)
        assert (taken_back["after_line"], taken_back["filled_ns"]) == (49, row.filled_ns)
        one.check_lines()


async def _together(directory: Path, *trials: Callable[[Path], Awaitable[None]]) -> None:
    """Run trials that have nothing to do with each other at the same time."""
    async with asyncio.TaskGroup() as tasks:
        for trial in trials:
            tasks.create_task(_awaited(trial(directory / trial.__name__)))


async def _awaited(trial: Awaitable[None]) -> None:
    await trial
