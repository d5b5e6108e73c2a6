"""Log streams of the local service: its settings, its sessions, and how they resume."""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import httpx
import pytest
from cwsandbox._proto import sandbox_pb2 as pb
from cwsandbox._proto.sandbox_pb2_grpc import SandboxServiceStub
from google.protobuf.timestamp_pb2 import Timestamp

from forwarder.local.logstore import NS_PER_S
from forwarder.local.server import LocalServer
from forwarder.local.settings import LocalSettings
from tests.fakes.local import (
    SERVICE_PATH,
    BodyCutError,
    StatusError,
    create_sandbox,
    delete_sandbox,
    open_logs,
    read_logs,
    shell_sandbox,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

S = NS_PER_S
STAMPED_LINE = re.compile(rb"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z .*\n", re.MULTILINE)


class Running:
    """A service with one silent sandbox, into whose log a test writes what it likes."""

    def __init__(self, server: LocalServer, sandbox_id: str) -> None:
        self.server = server
        self.sandbox_id = sandbox_id
        self.at = (server.base_url, server.api_key)

    def write(self, *lines: bytes, stamp_ns: int = 5 * S) -> None:
        self.server.process(self.sandbox_id).record([(stamp_ns, line) for line in lines])

    async def read(self, **request: Any) -> bytes:
        return await read_logs(*self.at, sandbox_id=self.sandbox_id, **request)

    def open(self, **request: Any) -> Any:
        return open_logs(*self.at, sandbox_id=self.sandbox_id, **request)

    async def end(self) -> None:
        await delete_sandbox(*self.at, self.sandbox_id)


@asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[Running]:
    async with LocalServer(LocalSettings(**settings)) as server:
        sandbox_id = await create_sandbox(server.base_url, server.api_key, "sleep", ["600"])
        yield Running(server, sandbox_id)


def time_of(stamp_ns: int) -> Timestamp:
    stamp = Timestamp()
    stamp.FromNanoseconds(stamp_ns)
    return stamp


async def take(entries: AsyncIterator[pb.LogEntry], size: int) -> tuple[bytes, pb.LogEntry]:
    """At least so many bytes of a stream, and the message that brought the last of them."""
    data = b""
    async for entry in entries:
        data += entry.data
        if len(data) >= size:
            return data, entry
    raise EOFError


async def test_a_follow_stream_sends_what_comes_later_and_ends_with_the_sandbox() -> None:
    async with running() as local, local.open(follow=True) as entries:
        local.write(b"early\n")
        assert (await take(entries, 6))[0] == b"early\n"
        local.write(b"late\n")
        assert (await take(entries, 5))[0] == b"late\n"
        await local.end()
        assert [entry.data async for entry in entries] == []


async def test_the_announcement_names_the_session_before_the_first_line() -> None:
    async with running() as local, local.open(follow=True) as entries:
        first = await anext(entries)
        assert (first.data, first.next_log_offset) == (b"", 0)
        assert first.log_session_id
        assert first.timestamp.ToNanoseconds() > 0


async def test_without_the_announcement_the_first_message_is_the_first_line() -> None:
    async with running(announce_session=False) as local:
        local.write(b"line\n")
        async with local.open(follow=True) as entries:
            assert (await anext(entries)).data == b"line\n"


async def test_timestamps_precede_each_line_and_messages_keep_their_size() -> None:
    async with LocalServer(LocalSettings(message_bytes=100)) as server:
        at = (server.base_url, server.api_key)
        sandbox_id = await shell_sandbox(*at, "seq 500")
        await server.wait_ended(sandbox_id)
        async with open_logs(*at, sandbox_id=sandbox_id, timestamps=True) as entries:
            pieces = [entry.data async for entry in entries]
        data = b"".join(pieces)
        assert data == server.process(sandbox_id).log.stamped()
        assert len(STAMPED_LINE.findall(data)) == 500
        assert max(map(len, pieces)) == 100


async def test_offsets_are_cumulative_after_each_message() -> None:
    async with running(message_bytes=10) as local:
        local.write(b"0123456789abcdef\n")
        offset = 0
        async with local.open(follow=True) as entries:
            async for entry in entries:
                offset += len(entry.data)
                assert entry.next_log_offset == offset
                if offset == 17:
                    break


async def test_tail_lines_and_since_time_select() -> None:
    async with running() as local:
        for second in range(1, 6):
            local.write(b"%d\n" % second, stamp_ns=second * S)
        assert await local.read(tail_lines=2) == b"4\n5\n"
        assert await local.read(tail_lines=99) == b"1\n2\n3\n4\n5\n"
        assert await local.read(since_time=time_of(4 * S)) == b"4\n5\n"
        assert await local.read(since_time=time_of(2 * S), tail_lines=1) == b"5\n"


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, b"5.5\n5.7\n6\n"),
        ({"since_inclusive": False}, b"5.7\n6\n"),
        ({"since_granularity": "second"}, b"5\n5.5\n5.7\n6\n"),
        ({"since_granularity": "second", "since_inclusive": False}, b"5.5\n5.7\n6\n"),
        ({"since_per_line": False}, b"5.5\n5\n5.7\n6\n"),
    ],
)
async def test_each_reading_of_since_time(settings: dict[str, Any], wanted: bytes) -> None:
    async with running(**settings) as local:
        local.write(b"4.9\n", stamp_ns=S * 49 // 10)
        local.write(b"5.5\n", stamp_ns=S * 55 // 10)
        local.write(b"5\n", stamp_ns=5 * S)
        local.write(b"5.7\n", stamp_ns=S * 57 // 10)
        local.write(b"6\n", stamp_ns=6 * S)
        read = await local.read(since_time=time_of(S * 55 // 10))
        assert sorted(read.split()) == sorted(wanted.split())


async def test_stderr_stamps_can_be_skewed_so_that_time_runs_out_of_order() -> None:
    async with LocalServer(LocalSettings(stderr_skew_ns=-60 * S)) as server:
        at = (server.base_url, server.api_key)
        sandbox_id = await shell_sandbox(*at, "echo out; sleep 0.2; echo err >&2")
        await server.wait_ended(sandbox_id)
        out, err = (await read_logs(*at, sandbox_id=sandbox_id, timestamps=True)).splitlines()
        assert out.endswith(b" out")
        assert err.endswith(b" err")
        assert err < out


async def test_an_ended_sandbox_serves_its_log_but_cannot_be_followed() -> None:
    async with running() as local:
        local.write(b"kept\n")
        await local.end()
        assert await local.read() == b"kept\n"
        with pytest.raises(StatusError) as caught:
            await local.read(follow=True)
        assert caught.value.code == "failed_precondition"
        assert caught.value.reason == "CWSANDBOX_SANDBOX_NOT_RUNNING"


async def test_an_ended_sandbox_can_refuse_everything() -> None:
    async with running(ended_serves_logs=False) as local:
        await local.end()
        with pytest.raises(StatusError) as caught:
            await local.read()
        assert caught.value.reason == "CWSANDBOX_SANDBOX_NOT_RUNNING"


async def test_a_resumed_stream_goes_on_byte_for_byte_in_the_original_formatting() -> None:
    async with running(message_bytes=7) as local:
        local.write("grüße\n".encode() * 20)
        async with local.open(follow=True, timestamps=True) as entries:
            head, last = await take(entries, 40)
        local.write(b"later\n")
        resume = {
            "resume_log_session_id": last.log_session_id,
            "resume_log_offset": last.next_log_offset,
        }
        await local.end()
        rest = await local.read(follow=True, **resume)
        assert head + rest == local.server.process(local.sandbox_id).log.stamped()


@pytest.mark.parametrize(
    "extra",
    [
        {"follow": False},
        {"tail_lines": 1},
        {"since_time": time_of(S)},
        {"timestamps": True},
    ],
)
async def test_a_resume_request_of_the_wrong_shape_is_refused(extra: dict[str, Any]) -> None:
    async with running() as local:
        with pytest.raises(StatusError) as caught:
            await local.read(**{"follow": True, "resume_log_session_id": "some", **extra})
        assert caught.value.code == "invalid_argument"


@pytest.mark.parametrize("extra", [{"tail_lines": -1}, {"resume_log_offset": 5}])
async def test_a_request_that_makes_no_sense_is_refused(extra: dict[str, Any]) -> None:
    async with running() as local:
        with pytest.raises(StatusError) as caught:
            await local.read(**extra)
        assert caught.value.code == "invalid_argument"


async def resume_error(local: Running, session_id: str, offset: int) -> str:
    with pytest.raises(StatusError) as caught:
        await local.read(follow=True, resume_log_session_id=session_id, resume_log_offset=offset)
    return caught.value.code


async def test_what_cannot_be_resumed_is_told_in_band() -> None:
    async with running(replay_window_bytes=10, message_bytes=10) as local:
        local.write(b"0123456789" * 10 + b"\n")
        async with local.open(follow=True) as entries:
            _, last = await take(entries, 101)
        session_id = last.log_session_id
        assert await resume_error(local, "unknown", 0) == "SESSION_NOT_FOUND"
        assert await resume_error(local, session_id, 102) == "INVALID_RESUME_OFFSET"
        assert await resume_error(local, session_id, 90) == "REPLAY_GAP"
        async with local.open(
            follow=True, resume_log_session_id=session_id, resume_log_offset=91
        ) as entries:
            assert (await take(entries, 10))[0] == b"123456789\n"


async def test_a_sessions_lifetime_is_a_setting() -> None:
    async with running(session_lifetime_s=0.0) as local:
        local.write(b"x\n")
        async with local.open(follow=True) as entries:
            _, last = await take(entries, 2)
        while local.server.open_streams:
            await asyncio.sleep(0)
        assert await resume_error(local, last.log_session_id, 2) == "SESSION_NOT_FOUND"


async def test_whether_an_ended_sandbox_resumes_is_a_setting() -> None:
    async with running(ended_resumes=False) as local:
        async with local.open(follow=True) as entries:
            first = await anext(entries)
        await local.end()
        with pytest.raises(StatusError) as caught:
            await local.read(follow=True, resume_log_session_id=first.log_session_id)
        assert caught.value.reason == "CWSANDBOX_SANDBOX_NOT_RUNNING"


async def test_a_resume_takes_the_session_over_from_the_older_connection() -> None:
    async with running() as local, AsyncExitStack() as stack:
        older = await stack.enter_async_context(local.open(follow=True))
        local.write(b"first\n")
        _, last = await take(older, 6)
        newer = await stack.enter_async_context(
            local.open(follow=True, resume_log_session_id=last.log_session_id, resume_log_offset=6)
        )
        await anext(newer)
        local.write(b"second\n")
        assert (await take(newer, 7))[0] == b"second\n"
        with pytest.raises(BodyCutError):
            await take(older, 1)


async def test_a_follower_that_falls_out_of_the_retention_is_told() -> None:
    async with running(retention_bytes=2000) as local:
        local.server.faults.stall = True
        async with local.open(follow=True) as entries:
            for number in range(200):
                local.write(b"line %d\n" % number)
            local.server.faults.stall = False
            async for entry in entries:
                last = entry
            assert last.error.code == "REPLAY_GAP"
        log = local.server.process(local.sandbox_id).log
        assert log.stored_bytes <= 2000
        assert await local.read(timestamps=True) == log.stamped()


async def test_over_long_lines_come_as_records_with_stamps_inside() -> None:
    async with LocalServer(LocalSettings(max_line_bytes=10)) as server:
        at = (server.base_url, server.api_key)
        sandbox_id = await shell_sandbox(*at, "echo 0123456789abcdef")
        await server.wait_ended(sandbox_id)
        data = await read_logs(*at, sandbox_id=sandbox_id, timestamps=True)
        assert re.fullmatch(rb"\S{30} 0123456789\S{30} abcdef\n", data)
        assert await read_logs(*at, sandbox_id=sandbox_id) == b"0123456789abcdef\n"


@pytest.mark.parametrize("compression", [False, True])
async def test_compression_is_a_setting(compression: bool) -> None:
    async with running(compression=compression) as local:
        headers = {
            "Authorization": f"Bearer {local.server.api_key}",
            "Connect-Accept-Encoding": "gzip",
            "Content-Type": "application/connect+json",
        }
        body = b'{"sandboxId": "%s"}' % local.sandbox_id.encode()
        async with httpx.AsyncClient() as client:
            response = await client.post(
                f"{local.server.base_url}{SERVICE_PATH}/StreamLogs",
                headers=headers,
                content=b"\0" + len(body).to_bytes(4, "big") + body,
            )
        encoding = response.headers["Connect-Content-Encoding"]
        assert encoding == ("gzip" if compression else "identity")


async def test_streams_over_the_connections_limit_wait_for_their_turn() -> None:
    async with running(max_concurrent_streams=1) as local:
        local.write(b"x\n")
        target = local.server.base_url.removeprefix("http://")
        metadata = (("authorization", f"Bearer {local.server.api_key}"),)
        request = pb.StreamLogsRequest(sandbox_id=local.sandbox_id, follow=True)
        async with grpc.aio.insecure_channel(target) as channel:
            stub: Any = SandboxServiceStub(channel)  # type: ignore[no-untyped-call]  # vendor's
            first = stub.StreamLogs(request, metadata=metadata)
            await first.read()
            second = stub.StreamLogs(request, metadata=metadata)
            assert local.server.open_streams == 1
            first.cancel()
            assert (await second.read()).log_session_id
            second.cancel()


async def test_hundreds_of_followers_on_one_connection_all_get_every_line() -> None:
    async with LocalServer(LocalSettings()) as server:
        at = (server.base_url, server.api_key)
        script = "read -r _ < go; seq 2000"
        sandbox_id = await create_sandbox(*at, "sh", ["-c", f"mkfifo go; echo up; {script}"])
        await server.wait_printed(sandbox_id, b"up")
        target = server.base_url.removeprefix("http://")
        metadata = (("authorization", f"Bearer {server.api_key}"),)
        async with grpc.aio.insecure_channel(target) as channel:
            stub: Any = SandboxServiceStub(channel)  # type: ignore[no-untyped-call]  # vendor's
            request = pb.StreamLogsRequest(sandbox_id=sandbox_id, follow=True)
            calls = [stub.StreamLogs(request, metadata=metadata) for _ in range(300)]
            for call in calls:
                assert (await call.read()).log_session_id
            pid = server.process(sandbox_id).pid
            Path(f"/proc/{pid}/cwd/go").write_text("go\n")
            logs = await asyncio.gather(*(everything(call) for call in calls))
        wanted = b"up\n" + b"".join(b"%d\n" % number for number in range(1, 2001))
        assert set(logs) == {wanted}


async def everything(call: Any) -> bytes:
    data = b""
    while isinstance(entry := await call.read(), pb.LogEntry):
        data += entry.data
    return data
