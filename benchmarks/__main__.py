"""`python -m benchmarks`: measure, verify, and print one table."""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from benchmarks import (
    corpus,
    forwarder_runs,
    measure,
    otlp_runs,
    paced_runs,
    plan,
    report,
    s3_runs,
    short_sandboxes,
    vendor,
)
from benchmarks.daemon import DISCARD, DaemonRun
from benchmarks.measure import Child
from benchmarks.plan import CorpusRow, Sizes
from benchmarks.served import ServerSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.corpus import Corpus
    from benchmarks.measure import Server
    from benchmarks.results import Row

_PIPE_WIDTH = 140


class Run:
    """One run of the chosen rows, in one directory that is gone afterwards."""

    def __init__(self, sizes: Sizes, only: set[str], directory: Path, console: Console) -> None:
        self._sizes = sizes
        self._only = only
        self._directory = directory
        self._console = console
        self.rows: list[Row] = []

    def all(self) -> None:
        """Measure; a row that fails says so and the others go on."""
        self._corpus_rows()
        self._latency_rows()
        sizes, load = self._sizes, plan.load_row()
        self._measure(
            partial(paced_runs.memory_under_load, load, sizes.load_group(), self._new("load")),
            load,
        )
        catch_up, outage = plan.catch_up_row(), (sizes.outage_group(), sizes.outage_s)
        self._measure(partial(otlp_runs.catch_up, catch_up, *outage, self._new("outage")), catch_up)
        short = plan.short_row(sizes)
        given = (short, sizes.short_sandboxes, sizes.short_group(), self._new("short"))
        self._measure(partial(short_sandboxes.run, *given), short)
        idle = plan.idle_row(sizes)
        self._measure(
            partial(paced_runs.idle_memory, idle, sizes.idle_group(), self._new("idle")), idle
        )
        silent = plan.silent_row(sizes)
        self._measure(
            partial(
                paced_runs.idle_cost,
                silent,
                sizes.silent_group(),
                sizes.window_s,
                self._new("silent"),
            ),
            silent,
        )

    def _latency_rows(self) -> None:
        rows = plan.latency_rows()
        group = self._sizes.latency_group()
        self._measure(partial(paced_runs.latency, *rows, group, self._new("latency")), *rows)

    def _new(self, name: str) -> Path:
        return self._directory / name

    def _wanted(self, *rows: Row) -> bool:
        return not self._only or any(row.name in self._only for row in rows)

    def _measure(self, action: Callable[[], object], *rows: Row) -> None:
        if not self._wanted(*rows):
            return
        self.rows += rows
        for row in rows:
            self._console.print(f"measuring {row.name}: {row.title}", highlight=False)
        try:
            action()
        except (OSError, RuntimeError, ValueError) as error:
            for row in rows:
                row.fail(f"{type(error).__name__}: {error}")

    def _corpus_rows(self) -> None:
        wanted = [each for each in plan.corpus_rows(self._sizes) if self._wanted(each.row)]
        if not wanted:
            return
        self._console.print(f"making the corpus ({corpus.describe()})", highlight=False)
        made = corpus.write(self._directory / "corpus.log", max(each.lines for each in wanted))
        spec = ServerSpec(
            str(made.path),
            tuple(each.spec(made.prefix_bytes(each.lines)) for each in wanted),
            with_grpc=any(each.over_grpc for each in wanted),
        )
        with measure.server(spec) as server:
            for each in wanted:
                self._measure(partial(self._corpus_row, each, made, server), each.row)
        made.path.unlink()

    def _corpus_row(self, each: CorpusRow, made: Corpus, server: Server) -> None:
        directory = self._directory / each.row.name
        given = (each.row, server, made, each.lines)
        match each.reader:
            case "counter":
                _count(each, server, self._directory)
            case "vendor":
                vendor.run(*given, self._directory)
            case "sdk":
                otlp_runs.run_sdk(*given, self._directory)
            case "otlp":
                otlp_runs.run(*given, directory, workers=0)
            case "otlp-worker":
                otlp_runs.run(*given, directory, workers=1)
            case "s3":
                s3_runs.run(*given, directory)
            case "otlp-down":
                otlp_runs.memory_while_down(*given, directory)
            case "file":
                forwarder_runs.run_to_files(*given, directory)
            case _:
                daemon = DaemonRun(directory, server, [{"id": each.row.name}], DISCARD)
                forwarder_runs.run(each.row, daemon, made, each.lines)


def _count(each: CorpusRow, server: Server, directory: Path) -> None:
    """How fast the server alone is, to a reader that only counts bytes."""
    port = server.base_url.rpartition(":")[2]
    command = [sys.executable, "-m", "benchmarks.reader", port, each.row.name]
    with Child(command, log=directory / f"{each.row.name}.log") as child:
        usage = child.wait(60)
        if usage.exit_code:
            each.row.fail(f"exit code {usage.exit_code}: {child.last_words()}")
            return
    seen = server.report(each.row.name)
    each.row.cpu_s, each.row.peak_bytes = usage.cpu_s, usage.peak_bytes
    each.row.value = each.lines / ((seen["served_to_end_ns"] - seen["first_opened_ns"]) / 1e9)


def _names(sizes: Sizes) -> list[str]:
    rows = [each.row for each in plan.corpus_rows(sizes)]
    rows += [*plan.latency_rows(), plan.load_row(), plan.catch_up_row()]
    rows += [plan.short_row(sizes), plan.idle_row(sizes), plan.silent_row(sizes)]
    return [row.name for row in rows]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--lines", type=int, metavar="N", help="lines in 16 KiB messages")
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        choices=_names(Sizes()),
        metavar="ROW",
        help=f"only this row, may be repeated: {', '.join(_names(Sizes()))}",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there as well")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there")
    parser.add_argument(
        "--directory",
        type=Path,
        help="work in a new directory in there; its file system decides what an fsync costs",
    )
    return parser.parse_args()


def main() -> int:
    """Measure what the arguments ask for; 1 when a row failed, whatever the figures are."""
    arguments = _arguments()
    sizes = plan.QUICK if arguments.quick else Sizes()
    if arguments.lines:
        sizes = plan.with_lines(sizes, arguments.lines)
    # 5,000 streams are as many sockets, in the server and in the daemon.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # A pipe has no width of its own; the table needs this much to stay on one line a row.
    console = Console() if sys.stdout.isatty() else Console(width=_PIPE_WIDTH)
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=arguments.directory) as name:
        directory = Path(name)
        facts = report.machine(directory)
        console.print(", ".join(f"{key} {value}" for key, value in facts.items()), highlight=False)
        run = Run(sizes, set(arguments.only), directory, console)
        run.all()
    console.print(report.table(run.rows))
    for failure in report.failures(run.rows):
        console.print(f"FAILED {failure}", style="red", markup=False, highlight=False)
    if arguments.json:
        arguments.json.write_text(json.dumps(report.as_json(run.rows, facts), indent=2) + "\n")
    if arguments.markdown:
        arguments.markdown.write_text(report.markdown(run.rows))
    return 1 if report.failures(run.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
