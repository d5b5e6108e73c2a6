"""What a row of the table says."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from benchmarks import corpus

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Target:
    """A figure of the design, in the unit of its row.

    `vendor_ratio` is how many times the row of the vendor's tools it must be as well, in one run.
    """

    value: float
    at_least: bool
    vendor_ratio: float = 0.0

    def reached(self, value: float | None, ratio: float | None) -> bool | None:
        """Whether a figure reaches it; None when it, or the ratio it needs, was not measured."""
        if value is None:
            return None
        enough = value >= self.value if self.at_least else value <= self.value
        if enough and self.vendor_ratio:
            return None if ratio is None else ratio >= self.vendor_ratio
        return enough


@dataclass(slots=True)
class Row:
    """One measurement.

    Attributes:
        name: What `--only` takes.
        value: The figure, in `unit`; None when there is none.
        failure: Why the measurement does not count; empty when it does.
        compare_with: Name of the row of the vendor's tools that do the same, if any.
        extra: More figures for the JSON report, units in the names.
    """

    name: str
    title: str
    unit: str = "lines/s"
    value: float | None = None
    cpu_s: float | None = None
    peak_bytes: int | None = None
    failure: str = ""
    compare_with: str = ""
    target: Target | None = None
    extra: dict[str, float | int | str] = field(default_factory=dict)

    def fail(self, why: str) -> Row:
        """The same row, as one that does not count."""
        self.failure = why
        self.value = None
        return self

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def difference(path: Path, size_bytes: int, sha256: str) -> str:
    """How a file differs from what it should hold; empty when it does not."""
    if not path.exists():
        return f"{path.name} was never written"
    found_bytes = path.stat().st_size
    if found_bytes != size_bytes:
        return f"{path.name} has {found_bytes} bytes, not {size_bytes}"
    if corpus.file_sha256(path) != sha256:
        return f"{path.name} has the right size and other bytes"
    return ""
