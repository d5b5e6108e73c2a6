"""How logs end: seen and unseen, for good and to begin again, and what cannot be known of it."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any, Literal

import pytest

from forwarder.local.settings import LocalSettings
from forwarder.model import StreamState
from forwarder.spool.overview import overview_of
from tests.crash.dictated import Stage, stage
from tests.crash.scene import TAG
from tests.fakes import oracle
from tests.fakes.daemon import until
from tests.fakes.local import create_sandbox
from tests.fakes.ndjson import records

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.daemon import DaemonProcess

ON_END = "--until-complete"
Stored = Literal["off", "on", "not_enabled", "unimplemented"]
STORED: tuple[Stored, ...] = ("off", "on", "not_enabled", "unimplemented")


# A sandbox that ends ------------------------------------------------------------------------------


async def _ends_while_followed(directory: Path, settings: LocalSettings) -> None:
    """The end comes with lines that were never sent before, the last one without its newline."""
    async with stage(directory, settings) as one:
        async with one.daemon(ON_END) as daemon:
            await one.say_and_deliver(daemon, 50)
            one.sandbox.say(1000)
            one.sandbox.write([(one.sandbox.last_stamp_ns + 1, b"and then it")])
            await one.sandbox.end(conclude=False)
            assert await daemon.wait() == 0, daemon.log
        # Without a newline nobody can tell its end from its middle: it is kept as it came.
        one.check_exact()
        assert _state(one) is StreamState.COMPLETE


async def test_a_sandbox_that_stops_while_it_is_followed_is_read_to_its_very_end(
    tmp_path: Path,
) -> None:
    async with asyncio.TaskGroup() as trials:
        for serves in (True, False):
            settings = LocalSettings(ended_serves_logs=serves, ended_resumes=False)
            trials.create_task(_ends_while_followed(tmp_path / f"serves-{serves}", settings))


async def _ends_unseen(directory: Path, settings: LocalSettings) -> Stage:
    """The daemon takes 50 lines; 100 more and the end come while it is away."""
    async with stage(directory, settings) as one:
        async with one.daemon() as daemon:
            await one.say_and_deliver(daemon, 50)
        one.sandbox.say(100)
        await one.sandbox.end()
        await one.finish_anew()
        assert _state(one) is StreamState.COMPLETE
        return one


@pytest.mark.slow
async def test_an_end_that_nobody_saw_is_read_from_where_it_still_is_or_is_a_gap(
    tmp_path: Path,
) -> None:
    async def serves(stored: Stored) -> None:
        settings = LocalSettings(ended_resumes=False, stored_logs=stored)
        (await _ends_unseen(tmp_path / f"serves-{stored}", settings)).check_exact()

    async def session_lives() -> None:
        settings = LocalSettings(ended_serves_logs=False)
        (await _ends_unseen(tmp_path / "session", settings)).check_exact()

    async def refuses(stored: Stored) -> None:
        settings = LocalSettings(ended_serves_logs=False, ended_resumes=False, stored_logs=stored)
        one = await _ends_unseen(tmp_path / f"refuses-{stored}", settings)
        missing = [] if stored == "on" else [range(50, 151)]
        one.check_gaps("tail_unknown", missing=missing)
        (gap,) = one.gaps(one.sandbox)
        assert (gap.kind, gap.bounds) == ("tail", "approximate")
        assert gap.after_line == (150 if stored == "on" else 49)

    async with asyncio.TaskGroup() as trials:
        trials.create_task(session_lives())
        for stored in STORED:
            trials.create_task(serves(stored))
            trials.create_task(refuses(stored))


async def test_stored_logs_are_never_asked_for_when_the_configuration_says_so(
    tmp_path: Path,
) -> None:
    settings = LocalSettings(ended_serves_logs=False, ended_resumes=False, stored_logs="on")
    async with stage(tmp_path, settings, source={"stored_logs": "off"}) as one:
        async with one.daemon() as daemon:
            await one.say_and_deliver(daemon, 50)
        one.sandbox.say(100)
        await one.sandbox.end()
        await one.finish_anew()
        one.check_gaps("tail_unknown", missing=[range(50, 151)])


@pytest.mark.parametrize("stored", ["off", "not_enabled", "unimplemented"])
async def test_that_there_are_no_stored_logs_is_said_once_however_many_sandboxes_ended(
    tmp_path: Path, stored: Stored
) -> None:
    settings = LocalSettings(ended_serves_logs=False, ended_resumes=False, stored_logs=stored)
    async with stage(tmp_path, settings, sandboxes=3) as one:
        async with one.daemon() as daemon:
            await one.say_and_deliver(daemon, 10)
        for sandbox in one.sandboxes:
            await sandbox.end()
        async with one.daemon(ON_END) as daemon:
            assert await daemon.wait() == 0, daemon.log
            said = [event for event in daemon.events if "stored logs" in event["event"]]
        assert [(event["level"], bool(event["reason"])) for event in said] == [("warning", True)]


async def _ends_early(one: Stage, daemon: DaemonProcess) -> None:
    """The stream ends cleanly, and lines come after that, before the daemon can look."""
    await one.say_and_deliver(daemon, 50)
    daemon.send(signal.SIGSTOP)
    one.server.break_streams("clean_end")
    await until(lambda: one.server.open_streams == 0, "the stream's end")
    one.sandbox.say(20)


async def test_lines_between_the_end_of_a_stream_and_that_of_its_sandbox_are_in_its_session(
    tmp_path: Path,
) -> None:
    async with stage(tmp_path, LocalSettings(ended_serves_logs=False)) as one:
        async with one.daemon(ON_END) as daemon:
            await _ends_early(one, daemon)
            await one.sandbox.end()
            daemon.send(signal.SIGCONT)
            assert await daemon.wait() == 0, daemon.log
        one.check_exact()


async def test_lines_between_the_end_of_a_stream_and_a_restart_are_read_from_the_session(
    tmp_path: Path,
) -> None:
    """Without the session nobody can tell, and the clean end is believed: `docs/delivery.md`."""
    async with stage(tmp_path) as one:
        async with one.daemon(ON_END) as daemon:
            await _ends_early(one, daemon)
            await one.server.restart_container(one.sandbox.id)
            one.sandbox.say(30)
            daemon.send(signal.SIGCONT)
            await one.shows(daemon, one.sandbox.lines[-1])
            await one.finish(daemon)
        one.check_exact()


async def test_stored_lines_of_an_earlier_gap_are_not_delivered_behind_later_lines(
    tmp_path: Path,
) -> None:
    settings = LocalSettings(ended_serves_logs=False, ended_resumes=False, stored_logs="on")
    async with stage(tmp_path, settings) as one:
        async with one.daemon() as daemon:
            await one.say_and_deliver(daemon, 50)
        one.sandbox.say(100)
        one.server.forget_sessions()
        one.server.rotate(1500)
        held = one.held
        async with one.daemon() as daemon:
            await one.shows(daemon, one.sandbox.lines[-1])
        one.sandbox.say(10)
        await one.sandbox.end()
        await one.finish_anew()
        one.check_gaps("anchor_lost", "tail_unknown", missing=[range(50, 150 - held)])


# Born and gone between two looks ------------------------------------------------------------------


async def _brief(one: Stage) -> str:
    """A sandbox that says two lines and is over before this returns."""
    at = one.server.base_url, one.server.api_key
    lines = [oracle.line("brief", 0), oracle.line("brief", 1, last=True)]
    command = "printf %s '" + b"".join(lines).decode() + "'"
    sandbox_id = await create_sandbox(*at, "sh", ("-c", command), tags=[TAG])
    await one.server.wait_ended(sandbox_id)
    return sandbox_id


async def _born_and_gone(directory: Path, *expected: str, **options: Any) -> None:
    """What comes of it: its lines, by `line`, and the cause of a gap."""
    settings = LocalSettings(ended_resumes=False, **options)
    async with stage(directory, settings, source={"poll_interval": "1s"}) as one:
        async with one.daemon() as daemon:
            await one.say_and_deliver(daemon, 10)
            sandbox_id = await _brief(one)
            file = one.home.output / f"{sandbox_id}.ndjson"
            await until(
                lambda: file.exists() and file.read_bytes().count(b"\n") == len(expected),
                f"{expected}; the log:\n{daemon.log}",
            )
            await until(lambda: _finished(one, sandbox_id), "its end")
        output = file.read_bytes()
        shown = [
            record["gap"]["cause"] if "gap" in record else "line" for record in records(output)
        ]
        assert shown == list(expected)
        assert oracle.count_records(output, ["brief"]).wrong == {}


async def test_a_sandbox_that_was_born_and_gone_between_two_looks_is_read_or_declared(
    tmp_path: Path,
) -> None:
    gone: dict[str, Any] = {"ended_serves_logs": False}
    stored = _born_and_gone(
        tmp_path / "stored", "line", "line", "tail_unknown", **gone, stored_logs="on"
    )
    async with asyncio.TaskGroup() as trials:
        trials.create_task(_born_and_gone(tmp_path / "served", "line", "line"))
        trials.create_task(stored)
        trials.create_task(_born_and_gone(tmp_path / "gone", "never_followed", **gone))


# A sandbox that is forgotten, and one that is not at its end --------------------------------------


async def _forget(one: Stage) -> None:
    """Let the service forget the sandbox, logs and all: it keeps none that ended."""
    at = one.server.base_url, one.server.api_key
    await create_sandbox(*at, "sleep", ["600"])
    assert one.server.sandboxes.get(one.sandbox.id) is None


async def _deleted(directory: Path, *, cut: bool) -> None:
    settings = LocalSettings(max_ended_sandboxes=0, ended_resumes=False)
    async with stage(directory, settings, proxied=True) as one:
        async with one.daemon(ON_END) as daemon:
            await one.say_and_deliver(daemon, 50)
            if cut:
                # The lines and the end are lost on the way.
                await one.lose_on_the_way(200)
            await one.sandbox.end()
            await _forget(one)
            if cut:
                one.come_back()
            assert await daemon.wait() == 0, daemon.log
        opened = one.server.counters.streams_fresh + one.server.counters.streams_resumed
        assert opened <= 3
        if cut:
            one.check_gaps("tail_unknown", missing=[range(50, 251)])
            assert _state(one) is StreamState.NOT_FOUND
        else:
            one.check_exact()
            assert _state(one) is StreamState.COMPLETE


async def test_a_sandbox_that_is_deleted_under_its_stream_is_over_and_not_tried_for_ever(
    tmp_path: Path,
) -> None:
    async with asyncio.TaskGroup() as trials:
        for cut in (False, True):
            trials.create_task(_deleted(tmp_path / f"cut-{cut}", cut=cut))


async def test_the_end_of_a_stream_is_not_the_end_of_a_running_sandbox(tmp_path: Path) -> None:
    async with stage(tmp_path) as one:
        async with one.daemon(ON_END) as daemon:
            for _ in range(6):
                await one.say_and_deliver(daemon, 20)
                one.server.break_streams("clean_end")
            one.server.faults.end_after_bytes = 3000
            for _ in range(6):
                await one.say_and_deliver(daemon, 20)
            one.server.faults.end_after_bytes = None
            assert not _ended(daemon)
            await one.finish(daemon)
        one.check_exact()


def _ended(daemon: DaemonProcess) -> list[dict[str, Any]]:
    return [event for event in daemon.events if event.get("event") == "stream ended"]


def _state(one: Stage) -> StreamState:
    (stream,) = overview_of(one.home.state).streams
    return stream.state


def _finished(one: Stage, sandbox_id: str) -> bool:
    streams = overview_of(one.home.state).streams
    return any(each.key.sandbox_id == sandbox_id and each.state.final for each in streams)
