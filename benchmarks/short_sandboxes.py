"""The archive of very many sandboxes that are over soon: they share objects.

They are put into the daemon's spool as it would have taken them, so that the row is about the
archive and not about a hundred thousand answers of the API.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING

import zstandard

from benchmarks import corpus
from benchmarks.paced_runs import daemon_for
from forwarder.model import (
    Checkpoint,
    FrameDraft,
    FrameKind,
    StreamInfo,
    StreamKey,
    StreamState,
)
from forwarder.spool.files import StateDir
from forwarder.spool.interface import StreamCommit
from forwarder.spool.sqlite import open_spool
from tests.servers import VersityGw

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from benchmarks.results import Row
    from benchmarks.served import GroupSpec
    from forwarder.spool.sqlite import SqliteSpool

_LINES_EACH = 10
_STEP_NS = 1_000_000
_AT_ONCE = 500
_TIMEOUT_S = 120
_TEXTS = 1000


def run(row: Row, sandboxes: int, group: GroupSpec, directory: Path) -> Row:
    """How many objects so many sandboxes make, of ten lines each.

    Args:
        row: Gets the number.
        sandboxes: How many.
        group: What the daemon follows besides, so that it knows when it is done.
        directory: To work in.
    """
    if not VersityGw.installed():
        return row.fail("versitygw is not there: make servers")
    store = VersityGw(directory / "store")
    store.start()
    try:
        with daemon_for(group, directory / "run", store.section()) as (daemon, _):
            daemon.state_dir.mkdir(parents=True, mode=0o700)
            asyncio.run(_fill(daemon.state_dir, sandboxes))
            with daemon.start(until_complete=True) as child:
                usage = child.wait(_TIMEOUT_S)
                if usage.exit_code:
                    return row.fail(f"exit code {usage.exit_code}: {child.last_words()}")
        row.cpu_s, row.peak_bytes = usage.cpu_s, usage.peak_bytes
        row.extra |= {"sandboxes": sandboxes, "wall_s": usage.wall_s}
        return _count(row, store.data / store.bucket, sandboxes)
    finally:
        store.stop()


def _count(row: Row, bucket: Path, sandboxes: int) -> Row:
    """Of what is ours in the bucket; every line has to be there."""
    objects = sorted(bucket.glob("logs/**/*.ndjson.zst"))
    lines = 0
    for path in objects:
        with zstandard.open(path, "rt") as content:
            lines += sum('"sandbox_id":"short-' in line for line in content)
    if lines != sandboxes * _LINES_EACH:
        return row.fail(f"{lines} lines of {sandboxes * _LINES_EACH} are in {len(objects)} objects")
    row.value = len(objects)
    return row


async def _fill(state_dir: Path, sandboxes: int) -> None:
    spool = await open_spool(StateDir(state_dir), now=time.time_ns)
    try:
        rng = random.Random(0)
        texts = [corpus.text(rng) for _ in range(_TEXTS)]
        for start in range(0, sandboxes, _AT_ONCE):
            some = range(start, min(start + _AT_ONCE, sandboxes))
            await spool.commit(await asyncio.gather(*(_ended(spool, i, texts) for i in some)))
    finally:
        await spool.close()


async def _ended(spool: SqliteSpool, number: int, texts: list[str]) -> StreamCommit:
    """A stream with all of its lines, and its end."""
    stream = await spool.open_stream(StreamInfo(StreamKey(f"short-{number:06d}", "main")))
    first_ns = corpus.FIRST_STAMP_NS + number * _STEP_NS * _LINES_EACH
    stamps = [first_ns + index * _STEP_NS for index in range(_LINES_EACH)]
    last_ns = stamps[-1]
    raw = "".join(_lines(stamps, texts, number)).encode()
    now_ns = time.time_ns()
    end = b'{"state":"complete","detail":"","lines":%d,"ended_ns":%d}' % (_LINES_EACH, last_ns)
    drafts = [
        FrameDraft(FrameKind.LINES, raw, 0, _LINES_EACH, 0, first_ns, last_ns, last_ns, now_ns),
        FrameDraft(FrameKind.END, end, _LINES_EACH, 0, 0, last_ns, last_ns, last_ns, now_ns),
    ]
    at = Checkpoint(_LINES_EACH, 0, last_ns, last_ns)
    return StreamCommit(stream.id, drafts, at, state=StreamState.COMPLETE)


def _lines(stamps: list[int], texts: list[str], number: int) -> Iterable[str]:
    for index, stamp_ns in enumerate(stamps):
        yield f"{corpus.stamp_text(stamp_ns)} {texts[(number + index) % _TEXTS]}\n"
