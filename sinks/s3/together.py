"""Several requests at once, which succeed or fail as one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sinks.interface import SinkError, SinkMisconfiguredError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable


async def together(calls: Iterable[Coroutine[object, object, None]]) -> None:
    """Return when all are done; when one fails, the others are cancelled and waited for.

    Raises:
        Exception: What one of them raised; if somebody must mend something, that.
    """
    try:
        async with asyncio.TaskGroup() as tasks:
            for call in calls:
                tasks.create_task(call)
    except BaseExceptionGroup as group:
        raise min(_flat(group), key=_rank) from None


def _flat(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [one for inner in error.exceptions for one in _flat(inner)]
    return [error]


def _rank(error: BaseException) -> int:
    """A bug says most, then what somebody must mend, then trouble that passes."""
    if not isinstance(error, SinkError):
        return 0
    return 1 if isinstance(error, SinkMisconfiguredError) else 2
