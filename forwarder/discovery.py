"""Which sandboxes are wanted: those named by id, and those found by their tags.

Discovery only ever adds. A sandbox that is missing from one listing is not gone (grafana/alloy#7036
deleted positions that way): a follow ends when its own stream has been read to its end.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import structlog

from forwarder.errors import SandboxNotFoundError, SourceError
from forwarder.model import Container, StreamInfo, StreamKey
from forwarder.retry import Backoff, retry_forever
from forwarder.tasks import first_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from forwarder.clock import Clock
    from forwarder.model import Sandbox
    from forwarder.source.interface import LogSource

_log = structlog.get_logger()

#: How often a sandbox that is wanted by its id is looked at again once it was seen: it may have
#: been given up meanwhile because the API did not know it for a while.
SEEN_INTERVAL_S = 300.0

#: How often it is said that the API does not tell which sandboxes there are.
TROUBLE_INTERVAL_S = 60.0


@dataclass(frozen=True, slots=True, eq=False)
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
    """A stream to follow.

    Attributes:
        container: What to call it when asking the API, empty for the primary.
        seen: Whether the API knows its sandbox.
        generation: How often the container was restarted, as far as the API says it.
    """

    info: StreamInfo
    container: str
    seen: bool = True
    generation: int = 0


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
        status = sandbox.status_of(container.name)
        generation = status.restart_count if status else 0
        name = "" if container is primary else container.name
        wanted.append(Wanted(info, name, generation=generation))
    return wanted


def left_over(
    selector: Selector, known: Sequence[StreamInfo], found: Sequence[Wanted]
) -> list[Wanted]:
    """Streams that were followed before, and that the API does not name any more.

    Their sandbox may have ended and been forgotten while nobody looked; whether its last lines can
    still be read is the follower's question, and if not, it says so with a gap.
    """
    named = {one.info.key for one in found}
    # A stream without a container's name is that of the primary container, whose name is known now.
    named |= {StreamKey(one.info.key.sandbox_id, "") for one in found if not one.container}
    return [
        Wanted(replace(info, attributes=selector.attributes), info.key.container, seen=False)
        for info in known
        if info.key not in named and _selects(selector, info)
    ]


def _selects(selector: Selector, info: StreamInfo) -> bool:
    if selector.containers and info.key.container not in selector.containers:
        return False
    if selector.id:
        return selector.id == info.key.sandbox_id
    return set(selector.tags) <= set(info.tags)


class Discovery:
    """Watches for wanted sandboxes and says so, again and again: every selector in its own task.

    Attributes:
        complete: Set once every selector has been answered.
        answered: Whether the API has answered anything at all.
        trouble: Why the API does not say which sandboxes there are, empty while it does.
        trouble_since_s: Since when, by the monotonic clock.
    """

    def __init__(
        self,
        selectors: Sequence[Selector],
        *,
        source: LogSource,
        interval_s: float,
        clock: Clock,
        found: Callable[[Selector, Sequence[Wanted]], None],
        known: Sequence[StreamInfo] = (),
        tell: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        """Prepare to look.

        Args:
            selectors: What is wanted.
            source: The API.
            interval_s: How often to look.
            clock: Time.
            found: Told of every stream that a selector wants, known or not, at every look.
            known: Streams that were followed before and not read to their end.
            tell: Told why looking fails, and with an empty text when it works again.
        """
        self._selectors = selectors
        self._source = source
        self._interval_s = interval_s
        self._clock = clock
        self._found = found
        self._known = known
        self._tell = tell
        self._unseen = len(selectors)
        self._failing: dict[Selector, str] = {}
        self.complete = asyncio.Event()
        self.answered = False
        self.trouble_since_s = 0.0
        self._trouble_changed = asyncio.Event()
        if not selectors:
            self.complete.set()

    @property
    def trouble(self) -> str:
        """The reason of one of the selectors that fail; empty when none does."""
        return next(iter(self._failing.values()), "")

    async def run(self) -> None:
        """Look until cancelled; `complete` is set once every selector has been answered once."""
        async with asyncio.TaskGroup() as tasks:
            for selector in self._selectors:
                tasks.create_task(self._watch(selector), name=f"discovery {selector}")
            if self._tell is not None:
                tasks.create_task(self._tell_trouble(self._tell), name="discovery trouble")

    async def _watch(self, selector: Selector) -> None:
        backoff = Backoff(initial_s=0.5, max_s=max(self._interval_s, 30.0), clock=self._clock)

        async def look() -> Sequence[Wanted]:
            return await self._look(selector)

        def failed(error: Exception) -> None:
            self._note_failing(selector, error)

        first = True
        while True:
            wanted = await retry_forever(
                look, on=SourceError, backoff=backoff, clock=self._clock, failed=failed
            )
            self._note_working(selector)
            if first:
                first = False
                self._found(selector, [*wanted, *left_over(selector, self._known, wanted)])
                self._note_seen()
            else:
                self._found(selector, wanted)
            await self._clock.sleep(max(self._interval_s, self._pause_s(selector, wanted, backoff)))

    def _pause_s(self, selector: Selector, wanted: Sequence[Wanted], backoff: Backoff) -> float:
        """How long to wait at least before the next look."""
        if not selector.id:
            backoff.reset()
            return 0.0
        if all(one.seen for one in wanted):
            return SEEN_INTERVAL_S
        # An id that is not known may be a key of another account's: look again, but slowly.
        return backoff.next_s()

    def _note_failing(self, selector: Selector, error: Exception) -> None:
        if not self._failing:
            self.trouble_since_s = self._clock.monotonic_s()
        if selector not in self._failing:
            _log.warning("discovery failing", selector=str(selector), error=str(error))
        self._failing[selector] = str(error)
        self._trouble_changed.set()

    def _note_working(self, selector: Selector) -> None:
        self.answered = True
        if self._failing.pop(selector, None) is not None:
            _log.info("discovery works again", selector=str(selector))
            self._trouble_changed.set()

    def _note_seen(self) -> None:
        self._unseen -= 1
        if not self._unseen:
            self.complete.set()

    async def _tell_trouble(self, tell: Callable[[str], Awaitable[None]]) -> None:
        """Say again and again that new sandboxes are not seen: nothing else would show it."""
        told = None
        while True:
            self._trouble_changed.clear()
            trouble = self.trouble
            if trouble != told:
                await tell(trouble)
            elif trouble:
                _log.warning("discovery still failing: new sandboxes are not seen", error=trouble)
            told = trouble
            await first_of(self._trouble_changed.wait(), self._clock.sleep(TROUBLE_INTERVAL_S))

    async def _look(self, selector: Selector) -> Sequence[Wanted]:
        """One answer: a named sandbox is wanted even when the API does not know it, to be told."""
        if not selector.id:
            sandboxes = await self._source.list_sandboxes(tags=selector.tags, show_terminated=True)
            return [one for sandbox in sandboxes for one in wanted_streams(sandbox, selector)]
        try:
            sandbox = await self._source.get_sandbox(selector.id)
        except SandboxNotFoundError:
            if any(_selects(selector, info) for info in self._known):
                return left_over(selector, self._known, ())
            info = StreamInfo(StreamKey(selector.id, ""), attributes=selector.attributes)
            return [Wanted(info, "", seen=False)]
        return wanted_streams(sandbox, selector)
