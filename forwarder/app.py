"""The composition root: the only file that names concrete classes.

It puts the daemon together, starts it, and stops it in order: no more input, then what was read
goes into the spool, then the sinks get their time, then everything is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, assert_never

import structlog

from forwarder.admin.health import Health
from forwarder.admin.server import AdminServer
from forwarder.admin.systemd import keep_watchdog
from forwarder.clock import SystemClock
from forwarder.discovery import Discovery, Selector, Wanted
from forwarder.dispatcher import Dispatcher
from forwarder.errors import ConfigError, SpoolError, SpoolUnavailableError
from forwarder.follower import Follower, FollowSettings
from forwarder.intake import Intake
from forwarder.metrics import Metrics
from forwarder.source.connect import ConnectSource
from forwarder.spool.files import StateDir, locked
from forwarder.spool.sqlite import open_spool
from forwarder.supervisor import Supervisor
from forwarder.tasks import first_of
from sinks.registry import available

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from forwarder.admin.systemd import ServiceManager
    from forwarder.clock import Clock
    from forwarder.config import SandboxSelector, Settings, SourceSettings
    from forwarder.model import StreamInfo
    from forwarder.source.interface import LogSource
    from forwarder.spool.sqlite import SqliteSpool
    from sinks.registry import SinkType
    from sinks.settings import SinkSettings

_log = structlog.get_logger()

#: What was read gets at least so long to be committed; if it is not, it is read again.
_COMMIT_S = 5.0

#: After so long without an answer to discovery the daemon is not ready any more.
_UNHEARD_AFTER_S = 120.0

#: How often frames that every sink is past are deleted.
PRUNE_INTERVAL_S = 5.0


def sink_settings_types() -> dict[str, type[SinkSettings]]:
    """The settings class of every sink type that is installed, for the configuration."""
    return {name: kind.settings for name, kind in available().items()}


def make_source(settings: SourceSettings) -> LogSource:
    """The API client that the settings ask for; it connects at its first call."""
    match settings.protocol:
        case "connect":
            return ConnectSource(
                settings.base_url,
                credentials=settings.auth_headers,
                connect_timeout_s=settings.connect_timeout,
                request_timeout_s=settings.request_timeout,
                allow_plaintext=settings.allow_plaintext,
            )
        case "grpc":
            from forwarder.source.grpc import GrpcSource

            return GrpcSource(
                settings.base_url,
                credentials=settings.auth_headers,
                connect_timeout_s=settings.connect_timeout,
                request_timeout_s=settings.request_timeout,
                allow_plaintext=settings.allow_plaintext,
            )
        case unknown:
            assert_never(unknown)


def follow_settings(settings: SourceSettings) -> FollowSettings:
    """What a follower needs of the `source` section."""
    return FollowSettings(
        max_line_bytes=settings.max_line_bytes,
        overlap_s=settings.overlap,
        backoff_initial_s=settings.backoff_initial,
        backoff_max_s=settings.backoff_max,
        hold_interval_s=settings.hold_interval,
    )


def make_selector(settings: SandboxSelector) -> Selector:
    """One entry of `sandboxes`."""
    named = settings.containers if isinstance(settings.containers, tuple) else ()
    return Selector(
        id=settings.id or "",
        tags=settings.tags or (),
        containers=named,
        primary_only=settings.containers == "primary",
        attributes=settings.attributes,
    )


class Daemon:
    """Everything that runs in one process for one `state_dir`.

    Use it as `async with Daemon.open(...)`, then `run`.
    """

    def __init__(
        self,
        settings: Settings,
        spool: SqliteSpool,
        source: LogSource,
        clock: Clock,
        manager: ServiceManager,
        known: Sequence[StreamInfo],
    ) -> None:
        self.settings = settings
        self.spool = spool
        self.metrics = Metrics()
        self._manager = manager
        self._started = False
        self._source = source
        self._clock = clock
        self._intake = Intake(
            spool,
            interval_s=settings.spool.commit_interval,
            buffer_bytes=settings.spool.buffer_bytes,
            clock=clock,
            metrics=self.metrics,
        )
        self.supervisor = Supervisor(self._make_follower, clock=clock)
        self.discovery = Discovery(
            [make_selector(one) for one in settings.sandboxes],
            source=source,
            interval_s=settings.source.poll_interval,
            clock=clock,
            found=self.supervisor.want,
            known=known,
            tell=self._tell_trouble,
        )
        kinds = available()
        self.dispatchers = [
            self._make_dispatcher(name, kinds[sink.type], sink)
            for name, sink in settings.sinks.items()
        ]

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, settings: Settings, *, manager: ServiceManager, clock: Clock | None = None
    ) -> AsyncIterator[Daemon]:
        """Hold `state_dir`, open the spool, and close both at the end.

        Args:
            settings: The whole configuration.
            manager: The service manager, told how the daemon is.
            clock: Time; the machine's own by default.

        Raises:
            SpoolLockedError: Another daemon holds `state_dir`.
            SpoolUntrustedError: The spool cannot be used.
        """
        clock = clock or SystemClock()
        state = StateDir(settings.state_dir)
        with locked(state):
            spool = await open_spool(state, now=clock.time_ns)
            source = make_source(settings.source)
            try:
                destinations = {name: sink.destination for name, sink in settings.sinks.items()}
                retired = await spool.configure_sinks(destinations)
                for name, pending in retired.items():
                    _log.warning("sink is not configured any more", sink=name, undelivered=pending)
                known = await spool.unfinished_streams()
                yield cls(settings, spool, source, clock, manager, known)
            finally:
                await source.close()
                await spool.close()

    async def run(
        self, stop: asyncio.Event, restart: asyncio.Event, *, until_complete: bool = False
    ) -> None:
        """Forward until told to stop, or until there is nothing more to come.

        Args:
            stop: Set it to stop: reading ends, what was read is committed, the sinks get
                `shutdown.drain_timeout`. Nothing that is not delivered then is lost.
            restart: Set it to stop without that time: another daemon goes on at once.
            until_complete: Also stop when every selected sandbox has ended and every sink has
                everything.

        Raises:
            SpoolError: The spool failed; nothing more was acknowledged.
        """
        try:
            await self._run(stop, restart, until_complete=until_complete)
        except BaseExceptionGroup as group:
            raise _first(group) from group

    async def _run(
        self, stop: asyncio.Event, restart: asyncio.Event, *, until_complete: bool
    ) -> None:
        async with asyncio.TaskGroup() as tasks:
            looking = tasks.create_task(self.discovery.run(), name="discovery")
            running = [
                looking,
                tasks.create_task(self._intake.run(), name="intake"),
                tasks.create_task(self.supervisor.run(), name="supervisor"),
                tasks.create_task(self._prune(), name="prune"),
                tasks.create_task(self._watchdog(), name="watchdog"),
                *(
                    tasks.create_task(one.run(), name=f"sink {one.name}")
                    for one in self.dispatchers
                ),
            ]
            if (address := self.settings.admin.address) is not None:
                running.append(tasks.create_task(self._admin(address).run(), name="admin"))
            self._started = True
            self._manager.notify("READY=1", f"STATUS=forwarding to {', '.join(self._sinks)}")
            waits = [stop.wait(), restart.wait()]
            await first_of(*waits, *([self._complete()] if until_complete else []))
            looking.cancel()
            if not restart.is_set():
                self._manager.notify("STOPPING=1", "STATUS=delivering what was taken")
            await self._drain(0.0 if restart.is_set() else self.settings.shutdown.drain_timeout)
            for task in running:
                task.cancel()

    async def _complete(self) -> None:
        """Return when every selected sandbox has ended and every sink has everything."""
        await self.discovery.complete.wait()
        await self.supervisor.wait_all_final()
        await self._intake.flush()
        await self._delivered()

    async def _delivered(self) -> None:
        last_id = self.spool.last_frame_id
        for dispatcher in self.dispatchers:
            await dispatcher.wait_past(last_id)

    async def _drain(self, timeout_s: float) -> None:
        """Stop reading, commit what was read, and give the sinks their time."""
        begun_s = self._clock.monotonic_s()
        await self.supervisor.stop()
        try:
            async with asyncio.timeout(max(timeout_s, _COMMIT_S)):
                await self._intake.flush()
            async with asyncio.timeout(timeout_s - (self._clock.monotonic_s() - begun_s)):
                await self._delivered()
        except TimeoutError:
            if not timeout_s:
                return
            overview = await self.spool.overview()
            pending = {sink.name: sink.pending for sink in overview.sinks if sink.pending}
            _log.warning("stopped before all was delivered; the spool keeps it", pending=pending)

    async def _prune(self) -> None:
        keep_ns = follow_settings(self.settings.source).keep_tail_ns
        while True:
            await self._clock.sleep(PRUNE_INTERVAL_S)
            await self.spool.prune(keep_tail_ns=keep_ns)

    async def _watchdog(self) -> None:
        """Tell the service manager that we live, as long as the spool's writing thread does."""

        async def progress() -> None:
            await self.spool.remember("", {})

        await keep_watchdog(self._manager, progress=progress, clock=self._clock)

    def _admin(self, address: tuple[str, int]) -> AdminServer:
        health = Health(
            started=lambda: self._started,
            api_answered=self._api_is_heard,
            spool_writable=lambda: not self.metrics.spool_refusing,
        )
        return AdminServer(
            address,
            snapshot=self.spool.overview,
            metrics=self.metrics,
            health=health,
            clock=self._clock,
        )

    @property
    def _sinks(self) -> list[str]:
        return [dispatcher.name for dispatcher in self.dispatchers]

    async def _tell_trouble(self, text: str) -> None:
        """Note for `status` why the API does not say which sandboxes there are."""
        with contextlib.suppress(SpoolUnavailableError):
            await self.spool.note("discovery", text)

    def _api_is_heard(self) -> bool:
        """Whether the API has answered, and has not been silent or refusing for a while since."""
        silent_s = self._clock.monotonic_s() - self.discovery.trouble_since_s
        return self.discovery.answered and not (
            self.discovery.trouble and silent_s > _UNHEARD_AFTER_S
        )

    def _make_follower(self, wanted: Wanted) -> Follower:
        return Follower(
            wanted.info,
            container=wanted.container,
            source=self._source,
            spool=self.spool,
            intake=self._intake,
            settings=follow_settings(self.settings.source),
            clock=self._clock,
            metrics=self.metrics,
        )

    def _make_dispatcher(self, name: str, kind: SinkType, settings: SinkSettings) -> Dispatcher:
        return Dispatcher(
            name,
            kind.build(name, settings),
            spool=self.spool,
            from_oldest=settings.start == "oldest",
            batch_bytes=self.settings.spool.batch_bytes,
            clock=self._clock,
        )


