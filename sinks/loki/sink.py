"""The Loki sink: lines as entries of a few streams, each with its record id.

Durable means that Loki confirmed the entries: they are in the write-ahead log, or in the memory, of
as many ingesters as its replication wants. A resend is harmless, since nothing in an entry changes
between attempts, and Loki stores exact duplicates once.

A batch becomes one request for each of its Loki streams; see `sinks.loki.encoding` for why. When
some of them fail, the records of the others are confirmed all the same.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sinks.interface import (
    BatchRejectedError,
    PartlyDeliveredError,
    Refusal,
    SinkError,
    SinkMisconfiguredError,
    SinkUnavailableError,
)
from sinks.loki.answers import judge, judge_check
from sinks.loki.encoding import encode_batch
from sinks.loki.settings import TENANT_HEADER, LokiSettings
from sinks.web import WebClient
from sinks.workers import Encoders

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sinks.interface import Batch, SinkState, StateChanges
    from sinks.loki.answers import Outcome
    from sinks.loki.encoding import Push
    from sinks.web import Answer

__all__ = ["LokiSettings", "LokiSink"]

#: Of one request, before compression; Loki's own limit is 100 MB, gateways have less.
MAX_REQUEST_BYTES = 64 << 20


@dataclass
class _Tally:
    """What became of a batch, request by request.

    Attributes:
        unsent: Records that no request has, since Loki would not take them.
        refused: Records that a request had, and that are never sent again.
        again: Records that are not stored yet.
        stored: Whether some are.
        errors: The verdicts about whole requests.
    """

    unsent: dict[int, Refusal]
    refused: dict[int, Refusal] = field(default_factory=dict)
    again: set[int] = field(default_factory=set)
    stored: bool = False
    errors: list[SinkError] = field(default_factory=list)

    def add(self, push: Push, outcome: Outcome | SinkError) -> None:
        """Count a request."""
        if isinstance(outcome, SinkError):
            self.errors.append(outcome)
            self.again.update(push.records)
            return
        self.refused |= outcome.refused
        self.again |= outcome.again
        self.stored |= len(outcome.again | outcome.refused.keys()) < len(set(push.records))

    @property
    def stop(self) -> bool:
        """Whether further requests would only fail like those before."""
        return any(not isinstance(error, BatchRejectedError) for error in self.errors)

    def verdict(self) -> SinkError | None:
        """What the engine is told; None when every record is there.

        A failure that leaves the batch as it was is told as what it is. Otherwise the records that
        failed come again by themselves, and the failure with them.
        """
        if self.errors and not self.stored and not self.refused:
            return min(self.errors, key=_urgency)
        refused = self.refused | self.unsent
        if not refused and not self.again:
            return None
        waits = [e.retry_after_s for e in self.errors if isinstance(e, SinkUnavailableError)]
        reasons = [str(error) for error in sorted(self.errors, key=_urgency)]
        reasons += [refusal.reason for refusal in refused.values()]
        return PartlyDeliveredError(
            reasons[0] if reasons else "only some of the lines passed in time, or a rate limit",
            refused=refused,
            again=sorted(self.again - refused.keys()),
            retry_after_s=max((wait for wait in waits if wait is not None), default=None),
        )


def _urgency(error: SinkError) -> int:
    """A hold before a wait, and both before smaller pieces."""
    kinds = (SinkMisconfiguredError, SinkUnavailableError, BatchRejectedError)
    return next(i for i, kind in enumerate(kinds) if isinstance(error, kind))


class LokiSink:
    """Pushes to Loki.

    Args:
        name: The sink's.
        settings: Where to, and how.
        now_ns: What time it is, in nanoseconds: how old lines are.
    """

    def __init__(
        self, name: str, settings: LokiSettings, *, now_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._name = name
        self._settings = settings
        self._options = settings.options
        self._now_ns = now_ns
        self._web = WebClient(settings)
        self._encoders = Encoders(settings.workers)
        self._slots = asyncio.Semaphore(settings.in_flight)

    async def open(self, state: SinkState) -> None:
        """Get ready to connect.

        Raises:
            SinkMisconfiguredError: A certificate or key cannot be used.
        """
        del state
        await self._web.open()

    async def write(self, batch: Batch) -> StateChanges:
        """Push the batch, one request for each of its Loki streams.

        Raises:
            SinkUnavailableError: Nothing of it was confirmed, for now.
            BatchRejectedError: It is too large.
            PartlyDeliveredError: Some lines are too old or too long, or were refused; or some
                requests failed.
            SinkMisconfiguredError: Credentials, tenant or address are refused, or ingestion is
                blocked.
        """
        slices = list(batch.slices)
        begun_s = asyncio.get_running_loop().time()
        encoded = await self._encoders.run(encode_batch, slices, self._options, self._now_ns())
        tally = _Tally(encoded.refused)
        await self._push_all(encoded.pushes, tally, begun_s)
        verdict = tally.verdict()
        if verdict is not None:
            raise verdict
        return {}

    async def close(self) -> None:
        """Close connections and end workers; may be called again."""
        await self._web.close()
        await self._encoders.close()

    async def check(self) -> str:
        """Push nothing, as the next write would push lines.

        Raises:
            SinkUnavailableError: It does not answer.
            SinkMisconfiguredError: It is not Loki, or refuses us.
        """
        await self._web.open()
        try:
            wire = self._options.wire
            body = b"" if self._settings.format == "protobuf" else b'{"streams":[]}'
            answer = await self._post(wire.compress(body))
            error = judge_check(answer, url=self._settings.push_url)
        finally:
            await self._web.close()
        if error is not None:
            raise error
        return "answers, and takes our credentials" if self._settings.has_credentials else "answers"

    async def _push_all(self, pushes: Sequence[Push], tally: _Tally, begun_s: float) -> None:
        """Send all, some at once; after a failure that is nobody's own, no further ones.

        Nor any when time runs out: the engine would cancel the whole batch, and what was confirmed
        of it would be sent again and again.
        """
        last_s = begun_s + self._settings.last_request_s
        async with asyncio.TaskGroup() as group:
            for push in pushes:
                group.create_task(self._push(push, tally, last_s))

    async def _push(self, push: Push, tally: _Tally, last_s: float) -> None:
        async with self._slots:
            if tally.stop or asyncio.get_running_loop().time() > last_s:
                tally.again.update(push.records)
                return
            try:
                tally.add(push, await self._attempt(push))
            except SinkError as error:
                tally.add(push, error)

    async def _attempt(self, push: Push) -> Outcome | SinkError:
        if push.size_bytes > MAX_REQUEST_BYTES:
            text = f"a request of {push.size_bytes} bytes is more than Loki takes"
            return BatchRejectedError(text, too_large=True)
        answer = await self._post(push.body)
        settings = self._settings
        return judge(answer, push, url=settings.push_url, retry_statuses=settings.retry_statuses)

    async def _post(self, body: bytes) -> Answer:
        settings = self._settings
        headers = dict(self._options.wire.headers)
        if settings.tenant is not None:
            headers[TENANT_HEADER.lower()] = settings.tenant
        return await self._web.post(settings.push_url, body, headers)
