"""One sink as the dispatcher uses it: opened, held, tried again. Retry lives here and nowhere else.

While all is well, as many batches are written at once as the sink allows. When one fails, all wait,
and one at a time tries again after a pause, until one gets through: a destination that is down is
asked by one request and not by many.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import structlog

from forwarder.errors import SpoolError, SpoolUnavailableError
from forwarder.model import SinkHealth
from forwarder.retry import Backoff
from sinks.interface import (
    BatchRejectedError,
    PartlyDeliveredError,
    Refusal,
    SinkMisconfiguredError,
    SinkUnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from forwarder.clock import Clock
    from forwarder.spool.interface import Spool
    from sinks.interface import Batch, Sink, SinkState, StateChanges
    from sinks.plan import DeliveryPlan

#: How often a held sink is looked at again: soon at first, since whoever broke it may be mending
#: it right now, and then every few seconds.
HOLD_INITIAL_S = 1.0
HOLD_MAX_S = 15.0


class SinkOutlet:
    """One sink, and how it is.

    Attributes:
        health: How it is.
    """

    def __init__(
        self, name: str, sink: Sink, *, plan: DeliveryPlan, spool: Spool, clock: Clock
    ) -> None:
        self.health = SinkHealth.STARTING
        self._name = name
        self._sink = sink
        self._plan = plan
        self._spool = spool
        self._clock = clock
        self._log = structlog.get_logger().bind(sink=name)
        self._noted: tuple[SinkHealth, str] = (SinkHealth.STARTING, "")
        self._backoff = Backoff(initial_s=0.25, max_s=30.0, clock=clock)
        self._hold = Backoff(initial_s=HOLD_INITIAL_S, max_s=HOLD_MAX_S, clock=clock)
        self._state: SinkState | None = None
        self._places = asyncio.Semaphore(plan.in_flight)
        # Who holds it is the one that tries while the others wait.
        self._turn = asyncio.Lock()
        self._troubled = False
        self._delay_s = 0.0
        self._closed = False
        self._writing = 0
        self._idle = asyncio.Event()
        self._idle.set()
        # Several attempts that fail together are one failure.
        self._failures = 0

    async def open(self, state: SinkState) -> None:
        """Open the sink, however often that takes.

        Raises:
            SpoolError: The spool failed.
        """
        self._state = state
        while True:
            try:
                await self._sink.open(state)
            except SpoolError:
                raise
            except Exception as error:  # noqa: BLE001 - the sink guard: any verdict, or a bug
                health, detail, delay_s = self._meaning(error)
            else:
                self._closed = False
                return
            await self._set_health(health, detail)
            await self.close()
            await self._clock.sleep(delay_s)

    async def running(self) -> None:
        """Say that it is open."""
        await self._set_health(SinkHealth.RUNNING, "")

    async def close(self) -> None:
        """Close the sink; what it leaves behind it has to bear after a crash anyway."""
        self._closed = True
        try:
            await self._sink.close()
        except Exception as error:  # noqa: BLE001 - the sink guard: any verdict, or a bug
            self._log.error("sink did not close", exc_info=error)

    async def write(self, batch: Batch) -> StateChanges:
        """Attempt until the destination has said something final, however long that takes.

        Raises:
            BatchRejectedError: It will never take this batch as it is.
            PartlyDeliveredError: It took some of it; or it did not answer for `give_up_after_s`,
                and is not asked again.
            SpoolError: The spool failed.
        """
        begun_s = self._clock.monotonic_s()
        async with self._places:
            while True:
                probing = self._troubled
                async with self._turn if probing else contextlib.nullcontext():
                    if probing and not self._troubled:
                        continue
                    if probing:
                        await self._recover()
                    changes = await self._try(batch, begun_s)
                if changes is not None:
                    return changes

    async def pause(self, error: PartlyDeliveredError) -> None:
        """Let the next attempt wait, whichever batch it is for."""
        unavailable = SinkUnavailableError(str(error), retry_after_s=error.retry_after_s)
        await self._failed(unavailable, self._failures)

    async def hold_until(self, ready: Callable[[], Awaitable[bool]], detail: str) -> None:
        """Hold the sink, say why, and look again slowly until it is ready; nothing is written."""
        if await ready():
            return
        async with self._turn:
            self._troubled = True
            self._delay_s = 0.0
            await self._set_health(SinkHealth.HELD, detail)
            while not await ready():
                await self._clock.sleep(self._hold.next_s())
            await self._well()

    async def _try(self, batch: Batch, begun_s: float) -> StateChanges | None:
        """One attempt; None when the same is to be tried again."""
        seen = self._failures
        try:
            changes = await self._attempt(batch)
        except SpoolError:
            raise
        except (BatchRejectedError, PartlyDeliveredError):
            # Whatever it says, it answers.
            await self._well()
            raise
        except Exception as error:  # noqa: BLE001 - the sink guard: any verdict, or a bug
            await self._failed(error, seen)
            self._give_up(error, batch, begun_s)
            return None
        await self._well()
        return changes

    async def _attempt(self, batch: Batch) -> StateChanges:
        """One write, within its time."""
        self._writing += 1
        self._idle.clear()
        try:
            async with asyncio.timeout(self._plan.timeout_s) as limit:
                return await self._sink.write(batch)
        except TimeoutError as error:
            if not limit.expired():
                raise
            text = f"no answer within {self._plan.timeout_s:g} s"
            raise SinkUnavailableError(text) from error
        finally:
            self._writing -= 1
            if not self._writing:
                self._idle.set()

    async def _recover(self) -> None:
        """Sit the pause out, and open the sink again if it was held."""
        if self.health is SinkHealth.HELD:
            await self._idle.wait()
            if not self._closed:
                await self.close()
        await self._clock.sleep(self._delay_s)
        if self._closed:
            assert self._state is not None, "it was opened before"
            await self.open(self._state)

    async def _well(self) -> None:
        """It answers: everything may be tried at once again."""
        self._troubled = False
        self._backoff.reset()
        self._hold.reset()
        await self._set_health(SinkHealth.RUNNING, "")

    async def _failed(self, error: Exception, seen: int) -> None:
        """An attempt failed that began after so many failures: what was noted since counts once."""
        if seen != self._failures and not isinstance(error, SinkMisconfiguredError):
            return
        self._failures += 1
        self._troubled = True
        health, detail, self._delay_s = self._meaning(error)
        await self._set_health(health, detail)

    def _meaning(self, error: Exception) -> tuple[SinkHealth, str, float]:
        """What a verdict means: how the sink is, why, and how long to wait."""
        match error:
            case SinkUnavailableError():
                delay_s = self._backoff.next_s(error.retry_after_s)
                return SinkHealth.RETRYING, str(error), delay_s
            case SinkMisconfiguredError():
                return SinkHealth.HELD, str(error), self._hold.next_s()
            case _:
                self._log.error("sink met a bug", exc_info=error)
                return SinkHealth.RETRYING, f"bug: {error!r}", self._backoff.next_s()

    def _give_up(self, error: Exception, batch: Batch, begun_s: float) -> None:
        """Set aside what was tried for too long; what is held is never given up.

        Raises:
            PartlyDeliveredError: It was.
        """
        tried_s = self._clock.monotonic_s() - begun_s
        if tried_s < self._plan.give_up_after_s or not isinstance(error, SinkUnavailableError):
            return
        reason = Refusal(f"given up: {error}", "given_up", maybe_stored=True)
        raise PartlyDeliveredError(
            str(error), refused=dict.fromkeys(range(batch.record_count), reason)
        )

    async def _set_health(self, health: SinkHealth, detail: str) -> None:
        """Tell a change once; what `status` shows waits for no disk that is full."""
        if health is not self.health:
            level = self._log.info if health is SinkHealth.RUNNING else self._log.error
            level(f"sink {health}", **({"detail": detail} if detail else {}))
        self.health = health
        if (health, detail) == self._noted:
            return
        try:
            await self._spool.note_sink(self._name, str(health), detail)
        except SpoolUnavailableError:
            self._log.debug("sink state not noted: the spool has no room")
        else:
            self._noted = (health, detail)
