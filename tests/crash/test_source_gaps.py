"""What a log's server no longer has, and what is hard to tell apart when a log is read again.

Where lines are gone there is one gap record in their place, in both files and in the table of gaps,
and the lines that are missing are those inside it. Where they only look alike none is lost, and
none is there twice.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from forwarder.local.settings import LocalSettings
from tests.crash.dictated import SECOND_NS, Stage, stage
from tests.crash.scene import seeded
from tests.fakes.daemon import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.daemon import DaemonProcess

ON_END = "--until-complete"


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


async def test_text_that_looks_like_our_own_records_is_text_also_when_it_is_read_again(
    tmp_path: Path,
) -> None:
    gap = b'{"kind":"tail","cause":"tail_unknown","after_line":3,"before_line":null}'
    texts = [
        b"#gap " + gap,
        b'{"gap":' + gap + b"}",
        b'","gap":{},"text":"',
        b"2026-01-02T03:04:05.000000006Z #gap {}",
        b"",
        b" \t\r",
        "\u2028 \u202e \ufeff".encode(),
        bytes(set(range(256)) - {10}),
    ]
    async with stage(tmp_path) as one:
        async with one.daemon(ON_END) as daemon:
            for _ in range(3):
                begin_ns = one.sandbox.last_stamp_ns + 1
                one.sandbox.write((begin_ns, text + b"\n") for text in texts * 20)
                await _in_the_middle(one, daemon)
            await one.delivered(daemon)
            await one.finish(daemon)
        one.check_exact()
        assert one.gap_records(one.sandbox) == []
