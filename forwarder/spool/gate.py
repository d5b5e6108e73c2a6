"""Whether new lines may come in: not over `max_size`, and not on a full disk.

What takes lines out again (cursors, cleaning up, notes for `status`) always may, and gets the
ballast when there is no other room.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, NoReturn, TypeVar

import structlog

from forwarder.errors import SpoolUnavailableError
from forwarder.spool import statements
from forwarder.spool.checkpoint import cut_off
from forwarder.spool.dead_letters import all_letter_bytes
from forwarder.spool.dropping import Dropped, drop_oldest, drop_tails, is_any_pending
from forwarder.spool.keeping import Keeping, Released, release_kept
from forwarder.spool.overview import Usage, usage
from forwarder.spool.pruning import give_space_back
from forwarder.spool.writer import SpoolFullError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from forwarder.model import GapCause
    from forwarder.spool.room import Ballast, SpoolLimits
    from forwarder.spool.writer import Writer

_T = TypeVar("_T")

_log = structlog.get_logger()

#: The note that says why reading has stopped.
NOTE = "spool"

#: A log of this size means that somebody has been reading for very long.
WAL_ALARM_BYTES = 256 << 20


class Gate:
    """Guards one spool.

    Attributes:
        turn: Held while frames are handed out and while some are dropped: never both.
        handed: By sink, the newest frame that it was handed.
        keeping: How far frames are kept that every sink is past.
    """

    def __init__(
        self,
        writer: Writer,
        limits: SpoolLimits,
        ballast: Ballast,
        *,
        now: Callable[[], int],
        on_gap: Callable[[GapCause, int], None],
        forget: Callable[[int], None],
        standing: str = "",
    ) -> None:
        """Guard the spool of this writer.

        Args:
            writer: Runs the jobs.
            limits: How much the spool may take.
            ballast: Given up for cleaning up.
            now: The wall clock, in nanoseconds.
            on_gap: Told of each range of lines that was given up.
            forget: Told up to which frame what is known from memory is not true any more.
            standing: What the note says while nothing is refused.
        """
        self.turn = asyncio.Lock()
        self.handed: dict[str, int] = {}
        self.keeping = Keeping(limits.keep_ns)
        self._writer = writer
        self._limits = limits
        self._ballast = ballast
        self._now = now
        self._on_gap = on_gap
        self._forget = forget
        self._standing = standing
        self._told = standing
        self._used_bytes = limits.max_bytes or 0  # until it is measured
        self._at_limit = False
        self._is_full = False
        self._alarmed = False
        self._tails_dropped = False
        self._kept_released = False

    @property
    def lacks_room(self) -> bool:
        """Whether the disk was full when something was last to be stored."""
        return self._is_full or self._ballast.given_up

    async def enter(self) -> None:
        """Return when new lines may be stored.

        Raises:
            SpoolUnavailableError: Not now.
        """
        if self._ballast.given_up:
            await self._refuse("the disk is full; reading goes on by itself when there is room")
        limit = self._limits.max_bytes
        if limit is None or (self._used_bytes < limit and not self._at_limit):
            return
        below_bytes = self._limits.go_on_bytes if self._at_limit else limit
        used_bytes = await self._make_room(below_bytes)
        self._at_limit = used_bytes >= below_bytes
        if self._at_limit:
            letters = await self._writer.run(all_letter_bytes)
            of_them = f", of which dead letters are {letters}" if letters else ""
            await self._refuse(
                f"the spool has reached max_size ({used_bytes} of {limit} bytes{of_them});"
                " reading goes on when sinks have made room"
            )

    async def entered(self, used_bytes: int) -> None:
        """New lines were stored; so much is used now."""
        self._used_bytes = used_bytes
        self._is_full = False
        await self._tell(self._standing)

    async def full(self, reason: str) -> None:
        """There was no room for new lines."""
        self._is_full = True
        await self._tell(reason)

    async def essential(
        self,
        work: Callable[[sqlite3.Connection], _T],
        committed: Callable[[_T], None] | None = None,
    ) -> _T:
        """Run what makes room, or what must not wait for it.

        Raises:
            SpoolUnavailableError: Not even the ballast helped.
        """
        try:
            return await self._writer.run(work, committed)
        except SpoolFullError:
            if not await asyncio.to_thread(self._ballast.give_up):
                raise
            # First of all the log is copied back: then it is free, and the room is not used up.
            with contextlib.suppress(SpoolUnavailableError):
                await self._writer.run(cut_off, alone=True)
            return await self._writer.run(work, committed)

    async def look(self, used: Usage) -> None:
        """From time to time: make the ballast again, and look at what is used."""
        if self._ballast.given_up:
            await self._give_back()
        await asyncio.to_thread(self._ballast.make)
        self._used_bytes = used.used_bytes
        limit = self._limits.max_bytes
        if limit is not None and self._limits.drop_oldest and used.used_bytes >= limit:
            # A commit may go over the limit, and it may be the last one for long.
            with contextlib.suppress(SpoolUnavailableError):
                self._used_bytes = await self._make_room(limit)
        alarming = used.wal_bytes > WAL_ALARM_BYTES
        if alarming and not self._alarmed:
            _log.error(
                "the spool's write-ahead log grows: some process has been reading it for very long",
                wal_bytes=used.wal_bytes,
            )
        self._alarmed = alarming

    async def _give_back(self) -> None:
        """Give the disk what is free inside the database and its log, until the ballast fits."""
        with contextlib.suppress(SpoolUnavailableError):
            more = True
            while more:
                await self._writer.run(cut_off, alone=True)
                more = not await asyncio.to_thread(self._ballast.make)
                more = more and await self._writer.run(
                    lambda connection: give_space_back(connection, keep_pages=0)
                )

    async def _make_room(self, below_bytes: int) -> int:
        """Do what may be done to use less than this; returns what is used then."""
        used_bytes = await self._measure()
        if used_bytes < below_bytes:
            return used_bytes
        if (await self.essential(self._release_kept, self._released)).frames:
            used_bytes = await self._measure()
            if used_bytes < below_bytes:
                return used_bytes
        if self._limits.drop_oldest:
            async with self.turn:
                await self._drop_oldest(below_bytes)
        else:
            await self.essential(self._drop_mere_tails, self._dropped_tails)
        return await self._measure()

    async def _measure(self) -> int:
        """What is used, once the log is copied back and cut off."""
        with contextlib.suppress(SpoolUnavailableError):
            await self._writer.run(cut_off, alone=True)
        return (await self._writer.run(usage)).used_bytes

    async def _drop_oldest(self, below_bytes: int) -> None:
        handed = dict(self.handed)
        now_ns = self._now()
        await self.essential(
            lambda connection: drop_oldest(
                connection, handed=handed, enough=self._enough, now_ns=now_ns
            ),
            self._dropped,
        )
        if (await self._writer.run(usage)).used_bytes >= below_bytes:
            await self.essential(
                lambda connection: drop_tails(connection, enough=self._enough), self._forget
            )

    def _release_kept(self, connection: sqlite3.Connection) -> Released:
        """What is only kept for a replay goes before anything that somebody waits for."""
        return release_kept(
            connection,
            self.keeping.from_id,
            keep_tail_ns=self._limits.keep_tail_ns,
            enough=self._enough,
        )

    def _released(self, released: Released) -> None:
        self.keeping.pass_to(released.from_id)
        self._forget(released.newest_id)
        if released.frames and not self._kept_released:
            self._kept_released = True
            _log.warning(
                "max_size is too small for spool.keep: less is kept for a replay; told once",
                max_bytes=self._limits.max_bytes,
            )

    def _drop_mere_tails(self, connection: sqlite3.Connection) -> int:
        """Give tails up, but only when nothing else is left: else a sink is going to make room.

        A tail is cut by the stamps of what comes in, and nothing does: it would stay for ever.
        """
        if is_any_pending(connection):
            return 0
        return drop_tails(connection, enough=self._enough)

    def _dropped_tails(self, newest_id: int) -> None:
        self._forget(newest_id)
        if newest_id and not self._tails_dropped:
            self._tails_dropped = True
            _log.warning(
                "max_size is too small for what is kept to compare a re-read with: less is kept,"
                " so a stream that breaks may have gaps; told once",
                max_bytes=self._limits.max_bytes,
            )

    def _enough(self, connection: sqlite3.Connection) -> bool:
        return usage(connection).used_bytes < self._limits.drop_to_bytes

    def _dropped(self, dropped: Dropped) -> None:
        self._forget(dropped.newest_id)
        lines = 0
        for gap, dropped_lines in dropped.gaps:
            lines += dropped_lines
            self._on_gap(gap.cause, dropped_lines)
        if lines:
            _log.error("spool is at max_size: the oldest lines were dropped", lines=lines)

    async def _refuse(self, reason: str) -> NoReturn:
        await self._tell(reason)
        raise SpoolUnavailableError(reason)

    async def _tell(self, text: str) -> None:
        """Note it for `status`; without room for that it is noted at the next attempt."""
        if text == self._told:
            return
        now_ns = self._now()
        with contextlib.suppress(SpoolUnavailableError):
            await self.essential(lambda connection: statements.note(connection, NOTE, text, now_ns))
            self._told = text
