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
from forwarder.checking import check_all
from forwarder.clock import SystemClock
from forwarder.discovery import Discovery, Selector, Wanted
from forwarder.dispatcher import Dispatcher
from forwarder.errors import SpoolUnavailableError
from forwarder.follower import Follower
from forwarder.following import Begin, Followed, FollowSettings
from forwarder.intake import Intake
from forwarder.metrics import Metrics
from forwarder.source.connect import ConnectSource
from forwarder.source.stored import StoredLogs
from forwarder.spool.advice import advice_here
from forwarder.spool.files import StateDir, locked
from forwarder.spool.room import SpoolLimits
from forwarder.spool.sqlite import open_spool
from forwarder.stored_tail import StoredTails
from forwarder.stream_limits import StreamLimits
from forwarder.supervisor import Supervisor
from forwarder.tasks import endless, first_error, first_of
from sinks.archive import Archiving
from sinks.registry import available

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from forwarder.admin.systemd import ServiceManager
    from forwarder.checking import Finding
    from forwarder.clock import Clock
    from forwarder.config import SandboxSelector, Settings, SourceSettings
    from forwarder.config.settings import SpoolSettings
    from forwarder.model import StreamInfo
    from forwarder.source.interface import LogSource
    from forwarder.spool.sqlite import SqliteSpool
    from sinks.archive import Archive
    from sinks.registry import SinkType
    from sinks.settings import SinkSettings

_log = structlog.get_logger()

#: What was read gets at least so long to be committed; if it is not, it is read again.
_COMMIT_S = 5.0

#: After so long without an answer to discovery the daemon is not ready any more.
_UNHEARD_AFTER_S = 120.0

#: How often frames that every sink is past are deleted.
PRUNE_INTERVAL_S = 5.0

#: How often is looked for what is to be sent again: dead letters, and ranges of lines.
REPLAY_INTERVAL_S = 2.0


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


def make_stored_logs(settings: SourceSettings) -> StoredLogs | None:
    """The client of the stored logs, unless the settings turn them off."""
    if settings.stored_logs == "off":
        return None
    return StoredLogs(
        settings.base_url,
        credentials=settings.auth_headers,
        connect_timeout_s=settings.connect_timeout,
        request_timeout_s=settings.request_timeout,
        allow_plaintext=settings.allow_plaintext,
    )


def make_limits(settings: SourceSettings, clock: Clock) -> StreamLimits:
    """What bounds the log streams; run it beside the followers."""
    return StreamLimits(
        idle_s=settings.idle_probe,
        life_s=settings.stream_life,
        max_opening=settings.max_opening,
        clock=clock,
    )


