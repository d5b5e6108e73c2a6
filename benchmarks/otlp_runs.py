"""OTLP: our daemon and what one would write instead, to a destination that keeps it; outages."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from benchmarks import delivered, forwarder_runs, measure, paced_runs
from benchmarks.daemon import DaemonRun, to_otlp
from benchmarks.measure import Child
from benchmarks.receiving import destination

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.corpus import Corpus
    from benchmarks.delivered import Body
    from benchmarks.measure import Server
    from benchmarks.receiving import Destination
    from benchmarks.results import Row
    from benchmarks.served import GroupSpec

_SDK_TIMEOUT_S = 120.0
_POLL_S = 0.05
#: How long a batch waits for more records, and some: a line that is no older is no backlog.
_LIVE_S = 3.0


def run(
    row: Row, server: Server, corpus: Corpus, lines: int, directory: Path, *, workers: int
) -> None:
    """Our daemon with the OTLP sink; every line must be there once, by its id.

    The time counts as in the other rows of ours: up to the exit of the process, when everything was
    confirmed by the destination.
    """
    with destination() as place:
        sink = to_otlp(place.logs_url, workers=workers)
        daemon = DaemonRun(directory, server, [{"id": row.name}], sink)
        forwarder_runs.run(row, daemon, corpus, lines)
        if not row.failure:
            _compare(row, place, corpus, lines, sandbox_id=row.name)


def run_sdk(row: Row, server: Server, corpus: Corpus, lines: int, directory: Path) -> None:
    """The vendor's SDK and OpenTelemetry's; every line must be there once, by its stamp."""
    with destination() as place:
        command = [sys.executable, "-m", "benchmarks.otel_sdk_user"]
        command += [row.name, place.logs_url, str(lines)]
        with Child(
            command, log=directory / f"{row.name}.log", environment=server.vendor_environment
        ) as child:
            usage = child.wait(_SDK_TIMEOUT_S)
            if usage.exit_code:
                row.fail(f"exit code {usage.exit_code}: {child.last_words()}")
                return
        forwarder_runs.timed(row, server, lines, usage)
        _compare(row, place, corpus, lines, sandbox_id="")


def memory_while_down(
    row: Row, server: Server, corpus: Corpus, lines: int, directory: Path
) -> None:
    """Peak memory in MiB while a whole log comes in for a destination that is down.

    It comes as fast as it can be read, so that it is many times what is held in memory. Then the
    destination comes back; how fast the backlog is read from the disk and sent is in the report.
    """
    with destination(listening=False) as place:
        daemon = DaemonRun(directory, server, [{"id": row.name}], to_otlp(place.logs_url))
        with daemon.start(until_complete=True) as child:
            _wait_until_served(server, row.name, child)
            while_down_bytes = measure.peak_bytes(child.pid)
            place.listen()
            usage = child.wait(paced_runs.TIMEOUT_S)
            if usage.exit_code:
                row.fail(f"exit code {usage.exit_code}: {child.last_words()}")
                return
        row.cpu_s, row.peak_bytes = usage.cpu_s, usage.peak_bytes
        row.value = while_down_bytes / 2**20
        bodies = _compare(row, place, corpus, lines, sandbox_id=row.name)
    if row.failure:
        return
    seconds = (bodies[-1].arrived_ns - bodies[0].arrived_ns) / 1e9
    row.extra |= {"lines": lines, "backlog_lines_per_s": lines / seconds}


def _wait_until_served(server: Server, sandbox_id: str, child: Child) -> None:
    deadline_s = time.monotonic() + paced_runs.TIMEOUT_S
    while not server.report(sandbox_id)["served_to_end_ns"]:
        if child.poll() is not None or time.monotonic() > deadline_s:
            raise RuntimeError(f"the log was not read to its end: {child.last_words()}")
        time.sleep(_POLL_S)


def catch_up(row: Row, group: GroupSpec, down_s: float, directory: Path) -> None:
    """How fast a backlog goes while the intake goes on, in multiples of the intake.

    It counts from the first request that is taken: waiting for the next attempt is no work.
    """
    with (
        destination(listening=False) as place,
        paced_runs.daemon_for(group, directory, to_otlp(place.logs_url)) as (daemon, server),
        daemon.start(until_complete=True) as child,
    ):
        paced_runs.wait_for_streams(child, server, group.count)
        time.sleep(down_s)
        place.listen()
        usage = child.wait(group.duration_s + paced_runs.TIMEOUT_S)
        if usage.exit_code:
            row.fail(f"exit code {usage.exit_code}: {child.last_words()}")
            return
        bodies = place.bodies()
    row.cpu_s, row.peak_bytes = usage.cpu_s, usage.peak_bytes
    if wrong := _not_all_there(bodies, group):
        row.fail(wrong)
        return
    found = delivered.catching_up(bodies, live_s=_LIVE_S)
    row.value = found.lines / found.duration_s / group.lines_per_s
    row.extra |= {
        "lines": found.lines,
        "duration_s": found.duration_s,
        "down_s": found.oldest_s,
        "lines_per_s": group.lines_per_s,
    }


def _not_all_there(bodies: Sequence[Body], group: GroupSpec) -> str:
    """What is wrong with what arrived; empty when each line of each sandbox is there once."""
    arrived = sorted(delivered.names(bodies))
    each = int(group.lines_per_s * group.duration_s) // group.count
    wanted = [(name, line) for name in group.ids for line in range(each)]
    return (
        "" if arrived == wanted else f"{len(arrived)} lines arrived, not {len(wanted)}, each once"
    )


def _compare(
    row: Row, place: Destination, corpus: Corpus, lines: int, *, sandbox_id: str
) -> Sequence[Body]:
    """Fail the row when the destination was not given each line once; what it was given."""
    row.extra["destination_cpu_s"] = place.cpu_s()
    bodies = place.bodies()
    row.extra["requests"] = len(bodies)
    row.extra["body_bytes"] = sum(len(body.content) for body in bodies)
    found = delivered.read_runs(bodies, sandbox_id)
    if wrong := delivered.difference(found, corpus.path, lines, numbered=bool(sandbox_id)):
        row.fail(wrong)
    return bodies
