"""What an operator should hear at the start about the ground that the spool stands on."""

from __future__ import annotations

import re
import sqlite3
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

#: File systems whose locks and shared memory may not be what SQLite needs (sqlite.org/faq.html#q5).
_NETWORK = {
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "glusterfs",
    "gpfs",
    "lustre",
    "nfs",
    "nfs4",
    "smb3",
    "smbfs",
}

_PASSING = {
    "overlay": "it is gone with the container",
    "aufs": "it is gone with the container",
    "tmpfs": "it is gone after a reboot",
    "ramfs": "it is gone after a reboot",
}

#: Two connections that checkpoint the same WAL can corrupt it (sqlite.org/wal.html, the WAL-reset
#: bug); these branches were mended before 3.51.3 was.
_BUG_BEGINS, _BUG_ENDS = (3, 7, 0), (3, 51, 3)
_MENDED_BRANCHES = {(3, 44): 6, (3, 50): 7}

Version = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Advice:
    """One piece of it: `warning` when somebody should act, `info` when it is good to know."""

    level: Literal["info", "warning"]
    text: str


def advice(state_dir: Path, *, sqlite_version: Version, mounts: str) -> list[Advice]:
    """What there is to say; empty on good ground.

    Args:
        state_dir: With every symbolic link resolved.
        sqlite_version: Of the library, not of Python's module: `sqlite3.sqlite_version_info`.
        mounts: The content of `/proc/self/mounts`; empty where there is none.
    """
    told = []
    if (kind := file_system(state_dir, mounts)) is not None:
        told += _about_file_system(state_dir, kind)
    if has_wal_reset_bug(sqlite_version):
        text = (
            f"SQLite {'.'.join(map(str, sqlite_version))} has the WAL-reset bug; it cannot happen"
            " here, where one connection writes and checkpoints. Let no other program write to the"
            " spool."
        )
        told.append(Advice("info", text))
    return told


def advice_here(state_dir: Path) -> list[Advice]:
    """The same, of this machine; reading what there is to know never fails."""
    try:
        mounts = Path("/proc/self/mounts").read_text("utf-8", "surrogateescape")
        state_dir = state_dir.resolve()
    except (OSError, RuntimeError):  # RuntimeError: a symbolic link that leads to itself
        mounts = ""
    return advice(state_dir, sqlite_version=sqlite3.sqlite_version_info, mounts=mounts)


def file_system(path: Path, mounts: str) -> str | None:
    """The type of the file system that holds this path; None when the mounts do not tell."""
    best: tuple[int, str] | None = None
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:  # noqa: PLR2004 - device, mount point, type: proc(5)
            continue
        point = PurePosixPath(_unescaped(fields[1]))
        # Of two mounts on one point the later one hides the other.
        if path.is_relative_to(point) and (best is None or len(point.parts) >= best[0]):
            best = (len(point.parts), fields[2])
    return None if best is None else best[1]


def has_wal_reset_bug(version: Version) -> bool:
    """Whether this SQLite has the bug of two connections that checkpoint at the same time."""
    mended = _MENDED_BRANCHES.get(version[:2])
    if mended is not None and version[2] >= mended:
        return False
    return _BUG_BEGINS <= version < _BUG_ENDS


def _about_file_system(state_dir: Path, kind: str) -> list[Advice]:
    if kind in _NETWORK or kind.startswith("fuse."):
        text = (
            f"state_dir {state_dir} is on {kind}: locks and fsync may not hold there; use a disk"
            " of this machine"
        )
        return [Advice("warning", text)]
    if kind in _PASSING:
        text = (
            f"state_dir {state_dir} is on {kind}: {_PASSING[kind]}, with every line that was not"
            " delivered; use a volume"
        )
        return [Advice("warning", text)]
    return []


def _unescaped(point: str) -> str:
    """A mount point: spaces and the like are written there as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), point)
