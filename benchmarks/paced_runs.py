"""Latency, memory and idle cost: many streams at a modest pace, or silent."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from benchmarks import measure
from benchmarks.daemon import DaemonRun, output, to_files
from benchmarks.results import difference
from benchmarks.served import GroupSpec, ServerSpec
from benchmarks.watch import FileWatch, SpoolWatch, percentile

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from benchmarks.measure import Child, Server, Usage
    from benchmarks.results import Row

_LOOK_S = 0.002
#: For whatever is not the group's own time.
TIMEOUT_S = 120.0
#: After the last stream was opened: what the opening left behind is over by then.
_SETTLE_S = 5.0


def latency(in_spool: Row, in_file: Row, group: GroupSpec, directory: Path) -> None:
    """Fill in both latencies from one run: 99th percentiles over all lines, in milliseconds."""
    with (
        daemon_for(group, directory, to_files(directory)) as (daemon, server),
        contextlib.ExitStack() as stack,
    ):
        files = FileWatch([output(directory, name) for name in group.ids])
        spool = SpoolWatch(daemon.state_dir / "spool.db")
        stack.callback(files.close)
        stack.callback(spool.close)
        child = stack.enter_context(daemon.start(until_complete=True))
        deadline_s = time.monotonic() + group.duration_s + TIMEOUT_S
        while (usage := child.poll()) is None:
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"still running: {child.last_words()}")
            files.look()
            spool.look()
            time.sleep(_LOOK_S)
        files.look()
        wrong = _wrong(directory, server, group, child, usage)
    for row, seen in ((in_spool, spool.latencies_s), (in_file, files.latencies_s)):
        row.cpu_s, row.peak_bytes = usage.cpu_s, usage.peak_bytes
        if wrong or not seen:
            row.fail(wrong or "no line was seen")
            continue
        row.value = 1000 * percentile(seen, 99)
        row.extra |= {
            "lines": len(seen),
            "p50_ms": 1000 * percentile(seen, 50),
            "max_ms": 1000 * max(seen),
        }


def memory_under_load(row: Row, group: GroupSpec, directory: Path) -> Row:
    """Peak memory in MiB while all streams of the group write."""
    with (
        daemon_for(group, directory, to_files(directory)) as (daemon, server),
        daemon.start(until_complete=True) as child,
    ):
        usage = child.wait(group.duration_s + TIMEOUT_S)
        wrong = _wrong(directory, server, group, child, usage)
    if wrong:
        return row.fail(wrong)
    row.value = usage.peak_bytes / 2**20
    row.cpu_s, row.peak_bytes = usage.cpu_s, usage.peak_bytes
    row.extra |= {"lines_per_s": group.lines_per_s, "duration_s": group.duration_s}
    return row


def idle_memory(row: Row, group: GroupSpec, directory: Path) -> Row:
    """Peak memory in MiB with a silent stream open for every sandbox of the group."""
    with (
        daemon_for(group, directory, to_files(directory)) as (daemon, server),
        daemon.start(until_complete=False) as child,
    ):
        wait_for_streams(child, server, group.count)
        time.sleep(_SETTLE_S)
        row.peak_bytes = measure.peak_bytes(child.pid)
        usage = child.stop()
    row.value = row.peak_bytes / 2**20
    row.cpu_s = usage.cpu_s
    return row


def idle_cost(row: Row, group: GroupSpec, window_s: float, directory: Path) -> Row:
    """CPU use in percent of one core with a silent stream open for every sandbox of the group."""
    with (
        daemon_for(group, directory, to_files(directory)) as (daemon, server),
        daemon.start(until_complete=False) as child,
    ):
        wait_for_streams(child, server, group.count)
        time.sleep(_SETTLE_S)
        before_s, started_s = measure.cpu_s(child.pid), time.monotonic()
        time.sleep(window_s)
        row.cpu_s = measure.cpu_s(child.pid) - before_s
        row.value = 100 * row.cpu_s / (time.monotonic() - started_s)
        row.peak_bytes = measure.peak_bytes(child.pid)
        child.stop()
    return row


@contextlib.contextmanager
def daemon_for(
    group: GroupSpec, directory: Path, sink: Mapping[str, object]
) -> Iterator[tuple[DaemonRun, Server]]:
    """A daemon, not started, for a group of sandboxes on a server of their own."""
    with measure.server(ServerSpec(groups=(group,))) as server:
        yield DaemonRun(directory, server, [{"tags": [group.tag]}], sink), server


def wait_for_streams(child: Child, server: Server, count: int) -> None:
    """Return when so many sandboxes' streams are open.

    Raises:
        RuntimeError: The daemon ended.
        TimeoutError: That takes too long.
    """
    deadline_s = time.monotonic() + TIMEOUT_S
    while (opened := server.open_streams()) < count:
        if child.poll() is not None:
            raise RuntimeError(f"the daemon ended: {child.last_words()}")
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"only {opened} of {count} streams are open: {child.last_words()}")
        time.sleep(0.2)


def _wrong(directory: Path, server: Server, group: GroupSpec, child: Child, usage: Usage) -> str:
    """What is wrong with a finished run; empty when every file holds what was sent."""
    if usage.exit_code:
        return f"exit code {usage.exit_code}: {child.last_words()}"
    for name in group.ids:
        sent = server.report(name)
        if wrong := difference(output(directory, name), sent["bytes"], sent["sha256"]):
            return wrong
    return ""
