"""Running followers = wanted followers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from forwarder.errors import SpoolError, SpoolUnavailableError
from forwarder.model import StreamState
from forwarder.retry import Backoff
from forwarder.tasks import asked_to_stop

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from forwarder.clock import Clock
    from forwarder.discovery import Selector, Wanted
    from forwarder.follower import Follower
    from forwarder.model import StreamKey

_log = structlog.get_logger()

#: So many streams that are over are remembered at least, listed or not.
REMEMBERED = 10_000

#: A stream whose sandbox is there again, after all, is followed again at most so often.
REVIVE_AFTER_S = 60.0


class Supervisor:
    """Starts a follower for every wanted stream, once, and keeps it running until it is final.

    A follower that fails because the spool cannot be trusted ends the daemon. One that meets a bug,
    or a spool without room, is started again: a single stream must not take the others with it.
    """

    def __init__(self, make: Callable[[Wanted], Follower], *, clock: Clock) -> None:
        self._make = make
        self._clock = clock
        self._tasks: dict[StreamKey, asyncio.Task[None]] = {}
        self._finished: dict[StreamKey, StreamState] = {}
        self._given_up_s: dict[StreamKey, float] = {}
        self._primaries: dict[str, StreamKey] = {}
        self._listed: dict[Selector, Sequence[Wanted]] = {}
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._changed = asyncio.Event()
        self._stopping = False

    @property
    def following(self) -> int:
        """Streams that are not final."""
        return len(self._tasks)

    @property
    def finished(self) -> int:
        """Streams that were read to their end, or are not known."""
        return len(self._finished)

    def want(self, selector: Selector, wanted: Sequence[Wanted]) -> None:
        """Follow all that a selector wants, as far as it is not followed yet; idempotent.

        A stream that was given up because the API did not know its sandbox is followed again when
        the API does: an incident there must not end a stream for good.
        """
        if self._stopping:
            return
        self._listed[selector] = wanted
        self._forget()
        for one in wanted:
            key = one.info.key
            if key in self._tasks or not (key not in self._finished or self._is_back(one)):
                continue
            if not one.container:
                if self._primaries.get(key.sandbox_id, key) in self._tasks:
                    continue  # the same container, followed before its name was known
                self._primaries[key.sandbox_id] = key
            self._finished.pop(key, None)
            self._tasks[key] = asyncio.create_task(self._keep(one), name=f"follow {key}")

    def _forget(self) -> None:
        """Let go of streams that are over and that nobody lists any more: months bring millions.

        Should one be listed again, the spool still knows that it was read to its end.
        """
        listed = sum(map(len, self._listed.values()))
        if len(self._finished) <= max(REMEMBERED, 2 * listed):
            return
        kept = {one.info.key for wanted in self._listed.values() for one in wanted}
        for key in [key for key in self._finished if key not in kept]:
            del self._finished[key]
            self._given_up_s.pop(key, None)

    def _is_back(self, wanted: Wanted) -> bool:
        key = wanted.info.key
        if self._finished[key] is not StreamState.NOT_FOUND or not wanted.seen:
            return False
        return self._clock.monotonic_s() - self._given_up_s[key] >= REVIVE_AFTER_S

    async def run(self) -> None:
        """Return never; raises what ends the daemon. When it ends, no follower is left running.

        Raises:
            SpoolError: A follower met it.
        """
        try:
            await asyncio.shield(self._failure)
        finally:
            await self.stop()

    async def wait_all_final(self) -> None:
        """Return when no stream is being followed."""
        while self._tasks:
            self._changed.clear()
            await self._changed.wait()

    async def stop(self) -> None:
        """Stop reading; returns when every follower has stopped."""
        self._stopping = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self, wanted: Wanted) -> None:
        key = wanted.info.key
        backoff = Backoff(initial_s=1.0, max_s=60.0, clock=self._clock)
        while True:
            try:
                state = await self._make(wanted).run()
            except SpoolUnavailableError as error:
                _log.warning("stream waits for the spool", stream=str(key), error=str(error))
            except SpoolError as error:
                self._fail(error)
                return
            except (Exception, asyncio.CancelledError) as error:
                # The top of a task: one stream must not stop the rest, nor be dead unnoticed.
                if isinstance(error, asyncio.CancelledError) and asked_to_stop():
                    raise
                _log.exception("follower met a bug, starting it again", stream=str(key))
            else:
                break
            await self._clock.sleep(backoff.next_s())
        self._finished[key] = state
        if state is StreamState.NOT_FOUND:
            self._given_up_s[key] = self._clock.monotonic_s()
        del self._tasks[key]
        if self._primaries.get(key.sandbox_id) == key:
            del self._primaries[key.sandbox_id]
        self._changed.set()

    def _fail(self, error: SpoolError) -> None:
        if not self._failure.done():
            self._failure.set_exception(error)
