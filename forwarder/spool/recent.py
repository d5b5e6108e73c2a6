"""The newest frames in memory, so that sinks that keep up never read the disk."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from forwarder.model import Frame

#: Raw bytes of frames that are kept.
RECENT_BYTES = 32 << 20


class RecentFrames:
    """The newest frames, consecutive by id, as many as fit."""

    def __init__(self) -> None:
        self._frames: deque[Frame] = deque()
        self._bytes = 0

    def add(self, frames: Sequence[Frame]) -> None:
        """Add what was just committed; ids follow the last one's."""
        self._frames.extend(frames)
        self._bytes += sum(_weight(frame) for frame in frames)
        while self._bytes > RECENT_BYTES:
            self._bytes -= _weight(self._frames.popleft())

    def forget(self, frame_id: int) -> None:
        """Let go of the frames up to this one: they are deleted, or not what they were."""
        while self._frames and self._frames[0].id <= frame_id:
            self._bytes -= _weight(self._frames.popleft())

    def after(self, frame_id: int, max_bytes: int, last_id: int) -> list[Frame] | None:
        """About `max_bytes` of the frames after this one; None when they are not all here."""
        if not self._frames or self._frames[0].id > frame_id + 1:
            return None
        chosen: list[Frame] = []
        size = 0
        for index in range(frame_id + 1 - self._frames[0].id, len(self._frames)):
            frame = self._frames[index]
            size += len(frame.raw)
            if (chosen and size > max_bytes) or frame.id > last_id:
                break
            chosen.append(frame)
        return chosen


def _weight(frame: Frame) -> int:
    """What a frame holds of memory: small frames are mostly the object around them."""
    return len(frame.raw) + 512
