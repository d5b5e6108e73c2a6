"""A daemon for hours, one fault after the other: in the end every file is compared to the byte.

As quick as any other test if nothing is said; `make soak MINUTES=60` says more.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from tests.crash.gauge import Gauge, Sample, slope
from tests.crash.scene import seeded
from tests.crash.soak import LONG_S, soaking
from tests.crash.soak_place import Expected, Place
from tests.fakes import oracle

if TYPE_CHECKING:
    from pathlib import Path

#: How long faults are injected, in seconds.
SOAK_S = float(os.environ.get("SOAK_S", "5"))

#: The most that the daemon's use may grow in a long run, generously.
SLOPES_PER_MIN = {"rss_mib": 2.0, "descriptors": 2.0, "threads": 1.0, "spool_mib": 1.0}


@pytest.mark.slow
async def test_one_fault_after_the_other_costs_no_line_and_repeats_none(tmp_path: Path) -> None:
    async with soaking(tmp_path, seeded(), SOAK_S) as soak:
        try:
            await soak.run()
        finally:
            print(soak.report())
        if SOAK_S >= LONG_S:
            slopes = {name: soak.gauge.slope_per_min(name) for name in soak.gauge.names()}
            assert {n: s for n, s in slopes.items() if s > SLOPES_PER_MIN[n]} == {}


STAMP = "2026-01-02T03:04:05.123456789Z"
LINES = [oracle.line("s", number, last=number == 2) for number in range(3)]
STAMPED = [f"{STAMP} ".encode() + line for line in LINES]
RECORDS = [
    json.dumps({"time": STAMP, "line": number, "text": line.decode()[:-1]}).encode() + b"\n"
    for number, line in enumerate(LINES)
]


@pytest.mark.parametrize("damaged", ["text", "text.1", "ndjson", "ndjson.000001", "away"])
def test_a_line_that_is_missing_or_there_twice_in_any_sink_is_noticed(
    tmp_path: Path, damaged: str
) -> None:
    place = Place(tmp_path, None, base_url="http://127.0.0.1:9", api_key="k", rotate_size="1KiB")
    files = {
        "text.1": (place.text / "sbx-0.log.1", STAMPED[:2]),
        "text": (place.text / "sbx-0.log", STAMPED[2:]),
        "ndjson.000001": (place.ndjson / "sbx-0.ndjson.000001", RECORDS[:2]),
        "ndjson": (place.ndjson / "sbx-0.ndjson", RECORDS[2:]),
        "away": (place.away / "sbx-0.log", STAMPED),
    }
    for path, lines in files.values():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"".join(lines))
    expected = {"sbx-0": Expected(b"".join(STAMPED), ["s"])}
    place.check_files(expected)
    path, lines = files[damaged]
    for wrong in (lines[1:], [*lines, lines[-1]], lines[:-1]):
        path.write_bytes(b"".join(wrong))
        with pytest.raises((AssertionError, ValueError), match=r"from byte|does not follow"):
            place.check_files(expected)


def test_a_leak_in_every_life_is_a_slope_and_different_lives_at_different_levels_are_none() -> None:
    leaking = [[(t, 10.0 * life + 3.0 * t) for t in range(5)] for life in range(4)]
    level = [[(t + 10.0 * life, 5.0 * life) for t in range(5)] for life in range(4)]
    assert slope(leaking) == pytest.approx(3.0)
    assert slope(level) == 0.0
    assert slope([]) == slope([[(1.0, 2.0)]]) == 0.0


def test_what_a_daemon_uses_is_compared_within_its_lives() -> None:
    samples = [
        Sample(life, t, {"rss_mib": 50 - life + t / 60}) for life in (1, 2) for t in range(9)
    ]
    gauge = Gauge(samples)
    assert gauge.slope_per_min("rss_mib") == pytest.approx(1.0)
    assert gauge.highest("rss_mib") == pytest.approx(49 + 8 / 60)
