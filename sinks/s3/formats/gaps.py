"""Gap records of an object, read back. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def gap_line(gap: Mapping[str, str | int | None]) -> int:
    """Before the line of which number a gap record stands."""
    after = gap.get("after_line")
    return after + 1 if isinstance(after, int) else 0
