"""Throughput: one sandbox's whole log through our daemon, as fast as it goes, then verified."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from benchmarks.daemon import DaemonRun, output, to_files
from benchmarks.results import difference

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.corpus import Corpus
    from benchmarks.measure import Server, Usage
    from benchmarks.results import Row

_TIMEOUT_S = 120


def run_to_files(row: Row, server: Server, corpus: Corpus, lines: int, directory: Path) -> Row:
    """To a file, which is then compared byte for byte."""
    run(row, DaemonRun(directory, server, [{"id": row.name}], to_files(directory)), corpus, lines)
    size_bytes = corpus.prefix_bytes(lines)
    wrong = difference(output(directory, row.name), size_bytes, corpus.sha256(size_bytes))
    return row if row.failure or not wrong else row.fail(wrong)


def run(row: Row, daemon: DaemonRun, corpus: Corpus, lines: int) -> Row:
    """`sandbox-forwarder run --until-complete` on the sandbox that has the row's name.

    The time counts from the opening of the log stream to the exit of the process, so it holds
    everything that makes the lines safe, and the end of the sandbox being noticed; starting the
    interpreter is in the CPU seconds only.
    """
    server = daemon.server
    server_cpu_before_s = server.cpu_s()
    with daemon.start(until_complete=True) as child:
        usage = child.wait(_TIMEOUT_S)
        if usage.exit_code:
            return row.fail(f"exit code {usage.exit_code}: {child.last_words()}")
    row.extra["server_cpu_s"] = server.cpu_s() - server_cpu_before_s
    timed(row, server, lines, usage)
    wrong = _taken_wrongly(daemon, row.name, lines, corpus.prefix_bytes(lines))
    return row.fail(wrong) if wrong else row


def timed(row: Row, server: Server, lines: int, usage: Usage) -> Row:
    """Fill in the row of a process that has read the sandbox of that name to its end."""
    row.cpu_s, row.peak_bytes = usage.cpu_s, usage.peak_bytes
    report = server.report(row.name)
    elapsed_s = (usage.ended_ns - report["first_opened_ns"]) / 1e9
    row.value = lines / elapsed_s
    row.extra |= {
        "lines": lines,
        "elapsed_s": elapsed_s,
        "served_s": (report["served_to_end_ns"] - report["first_opened_ns"]) / 1e9,
        "wall_s": usage.wall_s,
    }
    return row


def _taken_wrongly(daemon: DaemonRun, sandbox_id: str, lines: int, size_bytes: int) -> str:
    """What is wrong with the spool's own account of the stream; empty when nothing is."""
    uri = f"{(daemon.state_dir / 'spool.db').as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as spool:
        found = spool.execute(
            "SELECT next_line, bytes, state FROM stream WHERE sandbox_id = ?", (sandbox_id,)
        ).fetchone()
    wanted = (lines, size_bytes, "complete")
    return "" if found == wanted else f"the spool says {found}, not {wanted}"
