"""Bytes to whole lines. Pure: no I/O, no clock.

The server cuts its byte stream anywhere: inside a line, a stamp, a character, a CRLF. Here it is
put together again and cut only where records end. A line longer than `max_line_bytes` becomes
numbered parts, so that memory stays bounded and the stream goes on; joined, the parts are the line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from forwarder.model import Block, FrameKind
from forwarder.stamps import parse_stamp

if TYPE_CHECKING:
    from collections.abc import Iterator

#: A block is about this long at most: long enough to compress well, short enough to hold many.
BLOCK_BYTES = 1 << 20


class LineCutter:
    """Collects pieces of one stream and gives back blocks of whole lines.

    The blocks depend on the bytes alone, never on how they were cut on their way: a line's parts
    are all exactly `max_line_bytes` long but the last, which is at least one byte and has the
    newline. `max_line_bytes` counts the line with its stamp and without its newline.
    """

    def __init__(self, max_line_bytes: int, *, open_part: int = 0, last_stamp_ns: int = 0) -> None:
        self._max = max_line_bytes
        self._pieces: list[bytes] = []
        self.buffered_bytes = 0
        self.open_part = open_part
        self.last_stamp_ns = last_stamp_ns

    def feed(self, data: bytes) -> None:
        """Add the next piece, of any length."""
        self._pieces.append(data)
        self.buffered_bytes += len(data)

    def take(self) -> list[Block]:
        """Everything that is complete by now; what is not stays for the next time."""
        blocks: list[Block] = []
        rest = b""
        for portion in self._portions():
            data = rest + portion if rest else portion
            cut, end = self._cut(data)
            blocks += cut
            rest = data[end:]
        self._keep(rest)
        return blocks

    def finish(self) -> list[Block]:
        """Everything, also a last line without its newline: the stream is over."""
        blocks = self.take()
        if self._pieces:
            rest = self._pieces[0]
            blocks.append(self._part(rest) if self.open_part else self._lines(rest, 1))
            self._keep(b"")
        return blocks

    def _portions(self) -> Iterator[bytes]:
        """What is buffered, a block's worth at a time, each cut at a line's end where there is one.

        A block is then a portion as it is: joining the pieces is the only copy that is made.
        """
        pieces: list[bytes] = []
        size = 0
        for piece in self._pieces:
            if pieces and size + len(piece) > BLOCK_BYTES:
                last = pieces.pop()
                end = last.rfind(b"\n") + 1
                pieces.append(last[:end])
                yield b"".join(pieces)
                pieces = [last[end:]]
                size = len(last) - end
            pieces.append(piece)
            size += len(piece)
        if pieces:
            yield b"".join(pieces)

    def _keep(self, rest: bytes) -> None:
        self._pieces = [rest] if rest else []
        self.buffered_bytes = len(rest)

    def _cut(self, data: bytes) -> tuple[list[Block], int]:
        """The blocks at the beginning of `data`, and how far they reach."""
        blocks: list[Block] = []
        start = 0
        while start < len(data):
            end = 0 if self.open_part else self._whole_lines_end(data, start)
            if end:
                raw = data if end - start == len(data) else data[start:end]
                blocks.append(self._lines(raw, raw.count(b"\n")))
            else:
                end = self._part_end(data, start)
                if not end:
                    break
                blocks.append(self._part(data[start:end]))
            start = end
        return blocks, start

    def _whole_lines_end(self, data: bytes, start: int) -> int:
        """Where a block of lines beginning at `start` ends; 0 when the line there is not whole."""
        end = data.rfind(b"\n", start, start + BLOCK_BYTES) + 1
        if not end:
            # One line longer than a block, if it is whole and allowed to be that long.
            return data.find(b"\n", start, start + self._max + 1) + 1
        # Leap from line start to line start, as far as the limit reaches: a step is one memrchr.
        line = start
        while end - line > self._max + 1:
            newline = data.rfind(b"\n", line, line + self._max + 1)
            if newline < 0:
                return line if line > start else 0
            line = newline + 1
        return end

    def _part_end(self, data: bytes, start: int) -> int:
        """Where the next part of a long line ends; 0 when that is not known yet."""
        limit = start + self._max
        newline = data.find(b"\n", start, limit + 1)
        if newline >= 0:
            return newline + 1
        return limit if len(data) > limit else 0

    def _lines(self, raw: bytes, lines: int) -> Block:
        first = parse_stamp(raw)
        first_ns = first[0] if first else self.last_stamp_ns
        self.last_stamp_ns = _last_stamp_ns(raw, first_ns)
        return Block(FrameKind.LINES, raw, lines, 0, first_ns, self.last_stamp_ns)

    def _part(self, raw: bytes) -> Block:
        if not self.open_part:
            found = parse_stamp(raw)
            self.last_stamp_ns = found[0] if found else self.last_stamp_ns
        number = self.open_part + 1
        self.open_part = 0 if raw.endswith(b"\n") else number
        return Block(FrameKind.PART, raw, 1, number, self.last_stamp_ns, self.last_stamp_ns)


def _last_stamp_ns(raw: bytes, default_ns: int) -> int:
    """The last readable stamp at a line's beginning: lines without one take the one before."""
    end = len(raw) - 1 if raw.endswith(b"\n") else len(raw)
    while end > 0:
        start = raw.rfind(b"\n", 0, end) + 1
        found = parse_stamp(raw, start)
        if found:
            return found[0]
        end = start - 1
    return default_ns
