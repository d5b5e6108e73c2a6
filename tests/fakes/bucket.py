"""A bucket in memory, as an archive is read from one; what it will not do is said by the test."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sinks.s3.store import Listed, ObjectMissingError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator


@dataclass
class MemoryBucket:
    """Objects by their keys.

    Attributes:
        objects: What there is.
        block_bytes: So much of an object comes at a time.
        errors: By key: raised in the middle of the next reads, one each.
        gate: What every read waits for, if anything.
        reads: How often each key was read.
        sent_bytes: How much was read of each key.
        listed: The prefixes that were listed.
        open_now: Reads that are under way.
        most_open: So many were at once.
        opened: Whether it is open.
    """

    objects: dict[str, bytes] = field(default_factory=dict)
    block_bytes: int = 1000
    errors: defaultdict[str, list[Exception]] = field(default_factory=lambda: defaultdict(list))
    gate: asyncio.Event | None = None
    reads: Counter[str] = field(default_factory=Counter)
    sent_bytes: Counter[str] = field(default_factory=Counter)
    listed: list[str] = field(default_factory=list)
    open_now: int = 0
    most_open: int = 0
    opened: bool = False

    async def open(self) -> None:
        self.opened = True

    async def close(self) -> None:
        self.opened = False

    async def read(self, key: str) -> AsyncIterator[bytes]:
        assert self.opened
        self.reads[key] += 1
        self.open_now += 1
        self.most_open = max(self.most_open, self.open_now)
        try:
            if self.gate is not None:
                await self.gate.wait()
            data = self.objects.get(key)
            if data is None:
                raise ObjectMissingError(key)
            for start in range(0, len(data), self.block_bytes):
                block = data[start : start + self.block_bytes]
                self.sent_bytes[key] += len(block)
                yield block
                if self.errors[key]:
                    raise self.errors[key].pop(0)
        finally:
            self.open_now -= 1

    async def list(self, prefix: str) -> AsyncIterator[Listed]:
        self.listed.append(prefix)
        for key, data in sorted(self.objects.items()):
            if key.startswith(prefix):
                yield Listed(key, len(data))
