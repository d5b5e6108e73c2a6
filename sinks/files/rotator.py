"""Files are put away: renamed to a number of their own, and a new one is begun.

The order that makes it exactly once, whatever is killed when:

1. The bytes are confirmed and their mark says under which number the file is put away. Both are
   committed together with the cursor that is past them.
2. The file is renamed and the directory synced. Nothing is written to its path before that.
3. The mark begins anew, and what is still to be done about the file is remembered with it.

Found after a crash, a file that is still at its path, with all its bytes, is before step 2; one
that is not, is behind it. A number is never taken twice, because those on disk are looked at, too.
"""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sinks.files.housekeeper import NEWEST_KEY, Housekeeper
from sinks.files.layout import Mark
from sinks.files.pool import KEY_PREFIX, Target
from sinks.files.rotation import PutAway, numbered
from sinks.files.system import TooManyOpenFilesError
from sinks.interface import SinkError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sinks.files.pool import FilePool
    from sinks.files.rotation import Rotation
    from sinks.files.shelf import Shelf
    from sinks.interface import SinkState, StateChanges

_log = logging.getLogger(__name__)

_CONFIRMATION_S = 0.02  # how often to look whether the engine has confirmed a batch


@dataclass(frozen=True, slots=True)
class _Gone:
    """A file that is not renamed, because it is not at its path.

    Attributes:
        mark: What is at the path instead.
        is_away: Whether it was renamed before.
    """

    mark: Mark
    is_away: bool


