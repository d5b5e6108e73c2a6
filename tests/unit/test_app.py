"""The daemon, in this process, with a spool that was filled before and an API that is not there."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from forwarder.admin.systemd import ServiceManager
from forwarder.app import sink_settings_types
from forwarder.config import load_settings
from forwarder.errors import ConfigError, SpoolError, SpoolLockedError
from forwarder.model import StreamInfo, StreamKey
from forwarder.reloading import run_daemon
from forwarder.spool.files import StateDir, locked
from forwarder.spool.sqlite import open_spool
from tests.fakes.daemon import file_sink, write_config
from tests.unit.spool.builders import commit, frame

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from forwarder.config import Settings

LINES = [b"2026-01-02T03:04:05Z %d\n" % number for number in range(100)]
TEXT = b"".join(LINES)


class Service:
    """A daemon that can be configured anew, watched as the service manager watches it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.stop = asyncio.Event()
        self.reload = asyncio.Event()
        self.problem: ConfigError | None = None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(home / "notify"))
        self._socket.setblocking(False)
        self.manager = ServiceManager({"NOTIFY_SOCKET": str(home / "notify")})

    def configure(self, *, state_dir: Path | None = None, **sinks: str) -> None:
        """Write a configuration whose file sinks have these names and write to these files."""
        path = write_config(
            self.home,
            base_url="http://127.0.0.1:9",
            api_key="key",
            sandboxes=[{"tags": ["x"]}],
            sinks={name: file_sink(self.home / place) for name, place in sinks.items()},
        )
        if state_dir is not None:
            document: dict[str, Any] = json.loads(path.read_text())
            path.write_text(json.dumps({**document, "state_dir": str(state_dir)}))

    def load(self) -> Settings:
        if self.problem is not None:
            raise self.problem
        path = self.home / "config.yaml"
        return load_settings(path, sink_types=sink_settings_types(), env={})

    async def fill(self) -> None:
        """What an earlier daemon took."""
        spool = await open_spool(StateDir(self.home / "state"), now=lambda: 1)
        stream = await spool.open_stream(StreamInfo(StreamKey("s", "main")))
        await spool.commit([commit(stream.id, frame(TEXT, lines=len(LINES)))])
        await spool.close()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        """Run until the end of the block, and then until every sink has everything."""
        self.stop.clear()
        settings = self.load()
        task = asyncio.create_task(
            run_daemon(
                settings, self.load, stop=self.stop, reload=self.reload, manager=self.manager
            )
        )
        try:
            yield task
            self.stop.set()
            await task
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError, SpoolError):
                await task

    async def told(self, words: str) -> None:
        """Return once the service manager was told this."""
        loop = asyncio.get_running_loop()
        while words not in (await loop.sock_recv(self._socket, 4096)).decode():
            pass

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    (tmp_path / "state").mkdir(mode=0o700)
    service = Service(tmp_path)
    await service.fill()
    with capture_logs():
        yield service
    service.close()


async def test_what_the_spool_holds_is_delivered_before_the_daemon_stops(service: Service) -> None:
    service.configure(archive="out.log")
    async with service.running():
        await service.told("READY=1")
    assert (service.home / "out.log").read_bytes() == TEXT


async def test_a_sink_that_is_renamed_writes_nothing_twice(service: Service) -> None:
    service.configure(archive="out.log")
    async with service.running():
        await service.told("READY=1")
    service.configure(files="out.log")
    async with service.running():
        await service.told("READY=1")
    assert (service.home / "out.log").read_bytes() == TEXT


async def test_a_sink_that_is_renamed_while_running_writes_nothing_twice(service: Service) -> None:
    service.configure(archive="out.log")
    async with service.running():
        await service.told("READY=1")
        service.configure(files="out.log")
        service.reload.set()
        await service.told("READY=1")
    assert (service.home / "out.log").read_bytes() == TEXT


async def test_a_sink_that_is_taken_out_and_put_back_writes_nothing_twice(service: Service) -> None:
    service.configure(a="a.log", b="b.log")
    async with service.running():
        await service.told("READY=1")
    service.configure(b="b.log")
    async with service.running():
        await service.told("READY=1")
    service.configure(a="a.log", b="b.log")
    async with service.running():
        await service.told("READY=1")
    assert (service.home / "a.log").read_bytes() == TEXT
    assert (service.home / "b.log").read_bytes() == TEXT


async def test_a_new_configuration_takes_the_place_of_the_old_one(service: Service) -> None:
    service.configure(archive="out.log")
    async with service.running():
        await service.told("READY=1")
        service.configure(archive="out.log", more="more.log")
        service.reload.set()
        await service.told("RELOADING=1")
        await service.told("forwarding to archive, more")
    assert (service.home / "more.log").read_bytes() == TEXT


async def test_a_configuration_that_cannot_be_read_leaves_the_old_daemon_running(
    service: Service,
) -> None:
    service.configure(archive="out.log")
    async with service.running() as task:
        await service.told("READY=1")
        service.problem = ConfigError("broken")
        with capture_logs() as logs:
            service.reload.set()
            while not logs:
                await asyncio.sleep(0)
        assert [one["problems"] for one in logs if "problems" in one] == ["broken"]
        assert not task.done()
    assert (service.home / "out.log").read_bytes() == TEXT


async def test_a_state_dir_that_cannot_be_used_brings_the_old_daemon_back(service: Service) -> None:
    service.configure(archive="out.log")
    async with service.running() as task:
        await service.told("READY=1")
        (service.home / "file").touch()
        service.configure(state_dir=service.home / "file" / "state", other="other.log")
        service.reload.set()
        await service.told("RELOADING=1")
        await service.told("forwarding to archive")
        assert not task.done()
    assert (service.home / "out.log").read_bytes() == TEXT
    assert not (service.home / "other.log").exists()


async def test_a_state_dir_that_another_daemon_holds_is_an_error(service: Service) -> None:
    service.configure(archive="out.log")
    with locked(StateDir(service.home / "state")), pytest.raises(SpoolLockedError):
        async with service.running() as task:
            await task
