"""The sandboxes of the service: which there are, what state they are in, and their end."""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cwsandbox._proto import sandbox_pb2 as pb

from forwarder.local.guard import Guard
from forwarder.local.processes import Command, ContainerProcess

if TYPE_CHECKING:
    from collections.abc import Collection

    from forwarder.local.settings import LocalSettings

RUNNER_ID = "local-runner"
RUNNER_GROUP_ID = "local"
ENDED_STATES = frozenset({pb.STATE_COMPLETED, pb.STATE_FAILED, pb.STATE_TERMINATED})


class UnknownContainerError(Exception):
    """The sandbox has no container of that name."""


@dataclass(slots=True)
class _Member:
    """A container of a sandbox."""

    name: str
    process: ContainerProcess


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
        self._members = [
            _Member(container.name or f"container-{place}", _process(container, settings, guard))
            for place, container in enumerate(self.spec.containers)
        ]
        primary = next((i for i, c in enumerate(self.spec.containers) if c.primary), 0)
        self._primary = self._members[primary]
        # The loop itself holds its tasks only weakly.
        self._starting: asyncio.Task[None] | None = None
        self._stopping: set[asyncio.Task[None]] = set()
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
        task = asyncio.create_task(self._stop(grace_s))
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)
        await asyncio.shield(task)

    async def close(self) -> None:
        """Kill every process; returns when nothing of this sandbox is left."""
        await self.stop(0)
        await asyncio.gather(*self._stopping)

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
        await asyncio.gather(*(member.process.stop(grace_s) for member in self._members))
        await self.ended.wait()

    def container(self, name: str) -> tuple[str, ContainerProcess]:
        """A container by name; an empty name is the primary one.

        Raises:
            UnknownContainerError: There is none of that name.
        """
        if not name:
            return self._primary.name, self._primary.process
        for member in self._members:
            if member.name == name:
                return member.name, member.process
        raise UnknownContainerError(name)

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
        if not process.ended.is_set():
            return pb.ContainerStatus(name=member.name, state=self._state)
        state = pb.STATE_FAILED if process.exit_code else pb.STATE_COMPLETED
        return pb.ContainerStatus(name=member.name, state=state, exit_code=process.exit_code)

    async def _end_with_primary(self) -> None:
        lifetime_s = self.spec.max_lifetime_seconds or None
        try:
            await asyncio.wait_for(self._primary.process.ended.wait(), lifetime_s)
        except TimeoutError:
            self._state = pb.STATE_TERMINATING
        await asyncio.gather(*(member.process.stop(0) for member in self._members))
        self._end_time_ns = time.time_ns()
        if self._state == pb.STATE_TERMINATING:
            self._state = pb.STATE_TERMINATED
        else:
            failed = bool(self._primary.process.exit_code)
            self._state = pb.STATE_FAILED if failed else pb.STATE_COMPLETED
        self.ended.set()


def _process(container: pb.Container, settings: LocalSettings, guard: Guard) -> ContainerProcess:
    command = Command(
        program=container.command,
        args=tuple(container.args),
        environment=dict(container.environment_variables),
        working_dir=container.working_dir,
    )
    return ContainerProcess(
        command,
        retention_bytes=settings.retention_bytes,
        max_line_bytes=settings.max_line_bytes,
        stderr_skew_ns=settings.stderr_skew_ns,
        guard=guard,
    )


class SandboxRegistry:
    """Every sandbox that the service knows, in order of creation."""

    def __init__(self, settings: LocalSettings) -> None:
        self._settings = settings
        self._guard = Guard()
        self._sandboxes: dict[str, Sandbox] = {}
        self._by_request_id: dict[str, str] = {}
        self._created = 0

    def get(self, sandbox_id: str) -> Sandbox | None:
        """One sandbox, ended or not; None when there is none of that id."""
        return self._sandboxes.get(sandbox_id)

    async def create(self, requested: pb.Sandbox, request_id: str = "") -> Sandbox:
        """Start a sandbox. A request id that was seen before answers with the same sandbox."""
        known = self._sandboxes.get(self._by_request_id.get(request_id, ""))
        if known is not None:
            return known
        self._created += 1
        sandbox = Sandbox(self._created, requested, self._settings, self._guard)
        self._sandboxes[sandbox.id] = sandbox
        if request_id:
            self._by_request_id[request_id] = sandbox.id
        await sandbox.start()
        self._forget_oldest()
        return sandbox

    def select(
        self,
        *,
        tags: Collection[str] = (),
        state: pb.State = pb.STATE_UNSPECIFIED,
        show_terminated: bool = False,
        runner_ids: Collection[str] = (),
    ) -> list[Sandbox]:
        """The sandboxes that have all of these tags, in order of creation.

        A `state` asks for exactly that state, ended ones included; without one, ended sandboxes are
        shown only on request.
        """
        if runner_ids and RUNNER_ID not in runner_ids:
            return []
        return [
            sandbox
            for sandbox in self._sandboxes.values()
            if sandbox.tags.issuperset(tags)
            and (sandbox.state == state if state else show_terminated or not sandbox.has_ended)
        ]

    def open(self) -> None:
        """Get ready to start processes."""
        self._guard.open()

    async def close(self) -> None:
        """Kill every process that was started, and wait for its end."""
        await asyncio.gather(*(sandbox.close() for sandbox in self._sandboxes.values()))
        self._guard.close()

    def _forget_oldest(self) -> None:
        ended = [sandbox for sandbox in self._sandboxes.values() if sandbox.has_ended]
        for sandbox in ended[: max(0, len(ended) - self._settings.max_ended_sandboxes)]:
            del self._sandboxes[sandbox.id]
        kept = self._sandboxes
        self._by_request_id = {r: s for r, s in self._by_request_id.items() if s in kept}
