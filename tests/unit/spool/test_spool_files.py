from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from forwarder.errors import SpoolLockedError, SpoolUntrustedError
from forwarder.spool.files import (
    ADVICE,
    StateDir,
    connect_reader,
    connect_writer,
    is_locked,
    locked,
)
from forwarder.spool.schema import APPLICATION_ID, SCHEMA_VERSION
from tests.unit.spool.faults import Faults

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOLD_LOCK = """
import sys, pathlib
from forwarder.spool.files import StateDir, locked
with locked(StateDir(pathlib.Path(sys.argv[1]))):
    print("held", flush=True)
    sys.stdin.read()
"""


def contents(directory: Path) -> dict[str, tuple[int, bytes]]:
    return {
        path.name: (path.stat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in directory.iterdir()
    }


def refused(state: StateDir) -> str:
    """The message of a refusal that changed nothing on disk."""
    before = contents(state.path)
    with pytest.raises(SpoolUntrustedError) as caught:
        connect_writer(state)
    assert contents(state.path) == before
    return str(caught.value)


def make(state: StateDir) -> None:
    connect_writer(state).close()


@contextmanager
def holder(state: StateDir) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds `state_dir`."""
    command = [sys.executable, "-c", HOLD_LOCK, str(state.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


# What is made -------------------------------------------------------------------------------------


def test_every_commit_is_an_fsync_into_a_write_ahead_log(state: StateDir) -> None:
    with closing(connect_writer(state)) as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize(
    ("pragma", "answer", "seen"),
    [
        ("PRAGMA synchronous", 1, "synchronous 1"),
        ("PRAGMA journal_mode = WAL", 7, "journal_mode 7"),
    ],
)
def test_a_connection_that_would_not_sync_is_refused(
    state: StateDir, pragma: str, answer: int, seen: str
) -> None:
    make(state)
    faults = Faults(answers={pragma: answer})
    with pytest.raises(SpoolUntrustedError, match=seen):
        connect_writer(state, factory=faults.connection())


def test_the_spool_is_readable_by_its_owner_only_whatever_the_umask(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    before = os.umask(0)
    try:
        with locked(state), closing(connect_writer(state)) as connection:
            connection.execute("UPDATE counter SET total_lines = 0")
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in state.path.iterdir()}
    finally:
        os.umask(before)
    assert stat.S_IMODE(state.path.stat().st_mode) == 0o700
    assert modes == dict.fromkeys(
        ["lock", "spool.db", "spool.db-shm", "spool.db-wal", "spool.id"], 0o600
    )


def test_the_same_spool_opens_again(state: StateDir) -> None:
    make(state)
    marked = state.marker.read_text("ascii").strip()
    with closing(connect_writer(state)) as connection:
        assert connection.execute("SELECT spool_id FROM counter").fetchone() == (marked,)


def test_a_first_start_that_died_half_way_is_simply_made_again(state: StateDir) -> None:
    (state.path / "spool.partial").write_bytes(b"half a database")
    (state.path / "spool.partial-journal").write_bytes(b"half a journal")
    make(state)
    assert set(contents(state.path)) == {"spool.db", "spool.id"}


def test_a_start_that_died_before_the_marker_was_written_is_finished(state: StateDir) -> None:
    make(state)
    spool_id = state.marker.read_text("ascii")
    state.marker.unlink()
    make(state)
    assert state.marker.read_text("ascii") == spool_id


# What is refused ----------------------------------------------------------------------------------


def test_a_database_that_is_gone_is_never_taken_for_a_first_start(state: StateDir) -> None:
    make(state)
    state.database.unlink()
    message = refused(state)
    assert f"{state.database} is missing" in message
    assert "put it back or mend it, or start with --new-spool" in message


def test_a_database_that_is_not_the_marked_one_is_refused(state: StateDir) -> None:
    make(state)
    state.marker.write_text("another\n")
    message = refused(state)
    assert "names another; remove the marker if the exchange was meant" in message
    assert "--new-spool" in message


@pytest.mark.parametrize("data", [b"", b"nine days of notes\n" * 100], ids=["empty", "text"])
def test_a_file_that_is_no_database_is_refused(state: StateDir, data: bytes) -> None:
    state.database.write_bytes(data)
    assert refused(state) == f"{state.database} is not a database; {ADVICE}"


def test_somebody_elses_database_is_refused_and_its_log_left_alone(
    state: StateDir, tmp_path: Path
) -> None:
    foreign = tmp_path / "elsewhere.db"
    state = StateDir(tmp_path / "state")
    state.path.mkdir()
    with closing(sqlite3.connect(foreign, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE precious (text)")
        shutil.copy(foreign, state.database)
        shutil.copy(tmp_path / "elsewhere.db-wal", state.path / "spool.db-wal")
    assert refused(state) == f"{state.database} is not a spool of this program; {ADVICE}"


def test_another_version_of_the_schema_is_refused(state: StateDir) -> None:
    make(state)
    with closing(sqlite3.connect(state.database, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA user_version = 999")
    message = refused(state)
    assert f"has schema 999; this version reads schema {SCHEMA_VERSION}" in message
    assert "run the version that wrote it" in message


def test_another_version_that_is_still_in_the_log_is_refused(state: StateDir) -> None:
    make(state)
    with closing(sqlite3.connect(state.database, isolation_level=None)) as connection:
        connection.execute("PRAGMA user_version = 999")
        with pytest.raises(SpoolUntrustedError, match="has schema 999"):
            connect_writer(state)


def test_a_directory_in_its_place_is_refused(state: StateDir) -> None:
    state.database.mkdir()
    assert "Is a directory" in refused(state)


def test_a_damaged_first_page_is_refused(state: StateDir) -> None:
    make(state)
    with state.database.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 4000)
    with pytest.raises(SpoolUntrustedError, match=r"cannot be used: .*malformed"):
        connect_writer(state)


def test_lost_counters_are_refused(state: StateDir) -> None:
    make(state)
    with closing(sqlite3.connect(state.database, isolation_level=None)) as connection:
        connection.execute("DELETE FROM counter")
    with pytest.raises(SpoolUntrustedError, match="has lost its counters"):
        connect_writer(state)


@contextmanager
def nobody() -> Iterator[None]:
    """Not root for a while: nothing is unreadable for root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_spool_that_may_not_be_read_is_refused(state: StateDir) -> None:
    make(state)
    before = contents(state.path)
    state.database.chmod(0)
    state.path.chmod(0o755)
    try:
        with nobody(), pytest.raises(SpoolUntrustedError, match="Permission denied"):
            connect_writer(state)
    finally:
        state.database.chmod(0o600)
        state.path.chmod(0o700)
    assert contents(state.path) == before


def test_a_directory_that_may_not_be_entered_is_refused(state: StateDir) -> None:
    state.path.chmod(0)
    try:
        with nobody(), pytest.raises(SpoolUntrustedError, match="Permission denied"):
            connect_writer(state)
    finally:
        state.path.chmod(0o700)


def test_a_reader_never_makes_a_spool_and_says_that_there_was_none(state: StateDir) -> None:
    with pytest.raises(SpoolUntrustedError, match="nothing here yet: no daemon has run with") as no:
        connect_reader(state)
    assert str(state.path) in str(no.value)
    assert contents(state.path) == {}


def test_a_reader_does_not_call_a_spool_that_is_gone_a_beginning(state: StateDir) -> None:
    make(state)
    state.database.unlink()
    with pytest.raises(SpoolUntrustedError, match="cannot be read"):
        connect_reader(state)


def test_a_reader_cannot_write(state: StateDir) -> None:
    make(state)
    with closing(connect_reader(state)) as reader, pytest.raises(sqlite3.OperationalError):
        reader.execute("DELETE FROM frame")


def test_the_application_id_is_what_the_header_says(state: StateDir) -> None:
    make(state)
    assert state.database.read_bytes()[68:72] == APPLICATION_ID.to_bytes(4, "big") == b"sbfw"


# The lock -----------------------------------------------------------------------------------------


def test_a_state_dir_that_another_daemon_holds_is_refused_by_its_process_id(
    state: StateDir,
) -> None:
    with holder(state) as process:
        with pytest.raises(SpoolLockedError, match=rf"process {process.pid}\)"), locked(state):
            pass
        assert is_locked(state) == process.pid


def test_the_lock_of_a_killed_daemon_is_free(state: StateDir) -> None:
    with holder(state) as process:
        process.kill()
        process.wait()
        with locked(state):
            assert is_locked(state) == os.getpid()
    assert is_locked(state) is None


def test_nobody_holds_a_state_dir_that_was_never_used(tmp_path: Path) -> None:
    assert is_locked(StateDir(tmp_path / "none")) is None


def test_a_status_that_looks_at_the_lock_is_not_another_daemon(
    state: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking holds the lock for an instant; a daemon that starts just then waits that long."""
    looking, start = os.open(state.lock, os.O_RDWR | os.O_CREAT, 0o600), threading.Event()
    fcntl.flock(looking, fcntl.LOCK_SH)

    def pause(_: float) -> None:
        if not start.is_set():
            os.close(looking)
            start.set()

    monkeypatch.setattr("forwarder.spool.directory.time.sleep", pause)
    with locked(state):
        assert start.is_set()


def test_a_state_dir_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    state = StateDir(tmp_path / "file" / "state")
    with pytest.raises(SpoolUntrustedError, match="cannot be used"), locked(state):
        pass
