"""The end of a log that can no longer be streamed, from the platform's stored logs.

They are a last resort: a late line may be missing, a long one cut, JSON written anew (API
reference, stored logs). So they only ever continue what was taken from the stream, and where they
end a gap of kind `tail` still says that more may be missing.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

import structlog

from forwarder.source.resume import SECOND_NS
from forwarder.source.stored import StoredLogsUnavailableError
from forwarder.source.stored_lines import missing_lines

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from forwarder.model import Checkpoint, StreamKey
    from forwarder.source.stored import StoredLogs
    from forwarder.source.stored_lines import StoredLine
    from forwarder.spool.interface import Tail

_log = structlog.get_logger()


class StoredTails:
    """Reads the ends of logs; shared by all followers, so that what is not there is asked once.

    Args:
        logs: The endpoint; None when the configuration turns it off.
    """

    def __init__(self, logs: StoredLogs | None) -> None:
        self._logs = logs

    async def beyond(
        self, key: StreamKey, checkpoint: Checkpoint, tail: Tail, *, overlap_ns: int
    ) -> AsyncGenerator[bytes, None]:
        """What the stored logs hold beyond the checkpoint: whole lines, a page at a time.

        Nothing, when the API has no stored logs: then it says so once, and is not asked again.

        Args:
            key: The stream.
            checkpoint: How far it was taken.
            tail: What was taken before that, to compare with.
            overlap_ns: How far before the checkpoint to begin.

        Raises:
            SourceError: Not now; what was yielded before it stays good.
        """
        if self._logs is None:
            return
        since_ns = max(checkpoint.high_stamp_ns - overlap_ns, tail.from_ns, 0)
        until_ns = checkpoint.high_stamp_ns + overlap_ns if checkpoint.any_taken else -1
        compared: list[StoredLine] = []
        passed = False
        try:
            pages = self._logs.lines(key.sandbox_id, key.container, since_ns=since_ns)
            async with aclosing(pages):
                async for page in pages:
                    if passed:
                        yield missing_lines((), page, after_ns=0)
                        continue
                    compared += [
                        line
                        for line in page
                        if line.stamp_ns >= since_ns - SECOND_NS and not _in_hole(line, tail)
                    ]
                    passed = bool(page) and page[-1].stamp_ns > until_ns
                    if passed:
                        yield missing_lines(tail.frames, compared, after_ns=since_ns)
            if not passed:
                yield missing_lines(tail.frames, compared, after_ns=since_ns)
        except StoredLogsUnavailableError as error:
            self._refused(key, error)

    def _refused(self, key: StreamKey, error: StoredLogsUnavailableError) -> None:
        if not error.for_good:
            _log.info("no stored logs", stream=str(key), reason=str(error))
        elif self._logs is not None:
            _log.warning("stored logs are off: the API has none to give", reason=str(error))
            self._logs = None


def _in_hole(line: StoredLine, tail: Tail) -> bool:
    """Whether the line may be one that was declared missing: now it would come behind later ones.

    Stored stamps may be cut to the second. What stood before the hole was taken anyway.
    """
    return any(from_ns - SECOND_NS < line.stamp_ns < to_ns for from_ns, to_ns in tail.holes)
