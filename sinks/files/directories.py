"""Directories: opened, made, and put on the disk with their entries."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sinks.files.system import verdicts
from sinks.interface import SinkMisconfiguredError

if TYPE_CHECKING:
    from sinks.files.system import Files


def open_root(files: Files, root: str, mode: int) -> int:
    """Open a directory of the operator's, creating it and those above it as needed."""
    try:
        return files.open_directory(root, follow=True)
    except FileNotFoundError:
        above, name = os.path.split(root)
        parent_fd = open_root(files, above, mode)
        try:
            return enter(files, name, parent_fd, mode)
        finally:
            files.close(parent_fd)


def check_root(root: str) -> str:
    """Whether files can be made in a directory of the operator's, which may have to be made first.

    Returns:
        So, in words.

    Raises:
        SinkMisconfiguredError: They cannot.
    """
    there = root
    while not os.path.lexists(there):
        there = os.path.dirname(there)  # noqa: PTH120 - text, as everywhere here
    if not os.path.isdir(there):  # noqa: PTH112 - the same
        raise SinkMisconfiguredError(f"{there} is not a directory")
    if not os.access(there, os.W_OK | os.X_OK):
        raise SinkMisconfiguredError(f"{there} may not be written by this user")
    return f"can write to {root}" if there == root else f"can make {root}"


def sync_directory(files: Files, path: str) -> None:
    """Return when the entries of a directory are on the disk."""
    with verdicts(path):
        fd = files.open_directory(path, follow=True)
        try:
            files.sync_directory(fd)
        finally:
            files.close(fd)


def enter(files: Files, name: str, parent_fd: int, mode: int) -> int:
    """Open a directory in an open one, creating it as needed; it must not be a link."""
    try:
        return files.open_directory(name, parent_fd=parent_fd)
    except FileNotFoundError:
        files.make_directory(name, mode | (mode & 0o444) >> 2, parent_fd=parent_fd)
        files.sync_directory(parent_fd)
        return files.open_directory(name, parent_fd=parent_fd)
