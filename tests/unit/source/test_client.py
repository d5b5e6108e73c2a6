"""The friendly way to read a log: whole lines, on bytes."""

from __future__ import annotations

from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.errors import LogStreamError, SourceError
from forwarder.source.client import SandboxLogs, _Splitter
from forwarder.source.interface import LogRequest
from forwarder.source.messages_pb2 import LogEntry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from forwarder.model import Sandbox


class ScriptedSource:
    """A `LogSource` that yields what it was given, then ends or fails."""

    def __init__(self, *batches: list[bytes], error: SourceError | None = None) -> None:
        self.requests: list[LogRequest] = []
        self.open = 0
        self._batches = batches
        self._error = error

    async def get_sandbox(self, sandbox_id: str) -> Sandbox:
        raise NotImplementedError

    async def list_sandboxes(
        self, *, tags: Sequence[str] = (), show_terminated: bool = False
    ) -> list[Sandbox]:
        raise NotImplementedError

    @asynccontextmanager
    async def read_logs(self, request: LogRequest) -> AsyncIterator[AsyncIterator[list[LogEntry]]]:
        self.requests.append(request)
        self.open += 1
        try:
            yield self._entries()
        finally:
            self.open -= 1

    async def _entries(self) -> AsyncIterator[list[LogEntry]]:
        for batch in self._batches:
            yield [LogEntry(data=data) for data in batch]
        if self._error is not None:
            raise self._error

    async def close(self) -> None:
        pass


async def lines_of(source: ScriptedSource, **options: int) -> list[bytes]:
    return [line async for line in SandboxLogs(source, **options).stream_logs("sbx-1")]


async def test_lines_are_whole_whatever_the_messages_were() -> None:
    source = ScriptedSource([b"on", b"e\ntwo\r\n\n"], [b"\xc3"], [b"\xa9\n", b"four"])
    assert await lines_of(source) == [b"one\n", b"two\r\n", b"\n", "é\n".encode(), b"four"]


async def test_a_log_without_anything_has_no_lines() -> None:
    assert await lines_of(ScriptedSource([b""])) == []


async def test_an_error_comes_after_everything_that_came_before_it() -> None:
    source = ScriptedSource([b"one\ntw"], error=LogStreamError("gone", code="REPLAY_GAP"))
    lines = SandboxLogs(source).stream_logs("sbx-1")
    assert [await anext(lines), await anext(lines)] == [b"one\n", b"tw"]
    with pytest.raises(LogStreamError):
        await anext(lines)


async def test_leaving_early_closes_the_stream() -> None:
    source = ScriptedSource([b"one\ntwo\n"])
    async with aclosing(SandboxLogs(source).stream_logs("sbx-1")) as lines:
        assert await anext(lines) == b"one\n"
        assert source.open == 1
    assert source.open == 0


async def test_a_line_over_the_limit_comes_in_pieces_and_the_log_goes_on() -> None:
    source = ScriptedSource([b"a" * 10], [b"b" * 5 + b"\nnext\n"])
    assert await lines_of(source, max_line_bytes=8) == [
        b"aaaaaaaa",
        b"aabbbbb\n",
        b"next\n",
    ]


@given(
    pieces=st.lists(st.lists(st.sampled_from([b"a", b"\n", b"bc", b"\r\n"])).map(b"".join)),
    limit=st.integers(min_value=1, max_value=6),
)
def test_lines_join_to_the_log_and_obey_the_limit(pieces: list[bytes], limit: int) -> None:
    splitter = _Splitter(limit)
    lines = [line for piece in pieces for line in splitter.feed(piece)]
    assert b"".join(lines) + splitter.rest() == b"".join(pieces)
    assert all(len(line.removesuffix(b"\n")) <= limit for line in [*lines, splitter.rest()])
    assert all(line.count(b"\n", 0, -1) == 0 for line in lines)
    assert all(line.endswith(b"\n") or len(line) == limit for line in lines)


async def test_the_defaults_are_the_documented_ones() -> None:
    source = ScriptedSource()
    await lines_of(source)
    assert source.requests == [LogRequest("sbx-1", follow=False, timestamps=False)]


async def test_every_wish_is_passed_on_exactly() -> None:
    source = ScriptedSource()
    since = datetime(2024, 6, 1, 14, 0, 0, 123457, tzinfo=timezone(timedelta(hours=2)))
    logs = SandboxLogs(source).stream_logs(
        "sbx-1", follow=True, tail_lines=3, since_time=since, timestamps=True, container="side"
    )
    assert [line async for line in logs] == []
    assert source.requests == [
        LogRequest("sbx-1", "side", follow=True, tail_lines=3, since_ns=1717243200123457000)
    ]


def test_a_time_without_a_zone_is_refused_by_the_call() -> None:
    with pytest.raises(ValueError, match="time-zone-aware"):
        SandboxLogs(ScriptedSource()).stream_logs(
            "sbx-1",
            since_time=datetime(2024, 6, 1),  # noqa: DTZ001 - the point of this test
        )


@pytest.mark.parametrize("tail_lines", [0, -1, 2**31])
def test_a_tail_that_cannot_be_asked_for_is_refused_by_the_call(tail_lines: int) -> None:
    with pytest.raises(ValueError, match="tail_lines"):
        SandboxLogs(ScriptedSource()).stream_logs("sbx-1", tail_lines=tail_lines)


def test_an_empty_id_and_an_impossible_limit_are_refused() -> None:
    with pytest.raises(ValueError, match="sandbox_id"):
        SandboxLogs(ScriptedSource()).stream_logs("")
    with pytest.raises(ValueError, match="max_line_bytes"):
        SandboxLogs(ScriptedSource(), max_line_bytes=0)


async def test_the_epoch_itself_is_a_time() -> None:
    source = ScriptedSource()
    logs = SandboxLogs(source).stream_logs("sbx-1", since_time=datetime(1970, 1, 1, tzinfo=UTC))
    assert [line async for line in logs] == []
    assert source.requests[0].since_ns == 0
