"""`logs`: what is told when the log is over and cannot be read."""

from __future__ import annotations

import io

import pytest

from forwarder.console import LogsRequest, show_logs
from forwarder.errors import SandboxNotRunningError, SourceUnavailableError
from forwarder.follower import FollowSettings
from forwarder.model import Sandbox, SandboxState
from tests.fakes.source import Break, FakeSource, emit

ENDED = Sandbox("a", SandboxState.COMPLETED)
REFUSED = Break(SandboxNotRunningError("not running", code="failed_precondition"))
LINE = b"2026-01-02T03:04:05.000000001Z hello\n"


async def shown(source: FakeSource, *, follow: bool = False) -> tuple[bytes, list[str]]:
    output, told = io.BytesIO(), list[str]()
    settings = FollowSettings(1 << 20, 5.0, 0.001, 0.01, 0.01)
    request = LogsRequest("a", follow=follow)
    await show_logs(source, request, settings, output=output, tell=told.append)
    return output.getvalue(), told


async def test_a_log_of_which_nothing_can_be_read_any_more_is_an_error_in_words() -> None:
    source = FakeSource()
    source.answer("a", ENDED)
    source.stream(REFUSED)
    with pytest.raises(SourceUnavailableError, match="has ended and its log can no longer be read"):
        await shown(source)


async def test_a_log_that_is_empty_is_no_error() -> None:
    source = FakeSource()
    source.answer("a", ENDED)
    source.stream()
    assert await shown(source) == (b"", [])


async def test_after_a_line_was_shown_an_unreadable_end_is_told_as_a_gap() -> None:
    source = FakeSource()
    source.answer("a", ENDED)
    source.stream(emit(LINE), REFUSED)
    source.stream(REFUSED)
    assert await shown(source, follow=True) == (b"hello\n", ["gap after line 1: tail_unknown"])
