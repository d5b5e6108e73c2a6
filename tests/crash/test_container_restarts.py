"""Containers that are restarted: each life has line numbers of its own, and none is mixed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from forwarder.local.settings import LocalSettings
from forwarder.spool.overview import overview_of
from tests.crash.dictated import Stage, stage
from tests.fakes.ndjson import records

if TYPE_CHECKING:
    from pathlib import Path

ON_END = "--until-complete"


async def _restarted_while_followed(directory: Path, *, keeps: bool) -> None:
    async with stage(directory, LocalSettings(restart_keeps_log=keeps)) as one:
        async with one.daemon(ON_END) as daemon:
            await one.say_and_deliver(daemon, 50)
            one.sandbox.say(500)
            for number in (1, 2):
                await one.server.restart_container(one.sandbox.id)
                one.sandbox.say(30)
                await one.delivered(daemon)
                assert _generation(one) == number
            await one.finish(daemon)
        one.check_exact()
        assert _numbers(one) == {0: 550, 1: 30, 2: 31}


async def _restarted_while_away(directory: Path, *, keeps: bool) -> None:
    async with stage(directory, LocalSettings(restart_keeps_log=keeps)) as one:
        async with one.daemon() as daemon:
            await one.say_and_deliver(daemon, 50)
        one.sandbox.say(20)
        one.server.forget_sessions()
        await one.server.restart_container(one.sandbox.id)
        one.sandbox.say(30)
        async with one.daemon(ON_END) as daemon:
            await one.shows(daemon, one.sandbox.lines[-1])
            await one.finish(daemon)
        if keeps:
            one.check_exact()
            assert sum(_numbers(one).values()) == 101
        else:
            one.check_gaps("restarted", missing=[range(50, 70)])
            (gap,) = one.gaps(one.sandbox)
            assert (gap.kind, gap.generation, gap.after_line) == ("tail", 0, 49)
            assert _numbers(one) == {0: 50, 1: 31}


async def test_a_restarted_container_counts_from_0_again_and_its_lives_never_mix(
    tmp_path: Path,
) -> None:
    async with asyncio.TaskGroup() as trials:
        for keeps in (False, True):
            followed, away = tmp_path / f"followed-{keeps}", tmp_path / f"away-{keeps}"
            trials.create_task(_restarted_while_followed(followed, keeps=keeps))
            trials.create_task(_restarted_while_away(away, keeps=keeps))


async def _restarted_and_ended_while_away(directory: Path, *, serves: bool) -> None:
    settings = LocalSettings(ended_serves_logs=serves, ended_resumes=False)
    async with stage(directory, settings) as one:
        async with one.daemon() as daemon:
            await one.say_and_deliver(daemon, 50)
        for count in (20, 30):
            one.sandbox.say(count)
            await one.server.restart_container(one.sandbox.id)
        one.sandbox.say(10)
        await one.sandbox.end()
        await one.finish_anew()
        if serves:
            one.check_gaps("restarted", missing=[range(50, 100)])
            assert _numbers(one) == {0: 50, 2: 11}
        else:
            one.check_gaps("tail_unknown", missing=[range(50, 111)])


async def _restarted_while_cut(directory: Path) -> None:
    async with stage(directory, proxied=True) as one:
        async with one.daemon(ON_END) as daemon:
            await one.say_and_deliver(daemon, 50)
            await one.lose_on_the_way(200)
            one.server.forget_sessions()
            await one.server.restart_container(one.sandbox.id)
            one.sandbox.say(30)
            one.come_back()
            await one.shows(daemon, one.sandbox.lines[-1])
            one.server.break_streams("cut")
            one.sandbox.say(5)
            await one.shows(daemon, one.sandbox.lines[-1])
            await one.finish(daemon)
        one.check_gaps("restarted", missing=[range(50, 250)])
        assert _numbers(one) == {0: 50, 1: 36}


async def test_lives_of_a_container_that_nobody_could_read_are_inside_one_gap(
    tmp_path: Path,
) -> None:
    async with asyncio.TaskGroup() as trials:
        trials.create_task(_restarted_while_cut(tmp_path / "cut"))
        for serves in (True, False):
            away = tmp_path / f"away-{serves}"
            trials.create_task(_restarted_and_ended_while_away(away, serves=serves))


async def test_the_old_life_of_a_container_is_read_to_its_end_in_its_session(
    tmp_path: Path,
) -> None:
    async with stage(tmp_path) as one:
        async with one.daemon() as daemon:
            await one.say_and_deliver(daemon, 50)
        one.sandbox.say(20)
        await one.server.restart_container(one.sandbox.id)
        one.sandbox.say(30)
        async with one.daemon(ON_END) as daemon:
            await one.shows(daemon, one.sandbox.lines[-1])
            await one.finish(daemon)
        one.check_exact()
        assert _numbers(one) == {0: 70, 1: 31}


def _generation(one: Stage) -> int:
    (stream,) = overview_of(one.home.state).streams
    return stream.generation


def _numbers(one: Stage) -> dict[int, int]:
    """How many lines there are of each life of the container; their numbers have no holes."""
    found: dict[int, list[int]] = {}
    for record in records(one.ndjson(one.sandbox)):
        if "gap" not in record:
            found.setdefault(record.get("generation", 0), []).append(record["line"])
    assert all(numbers == list(range(len(numbers))) for numbers in found.values())
    return {generation: len(numbers) for generation, numbers in found.items()}
