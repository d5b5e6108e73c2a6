"""Each fault of a log source by itself: found, survived, and told exactly where lines are gone.

The daemon is a process, the service is real, the log is dictated. What is left at the end is
compared to the byte: both files with what was written, and every gap record with what is missing.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Literal

import pytest

from forwarder.local.settings import LocalSettings, StatusFault
from tests.crash.dictated import SECOND_NS, Stage, stage
from tests.crash.scene import seeded
from tests.fakes.daemon import until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.fakes.daemon import DaemonProcess

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


# Gaps ---------------------------------------------------------------------------------------------

#: So little that whatever is lost on the way is out of reach for the session.
SMALL_WINDOW = LocalSettings(replay_window_bytes=100)


async def test_bytes_that_only_the_session_no_longer_has_are_no_gap_for_the_sinks(
    tmp_path: Path,
) -> None:
    async with stage(tmp_path, SMALL_WINDOW, proxied=True) as one:
        async with one.daemon(ON_END) as daemon:
            await one.say_and_deliver(daemon, 50)
            await one.lose_on_the_way(300)
            one.come_back()
            await one.delivered(daemon)
            await one.finish(daemon)
        one.check_exact()
        gaps = one.gaps(one.sandbox)
        assert [(gap.cause, gap.after_line) for gap in gaps] == [("replay_gap", 49)]
        assert all(gap.filled_ns >= gap.noticed_ns > 0 for gap in gaps)


async def test_bytes_that_nobody_has_any_more_are_one_gap_in_their_place(tmp_path: Path) -> None:
    async with stage(tmp_path, SMALL_WINDOW, proxied=True) as one:
        async with one.daemon(ON_END) as daemon:
            await one.say_and_deliver(daemon, 50)
            await one.lose_on_the_way(300)
            kept = _rotate(one)
            one.come_back()
            await one.shows(daemon, one.sandbox.lines[-1])
            await one.finish(daemon)
        one.check_gaps("replay_gap", missing=[range(50, 350 - kept)])
        (gap,) = one.gaps(one.sandbox)
        assert (gap.after_line, gap.from_offset) == (49, sum(map(len, one.sandbox.lines[:50])))


@pytest.mark.parametrize("kept", [True, False], ids=["session kept", "session lost"])
async def test_what_was_rotated_away_while_nobody_read_is_a_gap_or_in_the_session(
    tmp_path: Path, kept: bool
) -> None:
    async with stage(tmp_path) as one:
        async with one.daemon() as daemon:
            await one.say_and_deliver(daemon, 50)
        one.sandbox.say(300)
        if not kept:
            one.server.forget_sessions()
        held = _rotate(one)
        async with one.daemon(ON_END) as daemon:
            await one.shows(daemon, one.sandbox.lines[-1])
            await one.finish(daemon)
        one.check_gaps("replay_gap" if kept else "anchor_lost", missing=[range(50, 350 - held)])


async def test_a_log_that_is_rotated_again_and_again_has_a_gap_for_each_time(
    tmp_path: Path,
) -> None:
    async with stage(tmp_path) as one:
        missing = []
        for _ in range(3):
            async with one.daemon() as daemon:
                one.sandbox.say(40)
                await one.shows(daemon, one.sandbox.lines[-1])
            one.server.forget_sessions()
            begin = len(one.sandbox.lines)
            one.sandbox.say(200)
            missing.append(range(begin, len(one.sandbox.lines) - _rotate(one)))
        async with one.daemon(ON_END) as daemon:
            await one.finish(daemon)
        one.check_gaps(*["anchor_lost"] * 3, missing=missing)


async def test_a_flood_that_the_server_itself_cannot_keep_is_declared_to_the_line(
    tmp_path: Path,
) -> None:
    settings = LocalSettings(retention_bytes=64 << 10, replay_window_bytes=1000)
    async with stage(tmp_path, settings) as one:
        async with one.daemon(ON_END) as daemon:
            await one.say_and_deliver(daemon, 50)
            missing = []
            for _ in range(3):
                begin = len(one.sandbox.lines)
                one.sandbox.say(5000)
                missing.append(range(begin, len(one.sandbox.lines) - one.held))
                await one.shows(daemon, one.sandbox.lines[-1])
            await one.finish(daemon)
        one.check_gaps(*["replay_gap"] * 3, missing=missing)


def _rotate(one: Stage) -> int:
    """Drop all but the end of the log; returns how many lines are still there."""
    one.server.rotate(2000)
    assert 0 < one.held < 50
    return one.held


# Stamps -------------------------------------------------------------------------------------------


async def _in_the_middle(one: Stage, daemon: DaemonProcess) -> None:
    """Lose the session, in whatever has been sent of what was said by now."""
    written = one.home.output / f"{one.sandbox.id}.log"
    before = written.stat().st_size if written.exists() else 0
    await until(
        lambda: (written.exists() and written.stat().st_size > before) or not daemon.running
    )
    one.server.forget_sessions()
    one.server.break_streams("cut")


async def _one_stamp(directory: Path, settings: LocalSettings) -> None:
    """10,000 lines with one stamp, and sessions lost in the middle of them (B6)."""
    async with stage(directory, settings) as one:
        one.server.faults.piece_bytes = 10_000
        one.sandbox.say(10)
        async with one.daemon(ON_END) as daemon:
            stamp_ns = one.sandbox.last_stamp_ns + 10
            for _ in range(2):
                one.sandbox.say(5000, stamp_ns=stamp_ns)
                await _in_the_middle(one, daemon)
            await one.delivered(daemon)
            await one.finish(daemon)
        one.check_exact()


SINCE: dict[str, dict[str, Any]] = {
    "exact": {},
    "exclusive": {"since_inclusive": False},
    "seconds": {"since_granularity": "second"},
    "exclusive-seconds": {"since_granularity": "second", "since_inclusive": False},
    "off-after-the-first": {"since_per_line": False},
}


async def test_ten_thousand_lines_on_one_stamp_outlive_lost_sessions_in_their_middle(
    tmp_path: Path,
) -> None:
    async with asyncio.TaskGroup() as trials:
        for name, since in SINCE.items():
            trials.create_task(_one_stamp(tmp_path / name, LocalSettings(**since)))


async def test_a_line_that_is_repeated_a_hundred_thousand_times_is_there_as_often(
    tmp_path: Path,
) -> None:
    async with stage(tmp_path) as one:
        one.server.faults.piece_bytes = 50_000
        stamp_ns = 1_780_000_000 * SECOND_NS
        async with one.daemon(ON_END) as daemon:
            for number in range(4):
                # A thousand on a stamp, the last ones on that of the next ones' first.
                stamps = [stamp_ns + (number * 24 + place // 1000) for place in range(25_000)]
                one.sandbox.write((stamp, b"the same again\n") for stamp in stamps)
                await _in_the_middle(one, daemon)
            await one.delivered(daemon)
            await one.finish(daemon)
        one.check_exact()


async def _out_of_order(directory: Path, settings: LocalSettings) -> None:
    """Standard error is stamped up to five seconds away from what surrounds it (B7)."""
    rng = seeded()
    async with stage(directory, settings, source={"overlap": "15s"}) as one:
        stamp_ns = 1_780_000_000 * SECOND_NS
        async with one.daemon(ON_END) as daemon:
            for _ in range(10):
                for _ in range(rng.randrange(1, 90)):
                    stamp_ns += rng.choice((0, 1, SECOND_NS // 10))
                    skew_ns = rng.randint(-5 * SECOND_NS, 5 * SECOND_NS)
                    one.sandbox.say(stamp_ns=stamp_ns)
                    one.sandbox.say(stamp_ns=stamp_ns + skew_ns, of="err")
                await _in_the_middle(one, daemon)
            await one.delivered(daemon)
            await one.finish(daemon)
        one.check_exact()


async def test_stamps_out_of_order_by_five_seconds_cost_no_line_at_a_lost_session(
    tmp_path: Path,
) -> None:
    async with asyncio.TaskGroup() as trials:
        for name in ("exact", "exclusive-seconds", "off-after-the-first"):
            settings = LocalSettings(**SINCE[name])
            trials.create_task(_out_of_order(tmp_path / name, settings))


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
