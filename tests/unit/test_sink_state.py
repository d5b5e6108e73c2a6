from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from forwarder.cursor import Cursor
from forwarder.errors import SpoolUnavailableError
from forwarder.sink_state import EngineState
from forwarder.spool.files import StateDir
from forwarder.spool.interface import Delivery
from forwarder.spool.sqlite import open_spool
from sinks.interface import SinkUnavailableError
from tests.fakes.clock import FakeClock
from tests.fakes.delivery import NAME, take
from tests.fakes.spool import MeddledSpool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[MeddledSpool]:
    """A frame, and a sink that has not got it."""
    real = await open_spool(StateDir(tmp_path), now=lambda: 1)
    await real.open_sink(NAME, from_oldest=True)
    await take(real, b"a")
    yield MeddledSpool(real)
    await real.close()


@pytest.fixture
def cursor(spool: MeddledSpool) -> Cursor:
    return Cursor(NAME, 0, spool=spool.spool, clock=FakeClock())


@pytest.fixture
def state(spool: MeddledSpool, cursor: Cursor) -> EngineState:
    return EngineState(NAME, spool.spool, cursor, {"old": b"1", "engine:groups": b"[]"})


async def stored(spool: MeddledSpool) -> dict[str, bytes]:
    return dict((await spool.spool.open_sink(NAME, from_oldest=True)).state)


async def test_what_is_remembered_is_durable_when_it_returns(
    spool: MeddledSpool, state: EngineState
) -> None:
    await state.remember({"new": b"2", "old": None})
    assert (state.get("new"), state.get("old")) == (b"2", None)
    assert await stored(spool) == {"new": b"2"}


async def test_what_was_delivered_before_is_durable_first(
    spool: MeddledSpool, state: EngineState, cursor: Cursor
) -> None:
    cursor.move(1, {"length": b"10"}, Delivery(delivered=1))
    await state.remember({"length": b"20"})
    assert spool.calls == ["advance", "remember"]
    assert await stored(spool) == {"length": b"20"}
    assert cursor.durable == 1


async def test_what_is_applied_is_seen_and_not_stored(
    spool: MeddledSpool, state: EngineState
) -> None:
    state.apply({"length": b"5", "old": None})
    assert list(state.keys()) == ["length"], "the engine's own keys are not the sink's"
    assert await stored(spool) == {}


async def test_a_spool_without_room_is_a_reason_to_come_again(
    spool: MeddledSpool, state: EngineState
) -> None:
    spool.errors["remember"] = [SpoolUnavailableError("no room")]
    with pytest.raises(SinkUnavailableError, match="no room"):
        await state.remember({"new": b"2"})
    assert state.get("new") is None, "what is not stored is not known"
