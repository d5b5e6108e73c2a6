"""Where a stream stands, told once for every change: to the log, and to the spool for `status`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from forwarder.model import StreamState

if TYPE_CHECKING:
    from collections.abc import Callable


class StreamNews:
    """A stream's state, and the news that the spool has not got yet.

    Args:
        log: A bound structlog logger.
        changed: Called when there are news to be stored.

    Attributes:
        state: The state as it is now.
    """

    def __init__(self, log: Any, changed: Callable[[], None]) -> None:
        self.state = StreamState.WAITING
        self._log = log
        self._changed = changed
        self._detail = ""
        self._news: tuple[StreamState, str] | None = None

    def note(self, state: StreamState, detail: str = "") -> None:
        """Say how the stream is; the same again is no news."""
        if state is not self.state:
            level = self._log.warning if state is StreamState.HELD else self._log.info
            if not state.final:
                level(f"stream {state}", **({"detail": detail} if detail else {}))
        elif detail == self._detail:
            return
        self.state, self._detail = state, detail
        self._news = (state, detail)
        self._changed()

    def take(self) -> tuple[StreamState | None, str]:
        """The news, handed over once; no state when there are none."""
        news, self._news = self._news, None
        return news or (None, "")
