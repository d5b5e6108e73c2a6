"""The same promises against the local sandbox service, where real processes write the logs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import pytest

from forwarder.errors import (
    CredentialsRefusedError,
    LogStreamError,
    SandboxNotFoundError,
    SandboxNotRunningError,
    SourceUnavailableError,
)
from forwarder.local.server import LocalServer
from forwarder.model import SandboxState
from forwarder.source.client import SandboxLogs
from forwarder.source.connect import ConnectSource
from forwarder.source.grpc import GrpcSource
from forwarder.source.interface import LogEntry, LogRequest, LogSource
from tests.fakes.local import shell_sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from forwarder.local.streams import How

LINES = "for i in $(seq 1 500); do echo line $i; done"
WANTED = b"".join(b"line %d\n" % number for number in range(1, 501))


@dataclass
class World:
    """The service and a source that talks to it."""

    kind: Literal["connect", "grpc"]
    server: LocalServer
    source: LogSource

    async def run(self, script: str, *tags: str) -> str:
        """Start a sandbox; returns its id."""
        return await shell_sandbox(self.server.base_url, self.server.api_key, script, tags=tags)

    async def read(self, request: LogRequest, into: list[LogEntry]) -> None:
        async with self.source.read_logs(request) as batches:
            async for entries in batches:
                into.extend(entries)


def new_source(kind: str, base_url: str, api_key: str) -> LogSource:
    make = ConnectSource if kind == "connect" else GrpcSource
    source: LogSource = make(base_url, credentials=lambda: {"Authorization": f"Bearer {api_key}"})
    return source


@pytest.fixture(params=["connect", "grpc"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with LocalServer() as server:
        source = new_source(request.param, server.base_url, server.api_key)
        yield World(request.param, server, source)
        await source.close()


def joined(entries: list[LogEntry]) -> bytes:
    return b"".join(entry.data for entry in entries)


@pytest.fixture
def go(tmp_path: Path) -> Path:
    """A file that a script waits for: a sandbox that has ended cannot be followed."""
    return tmp_path / "go"


def until(go: Path) -> str:
    return f"while [ ! -e {go} ]; do sleep 0.02; done"


async def test_a_followed_log_is_the_processs_output_to_its_end(world: World, go: Path) -> None:
    sandbox_id = await world.run(f"echo line 0; {until(go)}; {LINES}")
    lines = SandboxLogs(world.source).stream_logs(sandbox_id, follow=True)
    assert await anext(lines) == b"line 0\n"
    go.touch()
    assert b"".join([line async for line in lines]) == WANTED


async def test_a_stamped_log_equals_what_the_service_keeps(world: World, go: Path) -> None:
    sandbox_id = await world.run(f"{LINES}; {until(go)}")
    found: list[LogEntry] = []
    async with world.source.read_logs(LogRequest(sandbox_id)) as batches:
        go.touch()
        async for entries in batches:
            found.extend(entries)
    assert joined(found) == world.server.process(sandbox_id).log.stamped()
    assert found[-1].log_session_id
    assert found[-1].next_log_offset == len(joined(found))


@pytest.mark.parametrize("how", ["reset", "cut", "error", "status"])
async def test_a_broken_stream_goes_on_from_its_offset(world: World, go: Path, how: How) -> None:
    sandbox_id = await world.run(f"{LINES}; {until(go)}; echo end")
    await world.server.wait_printed(sandbox_id, b"line 500\n")
    found: list[LogEntry] = []
    code = {"error": "STREAM_INTERRUPTED", "status": "unavailable"}.get(how, "")

    async def read_and_break() -> None:
        async with world.source.read_logs(LogRequest(sandbox_id)) as batches:
            async for entries in batches:
                found.extend(entries)
                if joined(found):
                    world.server.break_streams(how, code)

    with pytest.raises((SourceUnavailableError, LogStreamError)):
        await read_and_break()
    request = LogRequest(
        sandbox_id, session_id=found[-1].log_session_id, offset=found[-1].next_log_offset
    )
    async with world.source.read_logs(request) as batches:
        go.touch()
        async for entries in batches:
            found.extend(entries)
    assert joined(found) == world.server.process(sandbox_id).log.stamped()


async def test_a_lost_session_is_an_in_band_error(world: World) -> None:
    sandbox_id = await world.run("echo one; sleep 60")
    found: list[LogEntry] = []
    with pytest.raises(LogStreamError) as caught:
        await world.read(LogRequest(sandbox_id, session_id="never-was", offset=4), found)
    assert caught.value.code == "SESSION_NOT_FOUND"


async def test_an_ended_sandbox_refuses_to_be_followed(world: World) -> None:
    sandbox_id = await world.run("true")
    await world.server.wait_ended(sandbox_id)
    with pytest.raises(SandboxNotRunningError):
        await world.read(LogRequest(sandbox_id), [])


async def test_an_unknown_sandbox_is_not_found(world: World) -> None:
    with pytest.raises(SandboxNotFoundError):
        await world.source.get_sandbox("sbx-unknown")
    with pytest.raises(SandboxNotFoundError):
        await world.read(LogRequest("sbx-unknown"), [])


async def test_a_wrong_key_is_refused(world: World) -> None:
    source = new_source(world.kind, world.server.base_url, "wrong")
    with pytest.raises(CredentialsRefusedError):
        await source.get_sandbox("sbx-unknown")
    with pytest.raises(CredentialsRefusedError):
        async with source.read_logs(LogRequest("sbx-unknown")) as batches:
            await anext(aiter(batches))
    await source.close()


async def test_sandboxes_are_found_by_their_tags_and_with_their_end(world: World) -> None:
    ended = await world.run("exit 3", "a", "b")
    running = await world.run("sleep 60", "a")
    await world.server.wait_ended(ended)
    everything = await world.source.list_sandboxes(tags=["a"], show_terminated=True)
    assert {sandbox.id for sandbox in everything} == {ended, running}
    active = await world.source.list_sandboxes(tags=["a"])
    assert [(sandbox.id, sandbox.state) for sandbox in active] == [(running, SandboxState.RUNNING)]
    found = await world.source.get_sandbox(ended)
    assert found.ended
    assert found.exit_code == 3
    assert found.tags == ("a", "b")
