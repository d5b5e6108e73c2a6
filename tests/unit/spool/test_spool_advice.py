from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from forwarder.spool.advice import advice, advice_here, file_system, has_wal_reset_bug
from forwarder.spool.files import StateDir, locked
from forwarder.spool.sqlite import open_spool
from tests.unit.spool.builders import INFO, commit, frame

if TYPE_CHECKING:
    from collections.abc import Iterator

    from forwarder.spool.advice import Version

GOOD: Version = (3, 51, 3)

MOUNTS = """\
overlay / overlay rw,relatime,lowerdir=/a:/b 0 0
proc /proc proc rw 0 0
/dev/vda1 /var ext4 rw 0 0
server:/export /var/lib/shared nfs4 rw,vers=4.2 0 0
bucket /mnt/bucket fuse.s3fs rw 0 0
tmpfs /run tmpfs rw,nosuid 0 0
/dev/vdb1 /with\\040space xfs rw 0 0
/dev/vdc1 /twice ext4 rw 0 0
share /twice cifs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/forwarder", "ext4"),
        ("/var/lib/shared/forwarder", "nfs4"),
        ("/var/lib/sharedness", "ext4"),
        ("/var", "ext4"),
        ("/home/x", "overlay"),
        ("/with space/x", "xfs"),
        ("/twice/x", "cifs"),
    ],
)
def test_the_longest_mount_point_says_what_holds_a_path_and_the_later_of_two(
    path: str, kind: str
) -> None:
    assert file_system(Path(path), MOUNTS) == kind


@pytest.mark.parametrize("mounts", ["", "\n", "nonsense\n"])
def test_where_there_are_no_mounts_to_read_nothing_is_said(mounts: str) -> None:
    assert advice(Path("/x"), sqlite_version=GOOD, mounts=mounts) == []


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/var/lib/shared/x", "on nfs4: locks and fsync may not hold"),
        ("/mnt/bucket/x", "on fuse.s3fs: locks and fsync may not hold"),
        ("/twice/x", "on cifs: locks and fsync may not hold"),
        ("/home/x", "on overlay: it is gone with the container"),
        ("/run/x", "on tmpfs: it is gone after a reboot"),
    ],
)
def test_ground_that_does_not_hold_is_warned_of(path: str, words: str) -> None:
    (told,) = advice(Path(path), sqlite_version=GOOD, mounts=MOUNTS)
    assert told.level == "warning"
    assert words in told.text
    assert path in told.text


def test_a_disk_of_this_machine_and_a_mended_sqlite_are_nothing_to_speak_of() -> None:
    assert advice(Path("/var/lib/x"), sqlite_version=GOOD, mounts=MOUNTS) == []


@pytest.mark.parametrize(
    ("version", "has"),
    [
        ((3, 6, 23), False),
        ((3, 7, 0), True),
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 45, 0), True),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 51, 0), True),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 52, 0), False),
    ],
)
def test_versions_with_the_wal_reset_bug_are_known(version: Version, has: bool) -> None:
    assert has_wal_reset_bug(version) == has


def test_the_bug_is_told_but_not_as_a_warning_because_one_connection_cannot_meet_it() -> None:
    (told,) = advice(Path("/var/lib/x"), sqlite_version=(3, 40, 1), mounts=MOUNTS)
    assert told.level == "info"
    assert "SQLite 3.40.1" in told.text


def test_this_machine_is_looked_at_through_every_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/shm")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    told = [one.text for one in advice_here(tmp_path / "link") if one.level == "warning"]
    assert len(told) == 1
    assert "state_dir /dev/shm is on tmpfs" in told[0]
    assert has_wal_reset_bug(sqlite3.sqlite_version_info) == any(
        "WAL-reset" in one.text for one in advice_here(tmp_path / "loop")
    )


# Modes --------------------------------------------------------------------------------------------


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def modes(directory: Path) -> dict[str, str]:
    return {
        path.name: oct(stat.S_IMODE(path.stat().st_mode))
        for path in [directory, *directory.iterdir()]
    }


@pytest.mark.usefixtures("no_umask")
async def test_everything_in_state_dir_is_for_its_owner_only_whatever_the_umask(
    tmp_path: Path,
) -> None:
    state = StateDir(tmp_path / "state")
    with locked(state):
        spool = await open_spool(state, now=lambda: 1)
        stream = await spool.open_stream(INFO)
        await spool.commit([commit(stream.id, frame())])
        found = modes(state.path)
        await spool.close()
    assert set(found) >= {"state", "spool.db", "spool.db-wal", "spool.db-shm", "lock", "spool.id"}
    assert found.pop("state") == "0o700"
    assert set(found.values()) == {"0o600"}, found
