"""A disk that fails as told and whose names, too, are only safe once their directory is synced."""

from __future__ import annotations

import gzip
import os
from contextlib import suppress
from pathlib import Path

import zstandard

from tests.fakes.disk import FaultyDisk


class RenamingDisk(FaultyDisk):
    """After a power cut names are again what they were at the last sync of their directory.

    Args:
        before: The disk as an earlier life has left it, with what that had not synced.
    """

    def __init__(self, root: Path, *, before: RenamingDisk | None = None) -> None:
        super().__init__(root)
        self._synced_names: dict[str, dict[str, int]] = {}
        self._pinned: list[int] = []  # no inode number is used again while it may come back
        for directory in [root, *(path for path in root.rglob("*") if path.is_dir())]:
            self._synced_names[str(directory)] = _inodes(directory)
        if before is not None:
            self._synced_bytes = before._synced_bytes
            self._synced_names = before._synced_names

    @property
    def is_dead(self) -> bool:
        """Whether the process is gone."""
        return self._dead

    def rename(self, name: str, new_name: str, *, parent_fd: int) -> None:
        self._step("rename")
        super().rename(name, new_name, parent_fd=parent_fd)

    def unlink(self, name: str, *, parent_fd: int) -> None:
        self._step("unlink")
        try:
            self._pinned.append(os.open(name, os.O_PATH, dir_fd=parent_fd))
        except FileNotFoundError:
            return
        super().unlink(name, parent_fd=parent_fd)

    def sync_directory(self, fd: int) -> None:
        super().sync_directory(fd)
        path = str(Path(f"/proc/self/fd/{fd}").readlink())
        names: dict[str, int] = {}
        for name in os.listdir(fd):
            with suppress(FileNotFoundError):  # another thread has just taken it away
                names[name] = os.stat(name, dir_fd=fd, follow_symlinks=False).st_ino
        self._synced_names[path] = names

    def cut_power(self) -> None:
        """Kill, and lose whatever no sync had put on the disk: bytes and names."""
        self.kill()
        self._restore_names()
        self._unpin()

    def lose_bytes(self) -> None:
        """Kill, and lose bytes that were not synced; names are as they are now."""
        self.kill()
        for path in self._root.rglob("*"):
            if path.is_file():
                path.write_bytes(self._synced_bytes.get(path.stat().st_ino, b""))
        self._unpin()

    def die(self) -> None:
        """Kill, and lose nothing else."""
        self.kill()
        self._unpin()

    def _restore_names(self) -> None:
        for directory in [self._root, *(path for path in self._root.rglob("*") if path.is_dir())]:
            wanted = self._synced_names.get(str(directory), {})
            directories = {path.name for path in directory.iterdir() if path.is_dir()}
            for path in directory.iterdir():
                if path.is_file():
                    path.unlink()
            for name, inode in wanted.items():
                if name not in directories:
                    (directory / name).write_bytes(self._synced_bytes.get(inode, b""))

    def _unpin(self) -> None:
        for fd in self._pinned:
            os.close(fd)
        self._pinned.clear()


def _inodes(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in directory.iterdir()}


def read_all(root: Path, name: str) -> bytes:
    """What a reader sees: each number's compressed file, or else its plain one, then the file."""
    found: dict[str, bytes] = {}
    for path in sorted(root.glob(f"{name}.0*")):
        number = path.name.removeprefix(f"{name}.")
        if number.isdigit():
            found.setdefault(number, path.read_bytes())
        elif number.endswith(".zst"):
            data = zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes())
            found[number.removesuffix(".zst")] = data
        elif number.endswith(".gz"):
            found[number.removesuffix(".gz")] = gzip.decompress(path.read_bytes())
    live = root / name
    return b"".join(found[number] for number in sorted(found)) + (
        live.read_bytes() if live.exists() else b""
    )
