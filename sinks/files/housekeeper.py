"""What goes on behind the deliveries: files are put away, compressed and deleted.

Everything to be done is in the sink's state before it is begun, and every step may be done again.
So whatever a crash or a full disk cuts short is finished at the next occasion.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from sinks.files.kept import KeptFiles
from sinks.files.rotation import PutAway
from sinks.files.shelf import StoppedError
from sinks.interface import SinkError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from concurrent.futures import Future

    from sinks.files.rotation import Rotation
    from sinks.files.shelf import Shelf
    from sinks.interface import SinkState, StateChanges

_log = logging.getLogger(__name__)

NEWEST_KEY = "newest"
_PATIENCE_S = 5.0  # what `close` waits for work that the next `open` would do as well
_RETRY_S = 60.0


class Housekeeper:
    """What a sink does in the background.

    Its one thread is its own: a slow compression delays no delivery.

    Args:
        put_due_away: Puts the files away whose confirmation is awaited, and says whether that
            went well; called whenever there may be something to do.
    """

    def __init__(
        self,
        name: str,
        rotation: Rotation,
        shelf: Shelf,
        state: SinkState,
        put_due_away: Callable[[], Awaitable[bool]],
    ) -> None:
        self._shelf = shelf
        self._keeps_track = rotation.keeps_track
        self._state = state
        self._put_due_away = put_due_away
        keys = state.keys()
        values = [state.get(key) for key in keys if PutAway.is_key(key)]
        found = (PutAway.decode(value) for value in values if value is not None)
        self._files = KeptFiles(rotation, found)
        self._wake = asyncio.Event()
        self._job: Future[None] | None = None
        self._stopping = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"sink-{name}-rotation")
        self._task = asyncio.create_task(self._run(), name=f"sink-{name}-rotation")
        self.wake()

    def wake(self) -> None:
        """There may be something to do."""
        self._wake.set()

    def note_newest(self, newest_ns: int) -> None:
        """Lines of this moment were written: look whether files have become too old by that."""
        if self._files.any_aged(newest_ns):
            self.wake()

    def take(self, files: Iterable[PutAway]) -> None:
        """These were put away, and are remembered."""
        for file in files:
            self._files.put(file)
        self.wake()

    async def stop(self) -> None:
        """Finish what there is to do, for a bounded time; the rest is left to the next one."""
        self._stopping = True
        self.wake()
        await asyncio.wait({self._task}, timeout=_PATIENCE_S)
        self._shelf.stop()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._job is not None:
            with suppress(Exception):
                await asyncio.wrap_future(self._job)
        self._thread.shutdown()

    async def _run(self) -> None:
        while True:
            all_done = False
            try:
                all_done = await self._work()
            except Exception:  # noqa: BLE001 - the top of a task; the next round has its work again
                _log.exception("files that were put away are not looked after for now")
            if self._stopping and not self._wake.is_set():
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), None if all_done else _RETRY_S)

    async def _work(self) -> bool:
        """Do everything that there is to do; returns whether all of it went well."""
        self._wake.clear()
        went_well = await self._put_due_away()
        for file in self._files.unpacked():
            packed = replace(file, pack="none") if self._keeps_track else None
            went_well &= await self._step(self._shelf.pack, file, packed)
        newest_ns = int(self._state.get(NEWEST_KEY) or 0)
        for file in self._files.surplus(newest_ns):
            went_well &= await self._step(self._shelf.delete, file, None)
        return went_well

    async def _step(
        self, work: Callable[[PutAway], None], file: PutAway, after: PutAway | None
    ) -> bool:
        """Do one thing to one file, and remember that it is done."""
        try:
            self._job = self._thread.submit(work, file)
            await asyncio.wrap_future(self._job)
            changes: StateChanges = {file.key: None if after is None else after.encode()}
            await self._state.remember(changes)
        except StoppedError:
            return False
        except SinkError as error:
            _log.warning("%s", error)
            return False
        if after is None:
            self._files.forget(file)
        else:
            self._files.put(after)
        return True
