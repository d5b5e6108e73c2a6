"""A disk that fails as told: errors, short writes, a kill or a power cut at any call."""

from __future__ import annotations

import os
import shutil
import stat
import threading
from collections import defaultdict, deque
from typing import TYPE_CHECKING

from sinks.files.system import Files

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Killed(BaseException):
    """The process is gone: nothing it would do now happens."""


class FaultyDisk(Files):
    """The real calls, watched and interfered with.

    Attributes:
        calls: The names of all calls made, in order.
        errors: By call: errors to raise, one each time, before anything happens.
        most_bytes: No single write takes more than this.
        kill_at: The number of the call, from 1, at which the process dies; a write dies half done.
        sync_gate: While it is clear, a sync waits.
        syncing: Set when a sync has begun.
    """

    def __init__(self, root: Path) -> None:
        self.calls: list[str] = []
        self.errors: defaultdict[str, deque[int]] = defaultdict(deque)
        self.most_bytes = 1 << 40
        self.kill_at = 0
        self.sync_gate = threading.Event()
        self.sync_gate.set()
        self.syncing = threading.Event()
        self.open_fds: set[int] = set()
        self.most_open = 0
        self._root = root
        self._dead = False
        self._guard = threading.Lock()
        self._synced_bytes: dict[int, bytes] = {}
        self._synced_entries: dict[int, frozenset[str]] = {}
        for directory in [root, *(path for path in root.rglob("*") if _is_directory(path))]:
            entries = list(directory.iterdir())
            self._synced_entries[directory.stat().st_ino] = frozenset(e.name for e in entries)
            for path in entries:
                if stat.S_ISREG(path.lstat().st_mode):
                    self._synced_bytes[path.stat().st_ino] = path.read_bytes()

    def kill(self) -> None:
        """The process dies: its descriptors and locks are gone, and nothing is written any more."""
        with self._guard:
            self._dead = True
            for fd in self.open_fds:
                os.close(fd)
            self.open_fds.clear()

    def cut_power(self) -> None:
        """Kill, and lose whatever no sync had put on the disk."""
        self.kill()
        self._lose_unsynced(self._root)

    def open_directory(
        self, name: str, *, parent_fd: int | None = None, follow: bool = False
    ) -> int:
        self._step("open_directory")
        return self._opened(super().open_directory(name, parent_fd=parent_fd, follow=follow))

    def make_directory(self, name: str, mode: int, *, parent_fd: int) -> None:
        self._step("make_directory")
        super().make_directory(name, mode, parent_fd=parent_fd)

    def open_file(self, name: str, *, parent_fd: int) -> int:
        self._step("open_file")
        return self._opened(super().open_file(name, parent_fd=parent_fd))

    def create_file(self, name: str, mode: int, *, parent_fd: int) -> int:
        self._step("create_file")
        return self._opened(super().create_file(name, mode, parent_fd=parent_fd))

    def write(self, fd: int, buffers: Sequence[bytes | memoryview], offset: int) -> int:
        data = b"".join(buffers)
        try:
            self._step("write")
        except Killed:
            if fd in self.open_fds:
                os.pwrite(fd, data[: len(data) // 2], offset)
            raise
        return super().write(fd, [data[: self.most_bytes]], offset)

    def truncate(self, fd: int, length_bytes: int) -> None:
        self._step("truncate")
        super().truncate(fd, length_bytes)

    def sync_data(self, fd: int) -> None:
        self.syncing.set()
        self.sync_gate.wait()
        self._step("sync_data")
        super().sync_data(fd)
        status = os.fstat(fd)
        self._synced_bytes[status.st_ino] = os.pread(fd, status.st_size, 0)

    def sync_directory(self, fd: int) -> None:
        self._step("sync_directory")
        super().sync_directory(fd)
        self._synced_entries[os.fstat(fd).st_ino] = frozenset(os.listdir(fd))

    def close(self, fd: int) -> None:
        with self._guard:
            if fd in self.open_fds:
                self.open_fds.remove(fd)
                super().close(fd)

    def _lose_unsynced(self, directory: Path) -> None:
        synced = self._synced_entries.get(directory.stat().st_ino, frozenset())
        for path in directory.iterdir():
            if path.name not in synced:
                shutil.rmtree(path) if _is_directory(path) else path.unlink()
            elif _is_directory(path):
                self._lose_unsynced(path)
            else:
                path.write_bytes(self._synced_bytes.get(path.stat().st_ino, b""))

    def _opened(self, fd: int) -> int:
        with self._guard:
            self.open_fds.add(fd)
            self.most_open = max(self.most_open, len(self.open_fds))
        return fd

    def _step(self, name: str) -> None:
        with self._guard:
            self.calls.append(name)
            if self._dead or len(self.calls) == self.kill_at:
                self._dead = True
                raise Killed
            if self.errors[name]:
                number = self.errors[name].popleft()
                if number:
                    raise OSError(number, os.strerror(number))


def _is_directory(path: Path) -> bool:
    return stat.S_ISDIR(path.lstat().st_mode)
