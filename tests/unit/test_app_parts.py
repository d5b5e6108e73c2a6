"""No half-dead daemon: a part that fails, or ends, ends all of it, with that very error."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, cast

import pytest
from structlog.testing import capture_logs

from forwarder.admin.server import AdminServer
from forwarder.admin.systemd import ServiceManager
from forwarder.app import Daemon, sink_settings_types
from forwarder.config import load_settings
from forwarder.errors import SpoolUntrustedError
from tests.fakes.clock import FakeClock
from tests.fakes.daemon import write_config
from tests.fakes.spool import MeddledSpool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

WATCHED = {"NOTIFY_SOCKET": "/nobody/listens", "WATCHDOG_USEC": "20000000"}


class Part:
    """Stands for a part of the daemon: ends as told, else runs until it is cancelled.

    Attributes:
        name: Of a sink.
        ended: Whether it was cancelled.
        outcome: What to raise, at once; None for returning; without one it runs on.
    """

    name = "part"

    def __init__(self, *outcome: BaseException | None) -> None:
        self.ended = False
        self.outcome = outcome

    def replay(self) -> None:
        """No dead letters."""

    async def run(self) -> None:
        await asyncio.sleep(0)
        if self.outcome:
            if self.outcome[0] is not None:
                raise self.outcome[0]
            return
        try:
            await asyncio.Event().wait()
        finally:
            self.ended = True


class Scene:
    """An opened daemon, with one part that only waits and is to end with the others."""

    def __init__(self, daemon: Daemon, clock: FakeClock) -> None:
        self.daemon = daemon
        self.clock = clock
        self.spool = MeddledSpool(daemon.spool)
        self.bystander = Part()
        self.ending = 0
        daemon.spool = cast("Any", self.spool)
        daemon.dispatchers = [cast("Any", self.bystander)]

    async def run(self) -> None:
        """Run until something ends it; what is still running then is an error."""
        before = asyncio.all_tasks()
        stop, restart = asyncio.Event(), asyncio.Event()
        try:
            async with asyncio.timeout(60):
                await self.daemon.run(stop, restart, ending=self._note_ending)
        finally:
            assert asyncio.all_tasks() <= before | {asyncio.current_task()}

    def _note_ending(self) -> None:
        self.ending += 1


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    config = write_config(
        tmp_path,
        base_url="http://127.0.0.1:9",
        api_key="key",
        sandboxes=[{"tags": ["x"]}],
        sinks={"none": {"type": "discard"}},
    )
    settings = load_settings(config, sink_types=sink_settings_types(), env={})
    clock = FakeClock(instant=False)
    async with AsyncExitStack() as stack:
        stack.enter_context(capture_logs())
        opening = Daemon.open(settings, manager=ServiceManager(dict(WATCHED)), clock=clock)
        yield Scene(await stack.enter_async_context(opening), clock)


def discovery(scene: Scene, part: Part) -> None:
    scene.daemon.discovery = cast("Any", part)


def supervisor(scene: Scene, part: Part) -> None:
    scene.daemon.supervisor = cast("Any", part)


def intake(scene: Scene, part: Part) -> None:
    scene.daemon._intake = cast("Any", part)


def sink(scene: Scene, part: Part) -> None:
    scene.daemon.dispatchers.append(cast("Any", part))


PARTS = [discovery, supervisor, intake, sink]


@pytest.mark.parametrize("error", [LookupError("a bug"), SpoolUntrustedError("EIO")])
@pytest.mark.parametrize("replace", PARTS)
async def test_an_error_in_any_part_ends_all_of_it_and_comes_out(
    scene: Scene, replace: Callable[[Scene, Part], None], error: Exception
) -> None:
    replace(scene, Part(error))
    with pytest.raises(type(error), match=str(error)):
        await scene.run()
    assert scene.bystander.ended
    assert scene.ending == 1


@pytest.mark.parametrize("outcome", [None, asyncio.CancelledError()], ids=["returns", "cancelled"])
@pytest.mark.parametrize("replace", PARTS)
async def test_a_part_that_ends_without_an_error_is_not_done_without(
    scene: Scene, replace: Callable[[Scene, Part], None], outcome: BaseException | None
) -> None:
    replace(scene, Part(outcome))
    with pytest.raises(RuntimeError, match="and nobody asked for that"):
        await scene.run()
    assert scene.bystander.ended
    assert scene.ending == 1


@pytest.mark.parametrize("error", [LookupError("a bug"), SpoolUntrustedError("EIO")])
@pytest.mark.parametrize("call", ["prune", "remember"], ids=["prune", "watchdog"])
async def test_an_error_while_the_spool_is_kept_or_asked_ends_it_too(
    scene: Scene, call: str, error: Exception
) -> None:
    scene.spool.errors[call].append(error)
    running = asyncio.create_task(scene.run())
    while not running.done() and call not in scene.spool.calls:
        await asyncio.sleep(0)
        scene.clock.advance(1.0)
    with pytest.raises(type(error), match=str(error)):
        await running
    assert scene.bystander.ended


async def test_the_service_manager_hears_nothing_of_a_daemon_whose_writing_thread_is_gone(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(scene.daemon._manager, "notify", lambda *words: told.extend(words))
    scene.spool.gates["remember"] = asyncio.Event()  # a thread that is dead never answers
    running = asyncio.create_task(scene.run())
    while "remember" not in scene.spool.calls and not running.done():
        await asyncio.sleep(0)
    scene.clock.advance(60.0)
    await asyncio.sleep(0)
    assert "WATCHDOG=1" not in told
    scene.spool.gates["remember"].set()
    while "WATCHDOG=1" not in told and not running.done():
        await asyncio.sleep(0)
    assert "WATCHDOG=1" in told
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_the_admin_endpoint_starts_again_and_never_ends_anything(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = 0

    async def serve(*_: object) -> None:
        nonlocal served
        served += 1
        raise LookupError("a bug")

    monkeypatch.setattr(AdminServer, "_serve", serve)
    scene.daemon.settings = scene.daemon.settings.model_copy(
        update={"admin": scene.daemon.settings.admin.model_copy(update={"listen": "127.0.0.1:0"})}
    )
    running = asyncio.create_task(scene.run())
    while served < 3 and not running.done():
        await asyncio.sleep(0)
        scene.clock.advance(30.0)
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
