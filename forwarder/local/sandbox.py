"""One sandbox of the service: its containers, their restarts, its state and its end."""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cwsandbox._proto import sandbox_pb2 as pb

from forwarder.local.archive import Archive
from forwarder.local.processes import Command, ContainerProcess

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from forwarder.local.guard import Guard
    from forwarder.local.logstore import LogStore
    from forwarder.local.settings import LocalSettings

RUNNER_ID = "local-runner"
RUNNER_GROUP_ID = "local"
ENDED_STATES = frozenset({pb.STATE_COMPLETED, pb.STATE_FAILED, pb.STATE_TERMINATED})


class UnknownContainerError(Exception):
    """The sandbox has no container of that name."""


class SandboxOverError(Exception):
    """The sandbox does not run, so nothing of it can be started again."""


@dataclass(slots=True)
class _Member:
    """A container of a sandbox; each restart gives it a new process."""

    name: str
    spec: pb.Container
    process: ContainerProcess
    archive: Archive
    restarts: int = 0


class Sandbox:
    """One sandbox. It ends when its primary container's main process does, or when it is stopped.

    Attributes:
        number: Its place in the order of creation.
    """

    def __init__(
        self, number: int, requested: pb.Sandbox, settings: LocalSettings, guard: Guard
    ) -> None:
        self.number = number
        self.id = f"sbx-{secrets.token_hex(6)}"
        self.spec = requested.spec
        self.display_name = requested.display_name or f"local-{number}"
        self.tags = frozenset(requested.spec.tags)
        self.ended = asyncio.Event()
        self._state: pb.State = pb.STATE_CREATING
        self._create_time_ns = time.time_ns()
        self._start_time_ns = 0
        self._end_time_ns = 0
        self._settings = settings
        self._guard = guard
        self._members = [
            self._member(container.name or f"container-{place}", container)
            for place, container in enumerate(self.spec.containers)
        ]
        primary = next((i for i, c in enumerate(self.spec.containers) if c.primary), 0)
        self._primary = self._members[primary]
        # The loop itself holds its tasks only weakly.
        self._starting: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        # Held while a container is between two processes.
        self._restart_lock = asyncio.Lock()
        self._over = False
        self._watch: asyncio.Task[None] | None = None

    @property
    def state(self) -> pb.State:
        """The state as the API shows it."""
        return self._state

    @property
    def running(self) -> bool:
        """Whether its logs can be followed."""
        return self._state == pb.STATE_RUNNING

    @property
    def end_time_ns(self) -> int:
        """When it ended; 0 while it has not."""
        return self._end_time_ns

    @property
    def has_ended(self) -> bool:
        """Whether its state is final."""
        return self._state in ENDED_STATES

    async def start(self) -> None:
        """Start every container's process; the start goes on when the caller is cancelled."""
        self._starting = asyncio.create_task(self._start())
        await asyncio.shield(self._starting)

    async def stop(self, grace_s: float) -> None:
        """Stop every process; returns when they have ended and the state is final.

        The stop goes on when the caller is cancelled.
        """
        await self._finish(self._stop(grace_s))

    async def restart_container(self, name: str) -> int:
        """Kill a container's process, unless it has ended, and start another one in its place.

        The log of the old process ends; `restart_keeps_log` says whether the new one begins with
        it. The restart goes on when the caller is cancelled.

        Returns:
            How often the container was restarted by now.

        Raises:
            UnknownContainerError: There is none of that name.
            SandboxOverError: The sandbox does not run.
        """
        member = self._named(name)
        await self._finish(self._restart(member))
        return member.restarts

    async def close(self) -> None:
        """Kill every process; returns when nothing of this sandbox is left."""
        await self.stop(0)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _finish(self, work: Coroutine[Any, Any, None]) -> None:
        """Do this to its end, whatever becomes of the caller."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.shield(task)

    async def _start(self) -> None:
        for member in self._members:
            await member.process.start()
        self._start_time_ns = time.time_ns()
        self._state = pb.STATE_RUNNING
        self._watch = asyncio.create_task(self._end_with_primary(), name=f"watch {self.id}")

    async def _stop(self, grace_s: float) -> None:
        if self._starting is not None:
            await self._starting
        if not self.has_ended:
            self._state = pb.STATE_TERMINATING
        await self._forbid_restarts()
        await asyncio.gather(*(member.process.stop(grace_s) for member in self._members))
        await self.ended.wait()

    async def _forbid_restarts(self) -> None:
        async with self._restart_lock:
            self._over = True

    async def _restart(self, member: _Member) -> None:
        async with self._restart_lock:
            if self._over or not self.running:
                raise SandboxOverError(self.id)
            old = member.process
            await old.stop(0)
            member.archive.close_line()
            log = old.log.continued() if self._settings.restart_keeps_log else None
            member.process = self._process(member.spec, member.archive, log)
            member.restarts += 1
            await member.process.start()

    def container(self, name: str) -> tuple[str, ContainerProcess]:
        """A container by name, with the process it has now; an empty name is the primary one.

        Raises:
            UnknownContainerError: There is none of that name.
        """
        member = self._named(name)
        return member.name, member.process

    def containers(self) -> list[tuple[str, ContainerProcess, Archive]]:
        """Name, process and archive of each container."""
        return [(member.name, member.process, member.archive) for member in self._members]

    def _named(self, name: str) -> _Member:
        if not name:
            return self._primary
        for member in self._members:
            if member.name == name:
                return member
        raise UnknownContainerError(name)

    def _member(self, name: str, spec: pb.Container) -> _Member:
        archive = Archive(name, self._settings.storing)
        return _Member(name, spec, self._process(spec, archive, None), archive)

    def _process(
        self, spec: pb.Container, archive: Archive, log: LogStore | None
    ) -> ContainerProcess:
        settings = self._settings
        command = Command(
            program=spec.command,
            args=tuple(spec.args),
            environment=dict(spec.environment_variables),
            working_dir=spec.working_dir,
        )
        return ContainerProcess(
            command,
            retention_bytes=settings.retention_bytes,
            max_line_bytes=settings.max_line_bytes,
            stderr_skew_ns=settings.stderr_skew_ns,
            guard=self._guard,
            log=log,
            archive=archive if settings.stored_logs == "on" else None,
        )

    def describe(self) -> pb.Sandbox:
        """The sandbox as the API shows it."""
        status = pb.SandboxStatus(
            state=self._state,
            state_reason=self._primary.process.failure,
            container_statuses=[self._container_status(member) for member in self._members],
            runner_id=RUNNER_ID,
            runner_group_id=RUNNER_GROUP_ID,
        )
        status.create_time.FromNanoseconds(self._create_time_ns)
        if self._start_time_ns:
            status.start_time.FromNanoseconds(self._start_time_ns)
        if self._end_time_ns:
            status.end_time.FromNanoseconds(self._end_time_ns)
        if self._state in ENDED_STATES and self._primary.process.exit_code is not None:
            status.exit_code = self._primary.process.exit_code
        return pb.Sandbox(
            sandbox_id=self.id, display_name=self.display_name, spec=self.spec, status=status
        )

    def _container_status(self, member: _Member) -> pb.ContainerStatus:
        process = member.process
        status = pb.ContainerStatus(name=member.name, restart_count=member.restarts)
        if not process.ended.is_set():
            status.state = self._state
            return status
        status.state = pb.STATE_FAILED if process.exit_code else pb.STATE_COMPLETED
        status.exit_code = process.exit_code or 0
        return status

    async def _end_with_primary(self) -> None:
        lifetime_s = self.spec.max_lifetime_seconds or None
        try:
            await asyncio.wait_for(self._primary_ends(), lifetime_s)
        except TimeoutError:
            self._state = pb.STATE_TERMINATING
        await self._forbid_restarts()
        await asyncio.gather(*(member.process.stop(0) for member in self._members))
        self._end_time_ns = time.time_ns()
        if self._state == pb.STATE_TERMINATING:
            self._state = pb.STATE_TERMINATED
        else:
            failed = bool(self._primary.process.exit_code)
            self._state = pb.STATE_FAILED if failed else pb.STATE_COMPLETED
        self.ended.set()

    async def _primary_ends(self) -> None:
        """Returns when the primary's process is over and no other one takes its place."""
        while True:
            process = self._primary.process
            await process.ended.wait()
            async with self._restart_lock:
                if self._primary.process is process:
                    self._over = True
                    return
