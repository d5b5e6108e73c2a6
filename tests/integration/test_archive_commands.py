"""`archive list|cat|verify` against a store, as an operator runs them."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from forwarder.app import sink_settings_types
from forwarder.cli import app
from forwarder.config import load_settings
from forwarder.spool.files import StateDir
from forwarder.spool.sqlite import open_spool
from sinks.interface import Stream
from sinks.s3.sink import S3Sink
from sinks.testing import MemoryState, gap_of, slice_of
from tests.fakes.commands import own_logging
from tests.fakes.daemon import write_config
from tests.fakes.s3_server import S3Server
from tests.fakes.windows import window_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from typer.testing import Result

    from sinks.interface import Slice

S = 1_000_000_000
#: 2026-11-23T13:00:00Z
ONE_PM_NS = 1_795_438_800 * S
A = Stream("sbx-a", "main")
B = Stream("sbx-b", "main")

SECRET = "the-secret-key"


class Scene:
    """A store with three windows, and the spool of the daemon that archived them."""

    def __init__(self, directory: Path, server: S3Server) -> None:
        self.server = server
        self._directory = directory
        self.config = write_config(
            directory,
            base_url="http://127.0.0.1:9",
            api_key=SECRET,
            sandboxes=[{"tags": ["x"]}],
            sinks={"archive": self._sink()},
        )

    def _sink(self) -> dict[str, Any]:
        return {
            "type": "s3",
            "endpoint": self.server.url,
            "bucket": self.server.bucket.name,
            "access_key_id": "AKIDEXAMPLE",
            "secret_access_key": SECRET,
        }

    async def archive(self, *windows: list[Slice]) -> None:
        """Write windows as the daemon does, and remember them in the spool."""
        settings = load_settings(self.config, sink_types=sink_settings_types(), env={})
        state = MemoryState(directory=self._directory / "staging")
        sink = S3Sink("archive", settings.sinks["archive"])  # type: ignore[arg-type] # it is one of its own
        await sink.open(state)
        for number, slices in enumerate(windows):
            state.commit(await sink.write(window_of(slices, after_id=number * 100)))
        await sink.close()
        StateDir(settings.state_dir).path.mkdir()
        spool = await open_spool(StateDir(settings.state_dir), now=lambda: 1)
        await spool.open_sink("archive", from_oldest=True)
        await spool.remember("archive", state.values)
        await spool.close()

    async def run(self, *arguments: str, code: int = 0) -> Result:
        """Run a command, while the store goes on on this loop."""
        command = ["archive", *arguments, "--config", str(self.config)]
        with own_logging():
            result = await asyncio.to_thread(CliRunner().invoke, app, command)
        assert result.exit_code == code, result.output
        assert SECRET not in result.output
        return result

    def asked(self, method: str) -> list[str]:
        """The paths of what the store was asked, since this was asked last."""
        found = [one.path for one in self.server.requests if one.method == method]
        self.server.requests.clear()
        return found


def lines(start: int, stop: int, stream: Stream = A) -> Slice:
    """Lines of these numbers, one a second."""
    numbers = range(start, stop)
    written = [(ONE_PM_NS + n * S, f"{stream.sandbox_id} {n}") for n in numbers]
    return slice_of(written, stream=stream, first_line=start)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with S3Server() as server:
        made = Scene(tmp_path, server)
        gap = gap_of(
            stream=A,
            first_line=20,
            kind="dropped",
            before_line=30,
            from_stamp_ns=ONE_PM_NS + 19 * S,
        )
        await made.archive([lines(0, 10), lines(0, 5, B)], [lines(10, 20), gap], [lines(30, 3700)])
        server.requests.clear()
        yield made


async def test_what_was_archived_is_listed_printed_and_verified(scene: Scene) -> None:
    listed = await scene.run("list", "--sandbox", "sbx-a")
    assert listed.stdout.splitlines()[-1].startswith("3 windows, 4 objects, 3,690 lines, ")
    printed = await scene.run("cat", "--sandbox", "sbx-a")
    numbers = [*range(20), *range(30, 3700)]
    assert printed.stdout.splitlines() == [f"sbx-a {n}" for n in numbers]
    assert "gap after line 19" in printed.stderr
    verified = await scene.run("verify", "--json")
    document = json.loads(verified.stdout)
    assert (document["ok"], document["lines"], document["missing_told"]) == (True, 3695, 10)
    assert (document["windows"], document["streams"], document["late"]) == (3, 2, 0)


async def test_the_index_saves_the_listing_and_the_store_alone_says_the_same(scene: Scene) -> None:
    known = await scene.run("list", "--json")
    assert not any("list-type" in one for one in scene.asked("GET"))
    asked = await scene.run("list", "--json", "--from-store")
    assert any("list-type" in one for one in scene.asked("GET"))
    assert asked.stdout == known.stdout
    for path in (scene.config.parent / "state").iterdir():
        path.unlink()
    assert (await scene.run("list", "--json")).stdout == known.stdout
    assert not scene.asked("PUT")


async def test_damage_is_found_and_named(scene: Scene) -> None:
    objects = scene.server.bucket.objects
    keys = sorted(key for key in objects if "_manifests" not in key)
    del objects[keys[0]]
    document = json.loads((await scene.run("verify", "--json", code=74)).stdout)
    assert [one.partition(":")[0] for one in document["problems"]] == [f"{keys[0]} is missing"]
    assert (await scene.run("verify", "--quick")).stdout.startswith("✓")
    refused = await scene.run("cat", "--sandbox", "sbx-a", code=74)
    assert f"{keys[0]} is missing" in refused.stderr


async def test_a_store_that_fails_for_a_moment_is_asked_again(scene: Scene) -> None:
    scene.server.fail("reset", "internal_error", on="GET")
    result = await scene.run("cat", "--sandbox", "sbx-b")
    assert result.stdout.splitlines() == [f"sbx-b {n}" for n in range(5)]
    assert len(scene.asked("GET")) == 3 + 1 + 2  # manifests, an object, and once more
