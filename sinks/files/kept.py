"""Files that were put away: which are to be compressed, and which are not kept. Pure.

With `keep` there may be hundreds of thousands, and every file that is put away asks; so nothing
here looks at all of them.
"""

from __future__ import annotations

from collections import defaultdict
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sinks.files.rotation import PutAway, Rotation

_STALE_AT_MOST = 1024


class KeptFiles:
    """Files that were put away, by path and by age.

    Args:
        rotation: How many of them are kept, and how long.
        files: Those of earlier runs.
    """

    def __init__(self, rotation: Rotation, files: Iterable[PutAway] = ()) -> None:
        self._rotation = rotation
        self._files: dict[str, PutAway] = {}
        self._unpacked: dict[str, PutAway] = {}
        self._by_path: defaultdict[str, dict[int, PutAway]] = defaultdict(dict)
        self._too_many: set[str] = set()
        self._by_age: list[tuple[int, str]] = []  # a heap; some of it is not true any more
        self._too_old: set[str] = set()
        for file in files:
            self.put(file)

    def __len__(self) -> int:
        """How many entries this takes in memory: not many more than two for each file."""
        return len(self._files) + len(self._by_age)

    def put(self, file: PutAway) -> None:
        """This file was put away, or what is known of it has changed."""
        known = self._files.get(file.key)
        if known is None or known.until_ns != file.until_ns:
            self._too_old.discard(file.key)
            if file.until_ns:
                heappush(self._by_age, (file.until_ns, file.key))
        self._files[file.key] = file
        self._by_path[file.path][file.number] = file
        if file.pack == "none":
            self._unpacked.pop(file.key, None)
        else:
            self._unpacked[file.key] = file
        self._count(file.path)

    def forget(self, file: PutAway) -> None:
        """There is nothing left to be done about this file."""
        self._files.pop(file.key, None)
        self._unpacked.pop(file.key, None)
        self._too_old.discard(file.key)
        self._by_path[file.path].pop(file.number, None)
        self._count(file.path)
        if len(self._by_age) > 2 * len(self._files) + _STALE_AT_MOST:
            self._by_age = [item for item in self._by_age if item[1] in self._files]
            heapify(self._by_age)

    def unpacked(self) -> list[PutAway]:
        """Those that have yet to be compressed."""
        return list(self._unpacked.values())

    def surplus(self, newest_ns: int) -> list[PutAway]:
        """Those that are not kept: beyond the count of their path, or older than the age.

        Args:
            newest_ns: How far time has gone on.
        """
        while self.any_aged(newest_ns):
            until_ns, key = heappop(self._by_age)
            if key in self._files and self._files[key].until_ns == until_ns:
                self._too_old.add(key)
        beyond = {file.key for path in self._too_many for file in self._beyond_count(path)}
        return [self._files[key] for key in sorted(beyond | self._too_old)]

    def any_aged(self, newest_ns: int) -> bool:
        """Whether files have become too old since `surplus` was asked for last."""
        return bool(self._by_age) and self._rotation.is_old(self._by_age[0][0], newest_ns)

    def _beyond_count(self, path: str) -> list[PutAway]:
        group = self._by_path[path]
        return [group[number] for number in sorted(group)[: -(self._rotation.keep_count or 0)]]

    def _count(self, path: str) -> None:
        count = len(self._by_path[path])
        if self._rotation.keep_count is not None and count > self._rotation.keep_count:
            self._too_many.add(path)
        else:
            self._too_many.discard(path)
        if not count:
            del self._by_path[path]
