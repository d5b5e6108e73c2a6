"""The sandboxes of the service: which there are, in order of creation."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from cwsandbox._proto import sandbox_pb2 as pb

from forwarder.local.guard import Guard
from forwarder.local.sandbox import RUNNER_ID, Sandbox

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from forwarder.local.settings import LocalSettings


class SandboxRegistry:
    """Every sandbox that the service knows, in order of creation."""

    def __init__(self, settings: LocalSettings) -> None:
        self._settings = settings
        self._guard = Guard()
        self._sandboxes: dict[str, Sandbox] = {}
        self._by_request_id: dict[str, str] = {}
        self._created = 0

    def __iter__(self) -> Iterator[Sandbox]:
        return iter(self._sandboxes.values())

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
