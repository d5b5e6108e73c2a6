"""What the shells do with several tasks at once, in one place."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine


async def first_of(*waits: Coroutine[None, None, object]) -> None:
    """Return when the first of these returns; its error, if that is what it is, comes out.

    The others are cancelled, and have ended when this returns, also when it is cancelled itself.
    """
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that matters of a group: the first that is not itself a group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def endless(name: str, part: Callable[[], Awaitable[None]]) -> None:
    """Run a part of the daemon that must not end before it is told to.

    A task group takes no notice of a task that returns, or that somebody else's cancellation ends:
    the daemon would go on without it.

    Raises:
        RuntimeError: It ended, and nobody had asked for that.
    """
    try:
        await part()
    except asyncio.CancelledError as error:
        if asked_to_stop():
            raise
        raise RuntimeError(f"{name} was cancelled, and nobody asked for that") from error
    raise RuntimeError(f"{name} has ended, and nobody asked for that")


def asked_to_stop() -> bool:
    """Whether a cancellation is meant for this task, and is not one that came out of a bug."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
