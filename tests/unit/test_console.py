"""`logs`: what is told when the log is over and cannot be read."""

from __future__ import annotations

import io

import pytest

from forwarder.clock import SystemClock
from forwarder.console import LogsRequest, parse_since, show_logs
from forwarder.errors import (
    SandboxNotFoundError,
    SandboxNotRunningError,
    SourceUnavailableError,
    UsageError,
)
from forwarder.following import FollowSettings
from forwarder.model import Container, Sandbox, SandboxState
from tests.fakes.following import limits
from tests.fakes.source import Break, FakeSource, emit, interrupted

ENDED = Sandbox("a", SandboxState.COMPLETED)
REFUSED = Break(SandboxNotRunningError("not running", code="failed_precondition"))
LINE = b"2026-01-02T03:04:05.000000001Z hello\n"


async def shown(source: FakeSource, *, follow: bool = False) -> tuple[bytes, list[str]]:
    output, told = io.BytesIO(), list[str]()
    settings = FollowSettings(1 << 20, 5.0, 0.001, 0.01, 0.01)
    request = LogsRequest("a", follow=follow)
    await show_logs(
        source,
        request,
        settings,
        limits=limits(SystemClock()),
        stored=None,
        output=output,
        tell=told.append,
    )
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


# What is asked for, and how it looks --------------------------------------------------------------

SECOND_NS = 10**9


class Gone(io.BytesIO):
    """Nobody reads any more."""

    def write(self, _: object, /) -> int:
        raise BrokenPipeError


async def asked(request: LogsRequest, data: bytes, output: io.BytesIO | None = None) -> bytes:
    """What is written of a log with these bytes."""
    source = FakeSource()
    containers = (Container("main", primary=True), Container("side"))
    source.answer("a", Sandbox("a", SandboxState.COMPLETED, containers=containers))
    source.stream(emit(data))
    output = output or io.BytesIO()
    settings = FollowSettings(1 << 20, 5.0, 0.001, 0.01, 0.01)
    await show_logs(
        source,
        request,
        settings,
        limits=limits(SystemClock()),
        stored=None,
        output=output,
        tell=print,
    )
    (one,) = source.requests
    assert one.container == request.container
    assert (one.follow, one.tail_lines, one.since_ns) == (
        request.follow,
        request.tail_lines,
        request.since_ns,
    )
    return output.getvalue()


@pytest.mark.parametrize(
    ("timestamps", "raw", "written"),
    [
        (True, True, LINE + b"\x1b[2J no stamp\nrest"),
        (False, True, b"hello\n\x1b[2J no stamp\nrest"),
        (False, False, b"hello\n\\x1b[2J no stamp\nrest"),
        (True, False, LINE + b"\\x1b[2J no stamp\nrest"),
    ],
)
async def test_stamps_and_control_characters_are_shown_only_when_asked_for(
    timestamps: bool, raw: bool, written: bytes
) -> None:
    request = LogsRequest("a", timestamps=timestamps, raw=raw)
    assert await asked(request, LINE + b"\x1b[2J no stamp\nrest") == written


async def test_what_was_asked_for_reaches_the_api() -> None:
    request = LogsRequest("a", container="side", tail_lines=3, since_ns=7)
    assert await asked(request, LINE) == b"hello\n"


async def test_a_container_that_there_is_not_is_told_with_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"no container 'none'; it has: main, side"):
        await asked(LogsRequest("a", container="none"), LINE)


async def test_a_reader_that_went_away_ends_it() -> None:
    with pytest.raises(BrokenPipeError):
        await asked(LogsRequest("a"), LINE, Gone())


async def test_a_sandbox_that_is_not_known_is_an_error_at_once() -> None:
    source = FakeSource()
    with pytest.raises(SandboxNotFoundError):
        await shown(source)
    assert source.requests == []


async def test_a_session_that_is_lost_is_put_together_again() -> None:
    """The same line comes twice, and is written once."""
    source = FakeSource()
    source.answer("a", Sandbox("a", SandboxState.RUNNING), ENDED)
    source.stream(emit(LINE, session="A"), interrupted("SESSION_NOT_FOUND"))
    source.stream(emit(LINE, LINE.replace(b"05.", b"06."), session="B"))
    source.stream()
    source.stream()
    text, told = await shown(source, follow=True)
    assert text == b"hello\nhello\n"
    assert [one for one in told if "gap" in one] == []


@pytest.mark.parametrize(
    ("text", "since_ns"),
    [
        ("1970-01-01T00:00:10Z", 10 * SECOND_NS),
        ("1970-01-01T01:00:10.5+01:00", 10 * SECOND_NS + SECOND_NS // 2),
        ("1970-01-02", 86400 * SECOND_NS),
        ("30s", 999_970 * SECOND_NS),
        ("10m", 999_400 * SECOND_NS),
        ("2h", 992_800 * SECOND_NS),
        ("1d", 913_600 * SECOND_NS),
        ("9999999999d", 0),
    ],
)
def test_since_is_a_time_or_so_long_ago(text: str, since_ns: int) -> None:
    assert parse_since(text, now_ns=1_000_000 * SECOND_NS) == since_ns


@pytest.mark.parametrize("text", ["", "yesterday", "10", "10w", "-5m", "1969-12-31", "2300-01-01"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a time|before 1970"):
        parse_since(text)
