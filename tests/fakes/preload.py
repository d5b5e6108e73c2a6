"""Libraries that a daemon is started with, which stand between it and the operating system.

Their C sources are in `tests/fakes/preloaded/`, each saying what it does; they are compiled when
they are first wanted. Tests are skipped where there is no compiler.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

_SOURCES = Path(__file__).parent / "preloaded"
_NUMBER = struct.Struct("=q")
_NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Preload:
    """One library and what it is told.

    Attributes:
        library: The shared library.
        environment: Its settings.
    """

    library: Path
    environment: Mapping[str, str]


def library(name: str) -> Path:
    """The library of this name, compiled; the test is skipped where that is not possible."""
    source = _SOURCES / f"{name}.c"
    version = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    directory = Path(tempfile.gettempdir()) / f"sandbox-forwarder-preload-{os.getuid()}"
    path = directory / f"{name}-{version}.so"
    if path.exists():
        return path
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler (cc)")
    directory.mkdir(mode=0o700, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    command = [compiler, "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(partial)]
    subprocess.run([*command, str(source), "-ldl"], check=True)
    partial.rename(path)
    return path


class KillPoint:
    """A number of changes on the disk, at the last of which a daemon dies: `killpoint.c`.

    Args:
        directory: Changes below it count.
        counter: The file that holds the count; it is made anew.
        at: The number of the last call, from 1; 0 counts only.
        when: When in that call the process dies.
    """

    def __init__(
        self,
        directory: Path,
        counter: Path,
        at: int = 0,
        when: Literal["before", "after", "torn"] = "before",
    ) -> None:
        self._counter = counter
        counter.write_bytes(_NUMBER.pack(0))
        settings = {
            "KILLPOINT_DIR": str(directory.resolve()),
            "KILLPOINT_COUNT": str(counter),
            "KILLPOINT_AT": str(at),
            "KILLPOINT_WHEN": when,
        }
        self.preload = Preload(library("killpoint"), settings)

    @property
    def calls(self) -> int:
        """How many there were so far."""
        return int(_NUMBER.unpack(self._counter.read_bytes())[0])


class WallClock:
    """The wall clock of daemons, which jumps when told to, also while they run: `clock.c`.

    Args:
        file: Where its shift is kept.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        _write_number(file, 0)
        self.preload = Preload(library("clock"), {"CLOCK_FILE": str(file)})

    def shift(self, by_s: float) -> None:
        """Let it differ from the machine's own by so much."""
        _write_number(self._file, int(by_s * _NS_PER_S))

    def set(self, to_s: float) -> None:
        """Let it show this moment, in seconds since 1970, and go on from there."""
        self.shift(to_s - time.time())


class SlowDisk:
    """A directory whose syncs take as long as they are told to, also later: `slowsync.c`.

    Args:
        directory: Syncs of what is below it are slow.
        file: Where the library is told, and tells how many syncs it holds.
    """

    def __init__(self, directory: Path, file: Path) -> None:
        self._file = file
        file.write_bytes(bytes(2 * _NUMBER.size))
        settings = {"SLOWSYNC_DIR": str(directory.resolve()), "SLOWSYNC_FILE": str(file)}
        self.preload = Preload(library("slowsync"), settings)

    def take(self, delay_s: float) -> None:
        """Let every sync that begins from now on take so long."""
        _write_number(self._file, int(delay_s * _NS_PER_S))

    @property
    def held(self) -> int:
        """How many syncs are under way."""
        return int(_NUMBER.unpack_from(self._file.read_bytes(), _NUMBER.size)[0])


class PowerSupply:
    """A directory whose disk keeps only what was synced, once the power is cut: `powerloss.c`.

    What is in it at the beginning, and after each cut, counts as synced.

    Args:
        directory: Everything below it is watched.
        kept: Where the library notes what the disk holds for certain; outside of `directory`.
    """

    def __init__(self, directory: Path, kept: Path) -> None:
        self._directory = directory.resolve()
        self._kept = kept
        settings = {"POWERLOSS_DIR": str(self._directory), "POWERLOSS_KEPT": str(kept)}
        self.preload = Preload(library("powerloss"), settings)
        self._settle()

    def cut(self) -> None:
        """Lose what was not synced; whoever wrote there must have been killed before."""
        restored = self._directory.with_name(f"{self._directory.name}.restored")
        restored.mkdir(self._directory.stat().st_mode & 0o777)
        self._restore(restored, self._directory.stat().st_ino)
        shutil.rmtree(self._directory)
        restored.rename(self._directory)
        self._settle()

    def _restore(self, to: Path, inode: int) -> None:
        for entry in self._note("entries", inode).split(b"\0")[:-1]:
            kind, number, name = entry.split(b" ", 2)
            path = to / os.fsdecode(name)
            if kind == b"d":
                path.mkdir(0o700)
                self._restore(path, int(number))
            elif not path.name.endswith("-shm"):  # shared memory, which no power cut survives
                path.write_bytes(self._note("data", int(number)))
                path.chmod(0o600)

    def _note(self, kind: str, inode: int) -> bytes:
        """What was kept; nothing, if nothing was."""
        path = self._kept / kind / str(inode)
        return path.read_bytes() if path.exists() else b""

    def _settle(self) -> None:
        """Everything that is there now is on the disk."""
        shutil.rmtree(self._kept, ignore_errors=True)
        for kind in ("data", "entries"):
            (self._kept / kind).mkdir(parents=True)
        for path in [self._directory, *self._directory.rglob("*")]:
            inode = str(path.stat().st_ino)
            if path.is_dir():
                (self._kept / "entries" / inode).write_bytes(_entries(path))
            else:
                (self._kept / "data" / inode).write_bytes(path.read_bytes())


def _write_number(file: Path, number: int) -> None:
    """In place: the file is mapped by whoever reads it."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    os.pwrite(descriptor, _NUMBER.pack(number), 0)
    os.close(descriptor)


def _entries(directory: Path) -> bytes:
    """The names in a directory, as the library itself writes them."""
    lines = (
        b"%c %d %s\0" % (b"d" if entry.is_dir() else b"f", entry.inode(), os.fsencode(entry.name))
        for entry in os.scandir(directory)
    )
    return b"".join(lines)
