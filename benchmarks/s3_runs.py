"""The archive: our daemon to a real S3 server on the same machine; every line is read back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import zstandard

from benchmarks import forwarder_runs
from benchmarks.daemon import DaemonRun
from tests.servers import VersityGw

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.corpus import Corpus
    from benchmarks.measure import Server
    from benchmarks.results import Row


def run(row: Row, server: Server, corpus: Corpus, lines: int, directory: Path) -> None:
    """Our daemon with the s3 sink as an operator finds it: ndjson, zstd, windows of 64 MiB.

    The time counts as in the other rows of ours: up to the exit of the process, when the last
    manifest was confirmed by the store.
    """
    if not VersityGw.installed():
        row.fail("versitygw is not there: make servers")
        return
    store = VersityGw(directory / "store")
    store.start()
    try:
        daemon = DaemonRun(directory / "run", server, [{"id": row.name}], store.section())
        forwarder_runs.run(row, daemon, corpus, lines)
        if not row.failure:
            _compare(row, store.data / store.bucket, lines)
    finally:
        store.stop()


def _compare(row: Row, bucket: Path, lines: int) -> None:
    """Every line number has to be there once."""
    objects = sorted(bucket.glob("logs/dt=*/hour=*/*.ndjson.zst"))
    found: list[int] = []
    for path in objects:
        with zstandard.open(path, "rt") as content:
            found += (json.loads(line)["line"] for line in content)
    row.extra["objects"] = len(objects)
    row.extra["object_bytes"] = sum(path.stat().st_size for path in objects)
    if sorted(found) != list(range(lines)):
        row.fail(f"{len(found)} lines in {len(objects)} objects, {len(set(found))} different")
