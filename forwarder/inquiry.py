"""What GetSandbox says of one sandbox: asked until it says something, or only once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forwarder.errors import SandboxNotFoundError, SourceError
from forwarder.retry import Backoff, retry_forever

if TYPE_CHECKING:
    from collections.abc import Callable

    from forwarder.clock import Clock
    from forwarder.model import Sandbox
    from forwarder.source.interface import LogSource

#: "Not found" is asked so often, with doubling pauses, before a stream is given up of which
#: something was taken; 0.5 s at first makes half a minute.
CONFIRMATIONS = 6

_OF_A_STRANGER = 2


class Inquiry:
    """Asks the API about one sandbox."""

    def __init__(
        self,
        sandbox_id: str,
        *,
        source: LogSource,
        backoff_initial_s: float,
        backoff_max_s: float,
        clock: Clock,
    ) -> None:
        self._sandbox_id = sandbox_id
        self._source = source
        self._backoff_initial_s = backoff_initial_s
        self._backoff_max_s = backoff_max_s
        self._clock = clock

    async def settle(
        self, *, well_known: bool, patient: bool, failed: Callable[[SourceError], None]
    ) -> Sandbox | None:
        """What the API says, however long that takes; None when it knows nothing, again and again.

        Args:
            well_known: Whether it knew the sandbox before: then "not found" is asked more often.
            patient: Whether to wait for an answer; else no answer is an error.
            failed: Told of each failure that is waited out.

        Raises:
            SourceError: It does not answer, and we are not patient.
        """
        backoff = Backoff(
            initial_s=self._backoff_initial_s, max_s=self._backoff_max_s, clock=self._clock
        )

        async def ask() -> Sandbox | None:
            for attempt in range(CONFIRMATIONS if well_known else _OF_A_STRANGER):
                try:
                    return await self._source.get_sandbox(self._sandbox_id)
                except SandboxNotFoundError:
                    await self._clock.sleep(self._backoff_initial_s * 2**attempt)
            return None

        def told(error: Exception) -> None:
            assert isinstance(error, SourceError)
            failed(error)

        if not patient:
            return await ask()
        return await retry_forever(
            ask, on=SourceError, backoff=backoff, clock=self._clock, failed=told
        )

    async def glance(self) -> Sandbox | None:
        """What the API says at once; None when it says nothing now, whatever the reason.

        The log can be read while the rest of the API fails, so nothing waits for this.
        """
        try:
            return await self._source.get_sandbox(self._sandbox_id)
        except SourceError:
            return None
