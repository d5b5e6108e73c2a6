"""Slices and batches for a sink's tests; `sinks.testing` has them, too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sinks.interface import Batch, Columns, Slice, Stream
from sinks.ndjson import rfc3339

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The stream of slices that name none.
STREAM = Stream("sbx-1", "main")


def slice_of(
    lines: Sequence[tuple[int, bytes | str]],
    *,
    stream: Stream = STREAM,
    first_line: int = 0,
    part: int = 0,
    ended: bool = True,
    generation: int = 0,
) -> Slice:
    """A slice of lines given as (stamp in nanoseconds, text), received at the latest of the stamps.

    Args:
        lines: For a part, exactly one.
        stream: Where they come from.
        first_line: The line number of the first one.
        part: 0 for whole lines, else the part's number; later parts carry no stamp.
        ended: Whether the last line has its newline.
        generation: Which life of the container.
    """
    stamps_ns = [stamp_ns for stamp_ns, _ in lines]
    texts = [text.encode() if isinstance(text, str) else text for _, text in lines]
    heads = [b"" if part > 1 else rfc3339(stamp_ns).encode() + b" " for stamp_ns in stamps_ns]
    raw = b"\n".join(head + text for head, text in zip(heads, texts, strict=True))
    return Slice(
        stream=stream,
        first_line=first_line,
        line_count=len(lines),
        raw=raw + b"\n" if ended and lines else raw,
        received_ns=max(stamps_ns, default=0),
        decode=lambda _: Columns(stamps_ns, texts),
        part=part,
        generation=generation,
    )


def gap_of(
    *,
    stream: Stream = STREAM,
    first_line: int = 0,
    cause: str = "anchor_lost",
    kind: str = "range",
    bounds: str = "exact",
    before_line: int | None = None,
    from_stamp_ns: int = 0,
    to_stamp_ns: int = 0,
    from_offset: int | None = None,
    to_offset: int | None = None,
    noticed_ns: int = 1,
    filled_ns: int = 0,
    missing_bytes: int | None = None,
    generation: int = 0,
) -> Slice:
    """A gap record before the line of this number, with every key that the engine's have."""
    return Slice(
        stream=stream,
        first_line=first_line,
        line_count=0,
        raw=b"",
        received_ns=noticed_ns,
        decode=lambda _: Columns((), ()),
        gap={
            "kind": kind,
            "cause": cause,
            "bounds": bounds,
            "generation": generation,
            "after_line": first_line - 1,
            "before_line": before_line,
            "from_stamp_ns": from_stamp_ns,
            "to_stamp_ns": to_stamp_ns,
            "from_offset": from_offset,
            "to_offset": to_offset,
            "missing_bytes": missing_bytes,
            "noticed_ns": noticed_ns,
            "filled_ns": filled_ns,
        },
        generation=generation,
    )


def end_of(
    *,
    stream: Stream = STREAM,
    first_line: int = 0,
    state: str = "complete",
    ended_ns: int = 1,
    generation: int = 0,
) -> Slice:
    """An end record: the stream had `first_line` lines, and none follows."""
    return Slice(
        stream=stream,
        first_line=first_line,
        line_count=0,
        raw=b"",
        received_ns=ended_ns,
        decode=lambda _: Columns((), ()),
        end={"state": state, "detail": "", "lines": first_line, "ended_ns": ended_ns},
        generation=generation,
    )


def batch_of(*slices: Slice, first_id: int = 1) -> Batch:
    """A batch of these slices, one frame each."""
    return Batch(first_id, first_id + max(0, len(slices) - 1), slices)
