"""Which records of a refused batch are to blame: found by halving, in order. Pure.

A destination that refuses a batch for its content will refuse every part that holds the record to
blame; so when one half passes, the other one is known to be bad without asking. One poison record
among n costs log2(n) + 1 requests more than a batch without one. No record is set aside because of
one verdict on many, which may have been a whim: it was refused alone, or it is all that is left of
two parts that were refused. A batch that is refused for its size says nothing of any part: parts of
half that size are sent, and never larger ones again.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

#: What a record adds to a request besides its text; above 0, so that every half is smaller.
_RECORD_BYTES = 32


class Halving:
    """What to try next, and what is to be set aside.

    Args:
        sizes: Of the records in the batch that was refused, in bytes.
        too_large: Whether it was refused for its size.
    """

    def __init__(self, sizes: Sequence[int], *, too_large: bool) -> None:
        self._count = len(sizes)
        # The size of everything before a record.
        self._before = list(accumulate((size + _RECORD_BYTES for size in sizes), initial=0))
        self._limit = self._before[-1]
        self._at = 0
        # Where the part ends that is known to hold a record to blame; `_at` when none is known.
        self._bad_end = 0
        # How many refused parts held all of that.
        self._refusals = 0
        self._trial = (0, self._count)
        self.refused(too_large=too_large)

    @property
    def trial(self) -> tuple[int, int] | None:
        """The records to send next, from the first to behind the last; None when all is known."""
        return self._trial if self._at < self._count else None

    def accepted(self, *, explained: bool = False) -> int | None:
        """The destination took the trial; the record to set aside, if that is known now.

        Args:
            explained: It named records in it that it did not take: of the rest nothing is known.
        """
        self._at = self._trial[1]
        if explained:
            self._bad_end = self._at
        if self._bad_end - self._at == 1 and self._refusals > 1:
            return self._blame()
        self._next()
        return None

    def refused(self, *, too_large: bool) -> int | None:
        """The destination refused the trial; the record to set aside, if that is known now."""
        start, end = self._trial
        if end - start == 1:
            return self._blame()
        if too_large:
            self._limit = (self._before[end] - self._before[start]) // 2
        else:
            self._bad_end = end
            self._refusals += 1
        self._next()
        return None

    def _blame(self) -> int:
        """It explains the refusal of all that it was part of: of the rest nothing is known."""
        record = self._at
        self._at = self._bad_end = record + 1
        self._refusals = 0
        self._next()
        return record

    def _next(self) -> None:
        """Half of what is known to be bad; else all that is left; of it what may pass by size."""
        end = self._count
        if self._at < self._bad_end:
            end = self._at + (self._bad_end - self._at) // 2
        fits = bisect_right(self._before, self._before[self._at] + self._limit) - 1
        self._trial = (self._at, max(self._at + 1, min(end, fits)))
