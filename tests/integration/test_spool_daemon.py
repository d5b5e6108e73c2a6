"""The daemon with a spool that may not grow, or that cannot be used."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from forwarder.local.server import LocalServer
from forwarder.local.settings import LocalSettings
from forwarder.model import GapBounds, GapCause
from forwarder.spool.directory import StateDir
from forwarder.spool.overview import gaps_of, overview_of
from forwarder.spool.verify import verify
from tests.fakes.daemon import file_sink, grown, running, write_config
from tests.fakes.local import shell_sandbox

if TYPE_CHECKING:
    from pathlib import Path

    from forwarder.spool.interface import SinkOverview

#: Text that does not shrink: more than the spool of these tests holds, as fast as a sink takes it.
INCOMPRESSIBLE = (
    "for i in $(seq 40); do head -c 600000 /dev/urandom | base64 -w 1000; sleep 0.05; done"
)
CAPPED = {"max_size": "16MiB", "when_full": "drop_oldest", "ballast": "1MiB"}


def sinks_of(state: StateDir) -> dict[str, SinkOverview]:
    sinks = overview_of(state).sinks
    for one in sinks:
        done = one.delivered + one.filtered + one.dead_lettered + one.dropped
        assert one.taken == done + one.pending, "promise 5"
    return {one.name: one for one in sinks}


async def test_a_sink_that_is_down_costs_no_more_than_max_size_and_others_nothing(
    tmp_path: Path,
) -> None:
    """E17: every line that the sink does not get is in an exact gap record."""
    in_the_way = tmp_path / "blocked"
    in_the_way.write_text("a file where a directory should be")
    async with LocalServer(LocalSettings()) as server:
        sandbox = await shell_sandbox(server.base_url, server.api_key, INCOMPRESSIBLE, tags=["t"])
        config = write_config(
            tmp_path,
            base_url=server.base_url,
            api_key=server.api_key,
            sandboxes=[{"tags": ["t"]}],
            sinks={
                "down": file_sink(in_the_way / "all.log"),
                "fine": file_sink(tmp_path / "fine.log"),
            },
            spool=CAPPED,
        )
        state = StateDir(tmp_path / "state")
        async with running(config, "--until-complete") as daemon:
            # With or without another commit: the next look at the spool makes room, too.
            await daemon.event("spool is at max_size: the oldest lines were dropped")
            await server.wait_ended(sandbox)
            expected = server.process(sandbox).log.stamped()
            await grown(tmp_path / "fine.log", len(expected), daemon)
            assert overview_of(state).used_bytes < 48 << 20
            in_the_way.unlink()
            assert await daemon.wait() == 0, daemon.log
    assert (tmp_path / "fine.log").read_bytes() == expected
    down = (in_the_way / "all.log").read_bytes()
    assert expected.startswith(down[:1_000_000]), "what it was handed at first"
    assert expected.endswith(down[-1_000_000:]), "and what came last"
    sinks = sinks_of(state)
    assert (sinks["fine"].dropped, sinks["down"].pending) == (0, 0)
    gaps = [entry.gap for entry in gaps_of(state)]
    assert {(gap.cause, gap.bounds) for gap in gaps} == {(GapCause.SPOOL_FULL, GapBounds.EXACT)}
    missing = sum((gap.before_line or 0) - gap.after_line - 1 for gap in gaps)
    assert missing == sinks["down"].dropped > 0
    assert sinks["down"].delivered + missing == expected.count(b"\n")
    assert verify(state).problems == []


async def test_a_spool_that_cannot_be_used_is_set_aside_when_told_to_and_not_before(
    tmp_path: Path,
) -> None:
    """E13 and I13."""
    async with LocalServer(LocalSettings()) as server:
        sandbox = await shell_sandbox(server.base_url, server.api_key, "seq 1000", tags=["t"])
        await server.wait_ended(sandbox)
        expected = server.process(sandbox).log.stamped()
        config = write_config(
            tmp_path,
            base_url=server.base_url,
            api_key=server.api_key,
            sandboxes=[{"tags": ["t"]}],
            sinks={"text": file_sink(tmp_path / "all.log")},
        )
        async with running(config, "--until-complete", forked=True) as daemon:
            assert await daemon.wait() == 0, daemon.log
        state = StateDir(tmp_path / "state")
        with closing(sqlite3.connect(state.database, isolation_level=None)) as connection:
            connection.execute("UPDATE counter SET held_frames = -1")
        async with running(config, "--until-complete", forked=True) as daemon:
            assert await daemon.wait() == 74, daemon.log
            assert "--new-spool" in daemon.log
        async with running(config, "--until-complete", "--new-spool") as daemon:
            begun = await daemon.event("a new spool was begun")
            assert (begun["streams"], begun["sinks"]) == (1, 1)
            assert await daemon.wait() == 0, daemon.log
    assert (tmp_path / "all.log").read_bytes() == expected, "nothing lost, nothing twice"
    assert len([path for path in state.path.iterdir() if "set-aside" in path.name]) == 1
