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
        done_bytes = 0
        while done_bytes < self.size_bytes:
            size_bytes = min(self.size_bytes - done_bytes, _BLOCK_BYTES)
            block = await asyncio.to_thread(_read, self.path, self.offset + done_bytes, size_bytes)
            done_bytes += len(block)
            yield block


def _read(path: Path, offset: int, size_bytes: int) -> bytes:
    """Opened for every block: a request that is given up never finishes reading its body."""
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            block = file.read(size_bytes)
    except OSError as error:
        raise SinkUnavailableError(f"{path} cannot be read: {error.strerror}") from error
    if not block:
        raise SinkUnavailableError(f"{path} is shorter than it was")
    return block
