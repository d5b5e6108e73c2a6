"""The local service, put together and run inside a process."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Self

from forwarder.local.api import ApiApplication, Gatekeeper
from forwarder.local.control import PREFIX, Control
from forwarder.local.exchange import CURRENT, Exchange
from forwarder.local.listener import LOOPBACK, Connection, Listener
from forwarder.local.sandboxes import SandboxRegistry
from forwarder.local.service import SandboxService
from forwarder.local.sessions import SessionTable
from forwarder.local.settings import Faults, LocalSettings
from forwarder.local.stored import PREFIX as STORED_PREFIX
from forwarder.local.stored import StoredLogs
from forwarder.local.streams import Break, Counters, OpenStreams

if TYPE_CHECKING:
    from types import TracebackType

    from forwarder.local.processes import ContainerProcess
    from forwarder.local.sandbox import Sandbox
    from forwarder.local.streams import How


class LocalServer:
    """The local sandbox service, as an async context manager.

    Entering begins to listen on 127.0.0.1; leaving resets every connection and kills every process
    that a sandbox started.

    Attributes:
        faults: Faults to inject; setting one acts at once.
        sandboxes: Every sandbox the service knows.
        counters: What clients did.
    """

    def __init__(self, settings: LocalSettings | None = None) -> None:
        self._settings = settings or LocalSettings()
        self.faults = Faults()
        self.sandboxes = SandboxRegistry(self._settings)
        self.counters = Counters()
        self._sessions = SessionTable(self._settings.session_lifetime_s, time.monotonic)
        self._streams = OpenStreams()
        self.faults.on_change(self._streams.wake)
        gatekeeper = Gatekeeper(self._settings.api_key, self.faults)
        service = SandboxService(
            self._settings,
            self.faults,
            self.sandboxes,
            self._sessions,
            self._streams,
            self.counters,
        )
        self._api: Any = ApiApplication(service, gatekeeper, compression=self._settings.compression)
        self._control = Control(self, gatekeeper).application()
        self._stored: Any = StoredLogs(self._settings, self.sandboxes, gatekeeper).application()
        self._listener = Listener(
            self._serve, self._settings.port, self._settings.max_concurrent_streams
        )
        self._restarts: set[asyncio.Task[None]] = set()
        self._restart_lock = asyncio.Lock()

    @property
    def base_url(self) -> str:
        """What `CWSANDBOX_BASE_URL` is to be."""
        return f"http://{LOOPBACK}:{self._listener.port}"

    @property
    def api_key(self) -> str:
        """What `CWSANDBOX_API_KEY` is to be."""
        return self._settings.api_key

    @property
    def open_streams(self) -> int:
        """How many log streams are open."""
        return len(self._streams)

    @property
    def open_sessions(self) -> int:
        """How many log sessions could be resumed."""
        return len(self._sessions)

    async def __aenter__(self) -> Self:
        await self._listener.open()
        self.sandboxes.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in tuple(self._restarts):
            task.cancel()
        await asyncio.gather(*self._restarts, return_exceptions=True)
        await self._listener.close()
        self._listener.release()
        await self.sandboxes.close()

    def process(self, sandbox_id: str, container: str = "") -> ContainerProcess:
        """A container itself: its log to compare with what was sent, or to write into.

        Raises:
            KeyError: No such sandbox.
        """
        return self._known(sandbox_id).container(container)[1]

    async def wait_ended(self, sandbox_id: str) -> None:
        """Wait until the sandbox's state is final.

        Raises:
            KeyError: No such sandbox.
        """
        await self._known(sandbox_id).ended.wait()

    async def wait_printed(self, sandbox_id: str, text: bytes, container: str = "") -> None:
        """Wait until the container's log holds this text, stamps included.

        Raises:
            KeyError: No such sandbox.
            EOFError: The container ended without printing it.
        """
        process = self.process(sandbox_id, container)
        grown = asyncio.Event()
        process.listeners.add(grown.set)
        try:
            while text not in process.log.stamped():
                if process.log.closed:
                    raise EOFError(text)
                grown.clear()
                await grown.wait()
        finally:
            process.listeners.discard(grown.set)

    def break_streams(self, how: How, code: str = "") -> int:
        """Break every open log stream now; returns how many there were."""
        return self._streams.break_all(Break(how, code))

    def forget_sessions(self) -> None:
        """Lose every log session: no open stream can be resumed later."""
        self._sessions.forget_all()

    def rotate(self, keep_bytes: int = 0) -> int:
        """Drop the oldest records of every log, so that no more than this is kept of each.

        Returns:
            How many records were dropped. Stored logs keep theirs.
        """
        logs = [process.log for each in self.sandboxes for _, process, _ in each.containers()]
        return sum(log.rotate(keep_bytes) for log in logs)

    async def restart_container(self, sandbox_id: str, container: str = "") -> int:
        """Restart a container's process, see `Sandbox.restart_container`.

        Raises:
            KeyError: No such sandbox.
        """
        return await self._known(sandbox_id).restart_container(container)

    async def restart(self, down_s: float = 0.0, *, spare: Connection | None = None) -> None:
        """Be gone for `down_s`: connections and sessions are lost, sandboxes and logs live on."""
        async with self._restart_lock:
            await self._listener.close(spare)
            self._sessions.forget_all()
            await asyncio.sleep(down_s)
            await self._listener.open()

    def restart_soon(self, down_s: float) -> None:
        """Begin a restart that spares the connection of the request under way."""
        spare = CURRENT.get().connection
        task = asyncio.create_task(self.restart(down_s, spare=spare))
        self._restarts.add(task)
        task.add_done_callback(self._restarts.discard)

    def _known(self, sandbox_id: str) -> Sandbox:
        sandbox = self.sandboxes.get(sandbox_id)
        if sandbox is None:
            raise KeyError(sandbox_id)
        return sandbox

    async def _serve(self, connection: Connection, scope: Any, receive: Any, send: Any) -> None:
        exchange = Exchange(connection)
        CURRENT.set(exchange)
        app = self._api
        if scope["path"].startswith(PREFIX):
            app = self._control
        elif scope["path"].startswith(STORED_PREFIX):
            app = self._stored
        await app(scope, receive, exchange.sender(send))
