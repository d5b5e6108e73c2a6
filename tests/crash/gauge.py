"""What a daemon uses, sampled over all of its lives, and whether that grows."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from tests.fakes.daemon import size_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from forwarder.spool.files import StateDir
    from tests.fakes.daemon import DaemonProcess


@dataclass(frozen=True, slots=True)
class Sample:
    """What a daemon uses at one moment.

    Attributes:
        life: Which one of the daemon's lives it is.
        at_s: When.
        values: By name.
    """

    life: int
    at_s: float
    values: Mapping[str, float]


@dataclass
class Gauge:
    """Samples of what a daemon uses, over all of its lives.

    Attributes:
        warm_s: How long a life is not looked at: whatever has just started grows.
    """

    samples: list[Sample] = field(default_factory=list)
    warm_s: float = 10.0
    _pid: int = 0
    _life: int = 0
    _since_s: float = 0.0

    def look(self, daemon: DaemonProcess, state: StateDir) -> None:
        """Take a sample, unless it has just started, or ended."""
        now_s = time.monotonic()
        if daemon.pid != self._pid:
            self._pid, self._life, self._since_s = daemon.pid, self._life + 1, now_s
        if now_s - self._since_s < self.warm_s:
            return
        process = Path(f"/proc/{daemon.pid}")
        try:
            pages = int((process / "statm").read_text().split()[1])
            values = {
                "rss_mib": pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20),
                "descriptors": len(list((process / "fd").iterdir())),
                "threads": len(list((process / "task").iterdir())),
                "spool_mib": _spool_bytes(state) / (1 << 20),
            }
        except FileNotFoundError:
            return
        self.samples.append(Sample(self._life, now_s, values))

    def names(self) -> list[str]:
        """What was measured."""
        return list(self.samples[0].values) if self.samples else []

    def highest(self, name: str) -> float:
        """The most that was used of it."""
        return max(sample.values[name] for sample in self.samples)

    def slope_per_min(self, name: str) -> float:
        """How fast the use grows within a life, on average over all lives."""
        lives: dict[int, list[tuple[float, float]]] = {}
        for sample in self.samples:
            lives.setdefault(sample.life, []).append((sample.at_s, sample.values[name]))
        return 60 * slope(lives.values())


def slope(groups: Iterable[Sequence[tuple[float, float]]]) -> float:
    """The common slope of groups of points, each of which has a level of its own; 0 of none."""
    above = below = 0.0
    for points in groups:
        x_mean, y_mean = fmean(x for x, _ in points), fmean(y for _, y in points)
        above += sum((x - x_mean) * (y - y_mean) for x, y in points)
        below += sum((x - x_mean) ** 2 for x, _ in points)
    return above / below if below else 0.0


def _spool_bytes(state: StateDir) -> int:
    return size_bytes(state.database) + size_bytes(state.database.with_name("spool.db-wal"))
