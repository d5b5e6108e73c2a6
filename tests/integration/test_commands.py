"""The commands that look at `state_dir`, as an operator runs them: beside a real spool."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import pytest
from typer.testing import CliRunner

from forwarder.cli import app
from forwarder.model import (
    Checkpoint,
    Gap,
    GapBounds,
    GapCause,
    GapKind,
    StreamInfo,
    StreamKey,
    StreamState,
)
from forwarder.spool.files import StateDir, locked
from forwarder.spool.interface import StreamCommit
from forwarder.spool.sqlite import open_spool
from tests.fakes.daemon import COMMAND, file_sink, run_to_end, running, write_config
from tests.unit.admin.hostile import is_harmless
from tests.unit.spool.builders import frame

if TYPE_CHECKING:
    from forwarder.spool.sqlite import SqliteSpool

S = 1_000_000_000
#: 2026-01-02T03:04:05Z
NOW_NS = 1_767_323_045 * S

HOSTILE = "\x1b]52;c;AAAA\x07\u202e"


@dataclass(frozen=True)
class Scene:
    """A configuration, and what a daemon left in its `state_dir`."""

    config: Path
    state: StateDir

    def run(self, *arguments: str) -> str:
        """The standard output of a command that exits 0."""
        result = CliRunner().invoke(app, [*arguments, "--config", str(self.config)])
        assert (result.exit_code, result.stderr) == (0, "")
        assert is_harmless(result.stdout)
        return result.stdout

    def document(self, *arguments: str) -> dict[str, object]:
        """The JSON document of a command."""
        document: dict[str, object] = orjson.loads(self.run(*arguments, "--json"))
        return document

    def refusal(self, *arguments: str) -> tuple[int, str]:
        """The exit code and the message of a command that does not do what was asked."""
        result = CliRunner().invoke(app, [*arguments, "--config", str(self.config)])
        assert result.stdout == ""
        return result.exit_code, result.stderr


@pytest.fixture
def empty(tmp_path: Path) -> Scene:
    """A configuration with which no daemon has run."""
    config = write_config(
        tmp_path,
        base_url="http://127.0.0.1:9",
        api_key="secret",
        sandboxes=[{"tags": ["x"]}],
        sinks={"archive": file_sink(tmp_path / "out.log")},
        spool={"max_size": "64MiB", "when_full": "drop_oldest"},
    )
    return Scene(config, StateDir(tmp_path / "state"))


@pytest.fixture
async def quiet(empty: Scene) -> Scene:
    """A spool in which nothing ever happened."""
    await (await opened(empty)).close()
    return empty


@pytest.fixture
async def scene(quiet: Scene) -> Scene:
    """Two streams: one with a gap that was filled, one with two that are open."""
    spool = await opened(quiet)
    try:
        await spool.open_sink("archive", from_oldest=True)
        await spool.note_sink("archive", "held", f"denied {HOSTILE}")
        await spool.note("spool", f"went back {HOSTILE}")
        await leave_a_tail_that_was_found(spool)
        await leave_two_gaps(spool)
    finally:
        await spool.close()
    return quiet


async def opened(scene: Scene) -> SqliteSpool:
    scene.state.path.mkdir(exist_ok=True)
    return await open_spool(scene.state, now=lambda: NOW_NS)


async def leave_a_tail_that_was_found(spool: SqliteSpool) -> None:
    stream = await spool.open_stream(StreamInfo(StreamKey("sbx-1", "main"), HOSTILE))
    gap = Gap(GapCause.TAIL_UNKNOWN, 9, NOW_NS - S, 0, NOW_NS, kind=GapKind.TAIL, generation=1)
    lines = replace(frame(b"text\n" * 10, lines=10), received_ns=NOW_NS - 90 * S)
    at = Checkpoint(10, 0, NOW_NS - S, NOW_NS - S, f"ses{HOSTILE}", 50, generation=1)
    await spool.commit([StreamCommit(stream.id, [lines], at, [gap], StreamState.FOLLOWING)])
    await spool.commit([StreamCommit(stream.id, [], at, filled_ns=NOW_NS + 60 * S)])


async def leave_two_gaps(spool: SqliteSpool) -> None:
    stream = await spool.open_stream(StreamInfo(StreamKey("sbx-2", "")))
    gaps = [
        Gap(
            GapCause.REPLAY_GAP,
            -1,
            0,
            NOW_NS,
            NOW_NS,
            before_line=0,
            from_offset=2**63,
            to_offset=2**63 + 1024,
        ),
        Gap(
            GapCause.SPOOL_FULL,
            -1,
            NOW_NS,
            NOW_NS,
            NOW_NS,
            kind=GapKind.DROPPED,
            before_line=5,
            bounds=GapBounds.EXACT,
        ),
    ]
    await spool.commit([StreamCommit(stream.id, [], Checkpoint(5), gaps, StreamState.COMPLETE)])


# gaps ---------------------------------------------------------------------------------------------


def test_gaps_are_told_in_words_and_summed_up_at_the_end(scene: Scene) -> None:
    shown = " ".join(scene.run("gaps").split())
    assert "sbx-1/main" in shown
    assert "was missing at most everything after line 9" in shown
    assert "missing at most what was before line 0, 1.0 KiB, up to 2026-01-02 03:04:05Z" in shown
    assert "missing exactly lines 0 to 4 (5 lines), within 2026-01-02 03:04:05Z" in shown
    last = "3 gaps: 2 open, where lines are missing or may be; 1 filled: the lines were found after"
    assert shown.endswith(f"{last} all.")


def test_of_open_gaps_the_filled_ones_are_left_out(scene: Scene) -> None:
    shown = scene.run("gaps", "--open")
    assert "sbx-1" not in shown
    assert shown.count("· open") == 2


def test_gaps_of_one_sandbox_are_asked_for_by_its_id(scene: Scene) -> None:
    document = scene.document("gaps", "--sandbox", "sbx-2")
    assert document["totals"] == {"gaps": 2, "unfilled": 2, "filled": 0}
    code, told = scene.refusal("gaps", "--sandbox", "sbx-typo")
    assert (code, "no sandbox 'sbx-typo' was ever followed" in told) == (2, True)


def test_the_gaps_document_holds_what_the_spool_holds(scene: Scene) -> None:
    document = scene.document("gaps")
    gaps = document["gaps"]
    assert isinstance(gaps, list)
    assert [(gap["id"], gap["cause"], gap["filled_at"] is None) for gap in gaps] == [
        (1, "tail_unknown", False),
        (2, "replay_gap", True),
        (3, "spool_full", True),
    ]
    assert gaps[0]["display_name"] == HOSTILE
    assert (gaps[1]["from_offset"], gaps[1]["missing_bytes"]) == (2**63, 1024)


def test_without_gaps_the_command_says_so_and_exits_0(quiet: Scene) -> None:
    assert quiet.run("gaps") == "No gaps: no line is known to be missing.\n"
    assert quiet.document("gaps")["gaps"] == []


# checkpoints --------------------------------------------------------------------------------------


def test_checkpoints_tell_where_each_stream_goes_on(scene: Scene) -> None:
    document = scene.document("checkpoints")
    streams = document["streams"]
    assert isinstance(streams, list)
    keys = ("sandbox_id", "state", "generation", "next_line", "session_offset", "bytes")
    assert [[stream[key] for key in keys] for stream in streams] == [
        ["sbx-1", "following", 1, 10, 50, 50],
        ["sbx-2", "complete", 0, 5, 0, 0],
    ]
    assert streams[0]["session_id"] == f"ses{HOSTILE}"
    shown = scene.run("checkpoints")
    for part in ("generation 1, next line 10", "2026-01-02 03:04:04Z", "at offset 50"):
        assert part in shown


def test_before_the_first_stream_there_are_no_checkpoints(quiet: Scene) -> None:
    assert quiet.run("checkpoints") == "No stream was ever followed.\n"


# spool, status ------------------------------------------------------------------------------------


def test_the_spool_tells_its_size_its_limit_and_each_backlog(scene: Scene) -> None:
    document = scene.document("spool")
    spool, sinks = document["spool"], document["sinks"]
    assert isinstance(spool, dict)
    assert isinstance(sinks, list)
    assert spool["path"] == str(scene.state.database)
    assert spool["size_bytes"] == scene.state.database.stat().st_size
    assert 0 < spool["used_bytes"] <= spool["size_bytes"] + spool["wal_bytes"]
    assert (spool["max_bytes"], spool["when_full"]) == (64 << 20, "drop_oldest")
    assert (spool["frames"], spool["oldest_frame"]) == (1, "2026-01-02T03:02:35.000000000Z")
    assert [(sink["pending"], sink["pending_bytes"]) for sink in sinks] == [(10, 50)]
    assert sinks[0]["oldest_pending"] == "2026-01-02T03:02:35.000000000Z"
    shown = scene.run("spool")
    for part in ("✗ spool: went back", "64.0 MiB", "when full: drop_oldest", "10 lines", "50 B"):
        assert part in shown


def test_status_tells_gaps_generation_and_how_late_a_sink_is(scene: Scene) -> None:
    document = scene.document("status")
    totals, spool = document["totals"], document["spool"]
    assert isinstance(totals, dict)
    assert isinstance(spool, dict)
    assert (totals["gaps"], totals["gaps_filled"]) == (2, 1)
    assert spool["max_bytes"] == 64 << 20
    shown = scene.run("status")
    for part in ("✗ spool: went back", "generation 1", "1 gap filled", "2 gaps"):
        assert part in shown


@pytest.mark.parametrize("command", ["status", "spool"])
def test_a_daemon_that_runs_is_told(scene: Scene, command: str) -> None:
    assert "○ no daemon running" in scene.run(command)
    with locked(scene.state):
        assert "● daemon running (process " in scene.run(command)


# spool verify, spool backup -----------------------------------------------------------------------


def test_a_whole_spool_is_verified_beside_the_daemon(scene: Scene) -> None:
    with locked(scene.state):
        assert "✓ no damage: 1 frame with 10 lines" in scene.run("spool", "verify")
        document = scene.document("spool", "verify")
    assert (document["ok"], document["problems"]) == (True, [])


def test_a_spool_with_one_flipped_bit_fails_verification_with_74(scene: Scene) -> None:
    with closing(sqlite3.connect(scene.state.database)) as connection, connection:
        connection.execute("UPDATE frame SET checksum = checksum + 1")
    result = CliRunner().invoke(app, ["spool", "verify", "--config", str(scene.config)])
    assert (result.exit_code, result.stderr) == (74, "")
    assert "✗ 1 problem" in result.stdout
    arguments = ["spool", "verify", "--json", "--config", str(scene.config)]
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, orjson.loads(result.stdout)["ok"]) == (74, False)


def test_a_backup_is_a_state_dir_of_its_own_with_the_same_gaps(scene: Scene) -> None:
    target = scene.config.parent / "copy" / "of today"
    with locked(scene.state):
        told = scene.run("spool", "backup", str(target))
    # A long name is broken at the terminal's width, if possible where it has a space.
    assert "".join(str(target).split()) in "".join(told.split())
    original = scene.document("gaps")["gaps"]
    settings = orjson.loads(scene.config.read_bytes())
    scene.config.write_bytes(orjson.dumps({**settings, "state_dir": str(target)}))
    assert scene.document("gaps")["gaps"] == original
    assert scene.document("spool", "verify")["ok"] is True


def test_a_backup_never_overwrites(scene: Scene) -> None:
    target = scene.config.parent / "precious"
    target.mkdir()
    (target / "file").write_text("mine")
    code, told = scene.refusal("spool", "backup", str(target))
    assert (code, "never overwrites" in told) == (2, True)
    assert (target / "file").read_text() == "mine"


def test_what_a_backup_made_can_be_read_by_a_script(scene: Scene) -> None:
    target = scene.config.parent / "copy"
    document = scene.document("spool", "backup", str(target))
    assert (document["path"], document["frames"]) == (str(target), 1)
    assert document["size_bytes"] == (target / "spool.db").stat().st_size


def test_the_configuration_may_stand_before_or_behind_a_command_of_the_spool(scene: Scene) -> None:
    result = CliRunner().invoke(app, ["spool", "--config", str(scene.config), "verify"])
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == scene.run("spool", "verify")


@pytest.mark.parametrize(
    "command",
    [
        *[["status"], ["gaps"], ["checkpoints"], ["spool"]],
        *[["spool", "verify"], ["spool", "backup", "/nowhere/at/all"]],
    ],
    ids=" ".join,
)
def test_where_no_daemon_has_run_nothing_is_shown_and_nothing_is_made(
    empty: Scene, command: list[str]
) -> None:
    code, told = empty.refusal(*command)
    assert (code, "no daemon has run" in told) == (74, True)
    assert not empty.state.path.exists()


@pytest.mark.parametrize("command", [["status"], ["gaps", "--json"]], ids=" ".join)
def test_a_reader_that_has_seen_enough_is_no_error(scene: Scene, command: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run(
            [COMMAND, *command, "--config", scene.config],
            stdout=writing,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, b"")


# run --new-spool ----------------------------------------------------------------------------------


async def test_a_spool_that_is_refused_is_set_aside_when_told_so_and_only_then(
    scene: Scene,
) -> None:
    damaged = scene.state.database.read_bytes()[:5000]
    scene.state.database.write_bytes(damaged)
    code, refused = await run_to_end(scene.config)
    assert (code, "--new-spool" in refused.log) == (74, True)
    assert scene.state.database.read_bytes() == damaged
    async with running(scene.config, "--new-spool") as daemon:
        told = await daemon.event("a new spool was begun")
        assert "● daemon running" in scene.run("status")
    aside = Path(told["set_aside"])
    assert aside.parent == scene.state.path
    assert (aside / "spool.db").read_bytes() == damaged
