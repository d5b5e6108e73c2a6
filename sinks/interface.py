"""What a sink is: the one file a sink author reads. It imports nothing else of the project.

A sink is made from a frozen settings object and touches nothing until `open`. The engine then
calls `write` with one batch at a time, and `close` at the end. Retrying, splitting, dead letters
and the cursor are the engine's business: a sink makes one attempt and tells the truth about it.

Life of a sink::

    open(state) ─▶ write(batch) ─▶ write(batch) ─▶ ... ─▶ close()
         ▲               │ SinkUnavailableError     same batch again later
         └───────────────┤ SinkMisconfiguredError   held: close, wait, open, same batch again
                         │ BatchRejectedError       these records never: set aside, go on
                         └ any other exception      a bug: logged as such, then as unavailable
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class SinkError(Exception):
    """The base of the three verdicts. The message says what to do, to a person."""


class SinkUnavailableError(SinkError):
    """The same batch again later: the destination is down, slow or full.

    Attributes:
        retry_after_s: The destination's own wish, in seconds, if it has one.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class BatchRejectedError(SinkError):
    """The destination will never take these records; the engine halves the batch to find them."""


class SinkMisconfiguredError(SinkError):
    """Hold this sink, keep its data, say so, look again slowly: credentials, paths, addresses."""


@dataclass(frozen=True, slots=True)
class Stream:
    """Where a slice of lines comes from: one container of one sandbox.

    Only `sandbox_id` and `container` are the identity; everything else may change.
    """

    sandbox_id: str
    container: str
    display_name: str = ""
    tags: tuple[str, ...] = ()
    image: str = ""
    runner_id: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)

    @property
    def identity(self) -> tuple[str, str]:
        """What makes it this stream and no other."""
        return (self.sandbox_id, self.container)


@dataclass(frozen=True, slots=True)
class Columns:
    """A slice's records, column by column; every column is as long as the slice.

    Attributes:
        stamps_ns: The server's stamp of each line; a line without one has the line's before it.
        texts: Each line without its stamp, the one space after it, and its newline. Any bytes.
    """

    stamps_ns: Sequence[int]
    texts: Sequence[bytes]


@dataclass
class Slice:
    r"""Consecutive records of one stream.

    Attributes:
        first_line: Line number of the first record; the others follow without a hole. Sandbox id,
            container, generation and line number together are the record id, the same at every
            resend.
        line_count: Number of records.
        raw: Exactly the bytes the server sent: `<stamp> <text>\n` for every line. Only a stream's
            very last line, and every part but a line's last, lack the newline.
        received_ns: When the bytes were received, by the forwarder's clock.
        part: 0 for whole lines. From 1: this slice is one record, the part of that number of a
            line that was too long; only part 1 begins with the stamp.
        gap: For a gap record (then `raw` is empty and `line_count` 0), what is missing: `kind`
            (range, tail, dropped), `cause`, `bounds` (exact, approximate), `generation`,
            `after_line`, `before_line`, `from_stamp_ns`, `to_stamp_ns`, `from_offset`, `to_offset`,
            `missing_bytes`, `noticed_ns`, and `filled_ns`, which is not 0 when an earlier gap
            record is taken back: its lines were found. See `docs/delivery.md`.
        end: For an end record (also without lines), how the stream ended: `state`, `detail`,
            `lines`, `ended_ns`. Nothing of the stream follows, unless its sandbox comes back.
        generation: Which life of the container the lines come from; 0 until it was restarted.
        decode: Makes the columns from the slice; called at most once, only when asked for.
    """

    stream: Stream
    first_line: int
    line_count: int
    raw: bytes
    received_ns: int
    decode: Callable[[Slice], Columns] = field(repr=False, compare=False)
    part: int = 0
    gap: Mapping[str, str | int | None] | None = None
    end: Mapping[str, str | int] | None = None
    generation: int = 0

    @cached_property
    def columns(self) -> Columns:
        """Stamps and texts, decoded on first use: a sink that wants bytes never pays for it."""
        return self.decode(self)


@dataclass(frozen=True, slots=True)
class Batch:
    """What one `write` delivers: some slices, in the order in which they were taken.

    The slices of one stream are in order and without overlaps, over all batches; where line numbers
    have a hole, a gap record stands in it.

    Attributes:
        first_id: Identity of the batch's first frame; with `last_id` the same at every resend.
        last_id: Identity of its last frame.
    """

    first_id: int
    last_id: int
    slices: Sequence[Slice]

    @property
    def line_count(self) -> int:
        """Records in the batch."""
        return sum(part.line_count for part in self.slices)

    @property
    def raw_bytes(self) -> int:
        """Size of the batch as the server sent it."""
        return sum(len(part.raw) for part in self.slices)


class SinkState(Protocol):
    """What a sink remembers. It lives in the spool, beside the sink's cursor."""

    def get(self, key: str) -> bytes | None:
        """The value last remembered under this key."""
        ...

    def keys(self) -> Sequence[str]:
        """Every key under which something is remembered, in no particular order."""
        ...

    async def remember(self, changes: Mapping[str, bytes | None]) -> None:
        """Make changes durable now, before this returns; None forgets a key.

        For what must be known after a crash even though no batch was confirmed: the length that a
        file had before its first line, the planned key of an object. What `write` returned for
        batches delivered before, and the cursor behind them, become durable first. It may be called
        outside of `write` too, from a task of the sink's own.
        """
        ...


#: Changes to the sink's state that belong to a delivered batch; None forgets a key.
StateChanges = dict[str, bytes | None]


@runtime_checkable
class Sink(Protocol):
    """One destination. Exactly three methods, never called concurrently."""

    async def open(self, state: SinkState) -> None:
        """Get ready; called before the first `write` and again after a hold.

        It may check that the destination is there, and must not write lines to it. Whatever was
        left behind by a crash is put right here or before the first write that meets it.

        Raises:
            SinkUnavailableError: Not now.
            SinkMisconfiguredError: Not before somebody mends something.
        """
        ...

    async def write(self, batch: Batch) -> StateChanges:
        """Make one attempt to deliver the batch; returning means that it is durable there.

        The returned changes are committed together with the cursor that moves past the batch. The
        same batch comes again after an error, a crash, or a cancellation of this call.

        Raises:
            SinkUnavailableError: The same batch again later.
            BatchRejectedError: Never again with these records in it.
            SinkMisconfiguredError: Hold.
        """
        ...

    async def close(self) -> None:
        """Let go of everything. Also called after a failed `open`; may never be called at all."""
        ...
