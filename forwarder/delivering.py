"""One batch to its end: halved where it is refused, sent again where it must be.

What comes out names every record that the destination will never take. It is written against one
function, so that it knows neither sinks nor clocks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Protocol

import orjson

from forwarder.halving import Halving
from forwarder.model import DeadLetter, FrameKind
from forwarder.slices import cut, pick, record_sizes, runs
from sinks.interface import BatchRejectedError, PartlyDeliveredError, Refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sinks.interface import Batch, Slice, StateChanges


#: Of a destination's own words so much is kept, whatever a sink lets through.
_REASON_CHARS = 1000


class Outlet(Protocol):
    """Where batches go."""

    async def write(self, batch: Batch) -> StateChanges:
        """Attempt until the destination has said something final.

        Raises:
            BatchRejectedError: It will never take this batch as it is.
            PartlyDeliveredError: It took some of it, or refused some by name. What it named is in
                the batch; the next call waits when some of it is to be sent again.
        """
        ...


@dataclass(slots=True)
class Outcome:
    """What became of a batch. Records that are not named here were delivered.

    Attributes:
        refused: Records that the destination will never take, by their number in the batch.
        unnamed: So many more, of which it did not say which they are.
        unnamed_refusal: Why.
        too_large_bytes: The smallest batch that it refused for its size; 0 when it refused none.
    """

    changes: StateChanges = field(default_factory=dict)
    refused: dict[int, Refusal] = field(default_factory=dict)
    unnamed: int = 0
    unnamed_refusal: Refusal | None = None
    too_large_bytes: int = 0

    def note_size(self, batch: Batch, error: BatchRejectedError) -> None:
        """Remember what was too large."""
        if error.too_large and batch.record_count > 1:
            smallest = self.too_large_bytes or batch.raw_bytes
            self.too_large_bytes = min(smallest, batch.raw_bytes)


async def deliver(batch: Batch, outlet: Outlet) -> Outcome:
    """Deliver a batch as far as its destination will ever take it."""
    outcome = Outcome()
    await _deliver(batch, range(batch.record_count), outlet, outcome)
    return outcome


async def _deliver(whole: Batch, indices: Sequence[int], outlet: Outlet, outcome: Outcome) -> None:
    """Deliver some of the batch's records."""
    while indices:
        batch = whole if len(indices) == whole.record_count else pick(whole, indices)
        try:
            indices = await _attempt(batch, indices, outlet, outcome)
        except BatchRejectedError as error:
            outcome.note_size(batch, error)
            if len(indices) > 1:
                await _halve(whole, indices, error, outlet, outcome)
            else:
                outcome.refused[indices[0]] = Refusal(str(error), error.status)
            return


async def _attempt(
    batch: Batch, indices: Sequence[int], outlet: Outlet, outcome: Outcome
) -> Sequence[int]:
    """Write records, which have these numbers in the whole batch; which are to be sent again."""
    try:
        outcome.changes.update(await outlet.write(batch))
    except PartlyDeliveredError as error:
        again = sorted(set(error.again) - error.refused.keys())
        outcome.refused |= {indices[index]: why for index, why in error.refused.items()}
        # A destination may claim to have refused more than it was sent.
        unnamed = min(error.unnamed, len(indices) - len(error.refused) - len(again))
        if unnamed > 0:
            outcome.unnamed += unnamed
            outcome.unnamed_refusal = error.unnamed_refusal
        return [indices[index] for index in again]
    return ()


async def _halve(
    whole: Batch,
    indices: Sequence[int],
    error: BatchRejectedError,
    outlet: Outlet,
    outcome: Outcome,
) -> None:
    """Find the records to blame, and deliver the others."""
    sizes = record_sizes(whole)
    halving = Halving([sizes[index] for index in indices], too_large=error.too_large)
    while (trial := halving.trial) is not None:
        part = indices[trial[0] : trial[1]]
        batch = pick(whole, part)
        named = len(outcome.refused) + outcome.unnamed
        try:
            again = await _attempt(batch, part, outlet, outcome)
        except BatchRejectedError as refused:
            error = refused
            outcome.note_size(batch, error)
            blamed = halving.refused(too_large=error.too_large)
        else:
            await _deliver(whole, again, outlet, outcome)
            explained = len(outcome.refused) + outcome.unnamed > named
            blamed = halving.accepted(explained=explained)
        if blamed is not None:
            outcome.refused[indices[blamed]] = Refusal(str(error), error.status)


def dead_letters(
    slices: Sequence[Slice], stream_ids: Sequence[int], outcome: Outcome, *, now_ns: int
) -> list[DeadLetter]:
    """What the destination refused: neighbours that it refused for the same reason together.

    Args:
        slices: The batch's.
        stream_ids: The spool's name of each slice's stream.
        outcome: What became of it.
        now_ns: The local clock.
    """
    ids = {id(source): stream_id for source, stream_id in zip(slices, stream_ids, strict=True)}
    letters: list[DeadLetter] = []
    for refusal, group in groupby(sorted(outcome.refused), key=outcome.refused.__getitem__):
        for source, start, stop in runs(slices, list(group)):
            letters.append(_letter(cut(source, start, stop), ids[id(source)], refusal, now_ns))
    if outcome.unnamed and outcome.unnamed_refusal is not None:
        letters.append(_unnamed_letter(slices, stream_ids[0], outcome, now_ns))
    return letters


def _letter(source: Slice, stream_id: int, refusal: Refusal, now_ns: int) -> DeadLetter:
    kind, raw, first_ns = FrameKind.LINES, source.raw, 0
    if source.gap is not None or source.end is not None:
        kind = FrameKind.END if source.gap is None else FrameKind.GAP
        raw = orjson.dumps(dict(source.end or {}) if source.gap is None else dict(source.gap))
    else:
        kind = FrameKind.PART if source.part else FrameKind.LINES
        first_ns = source.columns.stamps_ns[0]
    return DeadLetter(
        stream_id=stream_id,
        kind=kind,
        first_line=source.first_line,
        lines=source.line_count,
        first_stamp_ns=first_ns,
        received_ns=source.received_ns,
        raw=raw,
        status=refusal.status,
        reason=refusal.reason[:_REASON_CHARS],
        noticed_ns=now_ns,
        part=source.part,
        generation=source.generation,
        maybe_stored=refusal.maybe_stored,
    )


def _unnamed_letter(
    slices: Sequence[Slice], stream_id: int, outcome: Outcome, now_ns: int
) -> DeadLetter:
    """Where the batch began; the records cannot be kept, since most of them are there."""
    refusal = outcome.unnamed_refusal
    assert refusal is not None, "the caller looked"
    first = slices[0]
    return DeadLetter(
        stream_id=stream_id,
        kind=FrameKind.LINES,
        first_line=first.first_line,
        lines=0,
        first_stamp_ns=0,
        received_ns=first.received_ns,
        raw=b"",
        status=refusal.status,
        reason=refusal.reason[:_REASON_CHARS],
        noticed_ns=now_ns,
        generation=first.generation,
        unnamed=outcome.unnamed,
    )
