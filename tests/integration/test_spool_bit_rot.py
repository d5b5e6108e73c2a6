"""One changed byte anywhere in the spool: every line comes out right, or is declared."""

from __future__ import annotations

import random
import shutil
from typing import TYPE_CHECKING

import orjson
import pytest

from forwarder.errors import SpoolUntrustedError
from forwarder.model import Checkpoint, FrameDraft, FrameKind, StreamInfo, StreamKey
from forwarder.spool.files import StateDir
from forwarder.spool.interface import Delivery, StreamCommit
from forwarder.spool.overview import overview_of
from forwarder.spool.sqlite import SqliteSpool, open_spool
from forwarder.spool.verify import verify

if TYPE_CHECKING:
    from pathlib import Path

    from forwarder.model import Frame

FRAMES = 60
INFOS = [StreamInfo(StreamKey(f"sbx-{number}", "main")) for number in range(2)]
SEED = 20260102


def text(number: int) -> bytes:
    """What line `number` of a stream says."""
    return random.Random(number).randbytes(1500).hex().encode() + b"\n"


async def make(state: StateDir) -> None:
    """Two streams in turns; one sink has a third of it, one has nothing."""
    spool = await open_spool(state, now=lambda: 1)
    streams = [await spool.open_stream(info) for info in INFOS]
    for name in ("ahead", "behind"):
        await spool.open_sink(name, from_oldest=True)
    for number in range(FRAMES):
        line = number // 2
        frame = FrameDraft(
            FrameKind.LINES, text(line), line, 1, 0, 1000 + line, 1000 + line, 1000 + line, 1
        )
        after = Checkpoint(line + 1, 0, 1000 + line, 1000 + line)
        await spool.commit([StreamCommit(streams[number % 2].id, [frame], after)])
    await spool.advance("ahead", FRAMES // 3, {}, Delivery(delivered=FRAMES // 3))
    await spool.close()


async def outcome(
    state: StateDir, accounted: set[tuple[int, int]], *, new_spool: bool = False
) -> bool:
    """Deliver to the sink that is behind, and note what came out or was declared; if any was."""
    spool = await open_spool(state, now=lambda: 1, new_spool=new_spool)
    try:
        declared = await drain(spool, accounted)
        for sink in (await spool.overview()).sinks:
            done = sink.delivered + sink.filtered + sink.dead_lettered + sink.dropped
            assert sink.taken == done + sink.pending
    finally:
        await spool.close()
    return declared


async def drain(spool: SqliteSpool, accounted: set[tuple[int, int]]) -> bool:
    declared = False
    cursor = (await spool.open_sink("behind", from_oldest=True)).cursor
    while frames := await spool.read(cursor, max_bytes=10_000, sink="behind"):
        for frame in frames:
            declared |= note(frame, accounted)
        cursor = frames[-1].id
        lines_read = sum(frame.lines for frame in frames)
        await spool.advance("behind", cursor, {}, Delivery(delivered=lines_read))
    return declared


def note(frame: Frame, accounted: set[tuple[int, int]]) -> bool:
    """Whether it is a gap record; its lines are as they were, and come once."""
    if frame.kind is not FrameKind.GAP:
        assert frame.raw == text(frame.first_line), "damaged"
        assert (frame.stream_id, frame.first_line) not in accounted, "again"
        accounted.add((frame.stream_id, frame.first_line))
        return False
    gap = orjson.loads(frame.raw)
    lines = range(gap["after_line"] + 1, gap["before_line"])
    missing = {(frame.stream_id, line) for line in lines}
    assert gap["bounds"] == "approximate" or not missing & accounted, "falsely declared"
    accounted |= missing
    return True


async def test_a_byte_that_changed_on_the_disk_is_never_delivered_and_never_silent(
    tmp_path: Path,
) -> None:
    """E11 and E12: what SQLite does not notice, the checksums do; the rest needs --new-spool."""
    whole = StateDir(tmp_path / "whole")
    whole.path.mkdir()
    await make(whole)
    rng = random.Random(SEED)
    size = whole.database.stat().st_size
    everything = {(stream, line) for stream in (1, 2) for line in range(FRAMES // 2)}
    seen = {"whole": 0, "declared": 0, "refused": 0}
    for number in range(80):
        state = StateDir(tmp_path / f"rotten {number}")
        shutil.copytree(whole.path, state.path)
        at = rng.randrange(size)
        with state.database.open("r+b") as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1 << rng.randrange(8)]))
        accounted: set[tuple[int, int]] = set()
        try:
            seen["declared" if await outcome(state, accounted) else "whole"] += 1
        except SpoolUntrustedError:
            seen["refused"] += 1
            await outcome(state, accounted, new_spool=True)
        # Without positions every stream is read again from its beginning.
        if accounted != everything and overview_of(state).streams:
            pytest.fail(f"byte {at}: {sorted(everything - accounted)} are lost without a word")
        assert verify(state).problems == []
        shutil.rmtree(state.path)
    assert seen["declared"] > seen["refused"], seen