async def run_daemon(
    settings: Settings,
    load: Callable[[], Settings],
    *,
    stop: asyncio.Event,
    reload: asyncio.Event,
    manager: ServiceManager,
    until_complete: bool = False,
) -> None:
    """Run a daemon, and on `reload` another one with the new configuration in its place.

    A configuration that cannot be used is told, and the old one stays.

    Raises:
        SpoolError: See `Daemon`.
    """
    new: Settings | None = settings
    while new is not None:
        try:
            async with Daemon.open(new, manager=manager) as daemon:
                settings = new
                new = await _run_until_reload(
                    daemon, load, stop=stop, reload=reload, until_complete=until_complete
                )
        except SpoolError as error:
            if new is settings:
                raise
            _log.error(
                "new state_dir cannot be used, the old configuration stays", error=str(error)
            )
            new = settings
        else:
            manager.notify("RELOADING=1" if new is not None else "STATUS=stopped")


async def _run_until_reload(
    daemon: Daemon,
    load: Callable[[], Settings],
    *,
    stop: asyncio.Event,
    reload: asyncio.Event,
    until_complete: bool,
) -> Settings | None:
    """Run a daemon to its end; the settings of the one that takes its place, or None."""
    restart = asyncio.Event()
    watching = asyncio.create_task(_watch_reload(reload, load, restart))
    try:
        await daemon.run(stop, restart, until_complete=until_complete)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    return watching.result() if restart.is_set() and not stop.is_set() else None


async def _watch_reload(
    reload: asyncio.Event, load: Callable[[], Settings], restart: asyncio.Event
) -> Settings:
    """The new settings, once there are some that can be used; then also sets `restart`."""
    while True:
        await reload.wait()
        reload.clear()
        try:
            settings = load()
        except ConfigError as error:
            _log.error("configuration not reloaded, the old one stays", problems=str(error))
        else:
            _log.info("configuration reloaded")
            restart.set()
            return settings


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that matters of a group: the first that is not itself a group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
