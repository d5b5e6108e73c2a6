"""Whatever ends a stream, and whenever: how it goes on, and that it always does.

One table says what every in-band code and every transport status leads to. It holds when a stream
is refused at first, when it breaks after data, and when its session is to be resumed. As long as
GetSandbox says that the sandbox runs, no stream is ever given up, and no line lost or repeated.
"""

from __future__ import annotations

import asyncio
import enum
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.errors import LogStreamError, SourceUnavailableError
from forwarder.model import Checkpoint
from forwarder.source.errors_map import CONNECT_CODES, Failure, typed_error
from forwarder.source.resume import SessionLostError, Step
from forwarder.spool.interface import Tail
from forwarder.taker import MISTRUST_AFTER, Taker
from tests.fakes.source import Entry, FakeSource
from tests.fakes.stream_scene import BEGIN_S, RUNNING, SECOND_NS, Scene, line, stream_scene

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from forwarder.errors import SourceError
    from forwarder.source.interface import LogEntry, LogRequest


class How(enum.Enum):
    """How a stream goes on."""

    RESUMED = "resumed"  # its session, at once
    REOPENED = "reopened"  # a new stream
    ASKED = "asked"  # GetSandbox; the sandbox runs, so its session
    HELD = "held"  # its session, slowly, and status says that credentials are refused


IN_BAND: Mapping[str, How] = {
    "STREAM_INTERRUPTED": How.RESUMED,
    "SESSION_NOT_FOUND": How.REOPENED,
    "REPLAY_GAP": How.REOPENED,
    "RUNNER_UNAVAILABLE": How.REOPENED,
    "RUNNER_DRAINING": How.REOPENED,
    "INVALID_RESUME_OFFSET": How.REOPENED,
    "STREAM_TRUNCATED": How.REOPENED,
    "SANDBOX_NOT_FOUND": How.ASKED,
    "PERMISSION_DENIED": How.HELD,
    "A_CODE_OF_TOMORROW": How.REOPENED,
    "": How.REOPENED,
}

#: By code and reason.
TRANSPORT: Mapping[tuple[str, str], How] = {
    ("canceled", ""): How.RESUMED,
    ("unknown", ""): How.RESUMED,
    ("invalid_argument", ""): How.REOPENED,
    ("deadline_exceeded", ""): How.RESUMED,
    ("not_found", ""): How.ASKED,
    ("not_found", "CWSANDBOX_SANDBOX_NOT_FOUND"): How.ASKED,
    ("not_found", "SOMETHING_ELSE_IS_NOT_FOUND"): How.RESUMED,
    ("already_exists", ""): How.RESUMED,
    ("permission_denied", ""): How.HELD,
    ("resource_exhausted", ""): How.RESUMED,
    ("failed_precondition", ""): How.RESUMED,
    ("failed_precondition", "CWSANDBOX_SANDBOX_NOT_RUNNING"): How.ASKED,
    ("aborted", ""): How.RESUMED,
    ("out_of_range", ""): How.REOPENED,
    ("unimplemented", ""): How.REOPENED,
    ("internal", ""): How.RESUMED,
    ("unavailable", ""): How.RESUMED,
    ("data_loss", ""): How.RESUMED,
    ("unauthenticated", ""): How.HELD,
}


def in_band(code: str) -> SourceError:
    return LogStreamError("as the table wants it", code=code)


def transport(code: str, reason: str) -> SourceError:
    return typed_error(Failure(code, "", reason), "StreamLogs", sandbox_id="s")


CUT = SourceUnavailableError("the connection is gone", code="connection")

#: What ends a stream, None for a clean end, and how it goes on.
TABLE: Sequence[tuple[SourceError | None, How]] = [
    *((in_band(code), how) for code, how in IN_BAND.items()),
    *((transport(code, reason), how) for (code, reason), how in TRANSPORT.items()),
    (CUT, How.RESUMED),
    (None, How.ASKED),
]


@dataclass(frozen=True)
class Ending:
    """How one stream ends.

    Attributes:
        error: None for a clean end.
        lines: So many new ones come before that; None when the stream is not even opened.
    """

    error: SourceError | None
    lines: int | None = None


