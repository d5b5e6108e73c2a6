"""Which records of a refused batch are to blame: found by halving, in order. Pure.

A destination that refuses a batch for its content will refuse every part that holds the record to
blame; so when one half passes, the other one is known to be bad without asking. One poison record
among n costs log2(n) + 1 requests more than a batch without one. A batch that is refused for its
size says nothing of any part: smaller parts are sent until they pass.
"""

from __future__ import annotations


class Halving:
    """What to try next, and what is to be set aside.

    Args:
        count: Records in the batch that was refused.
        too_large: Whether it was refused for its size.
    """

    def __init__(self, count: int, *, too_large: bool) -> None:
        self._count = count
        self._at = 0
        # Where the part ends that is known to hold a record to blame; `_at` when none is known.
        self._bad_end = 0
        self._limit = count
        self._trial = (0, count)
        self.refused(too_large=too_large)

    @property
    def trial(self) -> tuple[int, int] | None:
        """The records to send next, from the first to behind the last; None when all is known."""
        return self._trial if self._at < self._count else None

    def accepted(self) -> None:
        """The destination took the trial."""
        self._at = self._trial[1]
        self._next()

    def refused(self, *, too_large: bool) -> int | None:
        """The destination refused the trial; the record to set aside, if that is known now."""
        start, end = self._trial
        if end - start == 1:
            # It explains the refusal of all that it was part of: of the rest nothing is known.
            self._at = self._bad_end = end
            self._next()
            return start
        if too_large:
            self._limit = min(self._limit, (end - start) // 2)
        else:
            self._bad_end = end
        self._next()
        return None

    def _next(self) -> None:
        """Half of what is known to be bad; else all that is left, as far as it may pass."""
        if self._at < self._bad_end:
            end = self._at + max(1, (self._bad_end - self._at) // 2)
        else:
            end = self._count
        self._trial = (self._at, min(end, self._at + self._limit))
