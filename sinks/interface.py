"""What a sink is: the one file a sink author reads. It imports nothing else of the project.

A sink is made from a frozen settings object and touches nothing until `open`. The engine then
calls `write` with one batch at a time, and `close` at the end. Retrying, splitting, dead letters
and the cursor are the engine's business: a sink makes one attempt and tells the truth about it.

Life of a sink::

    open(state) ─▶ write(batch) ─▶ write(batch) ─▶ ... ─▶ close()
         ▲               │ SinkUnavailableError     same batch again later
         └───────────────┤ SinkMisconfiguredError   held: close, wait, open, same batch again
                         │ BatchRejectedError       halved, until the records meant are found
                         │ PartlyDeliveredError     the rest of it: set aside, or again later
                         └ any other exception      a bug: logged as such, then as unavailable

Whatever happens, the engine sends a record again only if this sink did not say that it is there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path


class SinkError(Exception):
    """The base of the verdicts. The message says what is wrong and what to do, to a person."""


class SinkUnavailableError(SinkError):
    """The same batch again later: the destination is down, slow or full.

    Attributes:
        retry_after_s: The destination's own wish, in seconds, if it has one.
        progressed: Some of it was delivered by this attempt, and is not sent again: the destination
            is there, and the pause does not grow.
    """

    def __init__(
        self, message: str, *, retry_after_s: float | None = None, progressed: bool = False
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.progressed = progressed


class BatchRejectedError(SinkError):
    """The destination will never take this batch as it is; nothing of it was stored.

    The engine halves it, and in the end sets aside the records that are refused alone.

    Attributes:
        status: The destination's own word for it, such as `400`; it is kept with the record.
        too_large: It was refused for its size: smaller batches may pass, and no record is to blame
            before it was refused alone.
    """

    def __init__(self, message: str, *, status: str = "", too_large: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.too_large = too_large


class SinkMisconfiguredError(SinkError):
    """Hold this sink, keep its data, say so, look again slowly: credentials, paths, addresses.

    Attributes:
        credentials: Whether it is our credentials that are refused, or cannot be read.
    """

    def __init__(self, message: str, *, credentials: bool = False) -> None:
        super().__init__(message)
        self.credentials = credentials


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the destination will never take some records.

    Attributes:
        reason: In its own words, made safe to print, bounded in length.
        status: Its own word for it, such as `400` or `document_parsing_exception`.
        maybe_stored: It may have stored some of these records, and did not say which.
    """

    reason: str
    status: str = ""
    maybe_stored: bool = False


class PartlyDeliveredError(SinkError):
    """The destination took some of the batch; this says what became of the rest.

    Records are numbered through the batch, slice after slice, from 0: see `Batch.record_count`.

    Attributes:
        refused: Records that it will never take. They are set aside as dead letters.
        again: Records to be sent once more, later; never those that it has.
        unnamed: So many more were refused without saying which. They cannot be sent again without
            sending the others twice; they are counted as dropped, and the refusal is kept.
        unnamed_refusal: Why.
        retry_after_s: When `again` is not empty: the destination's own wish, if it has one.
    """

    def __init__(
        self,
        message: str,
        *,
        refused: Mapping[int, Refusal] | None = None,
        again: Sequence[int] = (),
        unnamed: int = 0,
        unnamed_refusal: Refusal | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.refused = dict(refused or {})
        self.again = tuple(again)
        self.unnamed = unnamed
        self.unnamed_refusal = unnamed_refusal or Refusal(message)
        self.retry_after_s = retry_after_s


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
        decode: Makes the columns from the slice; called at most once, only when asked for. It can
            be pickled, and with it the slice.
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

    @property
    def record_count(self) -> int:
        """Its lines; a gap or end record counts as one."""
        return 1 if self.gap is not None or self.end is not None else self.line_count

    def __getstate__(self) -> dict[str, Any]:
        """What goes to a worker process: what was decoded is decoded again there, if needed."""
        return {name: value for name, value in self.__dict__.items() if name != "columns"}


@dataclass(frozen=True, slots=True)
class Batch:
    """What one `write` delivers: some slices, in the order in which they were taken.

    The slices of one stream are in order and without overlaps, over all batches; where line numbers
    have a hole, a gap record stands in it.

    A batch that is sent again has the same records in the same order, save after a crash, when
    other records may have joined it; with `DeliveryPlan.fixed` it is the same then, too. A batch
    that was halved comes again in the same pieces, or as a whole.

    Attributes:
        first_id: Identity of the batch's first frame.
        last_id: Identity of its last frame. Several batches may have parts of one large frame.
    """

    first_id: int
    last_id: int
    slices: Sequence[Slice]

    @property
    def line_count(self) -> int:
        """Lines in the batch, and parts of lines: records of ours are none of them."""
        return sum(part.line_count for part in self.slices)

    @property
    def record_count(self) -> int:
        """Records in the batch, gap and end records among them."""
        return sum(part.record_count for part in self.slices)

    @property
    def raw_bytes(self) -> int:
        """Size of the batch as the server sent it."""
        return sum(len(part.raw) for part in self.slices)


class SinkState(Protocol):
    """What a sink remembers. It lives in the spool, beside the sink's cursor."""

    @property
    def directory(self) -> Path:
        """A directory of the sink's own beside the spool, for files that are too large to remember.

        It is there (mode 0700), and what is in it survives a restart. Nobody else looks into it.
        """
        ...

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
    """One destination. Exactly three methods.

    They are never called concurrently, save that as many calls of `write` may be under way at once
    as the settings' `plan.in_flight` says; none is while `open` or `close` is.
    """

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
        same batch comes again after an error, a crash, or a cancellation of this call. The engine
        cancels it when `plan.timeout_s` is over.

        Raises:
            SinkUnavailableError: The same batch again later.
            BatchRejectedError: Never again with these records in it.
            PartlyDeliveredError: Some of it is there, and what is not never comes, or comes again.
            SinkMisconfiguredError: Hold.
        """
        ...

    async def close(self) -> None:
        """Let go of everything. Also called after a failed `open`; may never be called at all."""
        ...


@runtime_checkable
class Described(Protocol):
    """What a sink may have besides: something that status should say while all is well."""

    @property
    def description(self) -> str:
        """Such as which promise its destination allows; may be empty."""
        ...


@runtime_checkable
class Checkable(Protocol):
    """What a sink may have besides: an answer to the command `check`."""

    async def check(self) -> str:
        """Ask the destination, as a write would, and write no line; `open` was not called.

        Returns:
            What was found, in a few words: `answers, and takes our credentials`.

        Raises:
            SinkUnavailableError: It does not answer.
            SinkMisconfiguredError: Something must be mended; `credentials` says whether it is ours.
        """
        ...
