"""The commands `dead-letters`, as an operator runs them: with and without a daemon."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import sqlite3
import subprocess
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from typer.testing import CliRunner

from forwarder.cli import app
from forwarder.errors import SpoolUnavailableError
from forwarder.letter_commands import Selection, replay_letters
from forwarder.model import StreamInfo, StreamKey
from forwarder.running import load
from forwarder.spool.files import StateDir, locked
from forwarder.spool.interface import Delivery, Replayed
from forwarder.spool.requests import requests_in
from forwarder.spool.sqlite import open_spool
from forwarder.spool.verify import verify
from tests.fakes.daemon import COMMAND, file_sink, write_config
from tests.fakes.tmpfs import small_disk
from tests.integration.test_commands import HOSTILE, NOW_NS, Scene
from tests.unit.admin.hostile import is_harmless
from tests.unit.spool.builders import commit, frame, letter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from forwarder.spool.sqlite import SqliteSpool

RAW = f"2026-01-02T03:04:05Z {HOSTILE}\n".encode() + b"\xff\xfe\n"
#: What drops or replays, save which.
ARCHIVE = ("--sink", "archive")
LEFT_OUT = "1 letter left out: only a count, nothing that could be sent\n"


@pytest.fixture
def empty(tmp_path: Path) -> Scene:
    config = write_config(
        tmp_path,
        base_url="http://127.0.0.1:9",
        api_key="secret",
        sandboxes=[{"tags": ["x"]}],
        sinks={"archive": file_sink(tmp_path / "out.log")},
    )
    return Scene(config, StateDir(tmp_path / "state"))


async def opened(scene: Scene) -> SqliteSpool:
    scene.state.path.mkdir(exist_ok=True)
    return await open_spool(scene.state, now=lambda: NOW_NS)


@pytest.fixture
async def scene(empty: Scene) -> Scene:
    """1, 2: status 400; 3: 413; 4 holds nothing; and one of a sink that is gone."""
    spool = await opened(empty)
    stream = await spool.open_stream(StreamInfo(StreamKey("sbx-1", "main"), HOSTILE))
    await spool.configure_sinks({"archive": "", "retired": ""})
    for name in ("archive", "retired"):
        await spool.open_sink(name, from_oldest=True)
    await spool.commit([commit(stream.id, frame(b"text\n" * 10, lines=10))])
    letters = [
        letter(RAW, lines=2, reason=f"denied {HOSTILE}"),
        letter(line=4),
        letter(line=5, status="413", reason="too large"),
        letter(b"", lines=0, unnamed=2, status="200", reason="some"),
    ]
    await spool.advance("archive", 1, {}, Delivery(4, 0, 4, 2), letters)
    await spool.advance("retired", 1, {}, Delivery(9, 0, 1), [letter(line=9)])
    await spool.configure_sinks({"archive": ""})
    await spool.close()
    return empty


async def ids_of(scene: Scene) -> list[int]:
    """Those of the letters that are to be sent again."""
    spool = await opened(scene)
    try:
        return [one.id for one in await spool.letters_to_replay("archive", max_bytes=1 << 20)]
    finally:
        await spool.close()


# list, show ---------------------------------------------------------------------------------------


def test_they_are_listed_by_sink_status_and_reason_without_their_content(scene: Scene) -> None:
    document: Any = scene.document("dead-letters", "list")
    groups = [(one["sink"], one["status"], one["letters"]) for one in document["groups"]]
    archive = [("archive", "200", 1), ("archive", "400", 1), ("archive", "400", 1)]
    assert groups == [*archive, ("archive", "413", 1), ("retired", "400", 1)]
    limits = [(one["name"], one["configured"], one["max_bytes"]) for one in document["sinks"]]
    assert limits == [("archive", True, 256 << 20), ("retired", False, None)]
    shown = scene.run("dead-letters", "list")
    for part in ("archive: 4 dead letters, 4 lines", "too large", "not in the configuration"):
        assert part in shown
    assert "03:04:05Z \\x1b" not in shown


def test_a_list_can_be_of_one_sink_or_one_sandbox(scene: Scene) -> None:
    assert "retired" not in scene.run("dead-letters", "list", *ARCHIVE)
    assert "too large" in scene.run("dead-letters", "list", "--sandbox", "sbx-1")
    code, told = scene.refusal("dead-letters", "list", "--sandbox", "sbx-2")
    assert (code, "no sandbox 'sbx-2'" in told) == (2, True)
    code, told = scene.refusal("dead-letters", "list", "--sink", "arhcive")
    assert (code, "'arhcive'; it knows archive, retired" in told) == (2, True)


def test_one_is_shown_in_full_and_safely(scene: Scene) -> None:
    shown = scene.run("dead-letters", "show", "1")
    for part in ("1 of sink archive", "sbx-1/main", "denied", "\\x1b]52;c;AAAA", "\\xff\\xfe"):
        assert part in shown
    document: Any = scene.document("dead-letters", "show", "1")
    assert base64.b64decode(document["base64"]) == RAW
    assert document["record_ids"] == ["sbx-1/main/2/0", "sbx-1/main/2/1"]
    assert scene.document("dead-letters", "show", "2")["text"] == "text\n"
    assert scene.document("dead-letters", "show", "4")["record_ids"] == []


def test_one_can_be_had_byte_for_byte(scene: Scene) -> None:
    arguments = ["dead-letters", "show", "1", "--raw", "--config", str(scene.config)]
    assert CliRunner().invoke(app, arguments).stdout_bytes == RAW


def test_one_that_is_not_there_is_an_error_that_says_where_to_look(scene: Scene) -> None:
    code, told = scene.refusal("dead-letters", "show", "99")
    assert (code, "no dead letter 99; dead-letters list" in told) == (2, True)


# What cannot be done ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["replay", *ARCHIVE], "say which ones"),
        (["replay", *ARCHIVE, "--all", "--id", "1"], "say which ones"),
        (["drop", *ARCHIVE, "--yes"], "say which ones"),
        (["replay", "--all"], "--sink"),
        (["replay", "--sink", "retired", "--all"], "'retired' is not in the configuration"),
        (["replay", *ARCHIVE, "--id", "1", "--id", "5", "--id", "77"], "no dead letter 5, 77;"),
        (["replay", *ARCHIVE, "--status", "404"], "'404'; there are 200, 400, 413"),
        (["drop", "--sink", "nobody", "--all", "--yes"], "knows no sink 'nobody'"),
        (["drop", *ARCHIVE, "--all"], "say --yes where nobody can be asked"),
    ],
)
def test_what_cannot_be_done_is_told_and_changes_nothing(
    scene: Scene, arguments: list[str], told: str
) -> None:
    before = scene.document("dead-letters", "list")["groups"]
    code, error = scene.refusal("dead-letters", *arguments)
    words = " ".join(error.replace("│", " ").split())
    assert (code, told in words) == (2, True), words
    assert requests_in(scene.state) == []
    assert scene.document("dead-letters", "list")["groups"] == before


def test_a_status_that_would_act_on_the_terminal_is_named_safely(scene: Scene) -> None:
    with closing(sqlite3.connect(scene.state.database)) as connection, connection:
        connection.execute("UPDATE dead_letter SET status = ?", (HOSTILE,))
    _, told = scene.refusal("dead-letters", "replay", *ARCHIVE, "--status", "404")
    assert "there are \\x1b]52;c;AAAA" in told
    assert is_harmless(told)


@pytest.mark.parametrize(
    "command",
    [["list"], ["show", "1"], ["replay", *ARCHIVE, "--all"], ["drop", *ARCHIVE, "--all", "--yes"]],
)
def test_where_no_daemon_has_run_there_are_none_and_nothing_is_made(
    empty: Scene, command: list[str]
) -> None:
    code, told = empty.refusal("dead-letters", *command)
    assert (code, "no daemon has run" in told) == (74, True)
    assert not empty.state.path.exists()


# Without a daemon ---------------------------------------------------------------------------------


async def test_without_a_daemon_they_are_marked_for_the_next_one(scene: Scene) -> None:
    told = scene.run("dead-letters", "replay", *ARCHIVE, "--status", "400")
    assert told == "2 dead letters of archive (3 lines) will be sent again when a daemon runs\n"
    assert await ids_of(scene) == [1, 2]
    told = scene.run("dead-letters", "replay", *ARCHIVE, "--all")
    assert told.endswith(LEFT_OUT)
    assert await ids_of(scene) == [1, 2, 3]


def test_without_a_daemon_they_are_dropped_and_counted(scene: Scene) -> None:
    told = scene.run("dead-letters", "drop", *ARCHIVE, "--id", "1", "--id", "4", "--yes")
    assert told == "2 dead letters of archive (2 lines) dropped\n"
    status: Any = scene.document("status")
    (sink,) = status["sinks"]
    assert (sink["dead_lettered"], sink["dead_letters"]) == (2, 2)
    assert sink["dropped_for"] == {"dead_letters_dropped": 2, "refused_unnamed": 2}
    assert sink["dead_letter_max_bytes"] == 256 << 20
    assert verify(scene.state).ok


@pytest.mark.parametrize(("answer", "code", "left"), [(b"y\n", 0, 3), (b"n\n", 2, 4)])
async def test_on_a_terminal_one_is_asked_before_anything_is_dropped(
    scene: Scene, answer: bytes, code: int, left: int
) -> None:
    ours, theirs = os.openpty()
    try:
        with invoked(scene, "drop", *ARCHIVE, "--id", "3", stdin=theirs) as process:
            os.write(ours, answer)
            ended, told, error = await output(process)
    finally:
        os.close(ours)
        os.close(theirs)
    assert (ended, "Drop 1 dead letter of 'archive'?" in error) == (code, True)
    assert ("1 dead letter of archive (1 line) dropped" in told) == (code == 0)
    assert ("nothing was dropped" in error) == (code == 2)
    document: Any = scene.document("dead-letters", "list", *ARCHIVE)
    assert document["totals"]["letters"] == left


def test_a_sink_that_is_gone_can_be_cleared_and_nothing_is_left_to_do(scene: Scene) -> None:
    drop = ("dead-letters", "drop", "--sink", "retired", "--all", "--yes")
    assert "1 dead letter of retired (1 line) dropped" in scene.run(*drop)
    assert "Nothing to do" in scene.run(*drop)


# Beside a daemon ----------------------------------------------------------------------------------


@contextmanager
def invoked(
    scene: Scene, *arguments: str, stdin: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A command that runs beside this test, whose spool is the daemon's."""
    command = [str(COMMAND), "dead-letters", *arguments, "--config", str(scene.config)]
    with subprocess.Popen(
        command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


async def requested(scene: Scene) -> None:
    """Return once somebody has asked for something."""
    while not requests_in(scene.state):
        await asyncio.sleep(0.02)


async def output(process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    out, error = await asyncio.to_thread(process.communicate)
    return process.returncode, out.decode(), error.decode()


async def test_beside_a_daemon_a_replay_waits_until_it_is_settled(scene: Scene) -> None:
    with locked(scene.state):
        spool = await opened(scene)
        with invoked(scene, "replay", *ARCHIVE, "--all") as process:
            await requested(scene)
            sent = await spool.letters_to_replay("archive", max_bytes=1 << 20)
            assert [one.id for one in sent] == [1, 2, 3]
            again = [letter(line=4, reason="again")]
            await spool.settle_replay("archive", {1: Replayed(), 2: Replayed(again), 3: Replayed()})
            assert await output(process) == (
                0,
                f"2 delivered (3 lines), 1 refused again (1 line)\n{LEFT_OUT}",
                "",
            )
        await spool.close()
    assert verify(scene.state).ok


async def test_ctrl_c_ends_only_the_waiting(scene: Scene) -> None:
    with locked(scene.state):
        spool = await opened(scene)
        with invoked(scene, "replay", *ARCHIVE, "--all") as process:
            await requested(scene)
            await spool.letters_to_replay("archive", max_bytes=1 << 20)
            await spool.settle_replay("archive", {1: Replayed()})
            process.send_signal(signal.SIGINT)
            code, told, error = await output(process)
        assert (code, error) == (0, "")
        assert told == f"1 delivered (2 lines), 2 still to be sent by the daemon\n{LEFT_OUT}"
        sent = await spool.letters_to_replay("archive", max_bytes=1 << 20)
        assert [one.id for one in sent] == [2, 3]
        await spool.close()


async def test_a_daemon_that_ends_meanwhile_ends_the_waiting(scene: Scene) -> None:
    told: list[tuple[int, int]] = []
    with ExitStack() as daemon:
        daemon.enter_context(locked(scene.state))
        document = replay_letters(
            load(scene.config),
            Selection("archive", (2,)),
            tell=lambda done, of: told.append((done, of)),
            pause=daemon.close,
        )
    assert document["carried_out"] is False
    assert (document["settled"]["waiting"], told) == (1, [(0, 1)])
    assert await ids_of(scene) == [2]


async def test_beside_a_daemon_nobody_has_to_wait(scene: Scene) -> None:
    with locked(scene.state):
        told = scene.run("dead-letters", "replay", *ARCHIVE, "--id", "2", "--no-wait")
        assert (
            told == "1 dead letter of archive (1 line) will be sent again by the daemon that runs\n"
        )
        dropped: Any = scene.document("dead-letters", "drop", *ARCHIVE, "--id", "3", "--yes")
        assert (dropped["wish"], dropped["carried_out"]) == ("drop", False)
        assert len(requests_in(scene.state)) == 2
    assert await ids_of(scene) == [2]
    assert "too large" not in scene.run("dead-letters", "list")


def test_a_document_can_be_had_of_everything(scene: Scene) -> None:
    result = CliRunner().invoke(
        app, ["dead-letters", "-c", str(scene.config), "replay", *ARCHIVE, "--all", "--json"]
    )
    document = orjson.loads(result.stdout)
    assert (result.exit_code, document["letters"], document["skipped"]) == (0, 3, 1)
    assert (document["carried_out"], document["settled"]) == (True, None)


# A full disk --------------------------------------------------------------------------------------


async def test_letters_that_do_not_fit_on_the_disk_leave_everything_where_it_was(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "disk", "4m") as disk:
        state = StateDir(disk.path)
        spool = await open_spool(state, now=lambda: NOW_NS)
        stream = await spool.open_stream(StreamInfo(StreamKey("sbx-1", "main")))
        await spool.open_sink("archive", from_oldest=True)
        await spool.commit([commit(stream.id, frame(b"text\n" * 10, lines=10))])
        letters = [letter(os.urandom(6 << 20))]
        with pytest.raises(SpoolUnavailableError):
            await spool.advance("archive", 1, {}, Delivery(9, 0, 1), letters)
        (sink,) = (await spool.overview()).sinks
        assert (sink.pending, sink.dead_letters, sink.delivered) == (10, 0, 0)
        disk.resize("32m")
        await spool.advance("archive", 1, {}, Delivery(9, 0, 1), letters)
        await spool.close()
        assert verify(state).ok
