"""Writes a daemon's log in a thread of its own: who does not read it holds up nothing."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

from forwarder.log_limit import LogLimit

if TYPE_CHECKING:
    from collections.abc import Callable

    from forwarder.log_limit import Event

#: Events that wait to be written; more are lost, and counted.
MAX_QUEUED = 2000

#: How long the end of the process waits for somebody to read what is left.
CLOSE_S = 2.0

#: How often events that were held back are looked at.
_LOOK_S = 1.0


class LogThread:
    """Takes events from any thread, at any time, and writes them as fast as they are read.

    What is too much of the same is held back (see `LogLimit`). What does not fit into the queue is
    lost, and one event says how many, as soon as everything that waited is written.

    Attributes:
        name: The thread's name.
    """

    name = "log"

    def __init__(
        self,
        render: Callable[[Event], str],
        write: Callable[[str], None],
        *,
        now_s: Callable[[], float],
    ) -> None:
        """Start.

        Args:
            render: Makes an event its line, without the line break.
            write: Writes a line; may block, must not raise.
            now_s: A clock that never goes back.
        """
        self._render = render
        self._write = write
        self._now_s = now_s
        self._limit = LogLimit()
        # Not a queue.Queue: the garbage collector may log in the middle of our own `put`.
        self._queue: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._lost = 0
        self._lost_guard = threading.RLock()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()

    def offer(self, event: Event) -> None:
        """Write this event soon; never waits. Its values must not change any more."""
        if self._closing:
            return
        if self._queue.qsize() < MAX_QUEUED:
            self._queue.put(event)
            return
        with self._lost_guard:
            self._lost += 1

    def close(self, timeout_s: float = CLOSE_S) -> bool:
        """Write what waits, for at most so long; returns whether all is written. Idempotent.

        Events that come later are not written.
        """
        if not self._closing:
            self._closing = True
            self._queue.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        event = self._next()
        while event is not None:
            if event and self._limit.admit(event, self._now_s()):
                self._tell(event)
            for held in self._limit.due(self._now_s()):
                self._tell(held)
            if self._queue.empty():
                self._tell_lost()
            event = self._next()
        for held in self._limit.rest():
            self._tell(held)
        self._tell_lost()

    def _next(self) -> Event | None:
        """The next event, an empty one when there is none for a while, None at the end."""
        try:
            return self._queue.get(timeout=_LOOK_S)
        except queue.Empty:
            return {}

    def _tell_lost(self) -> None:
        with self._lost_guard:
            lost, self._lost = self._lost, 0
        if lost:
            self._tell({"level": "warning", "event": "log events lost: nobody read", "lost": lost})

    def _tell(self, event: Event) -> None:
        try:
            line = self._render(event)
        except Exception as error:  # noqa: BLE001 - the top of the thread: any object may be in an event
            line = self._render(
                {
                    "level": "error",
                    "event": "log event cannot be shown",
                    "of": str(event["event"]),
                    "error": type(error).__name__,
                }
            )
        self._write(f"{line}\n")
