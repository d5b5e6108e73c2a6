"""When the daemon may be called ready, and what is missing when it may not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Health:
    """What readiness depends on, asked anew every time: it can be lost, and it can come back.

    A sink that is down does not make the daemon unready: the others go on, and starting it again
    would mend nothing. That is what the sink's own state and metrics are for.

    Attributes:
        started: Whether the configuration is loaded and everything runs.
        api_answered: Whether the sandbox API has answered as asked at least once.
        spool_writable: Whether the spool takes what is read.
    """

    started: Callable[[], bool]
    api_answered: Callable[[], bool]
    spool_writable: Callable[[], bool]

    def reasons(self) -> list[str]:
        """Why the daemon is not ready, for people; empty when it is."""
        checks = (
            (self.started, "the daemon is starting"),
            (self.api_answered, "the sandbox API has given no useful answer yet"),
            (self.spool_writable, "the spool cannot be written: reading has stopped"),
        )
        return [reason for holds, reason in checks if not holds()]
