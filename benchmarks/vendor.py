"""The vendor's CLI on the same server: what everybody has today, and the measure of the ratios."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import forwarder_runs
from benchmarks.measure import Child, Server
from benchmarks.results import Row, difference

if TYPE_CHECKING:
    from benchmarks.corpus import Corpus

_TIMEOUT_S = 120


def run(row: Row, server: Server, corpus: Corpus, lines: int, directory: Path) -> Row:
    """`cwsandbox logs ID --timestamps`, output to a file, compared byte for byte.

    It follows, as a forwarder does, and ends because the stream ends. ConnectSandbox is not
    implemented here, so that its data comes through the gateway, as for everybody without direct
    access.
    """
    output = directory / f"{row.name}.log"
    with Child(
        [
            str(Path(sys.executable).parent / "cwsandbox"),
            "logs",
            row.name,
            "--follow",
            "--timestamps",
        ],
        log=directory / f"{row.name}.stderr",
        stdout=output,
        environment=server.vendor_environment,
    ) as child:
        usage = child.wait(_TIMEOUT_S)
        if usage.exit_code:
            return row.fail(f"exit code {usage.exit_code}: {child.last_words()}")
    size_bytes = corpus.prefix_bytes(lines)
    if wrong := difference(output, size_bytes, corpus.sha256(size_bytes)):
        return row.fail(wrong)
    return forwarder_runs.timed(row, server, lines, usage)
