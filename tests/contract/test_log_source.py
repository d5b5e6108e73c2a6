"""What every `LogSource` promises, held against each transport by the same scripts."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import pytest

from forwarder.errors import (
    CredentialsRefusedError,
    InvalidRequestError,
    LogStreamError,
    SandboxNotFoundError,
    SandboxNotRunningError,
    SourceError,
    SourceUnavailableError,
)
from forwarder.model import Container, Sandbox, SandboxState
from forwarder.source.connect import ConnectSource
from forwarder.source.grpc import STREAMS_PER_CHANNEL, GrpcSource
from forwarder.source.interface import LogEntry, LogRequest, LogSource
from forwarder.source.messages_pb2 import ListSandboxesResponse, State
from forwarder.source.messages_pb2 import Sandbox as SandboxMessage
from tests.fakes.api import (
    ConnectApi,
    Cut,
    Fail,
    GrpcApi,
    Hold,
    Mute,
    Send,
    Step,
    entry,
    error_info,
    in_band,
    retry_info,
    send,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

KEY = {"Authorization": "Bearer secret-key"}


@dataclass
class World:
    """A transport's API and the source that talks to it."""

    kind: Literal["connect", "grpc"]
    api: ConnectApi | GrpcApi
    stack: AsyncExitStack

    async def source(self, base_url: str = "", **options: Any) -> LogSource:
        make = ConnectSource if self.kind == "connect" else GrpcSource
        options.setdefault("credentials", lambda: KEY)
        source: LogSource = make(base_url or self.api.base_url, **options)
        self.stack.push_async_callback(source.close)
        return source


