"""Records that a destination will never take: set aside alone, shown, sent again, and counted."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess,
    ExportLogsServiceResponse,
)

from forwarder.local.server import LocalServer
from forwarder.local.settings import LocalSettings
from forwarder.spool.files import StateDir
from forwarder.spool.verify import verify
from tests.fakes.daemon import COMMAND, run_to_end, running, until, write_config
from tests.fakes.keeper import Keeper
from tests.fakes.local import shell_sandbox
from tests.fakes.stack import KINDS, Stack, sections
from tests.fakes.web_server import Reply, WebServer
from tests.integration.test_commands import Scene

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

PRINTED = 3_000
POISON = 1_234
SECRET_WORD = "content-canary"
#: Every line has a word in it that no log of ours may repeat.
SCRIPT = f"seq -f '{SECRET_WORD} %g' 0 {PRINTED - 1}"


@asynccontextmanager
async def printed() -> AsyncIterator[tuple[LocalServer, str]]:
    """A service with one sandbox that has printed and ended."""
    async with LocalServer(LocalSettings()) as server:
        sandbox = await shell_sandbox(server.base_url, server.api_key, SCRIPT, tags=["t"])
        await server.wait_ended(sandbox)
        yield server, sandbox


def scene_of(
    directory: Path, server: LocalServer, sinks: Mapping[str, Mapping[str, Any]], **more: Any
) -> Scene:
    config = write_config(
        directory,
        base_url=server.base_url,
        api_key=server.api_key,
        sandboxes=[{"tags": ["t"]}],
        sinks=sinks,
        **more,
    )
    return Scene(config, StateDir(directory / "state"))


def sinks_of(scene: Scene) -> dict[str, Any]:
    """What `status` says of the sinks."""
    document: Any = scene.document("status")
    return {sink["name"]: sink for sink in document["sinks"]}


def letters_of(scene: Scene) -> dict[str, Any]:
    """The groups of `dead-letters list`, by sink; of each there is one here."""
    document: Any = scene.document("dead-letters", "list")
    groups = {group["sink"]: group for group in document["groups"]}
    assert len(groups) == len(document["groups"]), document
    return groups


def numbers(ids: list[str]) -> list[int]:
    """The line numbers of record ids."""
    return [int(uid.rpartition("/")[2]) for uid in ids]


async def test_one_poison_record_is_set_aside_alone_and_delivered_once_it_can_be(
    tmp_path: Path,
) -> None:
    stack = Stack()
    stack.dislikes = lambda uid: uid.endswith(f"/{POISON}")
    async with printed() as (server, sandbox), WebServer(handler=stack) as web:
        scene = scene_of(tmp_path, server, sections(web.url, in_flight=1), log={"level": "info"})
        async with running(scene.config, forked=True) as daemon:
            await until(lambda: stack.holds(PRINTED - 1), "all the others")
            await until(lambda: all(one["pending"] == 0 for one in sinks_of(scene).values()))
            others = [number for number in range(PRINTED) if number != POISON]
            for kind in KINDS:
                assert numbers(stack.taken[kind]) == others, kind
                sink = sinks_of(scene)[kind]
                assert (sink["delivered"], sink["dead_lettered"]) == (PRINTED - 1, 1)
                assert (sink["dropped"], sink["dead_letters"]) == (0, 1)
            show_it(scene, sandbox)
            stack.dislikes = lambda _: False
            await replay(scene)
            daemon.terminate()
            assert await daemon.wait() == 0, daemon.log
    for kind in KINDS:
        assert numbers(stack.taken[kind]) == [*others, POISON], kind
        sink = sinks_of(scene)[kind]
        assert (sink["delivered"], sink["dead_lettered"], sink["dropped"]) == (PRINTED, 0, 0)
    assert letters_of(scene) == {}
    assert verify(scene.state).ok
    assert SECRET_WORD not in daemon.log + str(daemon.events)


def show_it(scene: Scene, sandbox: str) -> None:
    """The one dead letter of each sink is this record, with the destination's own reason."""
    for kind, group in letters_of(scene).items():
        assert (group["letters"], group["lines"]) == (1, 1)
        assert "cannot be stored" in group["reason"], (kind, group)
        letter: Any = scene.document("dead-letters", "show", str(group["newest_id"]))
        assert letter["record_ids"] == [f"{sandbox}/main/0/{POISON}"]
        assert letter["maybe_stored"] is False
        assert letter["text"].endswith(f" {SECRET_WORD} {POISON}\n")