class Api(FakeSource):
    """A log of so many lines, and streams that end as told; the next one after those never does.

    Its sandbox runs, whatever its streams say.

    Attributes:
        idle: Set once a stream has sent everything.
    """

    def __init__(self, lines: int, *endings: Ending) -> None:
        super().__init__()
        self.answer("s", RUNNING)
        self.idle = asyncio.Event()
        self._lines = [line(number) for number in range(lines)]
        self._endings = list(endings)
        self._sessions: dict[str, bytes] = {}

    @asynccontextmanager
    async def read_logs(self, request: LogRequest) -> AsyncIterator[AsyncIterator[list[LogEntry]]]:
        """The next stream."""
        self.requests.append(request)
        ending = self._endings.pop(0) if self._endings else None
        if ending is not None and ending.lines is None and ending.error is not None:
            raise ending.error
        yield self._entries(request, ending)

    async def _entries(
        self, request: LogRequest, ending: Ending | None
    ) -> AsyncIterator[list[LogEntry]]:
        session_id, offset = request.session_id, request.offset
        if not session_id:
            session_id = f"session-{len(self.requests)}"
            self._sessions[session_id] = b"".join(self._since(request.since_ns))
        rest = self._sessions[session_id][offset:].splitlines(keepends=True)
        for text in rest[: None if ending is None else ending.lines or 0]:
            offset += len(text)
            yield [Entry(text, session_id, offset)]
        if ending is None:
            self.idle.set()
            await asyncio.Event().wait()
        elif ending.error is not None:
            raise ending.error

    def _since(self, since_ns: int | None) -> list[bytes]:
        if since_ns is None:
            return self._lines
        first = max(-(-since_ns // SECOND_NS) - BEGIN_S, 0)
        return self._lines[first:]


async def follow(scene: Scene, api: Api) -> list[bytes | str]:
    """Follow until everything was sent; returns what was stored, and checks that it goes on."""
    task = asyncio.create_task(scene.follower(api).run())
    idle = asyncio.create_task(api.idle.wait())
    await asyncio.wait([task, idle], return_when=asyncio.FIRST_COMPLETED)
    assert not task.done(), f"it was given up: {scene.spool.states}"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await scene.intake.flush()
    assert not any(state.final for state, _ in scene.spool.states)
    return await scene.shown()


def how_it_went_on(scene: Scene, api: Api) -> How:
    """What followed the ending that the table speaks of: the one before the last stream."""
    if scene.metrics.reconnects[Step.HOLD.value]:
        return How.HELD
    if api.requests[-1].session_id:
        return How.ASKED if api.asked else How.RESUMED
    return How.REOPENED


def _named(row: object) -> str:
    if isinstance(row, How):
        return row.value
    reason = getattr(row, "reason", "")
    return f"{getattr(row, 'code', 'clean end')}{'/' if reason else ''}{reason}"


def test_the_table_speaks_of_every_transport_status() -> None:
    assert {code for code, _ in TRANSPORT} == CONNECT_CODES


@pytest.mark.parametrize(("error", "how"), TABLE, ids=_named)
async def test_a_stream_that_breaks_after_data_goes_on_as_the_table_says(
    tmp_path: Path, error: SourceError | None, how: How
) -> None:
    api = Api(5, Ending(error, 2))
    async with stream_scene(tmp_path) as scene:
        assert await follow(scene, api) == [line(number) for number in range(5)]
        assert how_it_went_on(scene, api) is how
        assert bool(api.requests[-1].session_id) is (how is not How.REOPENED)


@pytest.mark.parametrize(("error", "how"), TABLE, ids=_named)
async def test_a_session_that_is_refused_goes_on_as_the_table_says(
    tmp_path: Path, error: SourceError | None, how: How
) -> None:
    api = Api(5, Ending(CUT, 2), Ending(error))
    async with stream_scene(tmp_path) as scene:
        assert await follow(scene, api) == [line(number) for number in range(5)]
        assert api.requests[1].session_id
        assert how_it_went_on(scene, api) is how
        assert bool(api.requests[-1].session_id) is (how is not How.REOPENED)


@pytest.mark.parametrize(("error", "how"), TABLE, ids=_named)
async def test_a_stream_that_is_refused_at_first_is_asked_for_again(
    tmp_path: Path, error: SourceError | None, how: How
) -> None:
    api = Api(5, Ending(error))
    async with stream_scene(tmp_path) as scene:
        assert await follow(scene, api) == [line(number) for number in range(5)]
        assert [request.since_ns for request in api.requests] == [None, None]
        assert bool(api.asked) is (how is How.ASKED)
        assert bool(scene.metrics.reconnects[Step.HOLD.value]) is (how is How.HELD)


@pytest.mark.parametrize("error", [error for error, _ in TABLE], ids=_named)
async def test_no_stream_is_given_up_however_often_it_is_refused(
    tmp_path: Path, error: SourceError | None
) -> None:
    api = Api(5, Ending(error, 2), *[Ending(error)] * 20, Ending(error, 1), *[Ending(error)] * 20)
    async with stream_scene(tmp_path) as scene:
        assert await follow(scene, api) == [line(number) for number in range(5)]


ENDINGS = st.builds(
    Ending, st.sampled_from([error for error, _ in TABLE]), st.none() | st.integers(0, 4)
)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 20), st.lists(ENDINGS, max_size=12))
def test_whatever_ends_the_streams_of_a_running_sandbox_every_line_is_taken_once(
    lines: int, endings: list[Ending]
) -> None:
    async def run(directory: Path) -> None:
        async with stream_scene(directory) as scene:
            api = Api(lines, *endings)
            assert await follow(scene, api) == [line(number) for number in range(lines)]

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(run(Path(directory)))


def test_offsets_are_looked_at_as_long_as_new_lines_come_between_their_disagreements() -> None:
    taker = Taker(Checkpoint(), max_line_bytes=1 << 20, overlap_ns=0)
    for number in range(2 * MISTRUST_AFTER):
        # A session of its own for every line, which changes under the stream after it.
        taker.receive([Entry(line(number), f"session-{number}", len(line(number)))])
        assert taker.take(0) is not None
        with pytest.raises(SessionLostError):
            taker.receive([Entry(b"x", "another", 1)])
        taker.reopen(Tail([], 0))
        assert taker.session == ("", 0)
