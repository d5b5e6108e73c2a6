"""A scripted endpoint of the `http` sink that keeps the records it takes, in their order."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.fakes.daemon import until
from tests.fakes.web_server import Reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fakes.web_server import Request


class Keeper:
    """The handler of a `WebServer`: takes NDJSON, and never the same batch for another.

    Attributes:
        batches: The records of every request that was taken, in order of arrival.
        keys: The idempotency key of each of them.
        refused: How many requests it would not take.
        answer: What it says instead of taking a request; None while it is well.
        is_silent: Whether it takes requests, and never says so.
        dislikes: Whether it refuses a request for good because of this record.
    """

    def __init__(self) -> None:
        self.batches: list[list[dict[str, Any]]] = []
        self.keys: list[str] = []
        self.refused = 0
        self.answer: Reply | None = None
        self.is_silent = False
        self.dislikes: Callable[[dict[str, Any]], bool] = lambda _: False

    @property
    def records(self) -> list[dict[str, Any]]:
        """Every record, as often as it came."""
        return [record for batch in self.batches for record in batch]

    @property
    def count(self) -> int:
        """How many there are, as often as they came."""
        return sum(map(len, self.batches))

    async def taken(self, count: int) -> None:
        """Return once it has taken so many records, as often as they came."""
        await until(lambda: self.count >= count, f"{count} records, of which {self.count} came")

    async def grown(self, by: int = 1) -> None:
        """Return once it has taken so many more."""
        await self.taken(self.count + by)

    def of(self, sandbox_id: str) -> list[dict[str, Any]]:
        """Those of one sandbox."""
        return [record for record in self.records if record["sandbox_id"] == sandbox_id]

    def changed_batches(self) -> list[str]:
        """Records that came under two keys, and so in two different batches."""
        first: dict[str, str] = {}
        return [
            record["id"]
            for key, batch in zip(self.keys, self.batches, strict=True)
            for record in batch
            if first.setdefault(record["id"], key) != key
        ]

    def __call__(self, request: Request) -> Reply:
        if self.answer is not None:
            self.refused += 1
            return self.answer
        records = [json.loads(line) for line in request.body.split(b"\n")[:-1]]
        if any(map(self.dislikes, records)):
            self.refused += 1
            return Reply(400, body=b"one of these cannot be stored")
        self.batches.append(records)
        self.keys.append(request.headers["idempotency-key"])
        return Reply(fault="stall" if self.is_silent else "")


def texts(records: list[dict[str, Any]]) -> list[str]:
    """The texts of each record once, in the order of their line numbers."""
    once = {record["id"]: record for record in records}
    return [one["text"] for one in sorted(once.values(), key=lambda one: int(one["line"]))]
