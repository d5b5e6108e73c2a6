"""The command `replay`, as an operator runs it: with and without a daemon."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from forwarder.local.server import LocalServer
from forwarder.local.settings import LocalSettings
from forwarder.model import StreamInfo, StreamKey
from forwarder.spool.files import StateDir
from forwarder.spool.interface import Delivery
from forwarder.spool.overview import overview_of
from forwarder.spool.requests import requests_in
from forwarder.spool.sqlite import open_spool
from forwarder.spool.verify import verify
from tests.fakes.daemon import file_sink, running, until, write_config
from tests.fakes.local import shell_sandbox
from tests.fakes.web_server import Reply, Request, WebServer
from tests.integration.test_commands import NOW_NS, S, Scene
from tests.unit.spool.builders import commit, frame

if TYPE_CHECKING:
    from pathlib import Path

    from forwarder.spool.interface import SinkOverview

OUT = ("replay", "--sink", "out")


def http_sink(url: str, **more: Any) -> dict[str, Any]:
    return {"type": "http", "endpoint": url, "allow_plaintext": True, **more}


def scene_of(directory: Path, *, keep: str = "1h") -> Scene:
    config = write_config(
        directory,
        base_url="http://127.0.0.1:9",
        api_key="secret",
        sandboxes=[{"tags": ["x"]}],
        sinks={
            "out": http_sink("http://127.0.0.1:9/"),
            "late": http_sink("http://127.0.0.1:9/late"),
            "files": file_sink(directory / "out.log"),
        },
        spool={"keep": keep},
    )
    return Scene(config, StateDir(directory / "state"))


@pytest.fixture
async def scene(tmp_path: Path) -> Scene:
    """Two streams with two frames of two lines, a second apart; the last one is not delivered."""
    scene = scene_of(tmp_path)
    scene.state.path.mkdir()
    spool = await open_spool(scene.state, now=lambda: NOW_NS)
    await spool.configure_sinks({"out": "", "files": ""})
    for name in ("out", "files"):
        await spool.open_sink(name, from_oldest=True)
    for second in (0, 1):
        for number in (1, 2):
            stream = await spool.open_stream(StreamInfo(StreamKey(f"sbx-{number}", "main")))
            raw = b"2026-01-02T03:04:%02d.000000005Z a\nb\n" % (5 + second)
            draft = frame(raw, line=2 * second, lines=2, at_ns=NOW_NS + second * S + 5)
            await spool.commit([commit(stream.id, replace(draft, received_ns=NOW_NS))])
    for name in ("out", "files"):
        await spool.advance(name, 3, {}, Delivery(delivered=6))
    await spool.close()
    return scene


def sink_of(state: StateDir) -> SinkOverview:
    return next(one for one in overview_of(state).sinks if one.name == "out")


# Without a daemon ---------------------------------------------------------------------------------


def test_it_says_what_is_there_and_that_the_next_daemon_sends_it(scene: Scene) -> None:
    told = scene.run(*OUT, "--since", "2026-01-02T03:04:05Z")
    assert told.splitlines() == [
        "6 lines of 2 streams will be sent to out again when a daemon runs",
        "2 lines of that range are yet to be sent for the first time",
        "the spool reaches from 2026-01-02 03:04:05Z to 2026-01-02 03:04:06Z",
    ]
    (waiting,) = sink_of(scene.state).ranges
    assert (waiting.asked_lines, waiting.upto_id, waiting.lines) == (6, 3, 0)
    assert "replay: 0 of 6 lines" in " ".join(scene.run("status").split())
    status: Any = scene.document("status")
    (shown,) = next(one for one in status["sinks"] if one["name"] == "out")["ranges"]
    assert (shown["since"], shown["until"]) == ("2026-01-02T03:04:05.000000000Z", None)


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        (["--since", "2026-01-02T03:04:05.000000005Z"], 6),
        (["--since", "2026-01-02T03:04:05.000000006Z"], 2),
        (["--since", "2026-01-02", "--until", "2026-01-02T03:04:05.000000005Z"], 0),
        (["--since", "2026-01-02", "--until", "2026-01-02T03:04:05.000000006Z"], 4),
        (["--since", "2026-01-02", "--sandbox", "sbx-2"], 2),
    ],
)
def test_both_ends_are_exact_to_the_nanosecond(
    scene: Scene, options: list[str], lines: int
) -> None:
    document: Any = scene.document(*OUT, *options)
    assert (document["lines"], document["asked"]) == (lines, lines > 0)
    assert (document["format"], document["daemon"], document["keep_s"]) == (1, False, 3600)


def test_nothing_is_asked_for_when_there_is_nothing_to_send(scene: Scene) -> None:
    told = scene.run(*OUT, "--since", "1m")
    assert told.startswith("Nothing to send: out has had no line of that range that is still here")
    assert not sink_of(scene.state).ranges


async def test_what_is_older_is_said_not_to_be_there_any_more(scene: Scene) -> None:
    spool = await open_spool(scene.state, now=lambda: NOW_NS)
    await spool.prune(keep_tail_ns=0)
    await spool.close()
    told = await asyncio.to_thread(scene.run, *OUT, "--since", "2026-01-02")
    for part in (
        "the spool reaches from 2026-01-02 03:04:05Z",
        "what is older than 2026-01-02 03:04:05Z is not in the spool any more",
        "spool.keep is 1h 0m",
    ):
        assert part in told


@pytest.mark.parametrize(
    ("sink", "why"),
    [
        ("files", "a file holds each line once, so nothing is sent to 'files' again"),
        ("other", "sink 'other' is not in the configuration; sinks are out, late, files"),
        ("late", "sink 'late' has not begun yet"),
    ],
)
def test_some_sinks_are_sent_nothing_again(scene: Scene, sink: str, why: str) -> None:
    code, told = scene.refusal("replay", "--sink", sink, "--since", "2026-01-02")
    assert code == 2
    assert why in told


@pytest.mark.parametrize(
    "options",
    [
        ["--since", "yesterday"],
        ["--since", "2026-01-02T03:04:05Z", "--until", "2026-01-02T03:04:05Z"],
        ["--since", "2026-01-02", "--sandbox", "nobody"],
    ],
)
def test_what_makes_no_sense_is_a_usage_error(scene: Scene, options: list[str]) -> None:
    assert scene.refusal(*OUT, *options)[0] == 2


def test_without_a_spool_there_is_nothing_to_replay(tmp_path: Path) -> None:
    assert scene_of(tmp_path).refusal(*OUT, "--since", "2026-01-02")[0] == 74


# With a daemon ------------------------------------------------------------------------------------

LINES = 30


class Destination:
    """Keeps the ids and texts of all lines, and may hang.

    Attributes:
        hangs: Whether it takes a request and never answers.
        hung: Set when it hangs.
    """

    def __init__(self) -> None:
        self.hangs = False
        self.taken: list[tuple[str, str]] = []
        self.hung = asyncio.Event()

    def answer(self, request: Request) -> Reply:
        records = [orjson.loads(line) for line in request.body.splitlines()]
        self.taken += [(one["id"], one["text"]) for one in records if "text" in one]
        if self.hangs:
            self.hung.set()
            return Reply(fault="stall")
        return Reply()


async def test_a_running_daemon_sends_it_again_with_the_same_ids_also_through_a_kill(
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
            sinks={"out": http_sink(f"{web.url}/lines", batch={"max_age": "0s"})},
            spool={"keep": "1h"},
        )
        scene = Scene(config, StateDir(tmp_path / "state"))
        async with running(config, forked=True) as daemon:
            await until(scene.state.marker.exists, "a spool")
            await until(lambda: all_delivered(scene.state), "the lines")
            first, destination.taken = destination.taken, []
            destination.hangs = True
            told = await asyncio.to_thread(scene.run, *OUT, "--since", "1h")
            assert told.startswith(f"{LINES} lines of 1 stream will be sent to out again by the")
            await destination.hung.wait()
            await daemon.kill()
        assert len(sink_of(scene.state).ranges) == 1

        destination.hangs, destination.taken = False, []
        async with running(config, forked=True) as daemon:
            await until(lambda: sink_of(scene.state).last_range is not None, "the replay")
            assert requests_in(scene.state) == []
            daemon.terminate()
            assert await daemon.wait() == 0
            done = [one for one in daemon.events if one["event"] == "replay done"]
    assert destination.taken == first
    assert [(one["lines"], one["refused"]) for one in done] == [(LINES, 0)]
    sink = sink_of(scene.state)
    assert (sink.delivered, sink.pending, sink.dead_letters) == (LINES, 0, 0)
    assert overview_of(scene.state).kept_lines == LINES
    assert verify(scene.state).ok


def all_delivered(state: StateDir) -> bool:
    sinks = list(overview_of(state).sinks)
    return any(one.delivered == LINES and not one.pending for one in sinks)
