"""The one table that `make bench` ends with, and the same as JSON."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.results import Row, Target

_HEADINGS = ["row", "figure", "x vendor", "CPU s", "peak MiB", "to reach"]
_TEXTS = {"row", "to reach"}


def machine(directory: Path) -> dict[str, str]:
    """What the figures depend on."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    filesystem = subprocess.run(
        ["stat", "--file-system", "--format=%T", str(directory)],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return {
        "cores": str(len(os.sched_getaffinity(0))),
        "cpu": cpu,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "filesystem": filesystem,
    }


def vendor_ratio(row: Row, rows: Mapping[str, Row]) -> float | None:
    """How many times the vendor's row it is, when both were measured in this run."""
    vendor = rows.get(row.compare_with)
    if vendor is None or not vendor.value or row.value is None:
        return None
    return row.value / vendor.value


def table(rows: Sequence[Row]) -> Table:
    """Every row with its figure, its cost, and whether the design's figure is reached."""
    made = Table(title="sandbox-forwarder benchmark", title_justify="left")
    for heading in _HEADINGS:
        made.add_column(heading, justify="left" if heading in _TEXTS else "right")
    made.add_column("reached")
    by_name = {row.name: row for row in rows}
    for row in rows:
        figure = Text("FAILED", style="bold red") if row.failure else Text(_figure(row))
        title, _, *rest = _cells(row, by_name)
        made.add_row(Text(title), figure, *rest, _verdict(row, vendor_ratio(row, by_name)))
    return made


def markdown(rows: Sequence[Row]) -> str:
    """The same for docs/benchmark.md; whether figures are reached is said there in words."""
    by_name = {row.name: row for row in rows}
    lines = [_HEADINGS, ["---"] * len(_HEADINGS), *(_cells(row, by_name) for row in rows)]
    return "".join(f"|{'|'.join(map(_padded, cells))}|\n" for cells in lines)


def _padded(cell: str) -> str:
    return f" {cell} " if cell else " "


def _cells(row: Row, by_name: Mapping[str, Row]) -> list[str]:
    ratio = vendor_ratio(row, by_name)
    return [
        row.title,
        "FAILED" if row.failure else _figure(row),
        "" if ratio is None else f"{ratio:,.1f}",
        "" if row.cpu_s is None else f"{row.cpu_s:.2f}",
        "" if row.peak_bytes is None else f"{row.peak_bytes / 2**20:,.0f}",
        "" if row.target is None else _wanted(row.target, row.unit),
    ]


def failures(rows: Sequence[Row]) -> list[str]:
    """Why rows do not count, a line each."""
    return [f"{row.name}: {row.failure}" for row in rows if row.failure]


def as_json(rows: Sequence[Row], facts: Mapping[str, str]) -> dict[str, Any]:
    """The whole report, units in the names or beside the values."""
    by_name = {row.name: row for row in rows}
    entries = []
    for row in rows:
        ratio = vendor_ratio(row, by_name)
        reached = row.target.reached(row.value, ratio) if row.target else None
        entries.append({**row.to_json(), "vendor_ratio": ratio, "reached": reached})
    return {"machine": dict(facts), "rows": entries}


def _figure(row: Row) -> str:
    if row.value is None:
        return ""
    digits = 0 if row.value >= 100 or float(row.value).is_integer() else 1
    return f"{row.value:,.{digits}f} {row.unit}"


def _wanted(target: Target, unit: str) -> str:
    wanted = f"{'≥' if target.at_least else '≤'} {target.value:,.0f} {unit}"
    return wanted + (f", ≥ {target.vendor_ratio:,.0f} x" if target.vendor_ratio else "")


def _verdict(row: Row, ratio: float | None) -> Text:
    reached = row.target.reached(row.value, ratio) if row.target else None
    if reached is None:
        return Text("")
    return Text("yes", style="green") if reached else Text("no", style="yellow")
