"""The ranges of a spool that is open: handed out piece by piece, and their progress stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forwarder.spool import ranges

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence

    from forwarder.model import Frame
    from forwarder.spool.gate import Gate
    from forwarder.spool.interface import RangeReplay
    from forwarder.spool.reading import FrameReader, Query


class RangeBox:
    """See `forwarder.spool.interface.Spool`."""

    def __init__(
        self,
        query: Query,
        frames: FrameReader,
        gate: Gate,
        *,
        take_requests: Callable[[], Awaitable[None]],
        release: Callable[[Collection[int]], None],
    ) -> None:
        """Read through `query` and `frames`.

        Args:
            query: Runs a query in the thread that reads.
            frames: Reads frames.
            gate: Runs what is written.
            take_requests: Carries out what operators ask for.
            release: Told which streams' frames are not handed out any more.
        """
        self._query = query
        self._frames = frames
        self._gate = gate
        self._take_requests = take_requests
        self._release = release
        self._handed: dict[str, frozenset[int]] = {}

    def is_handed_out(self, stream_id: int) -> bool:
        """Whether frames of a stream are being sent again: what is known of it is asked for."""
        return any(stream_id in streams for streams in self._handed.values())

    async def next_range(self, sink: str) -> RangeReplay | None:
        """What is to be sent again first."""
        await self._take_requests()
        waiting = (await self._query(lambda connection: ranges.ranges_of(connection, sink))).waiting
        return waiting[0] if waiting else None

    async def read(self, sink: str, replay: RangeReplay, max_bytes: int) -> Sequence[Frame]:
        """The next frames that may have something of it."""
        first_id = await self._query(lambda connection: ranges.first_in_range(connection, replay))
        frames: Sequence[Frame] = ()
        if first_id:
            frames = await self._frames.read(first_id - 1, max_bytes, replay.upto_id)
        before = self._handed.pop(sink, frozenset())
        if frames:
            self._handed[sink] = frozenset(frame.stream_id for frame in frames)
        if gone := {one for one in before if not self.is_handed_out(one)}:
            self._release(gone)
        return frames

    async def settle(self, sink: str, replay: RangeReplay) -> None:
        """Store how far it is."""
        await self._gate.essential(
            lambda connection: ranges.note_progress(connection, sink, replay)
        )
