"""Frames on their way out: from memory, or from the database; a damaged one as a gap record."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

import structlog

from forwarder.errors import SpoolUntrustedError
from forwarder.spool import statements
from forwarder.spool.files import ADVICE
from forwarder.spool.giving_up import lines_in, replace_damaged

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from forwarder.model import Frame, Gap, GapCause, StreamInfo
    from forwarder.spool.gate import Gate
    from forwarder.spool.recent import RecentFrames

_T = TypeVar("_T")

_log = structlog.get_logger()


class Query(Protocol):
    """Runs a query in the thread that reads."""

    def __call__(self, query: Callable[[sqlite3.Connection], _T], /) -> Awaitable[_T]:
        """What the query answers."""
        ...


class FrameReader:
    """Reads frames in order."""

    def __init__(
        self,
        query: Query,
        recent: RecentFrames,
        infos: dict[int, StreamInfo],
        gate: Gate,
        *,
        now: Callable[[], int],
        on_gap: Callable[[GapCause, int], None],
    ) -> None:
        """Read through `query`; what is learned of streams is added to `infos`."""
        self._query = query
        self._recent = recent
        self._infos = infos
        self._gate = gate
        self._now = now
        self._on_gap = on_gap

    async def read(self, after_id: int, max_bytes: int, last_id: int) -> Sequence[Frame]:
        """The frames after this one; see `Spool.read`."""
        recent = self._recent.after(after_id, max_bytes, last_id)
        if recent is not None:
            await self._know(recent)
            return recent
        stuck: Sequence[int] = ()
        while True:
            batch = await self._query(
                lambda connection: statements.read_frames(
                    connection, after_id, last_id, max_bytes=max_bytes, known=self._infos
                )
            )
            self._learn(batch.infos)
            if batch.frames or not batch.damaged:
                await self._know(batch.frames)
                return batch.frames
            if not await self._declare(batch.damaged):
                # Somebody else may have replaced them, but only once.
                if batch.damaged == stuck:
                    raise SpoolUntrustedError(
                        f"frames {list(stuck)} are damaged and cannot be replaced; {ADVICE}"
                    )
                stuck = batch.damaged

    async def _know(self, frames: Sequence[Frame]) -> None:
        """Learn again of streams that were over and forgotten, or are being forgotten now."""
        while unknown := {frame.stream_id for frame in frames} - self._infos.keys():
            self._learn(await self._query(partial(statements.stream_infos, stream_ids=unknown)))

    def _learn(self, infos: Mapping[int, StreamInfo]) -> None:
        for stream_id, info in infos.items():
            # A stream that was opened meanwhile is known better.
            self._infos.setdefault(stream_id, info)

    async def _declare(self, damaged: Sequence[int]) -> bool:
        """Put gap records in the places of damaged frames; whether there were any in them."""
        now_ns = self._now()

        def committed(gaps: list[Gap]) -> None:
            self._recent.forget(damaged[-1])
            for gap in gaps:
                lines = lines_in(gap)
                _log.error("spool is damaged: lines were lost", frames=damaged, lines=lines)
                self._on_gap(gap.cause, lines)

        gaps = await self._gate.essential(
            lambda connection: replace_damaged(connection, damaged, now_ns), committed
        )
        return bool(gaps)
