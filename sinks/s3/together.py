"""Several requests at once, which succeed or fail as one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sinks.interface import SinkError, SinkMisconfiguredError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable


async def together(calls: Iterable[Coroutine[object, object, None]]) -> None:
    """Return when all are done.

    A verdict of one does not stop the others: what they get done need not be done again. Anything
    else cancels them, and waits for them.

    Raises:
        Exception: What one of them raised; if somebody must mend something, that.
    """
    verdicts: list[BaseException] = []

    async def until_its_end(call: Coroutine[object, object, None]) -> None:
        try:
            await call
        except SinkError as error:
            verdicts.append(error)

    try:
        async with asyncio.TaskGroup() as tasks:
            for call in calls:
                tasks.create_task(until_its_end(call))
    except BaseExceptionGroup as group:
        raise _flat(group)[0] from None
    if verdicts:
        raise min(verdicts, key=lambda error: not isinstance(error, SinkMisconfiguredError))


def _flat(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [one for inner in error.exceptions for one in _flat(inner)]
    return [error]
