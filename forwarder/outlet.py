"""One sink as the dispatcher uses it: opened, held, tried again. Retry lives here and nowhere else.

While all is well, as many batches are written at once as the sink allows. When one fails, all wait,
and one at a time tries again after a pause, until one gets through: a destination that is down is
asked by one request and not by many.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import structlog

from forwarder.errors import SpoolError, SpoolUnavailableError
from forwarder.model import SinkHealth
from forwarder.retry import Backoff
from forwarder.tasks import asked_to_stop
from sinks.interface import (
    Batch,
    BatchRejectedError,
    Described,
    PartlyDeliveredError,
    Refusal,
    SinkMisconfiguredError,
    SinkState,
    SinkUnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from forwarder.clock import Clock
    from forwarder.spool.interface import Spool
    from forwarder.unrefusing import Unrefusing
    from sinks.interface import Sink, StateChanges
    from sinks.plan import DeliveryPlan
    from sinks.window import Window

_T = TypeVar("_T")

#: How often a held sink is looked at again: soon at first, since whoever broke it may be mending
#: it right now, and then every few seconds.
HOLD_INITIAL_S = 1.0
HOLD_MAX_S = 15.0


class WrittenState(SinkState, Protocol):
    """What a sink remembers, as it sees it."""

    def apply(self, changes: Mapping[str, bytes | None]) -> None:
        """Let the sink see what it returned; it is made durable elsewhere."""
        ...


class SinkOutlet:
    """One sink, and how it is."""

    def __init__(
        self, name: str, sink: Sink | Unrefusing, *, plan: DeliveryPlan, spool: Spool, clock: Clock
    ) -> None:
        self._name = name
        self._sink = sink
        self._plan = plan
        self._spool = spool
        self._clock = clock
        self._log = structlog.get_logger().bind(sink=name)
        self._answered: tuple[SinkHealth, str] = (SinkHealth.STARTING, "")
        # Why nothing new is sent, though the destination may be well.
        self._blocked = ""
        self._noted = self._answered
        self._noting = asyncio.Lock()
        self._backoff = Backoff(initial_s=0.25, max_s=30.0, clock=clock)
        self._hold = Backoff(initial_s=HOLD_INITIAL_S, max_s=HOLD_MAX_S, clock=clock)
        self._state: WrittenState | None = None
        self._places = asyncio.Semaphore(plan.in_flight)
        # Who holds it is the one that tries while the others wait.
        self._turn = asyncio.Lock()
        self._troubled = False
        self._delay_s = 0.0
        self._opened = False
        self._opened_s = 0.0
        self._writing = 0
        self._idle = asyncio.Event()
        self._idle.set()
        # Several attempts that fail together are one failure.
        self._failures = 0

    @property
    def health(self) -> SinkHealth:
        """How the sink is."""
        return self._status[0]

    @property
    def _status(self) -> tuple[SinkHealth, str]:
        return (SinkHealth.HELD, self._blocked) if self._blocked else self._answered

    async def open(self, state: WrittenState) -> None:
        """Open the sink, however often that takes.

        Raises:
            SpoolError: The spool failed.
        """
        self._state = state
        while True:
            self._opened = True
            try:
                await self._within_time(self._sink.open(state))
            except SpoolError:
                raise
            except Exception as error:  # noqa: BLE001 - the sink guard: any verdict, or a bug
                delay_s = self._meaning(error)
            else:
                self._opened_s = self._clock.monotonic_s()
                return
            await self.close()
            await self.note()
            await self._clock.sleep(delay_s)

    async def running(self) -> None:
        """Say that it is open."""
        self._turn_to(SinkHealth.RUNNING)
        await self.note()

    async def close(self) -> None:
        """Close the sink if it is open; what it leaves behind it has to bear after a crash anyway.

        Raises:
            SpoolError: The spool failed.
        """
        if not self._opened:
            return
        self._opened = False
        try:
            await self._within_time(self._sink.close())
        except SpoolError:
            raise
        except Exception as error:  # noqa: BLE001 - the sink guard: any verdict, or a bug
            self._log.error("sink did not close", exc_info=error)

    async def write(self, batch: Batch | Window) -> StateChanges:
        """Attempt until the destination has said something final, however long that takes.

        What comes back is what the sink wants to remember from now on; it finds it in its state.

        Raises:
            BatchRejectedError: It will never take this batch as it is.
            PartlyDeliveredError: It took some of it; or it did not answer for `give_up_after_s`,
                and is not asked again.
            SpoolError: The spool failed.
        """
        async with self._places:
            begun_s = self._clock.monotonic_s()
            while True:
                if asked_to_stop():  # a sink may have made something else of the cancellation
                    raise asyncio.CancelledError
                await self.note()
                changes = await self._in_turn(batch, begun_s)
                if changes is not None:
                    return changes

    async def hold_until(self, ready: Callable[[], Awaitable[bool]], detail: str) -> None:
        """Say that the sink is held, and why, and look again slowly until that is over.

        Writes go on meanwhile: what holds the sink may be waiting for one of them.
        """
        backoff = Backoff(initial_s=HOLD_INITIAL_S, max_s=HOLD_MAX_S, clock=self._clock)
        self._block(detail)
        try:
            await self.note()
            while not await ready():
                await self._clock.sleep(backoff.next_s())
        finally:
            self._block("")

    async def note(self) -> None:
        """Write down for `status` how the sink is, if that is news; waits for no full disk.

        It is not called between an answer and what is made of it: a cancellation here must not
        lose what the destination has confirmed.

        Raises:
            SpoolError: The spool failed.
        """
        if self._noted == self._status:
            return
        async with self._noting:
            health, detail = self._status
            try:
                await self._spool.note_sink(self._name, str(health), detail)
            except SpoolUnavailableError:
                self._log.debug("sink state not noted: the spool has no room")
            else:
                self._noted = (health, detail)

    async def _in_turn(self, batch: Batch | Window, begun_s: float) -> StateChanges | None:
        """One attempt, after the pause if there is trouble; None when another one is needed."""
        if not self._troubled:
            return await self._try(batch, begun_s)
        async with self._turn:
            if not self._troubled:
                return None
            await self._recover()
            return await self._try(batch, begun_s)

    async def _recover(self) -> None:
        """Sit the pause out, and open the sink again if it was held."""
        assert self._state is not None, "it was opened before"
        if self._answered[0] is SinkHealth.HELD:
            await self._idle.wait()
            await self.close()
        await self._clock.sleep(self._delay_s)
        if not self._opened:
            await self.open(self._state)

    async def _try(self, batch: Batch | Window, begun_s: float) -> StateChanges | None:
        """One attempt; None when the same is to be tried again."""
        seen = self._failures
        try:
            changes = await self._attempt(batch)
        except SpoolError:
            raise
        except BatchRejectedError:
            # Whatever it says, it answers.
            self._well(seen)
            raise
        except PartlyDeliveredError as error:
            self._took_some(error, batch, begun_s, seen)
            return None
        except Exception as error:  # noqa: BLE001 - the sink guard: any verdict, or a bug
            self._failed(error, seen)
            self._give_up(error, batch, begun_s)
            return None
        self._well(seen)
        assert self._state is not None, "it was opened before"
        self._state.apply(changes)
        return changes

    async def _attempt(self, batch: Batch | Window) -> StateChanges:
        """One write, within its time."""
        self._writing += 1
        self._idle.clear()
        try:
            # A sink whose author forgot to return something has returned all the same.
            write: Callable[[Any], Awaitable[StateChanges]] = self._sink.write
            return await self._within_time(write(batch)) or {}
        finally:
            self._writing -= 1
            if not self._writing:
                self._idle.set()

    async def _within_time(self, call: Awaitable[_T]) -> _T:
        """A call of the sink, cancelled when it takes too long.

        Raises:
            SinkUnavailableError: It did.
        """
        try:
            async with asyncio.timeout(self._plan.timeout_s) as limit:
                return await call
        except TimeoutError as error:
            if not limit.expired():
                raise
            text = f"no answer within {self._plan.timeout_s:g} s"
            raise SinkUnavailableError(text) from error
        except asyncio.CancelledError as error:
            if asked_to_stop():
                raise
            # Taken for ours, it would end a task that nobody waits for: the batch would be lost.
            raise RuntimeError("the sink was cancelled, and nobody asked for that") from error

    def _took_some(
        self, error: PartlyDeliveredError, batch: Batch | Window, begun_s: float, seen: int
    ) -> None:
        """What a verdict about some of the records means for the pace; it is the caller's matter.

        Raises:
            PartlyDeliveredError: It; save that a batch of which nothing was taken yet is tried
                again as a whole.
        """
        count, again = _record_count(batch), set(error.again) - error.refused.keys()
        if not all(0 <= index < count for index in again | error.refused.keys()):
            self._failed(IndexError(f"a verdict names records that are not sent: {error}"), seen)
            return
        if not again:
            self._well(seen)
            raise error
        later = SinkUnavailableError(str(error), retry_after_s=error.retry_after_s)
        if len(again) == count:
            self._failed(later, seen)
            self._give_up(later, batch, begun_s)
            return
        if seen == self._failures:
            # Some of it got through: the pause does not grow.
            self._backoff.reset()
        self._failed(later, seen)
        raise error

    def _well(self, seen: int) -> None:
        """It answers: everything may be tried at once again.

        Unless an attempt failed that began later: this one says nothing of how it is by now.
        """
        if seen == self._failures:
            self._troubled = False
            self._backoff.reset()
            self._hold.reset()
            self._turn_to(SinkHealth.RUNNING)

    def _failed(self, error: Exception, seen: int) -> None:
        """An attempt failed that began after so many failures: what was noted since counts once."""
        if isinstance(error, SinkUnavailableError) and error.progressed:
            self._backoff.reset()
        held = isinstance(error, SinkMisconfiguredError)
        if seen != self._failures and (not held or self._answered[0] is SinkHealth.HELD):
            return
        self._failures += 1
        self._troubled = True
        self._delay_s = self._meaning(error)

    def _meaning(self, error: Exception) -> float:
        """Take note of how the sink is after a verdict; returns how long to wait."""
        match error:
            case SinkUnavailableError():
                self._turn_to(SinkHealth.RETRYING, str(error))
                return self._backoff.next_s(error.retry_after_s)
            case SinkMisconfiguredError():
                self._turn_to(SinkHealth.HELD, str(error))
                return self._hold.next_s()
            case _:
                self._log.error("sink met a bug", exc_info=error)
                self._turn_to(SinkHealth.RETRYING, f"bug: {error!r}")
                return self._backoff.next_s()

    def _give_up(self, error: Exception, batch: Batch | Window, begun_s: float) -> None:
        """Set aside what was tried for too long; what is held is never given up.

        Raises:
            PartlyDeliveredError: It was.
        """
        # The time in which it was held is not counted: nothing was tried in it.
        tried_s = self._clock.monotonic_s() - max(begun_s, self._opened_s)
        if tried_s < self._plan.give_up_after_s or not isinstance(error, SinkUnavailableError):
            return
        reason = Refusal(f"given up: {error}", "given_up", maybe_stored=True)
        raise PartlyDeliveredError(
            str(error), refused=dict.fromkeys(range(_record_count(batch)), reason)
        )

    def _block(self, detail: str) -> None:
        before = self.health
        self._blocked = detail
        self._tell(before)

    def _turn_to(self, health: SinkHealth, detail: str = "") -> None:
        before = self.health
        if health is SinkHealth.RUNNING and isinstance(self._sink, Described):
            detail = self._sink.description
        self._answered = (health, detail)
        self._tell(before)

    def _tell(self, before: SinkHealth) -> None:
        """Log a change once."""
        health, detail = self._status
        if health is not before:
            level = self._log.info if health is SinkHealth.RUNNING else self._log.error
            level(f"sink {health}", **({"detail": detail} if detail else {}))


def _record_count(batch: Batch | Window) -> int:
    """How many records can be named; a window has none that are spoken of alone."""
    return batch.record_count if isinstance(batch, Batch) else 0