class Rotator:
    """Puts files away, those that a batch meets before it, all others behind the deliveries.

    Args:
        turn: Held by whoever works on files; the background takes it, a `write` holds it already.
    """

    def __init__(
        self,
        name: str,
        rotation: Rotation,
        *,
        shelf: Shelf,
        pool: FilePool,
        state: SinkState,
        turn: asyncio.Lock,
    ) -> None:
        self._rotation = rotation
        self._shelf = shelf
        self._pool = pool
        self._state = state
        self._turn = turn
        self._stopping = False
        keys = state.keys()
        values = {key: state.get(key) for key in keys if key.startswith(KEY_PREFIX)}
        self._due = {key: value for key, value in values.items() if value and _says_so(value)}
        self._housekeeper = Housekeeper(name, rotation, shelf, state, self._put_confirmed_away)

    def look_up_number(self, target: Target) -> int:
        """The number of the file that was put away last from a target's path. Blocks.

        Files of higher numbers than the mark knows are newer than the state: an old one was
        restored. The mark then is of a file that is not at this path any more, and is forgotten.
        """
        highest = self._shelf.highest(target.file.path)
        mark = target.mark
        if mark is not None and highest > mark.number:
            _log.warning(
                "%s: there is a file of number %d, but only %d is remembered: an older state was "
                "restored, or somebody else made it; going on at the end of what is there",
                *(target.file.path, highest, mark.number),
            )
            target.mark = None
        return highest if mark is None else max(highest, mark.number)

    def judge(self, target: Target, mark: Mark) -> Mark:
        """The mark of a file after a batch, saying so if it is to be put away."""
        mark = replace(
            mark,
            newest_ns=max(mark.newest_ns, target.moment.agreed_ns),
            until_ns=max(mark.until_ns, target.moment.either_ns),
        )
        is_due = self._rotation.is_full(mark) or (target.has_ended and mark.length_bytes > 0)
        return replace(mark, put_away_as=mark.number + 1 if is_due else 0)

    async def make_way(self, targets: Sequence[Target]) -> None:
        """Put away what an earlier batch, or the time of this one's lines, says is to be.

        Raises:
            SinkError: Not now, or not before something is mended.
        """
        for target in targets:
            mark = target.mark
            if mark and not mark.put_away_as and self._rotation.is_over(mark, target.moment):
                target.mark = replace(mark, put_away_as=mark.number + 1)
        await self._put_away(
            [target for target in targets if target.mark and target.mark.put_away_as]
        )

    def expect(self, marks: Mapping[str, bytes]) -> None:
        """These marks are going to be confirmed; what they say is done as soon as they are."""
        due = {key: value for key, value in marks.items() if _says_so(value)}
        if due:
            self._due.update(due)
            self._housekeeper.wake()

    def newest(self, targets: Sequence[Target]) -> StateChanges:
        """The newest moment written so far, if the age of files depends on it."""
        before_ns = int(self._state.get(NEWEST_KEY) or 0)
        newest_ns = max((target.moment.agreed_ns for target in targets), default=0)
        if not self._rotation.keep_age_ns or newest_ns <= before_ns:
            return {}
        self._housekeeper.note_newest(before_ns)
        return {NEWEST_KEY: str(newest_ns).encode()}

    async def stop(self) -> None:
        """Finish what there is to do, for a bounded time; the rest is left to the next one."""
        self._stopping = True
        await self._housekeeper.stop()

    async def _put_confirmed_away(self) -> bool:
        """Wait until the engine has committed what is due, and put it away.

        Returns:
            Whether it went well.
        """
        while self._due:
            async with self._turn:
                await self._pool.settle()
                try:
                    await self._put_away(self._confirmed())
                except SinkError as error:
                    _log.warning("%s", error)
                    if isinstance(error, TooManyOpenFilesError):
                        await self._pool.do_with_fewer()
                    return False
            if self._stopping:
                break
            if self._due:
                await asyncio.sleep(_CONFIRMATION_S)
        return True

    def _confirmed(self) -> list[Target]:
        return [
            Target(self._pool.file(key.removeprefix(KEY_PREFIX)), (), Mark.decode(value))
            for key, value in self._due.items()
            if self._state.get(key) == value
        ]

    async def _put_away(self, targets: Sequence[Target]) -> None:
        """The three steps; after an error or a crash they are begun again."""
        if not targets:
            return
        gone: dict[str, _Gone] = {}
        await self._pool.in_turns(lambda target: self._choose_number(target, gone), targets)
        await self._state.remember({target.key: target.known_mark.encode() for target in targets})
        there = [target for target in targets if target.key not in gone]
        await self._pool.in_turns(self._rename, there)
        changes: StateChanges = {}
        records: list[PutAway] = []
        for target in targets:
            mark = target.known_mark
            rest = gone.get(target.key) or _Gone(Mark(0, number=mark.put_away_as), is_away=True)
            if rest.is_away and self._remembers_files:
                records.append(self._record(target.file.path, mark))
            target.mark = rest.mark
            changes[target.key] = target.mark.encode()
        changes.update({record.key: record.encode() for record in records})
        await self._state.remember(changes)
        for target in targets:
            self._due.pop(target.key, None)
        self._housekeeper.take(records)

    def _choose_number(self, target: Target, gone: dict[str, _Gone]) -> None:
        mark = target.known_mark
        if not target.file.is_there():  # renamed before a crash, or taken away by somebody
            self._shelf.sync(target.file.path)
            is_away = self._shelf.is_taken(PutAway(target.file.path, mark.put_away_as))
            gone[target.key] = _Gone(Mark(0, number=mark.put_away_as), is_away)
            return
        highest = self._shelf.highest(target.file.path)
        number = max(mark.put_away_as, highest + 1)
        found = target.file.measure(mark)
        if found is mark and highest >= mark.put_away_as:
            whole = target.file.measure(None)
            found = mark if whole.length_bytes == mark.length_bytes else whole
        if found is not mark:  # truncated; or an older state was restored: see `look_up_number`
            gone[target.key] = _Gone(
                replace(found, number=max(mark.number, highest)), is_away=False
            )
            return
        while self._shelf.is_taken(PutAway(target.file.path, number)):
            number += 1
        target.mark = replace(mark, put_away_as=number)

    def _rename(self, target: Target) -> None:
        path, mark = target.file.path, target.known_mark
        name = os.path.basename(numbered(path, mark.put_away_as))  # noqa: PTH119 - paths are text
        target.file.put_away(mark.length_bytes, name)
        self._shelf.note(path, mark.put_away_as)

    @property
    def _remembers_files(self) -> bool:
        """Whether there is still something to be done about a file that is put away."""
        return self._rotation.compression != "none" or self._rotation.keeps_track

    def _record(self, path: str, mark: Mark) -> PutAway:
        """What is remembered of a file; when its times were forgotten it counts as new now."""
        until_ns = mark.until_ns or int(self._state.get(NEWEST_KEY) or 0)
        return PutAway(path, mark.put_away_as, until_ns, self._rotation.compression)


def _says_so(value: bytes) -> bool:
    return Mark.decode(value).put_away_as > 0
