"""What the shells do with several tasks at once, in one place."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Coroutine


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