@pytest.fixture(params=["connect", "grpc"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        if request.param == "connect":
            api: ConnectApi | GrpcApi = await stack.enter_async_context(ConnectApi().serve())
        else:
            api = await stack.enter_async_context(GrpcApi().serve())
        yield World(request.param, api, stack)


async def read(source: LogSource, request: LogRequest, into: list[LogEntry]) -> None:
    """Read a stream to its end, whatever it is."""
    async with source.read_logs(request) as batches:
        async for entries in batches:
            assert entries, "an empty sequence was yielded"
            into.extend(entries)


async def read_all(world: World, request: LogRequest | None = None) -> list[LogEntry]:
    found: list[LogEntry] = []
    await read(await world.source(), request or LogRequest("sbx-1"), found)
    return found


async def failing_read(world: World) -> tuple[bytes, SourceError]:
    """The bytes that came, and the error after them."""
    found: list[LogEntry] = []
    with pytest.raises(SourceError) as caught:
        await read(await world.source(), LogRequest("sbx-1"), found)
    return b"".join(each.data for each in found), caught.value


# Streams


async def test_entries_come_in_order_with_their_session_and_offset(world: World) -> None:
    world.api.stream(
        Send((entry(b"one\ntw", "s1", 6), entry(b"o\n", "s1", 8))),
        Send((entry(b"three", "s1", 13),)),
    )
    found = await read_all(world)
    assert [(e.data, e.log_session_id, e.next_log_offset) for e in found] == [
        (b"one\ntw", "s1", 6),
        (b"o\n", "s1", 8),
        (b"three", "s1", 13),
    ]


async def test_a_clean_end_without_any_entry_is_an_end(world: World) -> None:
    world.api.stream()
    assert await read_all(world) == []


async def test_every_byte_value_comes_as_it_is(world: World) -> None:
    world.api.stream(send(bytes(range(256)), b""))
    assert b"".join(e.data for e in await read_all(world)) == bytes(range(256))


async def test_a_message_of_many_megabytes_comes_whole(world: World) -> None:
    data = bytes(range(256)) * 32 * 1024
    world.api.stream(send(b"before\n", data, b"after\n"))
    assert [e.data for e in await read_all(world)] == [b"before\n", data, b"after\n"]


async def test_a_message_over_the_limit_is_an_error_and_what_came_before_it_is_kept(
    world: World,
) -> None:
    world.api.stream(send(b"before\n", b"x" * 2000))
    source = await world.source(max_message_bytes=1000)
    found: list[LogEntry] = []
    with pytest.raises(SourceUnavailableError) as caught:
        await read(source, LogRequest("sbx-1"), found)
    assert (caught.value.code, caught.value.reason) == ("resource_exhausted", "MESSAGE_TOO_LARGE")
    assert [e.data for e in found] == [b"before\n"]


async def test_a_fresh_request_says_what_is_wanted(world: World) -> None:
    world.api.stream()
    await read_all(
        world,
        LogRequest(
            "sbx-1", container="side", follow=True, tail_lines=5, since_ns=1_700_000_000_000_000_001
        ),
    )
    message = world.api.requests[0].message
    assert (message.sandbox_id, message.container, message.follow) == ("sbx-1", "side", True)
    assert (message.tail_lines, message.timestamps) == (5, True)
    assert message.since_time.ToNanoseconds() == 1_700_000_000_000_000_001
    assert not message.resume_log_session_id


async def test_a_continuation_leaves_out_what_the_server_would_refuse(world: World) -> None:
    world.api.stream()
    await read_all(
        world, LogRequest("sbx-1", tail_lines=5, since_ns=1, session_id="s1", offset=2**63)
    )
    message = world.api.requests[0].message
    assert (message.resume_log_session_id, message.resume_log_offset) == ("s1", 2**63)
    assert message.follow
    assert not message.timestamps
    assert not message.tail_lines
    assert not message.HasField("since_time")


# In-band errors


@pytest.mark.parametrize(
    "code",
    [
        "STREAM_INTERRUPTED",
        "SESSION_NOT_FOUND",
        "REPLAY_GAP",
        "RUNNER_UNAVAILABLE",
        "RUNNER_DRAINING",
        "INVALID_RESUME_OFFSET",
        "SANDBOX_NOT_FOUND",
        "PERMISSION_DENIED",
        "NEVER_HEARD_OF",
    ],
)
async def test_an_in_band_error_comes_after_what_was_sent_before_it(
    world: World, code: str
) -> None:
    world.api.stream(send(b"one\n", b"two\n"), in_band(code))
    data, error = await failing_read(world)
    assert data == b"one\ntwo\n"
    assert isinstance(error, LogStreamError)
    assert error.code == code


async def test_nothing_behind_an_in_band_error_is_read(world: World) -> None:
    both = Send((*send(b"one\n").entries, *in_band("REPLAY_GAP").entries, entry(b"ghost\n")))
    world.api.stream(both, send(b"ghost\n"), Fail("unauthenticated"))
    data, error = await failing_read(world)
    assert data == b"one\n"
    assert error.code == "REPLAY_GAP"


# Errors of the API

MEANINGS: Mapping[tuple[str, str], type[SourceError]] = {
    ("unauthenticated", ""): CredentialsRefusedError,
    ("permission_denied", ""): CredentialsRefusedError,
    ("not_found", ""): SandboxNotFoundError,
    ("not_found", "CWSANDBOX_SANDBOX_NOT_FOUND"): SandboxNotFoundError,
    ("not_found", "CWSANDBOX_RUNNER_NOT_FOUND"): SourceUnavailableError,
    ("failed_precondition", "CWSANDBOX_SANDBOX_NOT_RUNNING"): SandboxNotRunningError,
    ("failed_precondition", "CWSANDBOX_LOGS_NOT_ENABLED"): SourceUnavailableError,
    ("failed_precondition", ""): SourceUnavailableError,
    ("invalid_argument", ""): InvalidRequestError,
    ("out_of_range", ""): InvalidRequestError,
    ("unimplemented", "CWSANDBOX_NOT_IMPLEMENTED"): InvalidRequestError,
    ("unavailable", "CWSANDBOX_RUNNER_SHARD_RETIRING"): SourceUnavailableError,
    ("unavailable", "CWSANDBOX_SANDBOX_NOT_RUNNING"): SourceUnavailableError,
    ("internal", ""): SourceUnavailableError,
    ("unknown", ""): SourceUnavailableError,
    ("aborted", ""): SourceUnavailableError,
    ("resource_exhausted", "CWSANDBOX_RUNNER_OVERLOADED"): SourceUnavailableError,
    ("deadline_exceeded", ""): SourceUnavailableError,
    ("canceled", ""): SourceUnavailableError,
    ("already_exists", ""): SourceUnavailableError,
    ("data_loss", ""): SourceUnavailableError,
}


@pytest.mark.parametrize(("code", "reason"), MEANINGS)
async def test_a_stream_ends_with_the_typed_error_of_its_code_and_reason(
    world: World, code: str, reason: str
) -> None:
    details = (error_info(reason),) if reason else ()
    world.api.stream(send(b"one\n"), Fail(code, "as scripted", details))
    data, error = await failing_read(world)
    assert data == b"one\n"
    assert type(error) is MEANINGS[code, reason]
    assert (error.code, error.reason) == (code, reason)


@pytest.mark.parametrize(("code", "reason"), MEANINGS)
async def test_a_call_fails_with_the_typed_error_of_its_code_and_reason(
    world: World, code: str, reason: str
) -> None:
    details = (error_info(reason),) if reason else ()
    world.api.answer(Fail(code, "as scripted", details))
    source = await world.source()
    with pytest.raises(MEANINGS[code, reason]) as caught:
        await source.get_sandbox("sbx-1")
    assert (caught.value.code, caught.value.reason) == (code, reason)
    assert "sbx-1" in str(caught.value)


async def test_the_wish_of_the_server_when_to_come_back_is_kept(world: World) -> None:
    world.api.stream(
        Fail("unavailable", details=(error_info("CWSANDBOX_RUNNER_OVERLOADED"), retry_info(2.5)))
    )
    _, error = await failing_read(world)
    assert error.retry_after_s == 2.5


async def test_an_unknown_sandbox_refuses_a_stream_before_any_entry(world: World) -> None:
    world.api.stream(Fail("not_found"))
    data, error = await failing_read(world)
    assert data == b""
    assert isinstance(error, SandboxNotFoundError)


# Connections


async def test_a_lost_connection_is_never_an_end(world: World) -> None:
    world.api.stream(send(b"one\n"), Cut())
    data, error = await failing_read(world)
    assert data == b"one\n"
    assert isinstance(error, SourceUnavailableError)


async def test_a_refused_connection_is_an_outage(world: World) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        source = await world.source(f"http://127.0.0.1:{unused.getsockname()[1]}")
        for call in (source.get_sandbox("sbx-1"), read(source, LogRequest("sbx-1"), [])):
            with pytest.raises(SourceUnavailableError):
                await call


async def test_a_host_that_has_no_address_is_an_outage(world: World) -> None:
    source = await world.source("https://no-such-host.invalid", connect_timeout_s=5)
    with pytest.raises(SourceUnavailableError):
        await source.get_sandbox("sbx-1")


async def test_a_server_that_does_not_answer_in_tls_is_an_outage(world: World) -> None:
    tls_url = world.api.base_url.replace("http://", "https://")
    source = await world.source(tls_url, connect_timeout_s=0.3)
    with pytest.raises(SourceUnavailableError):
        await source.get_sandbox("sbx-1")


async def test_a_call_that_is_not_answered_in_time_is_an_outage(world: World) -> None:
    world.api.answer(Hold())
    source = await world.source(request_timeout_s=0.3)
    with pytest.raises(SourceUnavailableError):
        await source.get_sandbox("sbx-1")


async def test_a_stored_log_that_stalls_is_an_outage(world: World) -> None:
    world.api.stream(send(b"one\n"), Hold())
    source = await world.source(request_timeout_s=0.3)
    found: list[LogEntry] = []
    with pytest.raises(SourceUnavailableError):
        await read(source, LogRequest("sbx-1", follow=False), found)
    assert [e.data for e in found] == [b"one\n"]


async def test_leaving_a_stream_closes_it_at_once(world: World) -> None:
    world.api.stream(send(b"one\n"), Hold())
    source = await world.source()
    async with source.read_logs(LogRequest("sbx-1")) as batches:
        assert [e.data for e in await anext(aiter(batches))] == [b"one\n"]
        await world.api.holding.wait()
    await world.api.left.wait()


@pytest.mark.parametrize("steps", [(Hold(),), (send(b"one\n"), Hold()), (Mute(),)])
async def test_cancelling_a_reader_closes_the_stream_and_passes(
    world: World, steps: tuple[Step, ...]
) -> None:
    world.api.stream(*steps)
    task = asyncio.ensure_future(read_all(world))
    await world.api.holding.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await world.api.left.wait()


async def test_an_error_of_the_reader_itself_passes_untouched(world: World) -> None:
    world.api.stream(send(b"one\n"), Hold())
    source = await world.source()
    with pytest.raises(ConnectionResetError, match="ours"):
        async with source.read_logs(LogRequest("sbx-1")):
            raise ConnectionResetError("ours")


async def test_closing_the_source_ends_an_open_stream_with_an_error(world: World) -> None:
    world.api.stream(Hold())
    source = await world.source()
    task = asyncio.ensure_future(read(source, LogRequest("sbx-1"), []))
    await world.api.holding.wait()
    await source.close()
    with pytest.raises(SourceUnavailableError):
        await task


async def test_a_closed_source_refuses_and_may_be_closed_again(world: World) -> None:
    source = await world.source()
    await source.close()
    await source.close()
    with pytest.raises(SourceUnavailableError):
        await source.get_sandbox("sbx-1")
    with pytest.raises(SourceUnavailableError):
        await read(source, LogRequest("sbx-1"), [])


async def test_more_streams_than_one_connection_carries_are_open_together(world: World) -> None:
    count = STREAMS_PER_CHANNEL + 20
    source = await world.source()
    async with AsyncExitStack() as stack:
        for number in range(count):
            world.api.stream(send(b"%d" % number), Hold())
            batches = await stack.enter_async_context(source.read_logs(LogRequest("sbx-1")))
            assert [e.data for e in await anext(aiter(batches))] == [b"%d" % number]


# Credentials


async def test_the_credentials_are_read_for_every_request(world: World) -> None:
    keys = iter(["first", "second", "third"])
    source = await world.source(credentials=lambda: {"Authorization": f"Bearer {next(keys)}"})
    world.api.answer(SandboxMessage(sandbox_id="sbx-1"), ListSandboxesResponse())
    world.api.stream()
    await source.get_sandbox("sbx-1")
    await source.list_sandboxes()
    await read(source, LogRequest("sbx-1"), [])
    sent = [request.headers["authorization"] for request in world.api.requests]
    assert sent == ["Bearer first", "Bearer second", "Bearer third"]


async def test_credentials_that_cannot_be_read_are_refused_before_anything_is_sent(
    world: World,
) -> None:
    def missing() -> Mapping[str, str]:
        raise FileNotFoundError(2, "No such file or directory", "/etc/key")

    source = await world.source(credentials=missing)
    with pytest.raises(CredentialsRefusedError, match="/etc/key"):
        await source.get_sandbox("sbx-1")
    with pytest.raises(CredentialsRefusedError, match="/etc/key"):
        await read(source, LogRequest("sbx-1"), [])
    assert world.api.requests == []


async def test_a_key_is_never_sent_in_the_clear_to_another_machine(world: World) -> None:
    with pytest.raises(ValueError, match="in the clear"):
        await world.source("http://api.example.com")


# Sandboxes


def sandbox_message(sandbox_id: str) -> SandboxMessage:
    message = SandboxMessage(sandbox_id=sandbox_id)
    message.status.state = State.STATE_RUNNING
    return message


async def test_a_sandbox_is_read_with_everything_that_log_forwarding_needs(world: World) -> None:
    message = sandbox_message("sbx-1")
    message.display_name = "train"
    message.spec.tags.extend(["prod", "gpu"])
    message.spec.annotations["team"] = "a"
    message.spec.containers.add(name="main", image="python:3.11", primary=True)
    message.spec.containers.add(name="side")
    message.status.state = State.STATE_FAILED
    message.status.exit_code = 0
    message.status.runner_id = "r1"
    message.status.create_time.FromNanoseconds(1_700_000_000_000_000_001)
    message.status.end_time.FromNanoseconds(1_700_000_001_000_000_000)
    world.api.answer(message)
    assert await (await world.source()).get_sandbox("sbx-1") == Sandbox(
        id="sbx-1",
        state=SandboxState.FAILED,
        display_name="train",
        containers=(Container("main", "python:3.11", primary=True), Container("side")),
        tags=("prod", "gpu"),
        annotations={"team": "a"},
        create_time_ns=1_700_000_000_000_000_001,
        end_time_ns=1_700_000_001_000_000_000,
        exit_code=0,
        runner_id="r1",
    )
    assert world.api.requests[0].message.sandbox_id == "sbx-1"


async def test_a_state_from_the_future_is_not_an_end(world: World) -> None:
    message = SandboxMessage(sandbox_id="sbx-1")
    # Field 3 (status), in it field 1 (state) with a number that has no name yet.
    message.MergeFromString(b"\x1a\x02\x08\x63")
    world.api.answer(message)
    sandbox = await (await world.source()).get_sandbox("sbx-1")
    assert sandbox.state is SandboxState.UNSPECIFIED
    assert not sandbox.ended


async def test_a_listing_follows_every_page_with_the_same_question(world: World) -> None:
    world.api.answer(
        ListSandboxesResponse(sandboxes=[sandbox_message("a")], next_page_token="p2"),
        ListSandboxesResponse(next_page_token="p3"),
        ListSandboxesResponse(sandboxes=[sandbox_message("a"), sandbox_message("b")]),
    )
    source = await world.source()
    found = await source.list_sandboxes(tags=["prod", "gpu"], show_terminated=True)
    assert [sandbox.id for sandbox in found] == ["a", "b"]
    asked = [request.message for request in world.api.requests]
    assert [message.page_token for message in asked] == ["", "p2", "p3"]
    assert all(list(message.tags) == ["prod", "gpu"] for message in asked)
    assert all(message.show_terminated for message in asked)


async def test_a_listing_whose_second_page_fails_fails_as_a_whole(world: World) -> None:
    world.api.answer(
        ListSandboxesResponse(sandboxes=[sandbox_message("a")], next_page_token="p2"),
        Fail("unavailable"),
    )
    with pytest.raises(SourceUnavailableError):
        await (await world.source()).list_sandboxes()


async def test_a_listing_that_repeats_a_page_token_is_refused(world: World) -> None:
    page = ListSandboxesResponse(sandboxes=[sandbox_message("a")], next_page_token="p2")
    world.api.answer(page, page)
    with pytest.raises(SourceUnavailableError, match="repeats"):
        await (await world.source()).list_sandboxes()


async def test_a_listing_with_a_sandbox_that_has_no_id_is_refused(world: World) -> None:
    world.api.answer(ListSandboxesResponse(sandboxes=[sandbox_message("a"), SandboxMessage()]))
    with pytest.raises(SourceUnavailableError, match="no id"):
        await (await world.source()).list_sandboxes()


async def test_not_found_of_a_listing_says_nothing_about_a_sandbox(world: World) -> None:
    world.api.answer(Fail("not_found"))
    with pytest.raises(SourceUnavailableError):
        await (await world.source()).list_sandboxes()
