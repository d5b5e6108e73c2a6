"""What a sink remembers, seen from beside the daemon."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from forwarder.errors import SpoolUntrustedError
from forwarder.spool.files import StateDir, locked
from forwarder.spool.remembered import sink_state
from forwarder.spool.sqlite import open_spool

if TYPE_CHECKING:
    from pathlib import Path


def test_where_there_never_was_a_spool_nobody_remembers_anything(tmp_path: Path) -> None:
    assert sink_state(StateDir(tmp_path), "archive") is None
    assert sink_state(StateDir(tmp_path / "none"), "archive") is None
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - names only


async def test_what_a_sink_remembers_is_seen_while_the_daemon_runs(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    with locked(state):
        spool = await open_spool(state, now=lambda: 1)
        try:
            await spool.open_sink("archive", from_oldest=True)
            assert sink_state(state, "archive") == {}
            await spool.remember("archive", {"window:1": b"\x00one", "plan:2": b"two"})
            await spool.remember("other", {"window:1": b"another"})
            assert sink_state(state, "archive") == {"window:1": b"\x00one", "plan:2": b"two"}
            await spool.remember("archive", {"plan:2": None})
            assert sink_state(state, "archive") == {"window:1": b"\x00one"}
        finally:
            await spool.close()
    assert sink_state(state, "archive") == {"window:1": b"\x00one"}
    assert sink_state(state, "never was") == {}


def test_a_spool_that_is_missing_or_damaged_is_refused(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    state.marker.write_text("there was one")
    with pytest.raises(SpoolUntrustedError, match="cannot be read"):
        sink_state(state, "archive")
    state.database.write_bytes(b"no database" * 100)
    with pytest.raises(SpoolUntrustedError, match="cannot be read"):
        sink_state(state, "archive")
