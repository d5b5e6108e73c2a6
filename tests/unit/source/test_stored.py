"""Stored logs over HTTP: a real service in its variants, and a server that answers anything."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from forwarder.errors import (
    CredentialsRefusedError,
    SandboxNotFoundError,
    SourceError,
    SourceUnavailableError,
)
from forwarder.local.server import LocalServer
from forwarder.local.settings import LocalSettings, StatusFault
from forwarder.model import FrameKind
from forwarder.source import stored
from forwarder.source.overlap import Taken
from forwarder.source.stored import StoredLogs, StoredLogsUnavailableError
from forwarder.source.stored_lines import StoredLine, missing_lines
from tests.fakes.local import create_sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

S = 1_000_000_000
STAMP = "1970-01-01T00:00:05Z"


# A real service


@asynccontextmanager
async def local(**settings: Any) -> AsyncIterator[tuple[LocalServer, str, StoredLogs]]:
    async with LocalServer(LocalSettings(**{"stored_logs": "on", **settings})) as server:
        sandbox_id = await create_sandbox(server.base_url, server.api_key, "sleep", ["600"])
        source = made(server.base_url, server.api_key)
        yield server, sandbox_id, source
        await source.close()


def made(base_url: str, api_key: str = "CANARY", **options: Any) -> StoredLogs:
    return StoredLogs(
        base_url, credentials=lambda: {"Authorization": f"Bearer {api_key}"}, **options
    )


async def read(
    source: StoredLogs, sandbox_id: str = "sbx-1", container: str = "", since_ns: int = 0
) -> list[StoredLine]:
    async with aclosing(source.lines(sandbox_id, container, since_ns=since_ns)) as pages:
        return [line async for page in pages for line in page]


async def refused(source: StoredLogs, sandbox_id: str = "sbx-1") -> SourceError:
    with pytest.raises(SourceError) as caught:
        await read(source, sandbox_id)
    assert "CANARY" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("names", ["entries,timestamp,message", "logs,time,body", "items,ts,text"])
async def test_all_pages_are_read_whatever_the_fields_are_called(
    monkeypatch: pytest.MonkeyPatch, names: str
) -> None:
    monkeypatch.setattr(stored, "PAGE_SIZE", 2)
    async with local(stored_field_names=names) as (server, sandbox_id, source):
        lines = [StoredLine(number * S, b"line %d" % number) for number in range(1, 6)]
        server.process(sandbox_id).record([(line.stamp_ns, line.text + b"\n") for line in lines])
        assert await read(source, sandbox_id) == lines
        assert await read(source, sandbox_id, "main", since_ns=4 * S) == lines[3:]


async def test_what_the_stream_did_not_give_is_among_the_stored_lines() -> None:
    settings: dict[str, Any] = {"stored_precision_ns": 1_000, "stored_normalises_json": True}
    async with local(**settings) as (server, sandbox_id, source):
        process = server.process(sandbox_id)
        process.record([(5 * S + 1_234, b'{"b": 1, "a": 2}\n'), (5 * S + 1_234, b"x\n")])
        taken = [Taken(FrameKind.LINES, 0, process.log.stamped())]
        process.record([(5 * S + 2_345, b"x\n"), (6 * S, b"tail\n")])
        lines = await read(source, sandbox_id)
        assert missing_lines(taken, lines, after_ns=0) == (
            b"1970-01-01T00:00:05.000002000Z x\n1970-01-01T00:00:06.000000000Z tail\n"
        )


@pytest.mark.parametrize(
    ("stored_logs", "message"),
    [
        ("off", "no logs"),
        ("not_enabled", "not enabled"),
        ("unimplemented", "no such endpoint"),
    ],
)
async def test_where_there_are_none_that_is_said_for_good(stored_logs: str, message: str) -> None:
    async with local(stored_logs=stored_logs) as (_, sandbox_id, source):
        error = await refused(source, sandbox_id)
        assert isinstance(error, StoredLogsUnavailableError)
        assert error.for_good
        assert message in str(error)


@pytest.mark.parametrize("code", ["failed_precondition", "not_found"])
async def test_deleted_logs_are_gone_for_one_sandbox(code: Any) -> None:
    async with local() as (server, sandbox_id, source):
        server.faults.statuses = {"ListSandboxLogs": StatusFault(code, 1, stored.LOGS_DELETED)}
        error = await refused(source, sandbox_id)
        assert isinstance(error, StoredLogsUnavailableError)
        assert not error.for_good
        assert error.reason == stored.LOGS_DELETED


async def test_a_query_limit_is_an_outage_with_the_servers_wish() -> None:
    async with local() as (server, sandbox_id, source):
        fault = StatusFault("resource_exhausted", 1, "CWSANDBOX_LOG_QUERY_LIMIT_EXCEEDED", 2.5)
        server.faults.statuses = {"ListSandboxLogs": fault}
        error = await refused(source, sandbox_id)
        assert isinstance(error, SourceUnavailableError)
        assert error.retry_after_s == 2.5


async def test_an_unknown_sandbox_and_a_wrong_key_are_what_they_are_anywhere() -> None:
    async with local() as (server, sandbox_id, source):
        assert isinstance(await refused(source, "sbx-none"), SandboxNotFoundError)
        stranger = made(server.base_url)
        assert isinstance(await refused(stranger, sandbox_id), CredentialsRefusedError)
        await stranger.close()


async def test_a_container_that_is_not_there_says_nothing_about_other_sandboxes() -> None:
    async with local() as (_, sandbox_id, source):
        with pytest.raises(StoredLogsUnavailableError) as caught:
            await read(source, sandbox_id, "none")
        assert not caught.value.for_good


# A server that answers anything


@dataclass
class Scripted:
    """Answers each request with the next of its answers, the last one for ever.

    Attributes:
        asked: The targets of the requests.
    """

    answers: list[bytes]
    asked: list[str] = field(default_factory=list)
    connections: list[asyncio.StreamWriter] = field(default_factory=list)
    base_url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.asked.append(head.split(b" ")[1].decode())
                writer.write(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])
                await writer.drain()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async def closed(self) -> None:
        """Wait until the client has closed every connection."""
        for writer in self.connections:
            with suppress(ConnectionError):
                await writer.wait_closed()


@asynccontextmanager
async def scripted(*answers: bytes, **options: Any) -> AsyncIterator[tuple[Scripted, StoredLogs]]:
    script = Scripted(list(answers))
    server = await asyncio.start_server(script.serve, "127.0.0.1", 0)
    script.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    source = made(script.base_url, **options)
    try:
        yield script, source
    finally:
        await source.close()
        await script.closed()
        server.close()
        await server.wait_closed()


def answer(body: object, status: int = 200, kind: str = "application/json") -> bytes:
    content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


def page(*texts: str, token: str = "", **fields: str) -> bytes:
    entries = [{"timestamp": STAMP, "message": text, **fields} for text in texts]
    return answer({"entries": entries, "nextPageToken": token})


async def test_a_request_names_its_sandbox_container_and_page_and_nothing_breaks_out_of_it() -> (
    None
):
    async with scripted(page("a", token="n/&x"), page("b")) as (script, source):
        assert len(await read(source, "../a?b", "c&d")) == 2
    first, second = script.asked
    assert first == "/v1/sandboxes/..%2Fa%3Fb/logs?pageSize=1000&container=c%26d"
    assert re.search(r"pageToken=n(/|%2F)%26x", second)


async def test_pages_without_lines_lead_on_to_the_next() -> None:
    async with scripted(page(token="1"), page(token="2"), page("a")) as (_, source):
        assert [line.text for line in await read(source)] == [b"a"]


@pytest.mark.parametrize(
    "last",
    [
        answer("<html>Welcome</html>", kind="text/html"),
        answer("not JSON"),
        answer({"data": []}),
        answer({"entries": [{"timestamp": STAMP}, {"text": "no time"}]}),
        answer("<html>Not here</html>", 404, "text/html"),
        answer("<html>Moved</html>", 302, "text/html"),
        answer("", 404, "text/plain"),
        answer({"code": 5, "message": "Not Found", "details": []}, 404),
        answer("", 405, "text/plain"),
        answer({"code": "unimplemented", "message": "no"}, 501),
        answer({"code": 12, "message": "Method Not Allowed"}, 501),
        page("a", token="again"),
    ],
)
async def test_what_is_not_understood_is_so_for_good_on_whichever_page(last: bytes) -> None:
    async with scripted(page("a", token="again"), last) as (script, source):
        error = await refused(source)
        assert isinstance(error, StoredLogsUnavailableError)
        assert error.for_good
        assert len(script.asked) == 2


async def test_a_server_that_ignores_the_page_token_is_noticed() -> None:
    answers = [page("a", token=str(number), eventId="7") for number in range(5)]
    async with scripted(*answers) as (script, source):
        error = await refused(source)
        assert isinstance(error, StoredLogsUnavailableError)
        assert len(script.asked) == 2


async def test_pages_without_an_end_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "MAX_PAGES", 3)
    answers = [page("a", token=str(number)) for number in range(5)]
    async with scripted(*answers) as (script, source):
        assert isinstance(await refused(source), StoredLogsUnavailableError)
        assert len(script.asked) == 3


@pytest.mark.parametrize(
    "last",
    [
        answer("<html>Bad gateway</html>", 502, "text/html"),
        answer("<html>Slow down</html>", 429, "text/html"),
        answer("", 500, "text/plain"),
        answer({"code": "unavailable", "message": "later"}, 503),
        answer({"code": 14, "message": "later"}, 503),
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"not HTTP\r\n\r\n",
    ],
)
async def test_an_outage_is_an_outage(last: bytes) -> None:
    async with scripted(last, request_timeout_s=0.2) as (_, source):
        assert isinstance(await refused(source), SourceUnavailableError)


async def test_a_retry_after_header_is_the_servers_wish_too() -> None:
    limited = answer({"code": 8, "message": "later"}, 429).replace(
        b"Content-Type", b"Retry-After: 7\r\nContent-Type"
    )
    async with scripted(limited) as (_, source):
        assert (await refused(source)).retry_after_s == 7


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_key_is_no_reason_to_give_up(status: int) -> None:
    async with scripted(answer("<html>No</html>", status, "text/html")) as (_, source):
        assert isinstance(await refused(source), CredentialsRefusedError)


async def test_an_invalid_request_says_nothing_about_other_sandboxes() -> None:
    invalid = answer({"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "odd"}}, 400)
    async with scripted(invalid) as (_, source):
        error = await refused(source)
        assert isinstance(error, StoredLogsUnavailableError)
        assert not error.for_good


async def test_a_page_that_is_too_large_is_not_read() -> None:
    async with scripted(page("x" * 5000), max_page_bytes=1000) as (_, source):
        error = await refused(source)
        assert isinstance(error, StoredLogsUnavailableError)
        assert not error.for_good


async def test_lines_of_other_containers_are_left_out() -> None:
    entries = [
        {"timestamp": STAMP, "message": where or "none", "container": where}
        for where in ("main", "side", "")
    ]
    async with scripted(answer({"entries": entries})) as (_, source):
        lines = await read(source, container="side")
        assert [line.text for line in lines] == [b"side", b"none"]


async def test_lines_of_several_containers_are_never_taken_for_those_of_one() -> None:
    async with scripted(page("a", token="1", container="main"), page("b", container="side")) as (
        _,
        source,
    ):
        error = await refused(source)
        assert isinstance(error, StoredLogsUnavailableError)
        assert not error.for_good


async def test_a_closed_source_says_so() -> None:
    async with scripted(page("a")) as (_, source):
        await read(source)
        await source.close()
        await source.close()
        assert isinstance(await refused(source), SourceUnavailableError)


def test_a_key_is_never_sent_in_the_clear() -> None:
    with pytest.raises(ValueError, match="in the clear"):
        made("http://api.example.com")