async def replay(scene: Scene) -> None:
    """As an operator does it; once with waiting for the end."""
    for kind in KINDS[1:]:
        scene.run("dead-letters", "replay", "--sink", kind, "--all", "--no-wait")
    process = await asyncio.create_subprocess_exec(
        *(str(COMMAND), "dead-letters", "replay", "--sink", KINDS[0], "--all"),
        *("--config", str(scene.config)),
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    assert (process.returncode, said.decode()) == (0, "1 delivered (1 line)\n")
    await until(lambda: all(not one["dead_letters"] for one in sinks_of(scene).values()))


async def test_a_replay_that_is_killed_twice_delivers_each_record_and_forgets_it_only_then(
    tmp_path: Path,
) -> None:
    keeper, disliked = Keeper(), {5, 6, 700}
    keeper.dislikes = lambda record: record["line"] in disliked
    async with printed() as (server, _), WebServer(handler=keeper) as web:
        sinks = {"http": {"type": "http", "endpoint": web.url}}
        scene = scene_of(tmp_path, server, sinks)
        code, daemon = await run_to_end(scene.config, "--until-complete", forked=True)
        assert code == 0, daemon.log
        assert sinks_of(scene)["http"]["dead_lettered"] == len(disliked)
        scene.run("dead-letters", "replay", "--sink", "http", "--all")
        disliked.clear()
        taken = keeper.count
        keeper.is_silent = True
        for _ in range(2):
            async with running(scene.config, forked=True) as daemon:
                await keeper.grown()
                await daemon.kill()
            assert sinks_of(scene)["http"]["dead_letters"] > 0
        keeper.is_silent = False
        async with running(scene.config, forked=True) as daemon:
            await until(lambda: not sinks_of(scene)["http"]["dead_letters"], "the end of replaying")
            daemon.terminate()
            assert await daemon.wait() == 0, daemon.log
    again = [record["line"] for record in keeper.records[taken:]]
    assert set(again) == {5, 6, 700}
    assert len({one["id"] for one in keeper.records}) == PRINTED
    sink = sinks_of(scene)["http"]
    assert (sink["delivered"], sink["dead_lettered"], sink["dropped"]) == (PRINTED, 0, 0)
    assert verify(scene.state).ok


async def test_what_otlp_refuses_in_part_is_counted_kept_as_a_note_and_never_sent_again(
    tmp_path: Path,
) -> None:
    stack = Stack()
    partly = ExportLogsPartialSuccess(rejected_log_records=3, error_message="three are too old")
    warned = ExportLogsPartialSuccess(error_message="use the new endpoint")
    replies = [
        Reply(
            headers={"content-type": "application/x-protobuf"},
            body=ExportLogsServiceResponse(partial_success=one).SerializeToString(),
        )
        for one in (partly, warned, warned)
    ]
    async with printed() as (server, _), WebServer(*replies, handler=stack) as web:
        sinks = {"otlp": sections(web.url, in_flight=1)["otlp"]}
        scene = scene_of(tmp_path, server, sinks)
        async with running(scene.config, "--until-complete", forked=True) as daemon:
            assert await daemon.wait() == 0, daemon.log
        # None came a second time: not that of the refusal, nor those with a mere message.
        assert numbers(stack.taken["otlp"]) == list(range(PRINTED))[-len(stack.taken["otlp"]) :]
        requests = len(web.requests)
    assert requests == PRINTED // 500
    assert len(stack.taken["otlp"]) == PRINTED - 3 * 500
    sink = sinks_of(scene)["otlp"]
    assert (sink["delivered"], sink["dropped"], sink["pending"]) == (PRINTED - 3, 3, 0)
    assert sink["dropped_for"] == {"refused_unnamed": 3}
    group = letters_of(scene)["otlp"]
    assert (group["letters"], group["lines"]) == (1, 0)
    assert "three are too old" in group["reason"]
    warnings = [one for one in daemon.events if "use the new endpoint" in json.dumps(one)]
    assert len(warnings) == 1, daemon.log
