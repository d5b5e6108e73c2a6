"""Which numbers are taken in which directory: what the disk says, remembered for a while.

A directory is read once and then told of every number that is given out in it. What is forgotten
is read again. So what is kept in memory is bounded by the disk, and not by how long the sink runs.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_REMEMBERED_NAMES = 65_536


@dataclass(slots=True)
class _Directory:
    """The highest number behind each name; `found` of them were there when it was read."""

    highest: dict[str, int]
    found: int

    @property
    def size(self) -> int:
        return 1 + len(self.highest)


class Numbers:
    """The highest numbers behind names. Not thread-safe; blocks where `read` does.

    Args:
        read: Reads the highest number behind each name of a directory that has any.
    """

    def __init__(self, read: Callable[[str], dict[str, int]]) -> None:
        self._read = read
        self._known: OrderedDict[str, _Directory] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        """How many directories and names are remembered now."""
        return self._size

    def highest(self, path: str) -> int:
        """The highest number behind this path; 0 without any.

        Raises:
            SinkError: What `read` raises.
        """
        place, name = os.path.split(path)
        directory = self._known.get(place)
        if directory is None:
            highest = self._read(place)
            directory = self._known[place] = _Directory(highest, len(highest))
            self._size += directory.size
        self._known.move_to_end(place)
        number = directory.highest.get(name, 0)
        self._make_room()
        return number

    def note(self, path: str, number: int) -> None:
        """This number is behind the path now; the disk says so, too."""
        place, name = os.path.split(path)
        directory = self._known.get(place)
        if directory is None:
            return
        self._size += name not in directory.highest
        directory.highest[name] = number
        # A directory is never known in part, and names that are on the disk have to be known: one
        # that is large stays. It is read again when half of its names may be gone from there.
        if directory.size > max(_REMEMBERED_NAMES, 2 * directory.found):
            self._forget(place)

    def _make_room(self) -> None:
        while self._size > _REMEMBERED_NAMES and len(self._known) > 1:
            self._forget(next(iter(self._known)))

    def _forget(self, place: str) -> None:
        self._size -= self._known.pop(place).size
