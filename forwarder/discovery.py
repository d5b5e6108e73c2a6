"""Which sandboxes are wanted: those named by id, and those found by their tags.

Discovery only ever adds. A sandbox that is missing from one listing is not gone (grafana/alloy#7036
deleted positions that way): a follow ends when its own stream has been read to its end.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from forwarder.errors import SandboxNotFoundError, SourceError
from forwarder.model import Container, Sandbox, SandboxState, StreamInfo, StreamKey
from forwarder.retry import Backoff, retry_forever

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from forwarder.clock import Clock
    from forwarder.source.interface import LogSource

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Selector:
    """One entry of `sandboxes`: an id, or tags that a sandbox must all have.

    Attributes:
        containers: Names of containers; empty for all of them.
        primary_only: Only the primary container.
        attributes: The operator's own, put on every stream it selects.
    """

    id: str = ""
    tags: tuple[str, ...] = ()
    containers: tuple[str, ...] = ()
    primary_only: bool = False
    attributes: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.id or "tags " + ", ".join(self.tags)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A stream to follow, and what to call its container when asking the API (empty: primary)."""

    info: StreamInfo
    container: str


def wanted_streams(sandbox: Sandbox, selector: Selector) -> list[Wanted]:
    """The streams of a sandbox that a selector wants.

    A sandbox whose containers the API does not name has one stream, of its primary container.
    """
    containers = sandbox.containers or (Container("", primary=True),)
    primary = next((one for one in containers if one.primary), containers[0])
    wanted = []
    for container in containers:
        if selector.containers and container.name not in selector.containers:
            continue
        if selector.primary_only and container is not primary:
            continue
        info = StreamInfo(
            StreamKey(sandbox.id, container.name),
            display_name=sandbox.display_name,
            tags=sandbox.tags,
            image=container.image,
            runner_id=sandbox.runner_id,
            annotations=sandbox.annotations,
            attributes=selector.attributes,
        )
        wanted.append(Wanted(info, "" if container is primary else container.name))
    return wanted


class Discovery:
    """Watches for wanted sandboxes and says so, again and again: every selector in its own task.

    Attributes:
        complete: Set once every selector has been answered.
        answered: Whether the API has answered anything at all.
    """

    def __init__(
        self,
        selectors: Sequence[Selector],
        *,
        source: LogSource,
        interval_s: float,
        clock: Clock,
        found: Callable[[Sequence[Wanted]], None],
    ) -> None:
        """Prepare; `found` is told of every wanted stream, known or not, at every look."""
        self._selectors = selectors
        self._source = source
        self._interval_s = interval_s
        self._clock = clock
        self._found = found
        self._unseen = len(selectors)
        self.complete = asyncio.Event()
        self.answered = False
        if not selectors:
            self.complete.set()

    async def run(self) -> None:
        """Look until cancelled; `complete` is set once every selector has been answered once."""
        async with asyncio.TaskGroup() as tasks:
            for selector in self._selectors:
                tasks.create_task(self._watch(selector), name=f"discovery {selector}")

    async def _watch(self, selector: Selector) -> None:
        backoff = Backoff(initial_s=0.5, max_s=max(self._interval_s, 30.0), clock=self._clock)
        quiet = True

        def failed(error: Exception) -> None:
            nonlocal quiet
            if quiet:
                _log.warning("discovery failing", selector=str(selector), error=str(error))
            quiet = False

        async def look() -> Sequence[Wanted]:
            return await self._look(selector)

        seen = False
        while True:
            wanted = await retry_forever(
                look, on=SourceError, backoff=backoff, clock=self._clock, failed=failed
            )
            backoff.reset()
            quiet = True
            self.answered = True
            self._found(wanted)
            if not seen:
                seen = True
                self._unseen -= 1
                if not self._unseen:
                    self.complete.set()
            if selector.id:
                return
            await self._clock.sleep(self._interval_s)

    async def _look(self, selector: Selector) -> Sequence[Wanted]:
        """One answer: a named sandbox is wanted even when the API does not know it, to be told."""
        if not selector.id:
            sandboxes = await self._source.list_sandboxes(tags=selector.tags, show_terminated=True)
            return [one for sandbox in sandboxes for one in wanted_streams(sandbox, selector)]
        try:
            sandbox = await self._source.get_sandbox(selector.id)
        except SandboxNotFoundError:
            sandbox = Sandbox(selector.id, SandboxState.UNSPECIFIED)
            return wanted_streams(sandbox, Selector(attributes=selector.attributes))
        return wanted_streams(sandbox, selector)
