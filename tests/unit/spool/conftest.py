from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from forwarder.spool.files import StateDir
from forwarder.spool.sqlite import SqliteSpool, open_spool
from tests.unit.spool.faults import Faults

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class Opener(Protocol):
    async def __call__(self, faults: Faults | None = None, **options: Any) -> SqliteSpool: ...


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    return StateDir(tmp_path)


@pytest.fixture
async def start(state: StateDir) -> AsyncIterator[Opener]:
    """Opens the spool of `state`; what is still open at the end is closed."""
    async with AsyncExitStack() as stack:

        async def start(faults: Faults | None = None, **options: Any) -> SqliteSpool:
            factory = (faults or Faults()).connection()
            spool = await open_spool(state, now=lambda: 1, factory=factory, **options)
            stack.push_async_callback(spool.close)
            return spool

        yield start


@pytest.fixture
async def spool(start: Opener) -> SqliteSpool:
    return await start()
