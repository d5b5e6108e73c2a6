"""Part of a file as the body of a request: read as it is sent, and never all in memory."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sinks.interface import SinkUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

_BLOCK_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class FilePart:
    """So many bytes of a file, from an offset on.

    Attributes:
        sha256: Of these bytes, hexadecimal: it is part of the signature, so that a store notices
            what was damaged on the way.
    """

    path: Path
    offset: int
    size_bytes: int
    sha256: str

    async def blocks(self) -> AsyncIterator[bytes]:
        """The bytes, read in a thread.

        Raises:
            SinkUnavailableError: The file is not what it was.
        """
        left_bytes = self.size_bytes
        try:
            file = await asyncio.to_thread(self.path.open, "rb")
            with file:
                file.seek(self.offset)
                while left_bytes:
                    block = await asyncio.to_thread(file.read, min(left_bytes, _BLOCK_BYTES))
                    if not block:
                        break
                    left_bytes -= len(block)
                    yield block
        except OSError as error:
            text = f"{self.path} cannot be read: {error.strerror}"
            raise SinkUnavailableError(text) from error
        if left_bytes:
            raise SinkUnavailableError(f"{self.path} is shorter than it was")
