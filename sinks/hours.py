"""Which UTC hour lines belong to. Pure."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HOUR_NS = 3_600_000_000_000


def hour_runs(stamps_ns: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Neighbours of one hour: when it begins, the first of them, and behind the last."""
    start = 0
    for hour, run in groupby(stamp_ns // HOUR_NS for stamp_ns in stamps_ns):
        stop = start + sum(1 for _ in run)
        yield hour * HOUR_NS, start, stop
        start = stop
