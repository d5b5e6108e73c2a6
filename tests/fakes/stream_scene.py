"""One stream against a scripted API, with the real intake and the real spool behind it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import orjson
from structlog.testing import capture_logs

from forwarder.errors import (
    CredentialsRefusedError,
    SandboxNotFoundError,
    SandboxNotRunningError,
    SourceUnavailableError,
)
from forwarder.follower import Follower
from forwarder.following import Begin, FollowSettings
from forwarder.intake import Intake
from forwarder.metrics import Metrics
from forwarder.model import FrameKind, Sandbox, SandboxState, StreamInfo, StreamKey, StreamState
from forwarder.spool.files import StateDir
from forwarder.spool.sqlite import open_spool
from forwarder.stamps import format_stamp
from tests.fakes.clock import FakeClock
from tests.fakes.following import followed, limits
from tests.fakes.source import Break, FakeSource, Pause, emit, interrupted
from tests.fakes.spool import MeddledSpool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from forwarder.source.stored import StoredLogs
    from forwarder.spool.interface import StreamCommit
    from forwarder.spool.sqlite import SqliteSpool
    from tests.fakes.source import Action

BEGIN_S = 1_780_000_000
SECOND_NS = 10**9
OVERLAP_S = 5
KEY = StreamKey("s", "main")
RUNNING = Sandbox("s", SandboxState.RUNNING)
ENDED = Sandbox("s", SandboxState.COMPLETED)

NOT_RUNNING = Break(SandboxNotRunningError("not running", code="failed_precondition"))
NOT_FOUND = Break(SandboxNotFoundError("no such sandbox", code="not_found"))
REFUSED = Break(CredentialsRefusedError("wrong key", code="unauthenticated"))
DOWN = Break(SourceUnavailableError("down", code="unavailable"))
UNREACHABLE = Break(SourceUnavailableError("nobody there", code="connection"))
SESSION_GONE = interrupted("SESSION_NOT_FOUND")


def line(number: int) -> bytes:
    """The line of this second."""
    return f"{format_stamp((BEGIN_S + number) * SECOND_NS)} line {number:02}\n".encode()


#: Every line's size.
WIDTH = len(line(0))


def lines(*numbers: int, session: str = "", offset: int = 0) -> Action:
    return emit(*map(line, numbers), session=session, offset=offset)


def cut_after_the_answer() -> tuple[Action, ...]:
    """The server answers, and the connection breaks before anything else comes."""
    answered = Pause()
    answered.until.set()
    return answered, UNREACHABLE


class Watched(MeddledSpool):
    """Also keeps every state that was stored."""

    def __init__(self, spool: SqliteSpool) -> None:
        super().__init__(spool)
        self.states: list[tuple[StreamState, str]] = []

    async def commit(self, commits: Sequence[StreamCommit]) -> None:
        await self.__getattr__("commit")(commits)
        self.states += [(one.state, one.detail) for one in commits if one.state is not None]


class Scene:
    """A spool that followers of one stream write to, one after the other."""

    def __init__(self, spool: SqliteSpool, clock: FakeClock) -> None:
        self.spool = Watched(spool)
        self.clock = clock
        self.metrics = Metrics()
        self.intake = Intake(
            self.spool.spool,
            interval_s=0,
            buffer_bytes=1 << 20,
            clock=clock,
            metrics=self.metrics,
        )
        self.limits = limits(clock)
        self.archive: StoredLogs | None = None

    def follower(
        self, source: FakeSource, overlap_s: float = OVERLAP_S, *, known: bool = False
    ) -> Follower:
        """A follower of the stream; `known`: whether discovery saw its sandbox."""
        shared = followed(
            source,
            self.spool.spool,
            self.intake,
            self.clock,
            settings=FollowSettings(1 << 20, overlap_s, 0.5, 8.0, 60.0),
            metrics=self.metrics,
            stored=self.archive,
            bounds=self.limits,
        )
        return Follower(StreamInfo(KEY), container="", shared=shared, begin=Begin(known=known))

    async def run(self, source: FakeSource) -> StreamState:
        """Follow to the end."""
        return await self.follower(source).run()

    async def run_until(
        self, source: FakeSource, pause: Pause, *, overlap_s: float = OVERLAP_S
    ) -> None:
        """Follow until the script pauses, and stop there, as a daemon stops."""
        task = asyncio.create_task(self.follower(source, overlap_s).run())
        await pause.reached.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await self.intake.flush()

    async def taken(self, *numbers: int, session: str = "A", rest: bytes = b"") -> None:
        """Lines that an earlier daemon took."""
        source, pause = FakeSource(), Pause()
        pieces = [line(number) for number in numbers] + ([rest] if rest else [])
        source.stream(emit(*pieces, session=session), pause)
        await self.run_until(source, pause)

    async def shown(self) -> list[bytes | str]:
        """Every line that is stored, and each gap by its cause, a filled one with `+` before it."""
        shown: list[bytes | str] = []
        for frame in await self.spool.spool.read(0, max_bytes=1 << 30):
            if frame.kind is FrameKind.GAP:
                gap = orjson.loads(frame.raw)
                shown.append("+" * bool(gap["filled_ns"]) + gap["cause"])
            elif frame.kind is not FrameKind.END:
                shown += frame.raw.splitlines(keepends=True)
        return shown

    async def stored(self) -> tuple[StreamState, str]:
        """The stream's state, as `status` shows it."""
        (stream,) = (await self.spool.spool.overview()).streams
        return stream.state, stream.detail


@asynccontextmanager
async def stream_scene(directory: Path) -> AsyncIterator[Scene]:
    """A scene whose time passes at once."""
    clock = FakeClock(chance=1.0)
    spool = await open_spool(StateDir(directory), now=clock.time_ns)
    scene = Scene(spool, clock)
    committing = asyncio.create_task(scene.intake.run())
    with capture_logs():
        yield scene
    committing.cancel()
    await asyncio.gather(committing, return_exceptions=True)
    await spool.close()


def asked(source: FakeSource) -> list[str]:
    """How each stream was asked for."""
    return [
        f"resume {one.session_id} {one.offset}"
        if one.session_id
        else f"{'follow' if one.follow else 'read'} since {_second(one.since_ns)}"
        for one in source.requests
    ]


def _second(since_ns: int | None) -> str:
    return "the beginning" if since_ns is None else f"{since_ns / SECOND_NS - BEGIN_S:g}"
