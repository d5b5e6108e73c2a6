"""The log of a sandbox as lines: the API that the vendor documents, on bytes and without losses.

It reads one stream and does not reconnect: whoever needs that follows through the daemon.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from forwarder.errors import SourceError
from forwarder.source.interface import LogRequest
from forwarder.source.sandbox_json import EPOCH

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from forwarder.source.interface import LogSource

MAX_LINE_BYTES = 1024 * 1024

_MAX_TAIL_LINES = 2**31 - 1


class SandboxLogs:
    """Reads logs from a source; the source stays the caller's to close.

    Args:
        source: Any `LogSource`.
        max_line_bytes: A longer line comes in pieces of this size; only its last has the newline.
    """

    def __init__(self, source: LogSource, *, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        if max_line_bytes < 1:
            raise ValueError("max_line_bytes must be at least 1")
        self._source = source
        self._max_line_bytes = max_line_bytes

    def stream_logs(
        self,
        sandbox_id: str,
        *,
        follow: bool = False,
        tail_lines: int | None = None,
        since_time: datetime | None = None,
        timestamps: bool = False,
        container: str | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """Iterate over a sandbox's log, line by line, each with its newline.

        Bytes come exactly as the main process wrote them, whatever their encoding. What has
        arrived of a line when the stream ends, or fails, is yielded without a newline.

        Leave the iteration early through `contextlib.aclosing`, which closes the connection.

        Args:
            sandbox_id: Whose log.
            follow: Go on with new lines until the sandbox ends.
            tail_lines: Begin with so many of the newest lines; None for all.
            since_time: Only lines from this time on; it must know its time zone.
            timestamps: Prefix each line with its RFC 3339 stamp and one space.
            container: None for the primary container.

        Raises:
            ValueError: An argument cannot be meant like that; raised by the call itself.
            SourceError: While iterating, after everything that came before it was yielded.
        """
        if not sandbox_id:
            raise ValueError("sandbox_id is empty")
        if tail_lines is not None and not 1 <= tail_lines <= _MAX_TAIL_LINES:
            raise ValueError(f"tail_lines must be from 1 to {_MAX_TAIL_LINES}, not {tail_lines}")
        request = LogRequest(
            sandbox_id=sandbox_id,
            container=container or "",
            follow=follow,
            tail_lines=tail_lines,
            since_ns=None if since_time is None else _to_ns(since_time),
            timestamps=timestamps,
        )
        return self._lines(request)

    async def _lines(self, request: LogRequest) -> AsyncGenerator[bytes, None]:
        splitter = _Splitter(self._max_line_bytes)
        failure: SourceError | None = None
        try:
            async with self._source.read_logs(request) as batches:
                async for entries in batches:
                    for line in splitter.feed(b"".join([entry.data for entry in entries])):
                        yield line
        except SourceError as error:
            failure = error
        if rest := splitter.rest():
            yield rest
        if failure is not None:
            raise failure


class _Splitter:
    """Cuts bytes behind each newline; holds at most one unfinished line, of bounded length."""

    def __init__(self, max_line_bytes: int) -> None:
        self._max_line_bytes = max_line_bytes
        self._open = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The lines that this data completes, and pieces of one that grew too long."""
        end = data.rfind(b"\n") + 1
        if end:
            whole = bytes(self._open) + data[:end]
            self._open = bytearray()
            for line in whole.split(b"\n")[:-1]:
                yield from self._pieces(line + b"\n")
        self._open += data[end:]
        while len(self._open) > self._max_line_bytes:
            yield bytes(self._open[: self._max_line_bytes])
            del self._open[: self._max_line_bytes]

    def rest(self) -> bytes:
        """What came after the last newline."""
        return bytes(self._open)

    def _pieces(self, line: bytes) -> Iterator[bytes]:
        """The line itself, nearly always; its newline does not count."""
        size = self._max_line_bytes
        while len(line) > size + 1:
            yield line[:size]
            line = line[size:]
        yield line


def _to_ns(moment: datetime) -> int:
    if moment.tzinfo is None or moment.utcoffset() is None:
        raise ValueError("since_time must be time-zone-aware")
    return (moment - EPOCH) // timedelta(microseconds=1) * 1000
