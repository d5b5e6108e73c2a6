"""Dead letters of a real daemon: set aside, killed in the middle of a replay, delivered at last."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson

from forwarder.local.server import LocalServer
from forwarder.local.settings import LocalSettings
from forwarder.spool.files import StateDir
from forwarder.spool.overview import overview_of
from forwarder.spool.requests import requests_in
from forwarder.spool.verify import verify
from tests.fakes.daemon import running, until, write_config
from tests.fakes.local import shell_sandbox
from tests.fakes.web_server import Reply, Request, WebServer
from tests.integration.test_commands import Scene

if TYPE_CHECKING:
    from pathlib import Path

    from forwarder.spool.interface import SinkOverview

LINES = 40
POISON = {"7", "17", "27", "37"}


class Destination:
    """Takes lines, as far as it is told to.

    Attributes:
        picky: Whether a request with a poisonous line is refused.
        hangs: Whether it takes a poisonous line and never answers.
        taken: The ids of the lines that it keeps, in order, with their text.
        hung: Set when it hangs.
    """

    def __init__(self) -> None:
        self.picky = True
        self.hangs = False
        self.taken: list[tuple[str, str]] = []
        self.hung = asyncio.Event()

    def answer(self, request: Request) -> Reply:
        records = [orjson.loads(line) for line in request.body.splitlines()]
        lines = [(one["id"], one["text"]) for one in records if "text" in one]
        poisonous = any(text in POISON for _, text in lines)
        if poisonous and self.picky:
            return Reply(400, body=b"I do not like sevens")
        self.taken += lines
        if poisonous and self.hangs:
            self.hung.set()
            return Reply(fault="stall")
        return Reply()

    @property
    def poison(self) -> list[tuple[str, str]]:
        return [(one, text) for one, text in self.taken if text in POISON]


def sink_of(state: StateDir) -> SinkOverview:
    (sink,) = overview_of(state).sinks
    aside = sink.filtered + sink.dead_lettered + sink.dropped
    assert sink.taken == sink.delivered + aside + sink.pending
    return sink


async def test_a_replay_that_is_killed_ends_with_every_line_there_and_with_the_same_id(
    tmp_path: Path,
) -> None:
    destination = Destination()
    async with (
        LocalServer(LocalSettings()) as api,
        WebServer(handler=destination.answer) as web,
    ):
        sandbox = await shell_sandbox(api.base_url, api.api_key, f"seq {LINES}", tags=["t"])
        await api.wait_ended(sandbox)
        config = write_config(
            tmp_path,
            base_url=api.base_url,
            api_key=api.api_key,
            sandboxes=[{"tags": ["t"]}],
            sinks={
                "out": {
                    "type": "http",
                    "endpoint": f"{web.url}/lines",
                    "allow_plaintext": True,
                    "batch": {"max_age": "0s"},
                }
            },
        )
        scene = Scene(config, StateDir(tmp_path / "state"))

        async with running(config, forked=True) as daemon:
            await until(scene.state.marker.exists, "a spool")
            await until(lambda: sink_count(scene.state, taken=LINES), "the dead letters")
            sink = sink_of(scene.state)
            assert (sink.dead_letters, sink.delivered) == (len(POISON), LINES - len(POISON))
            listed = await asyncio.to_thread(scene.run, "dead-letters", "list")
            assert "400: " in listed

            destination.picky, destination.hangs = False, True
            replay = ("dead-letters", "replay", "--sink", "out", "--all")
            told = await asyncio.to_thread(scene.run, *replay, "--no-wait")
            assert told.startswith("4 dead letters of out (4 lines) will be sent again")
            await destination.hung.wait()
            await daemon.kill()
        sink = sink_of(scene.state)
        assert (sink.dead_letters, sink.replaying) == (len(POISON), len(POISON))

        destination.hangs = False
        async with running(config, forked=True) as daemon:
            await until(lambda: not sink_of(scene.state).dead_letters, "the replay")
            assert requests_in(scene.state) == []
            daemon.terminate()
            assert await daemon.wait() == 0
    sink = sink_of(scene.state)
    assert (sink.delivered, sink.dead_lettered, sink.dropped) == (LINES, 0, 0)
    assert {text for _, text in destination.taken} == {str(one) for one in range(1, LINES + 1)}
    assert len(set(destination.taken)) == LINES
    assert len(destination.poison) > len(POISON), "it was sent once more after the kill"
    assert verify(scene.state).ok


def sink_count(state: StateDir, *, taken: int) -> bool:
    sinks: list[Any] = list(overview_of(state).sinks)
    return any(one.taken == taken and not one.pending for one in sinks)