def spool_limits(settings: SpoolSettings, *, keep_tail_ns: int) -> SpoolLimits:
    """What the spool may take on disk, and how long; the newest of a stream is its own matter."""
    return SpoolLimits(
        max_bytes=settings.max_size,
        drop_oldest=settings.when_full == "drop_oldest",
        ballast_bytes=settings.ballast,
        keep_ns=round(settings.keep * 1_000_000_000),
        keep_tail_ns=keep_tail_ns,
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


async def check(settings: Settings) -> list[Finding]:
    """Ask the API and every destination whether they answer and take us; see `checking`."""
    kinds = available()
    sinks = {
        name: (sink.type, kinds[sink.type].build(name, sink))
        for name, sink in settings.sinks.items()
    }
    source = make_source(settings.source)
    try:
        return await check_all(source, settings.sandboxes, sinks)
    finally:
        await source.close()


def archive_of(
    settings: Settings, name: str, remembered: Mapping[str, bytes] | None
) -> Archive | None:
    """The archive that a sink writes; None when it is a sink that cannot be read back.

    Args:
        settings: The configuration.
        name: The sink.
        remembered: What it remembers; see `sinks.archive.Archiving`.
    """
    section = settings.sinks[name]
    sink = available()[section.type].build(name, section)
    return sink.archive(remembered) if isinstance(sink, Archiving) else None


class Daemon:
    """Everything that runs in one process for one `state_dir`.

    Use it as `async with Daemon.open(...)`, then `run`.
    """

    def __init__(
        self,
        settings: Settings,
        spool: SqliteSpool,
        source: LogSource,
        stored: StoredLogs | None,
        clock: Clock,
        manager: ServiceManager,
        known: Sequence[StreamInfo],
        metrics: Metrics,
    ) -> None:
        self.settings = settings
        self.spool = spool
        self.metrics = metrics
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
        self._limits = make_limits(settings.source, clock)
        self.metrics.longest_idle_s = self._limits.longest_silence_s
        self._followed = Followed(
            source,
            spool,
            self._intake,
            follow_settings(settings.source),
            self._limits,
            StoredTails(stored),
            clock,
            self.metrics,
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
        for name, sink in settings.sinks.items():
            for text in sink.warnings:
                _log.warning(text, sink=name)
        kinds = available()
        self.dispatchers = [
            self._make_dispatcher(name, kinds[sink.type], sink)
            for name, sink in settings.sinks.items()
        ]

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        settings: Settings,
        *,
        manager: ServiceManager,
        clock: Clock | None = None,
        new_spool: bool = False,
    ) -> AsyncIterator[Daemon]:
        """Hold `state_dir`, open the spool, and close both at the end.

        Args:
            settings: The whole configuration.
            manager: The service manager, told how the daemon is.
            clock: Time; the machine's own by default.
            new_spool: Set the spool aside first, and begin a new one with what can be read of it.

        Raises:
            SpoolLockedError: Another daemon holds `state_dir`.
            SpoolUntrustedError: The spool cannot be used.
        """
        clock = clock or SystemClock()
        state = StateDir(settings.state_dir)
        with locked(state):
            for one in advice_here(state.path):
                (_log.warning if one.level == "warning" else _log.info)(one.text)
            metrics = Metrics()
            spool = await open_spool(
                state,
                now=clock.time_ns,
                new_spool=new_spool,
                limits=spool_limits(
                    settings.spool, keep_tail_ns=follow_settings(settings.source).keep_tail_ns
                ),
                on_gap=metrics.gave_up,
            )
            source = make_source(settings.source)
            stored = make_stored_logs(settings.source)
            try:
                destinations = {name: sink.destination for name, sink in settings.sinks.items()}
                retired = await spool.configure_sinks(destinations)
                for name, pending in retired.items():
                    _log.warning("sink is not configured any more", sink=name, undelivered=pending)
                known = await spool.unfinished_streams()
                yield cls(settings, spool, source, stored, clock, manager, known, metrics)
            finally:
                if stored is not None:
                    await stored.close()
                await source.close()
                await spool.close()

    async def run(
        self,
        stop: asyncio.Event,
        restart: asyncio.Event,
        *,
        until_complete: bool = False,
        ending: Callable[[], None] = lambda: None,
        failed: Callable[[BaseException], None] = lambda _: None,
    ) -> None:
        """Forward until told to stop, or until there is nothing more to come.

        Args:
            stop: Set it to stop: reading ends, what was read is committed, the sinks get
                `shutdown.drain_timeout`. Nothing that is not delivered then is lost.
            restart: Set it to stop without that time: another daemon goes on at once.
            until_complete: Also stop when every selected sandbox has ended and every sink has
                everything.
            ending: Told when it begins to end, because it was told to or failed; not of a restart.
            failed: Told of the error, before everything is closed, which a broken disk may hold up.

        Raises:
            SpoolError: The spool failed; nothing more was acknowledged.
            Exception: A part met a bug. Every other part has ended when this comes out.
        """
        try:
            await self._run(stop, restart, ending, until_complete=until_complete)
        except BaseExceptionGroup as group:
            error = first_error(group)
            failed(error)
            raise error from group

    async def _run(
        self,
        stop: asyncio.Event,
        restart: asyncio.Event,
        ending: Callable[[], None],
        *,
        until_complete: bool,
    ) -> None:
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(endless(name, part), name=name) for name, part in self._parts()
            ]
            self._started = True
            self._manager.notify("READY=1", f"STATUS=forwarding to {', '.join(self._sinks)}")
            waits = [stop.wait(), restart.wait()]
            try:
                await first_of(*waits, *([self._complete()] if until_complete else []))
            finally:
                if not restart.is_set():
                    ending()
            running[0].cancel()
            if not restart.is_set():
                self._manager.notify("STOPPING=1", "STATUS=delivering what was taken")
            await self._drain(0.0 if restart.is_set() else self.settings.shutdown.drain_timeout)
            for task in running:
                task.cancel()

    def _parts(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        """Everything that runs as long as the daemon does; what looks for sandboxes first."""
        parts: list[tuple[str, Callable[[], Awaitable[None]]]] = [
            ("discovery", self.discovery.run),
            ("intake", self._intake.run),
            ("supervisor", self.supervisor.run),
            ("stream limits", self._limits.run),
            ("prune", self._prune),
            ("replay", self._replay),
            *((f"sink {one.name}", one.run) for one in self.dispatchers),
        ]
        if self._manager.watchdog_interval_s() is not None:
            parts.append(("watchdog", self._watchdog))
        if (address := self.settings.admin.address) is not None:
            parts.append(("admin", self._admin(address).run))
        return parts

    async def _complete(self) -> None:
        """Return when every selected sandbox has ended and every sink has everything."""
        await self.discovery.complete.wait()
        await self.supervisor.wait_all_final()
        await self._intake.flush()
        await self._delivered()

    async def _delivered(self) -> None:
        last_id = self.spool.last_frame_id
        async with asyncio.TaskGroup() as tasks:
            for dispatcher in self.dispatchers:
                tasks.create_task(dispatcher.wait_past(last_id))

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

    async def _replay(self) -> None:
        """Let every sink look whether somebody wants something to be sent again."""
        while True:
            await self._clock.sleep(REPLAY_INTERVAL_S)
            for dispatcher in self.dispatchers:
                dispatcher.replay()

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
            letter_limits={
                name: sink.plan.dead_letter_bytes for name, sink in self.settings.sinks.items()
            },
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
            shared=self._followed,
            begin=Begin(generation=wanted.generation, known=wanted.seen),
        )

    def _make_dispatcher(self, name: str, kind: SinkType, settings: SinkSettings) -> Dispatcher:
        return Dispatcher(
            name,
            kind.build(name, settings),
            spool=self.spool,
            from_oldest=settings.start == "oldest",
            batch_bytes=self.settings.spool.batch_bytes,
            clock=self._clock,
            plan=settings.plan,
            exactly_once=settings.exactly_once,
            state_dir=self.settings.state_dir,
            room_bytes=self.settings.spool.max_size,
        )
