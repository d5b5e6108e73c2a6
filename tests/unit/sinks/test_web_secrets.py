"""Secrets reach the server and nobody else: no message, no log line and no traceback has them."""

from __future__ import annotations

import asyncio
import base64
import logging
import traceback
from typing import TYPE_CHECKING, Any

import pytest

from sinks.answers import Answer, StatusTable, verdict
from sinks.credentials import concealed
from sinks.interface import SinkError, SinkMisconfiguredError
from tests.fakes.network import client_for, settings_for
from tests.fakes.web_server import Reply, WebServer

if TYPE_CHECKING:
    from pathlib import Path

    from sinks.web import WebClient
    from tests.fakes.web_server import Fault, Request

TABLE = StatusTable(retry=frozenset({503}))
CANARIES = {
    "path": "/hooks/canary-in-the-path/x",
    "query": "?token=canary-in-the-query&a=b%20canary-encoded",
    "bearer": "canary-bearer-token",
    "header": "canary-in-a-header",
    "password": "canary-password",
}
FAULTS: list[Fault] = [
    *("", "reset", "reset_after_body_taken", "cut_answer", "not_http", "stall"),
]


def echo(statuses: list[int], fault: Fault) -> Any:
    """What some servers do: say what they were asked, and with what."""
    left = iter(statuses)

    def answer(request: Request) -> Reply:
        said = f"Cannot POST {request.path} with {dict(request.headers)}"
        return Reply(next(left), {"x-echo": request.path}, said.encode(), fault)

    return answer


def credentials(way: str) -> dict[str, Any]:
    headers = {"headers": {"X-Api-Key": CANARIES["header"]}}
    if way == "bearer":
        return {**headers, "bearer_token": CANARIES["bearer"]}
    return {**headers, "username": "user", "password": CANARIES["password"]}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("way", ["bearer", "basic"])
async def test_no_failure_tells_a_secret(
    fault: Fault, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    # Whoever set the daemon's log up in this process before has left the libraries quiet.
    for name in ("", "httpx", "httpcore"):
        caplog.set_level(logging.DEBUG, name or None)
    statuses = [503] if fault == "stall" else [302, 400, 401, 404, 413, 500, 503]
    more = {**credentials(way), "timeout": "30ms" if fault == "stall" else "30s"}
    async with WebServer(handler=echo(statuses, fault)) as server:
        url = server.url + CANARIES["path"] + CANARIES["query"]
        async with client_for(url, **more) as web:
            told = [await told_by(web, url) for _ in statuses]
    # A machine that is busy may be over the time of a stall before it has sent anything.
    assert fault == "stall" or CANARIES["header"] in str(server.requests[0].headers)
    assert caplog.records, "the library's own log must have been on"
    assert_silent("\n".join([*told, caplog.text]))


async def told_by(web: WebClient, url: str) -> str:
    """Everything that an attempt lets out, as a log would have it."""
    try:
        answer = await web.post(url, b"lines", {})
        found = verdict(answer, TABLE, url=url)
        assert found is not None
        return f"{found!r} {found} {answer.body!r}"
    except SinkError as error:
        return "".join(traceback.format_exception(error))


def assert_silent(text: str) -> None:
    basic = base64.b64encode(b"user:canary-password").decode()
    for secret in ("canary", basic):
        assert secret not in text, [line for line in text.splitlines() if secret in line]


async def test_a_server_that_is_gone_makes_no_failure_tell_a_secret() -> None:
    async with WebServer() as gone:
        pass
    url = gone.url + CANARIES["path"] + CANARIES["query"]
    async with client_for(url, **credentials("bearer")) as web:
        text = await told_by(web, url)
    assert gone.url in text
    assert_silent(text)


async def test_the_librarys_log_still_says_where_requests_go(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "httpx")
    async with WebServer() as server, client_for(server.url) as web:
        await web.post(f"{server.url}/canary", b"x", {})
    assert server.url in caplog.text
    assert "canary" not in caplog.text


async def test_what_a_success_says_is_left_as_it_is() -> None:
    token = "canary-bearer-token"
    handler = echo([200], "")
    async with (
        WebServer(handler=handler) as server,
        client_for(server.url, bearer_token=token) as web,
    ):
        answer = await web.post(server.url, b"x", {})
    assert token.encode() in answer.body


async def test_a_secret_file_is_read_at_every_request(tmp_path: Path) -> None:
    file = tmp_path / "token"
    async with WebServer() as server, client_for(server.url, bearer_token_file=str(file)) as web:
        for token in ("first", "  second\n"):
            file.write_text(token)
            await web.post(server.url, b"x", {})
    sent = [request.headers["authorization"] for request in server.requests]
    assert sent == ["Bearer first", "Bearer second"]


async def test_a_header_may_stand_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("from a file\n")
    headers = {"X-Key": {"file": str(file)}, "X-Plain": "  inline "}
    async with WebServer() as server, client_for(server.url, headers=headers) as web:
        await web.post(server.url, b"x", {})
    assert server.requests[0].headers["x-key"] == "from a file"
    assert server.requests[0].headers["x-plain"] == "inline"


@pytest.mark.parametrize(
    "content",
    [None, b"", b" \n", b"canary\r\nX-Evil: 1", b"canary\xff", "canaryé".encode(), b"a\0"],
)
async def test_a_file_that_holds_no_header_holds_the_sink_until_it_does(
    content: bytes | None, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    async with WebServer() as server, client_for(server.url, bearer_token_file=str(file)) as web:
        with pytest.raises(SinkMisconfiguredError, match="bearer_token_file") as caught:
            await web.post(server.url, b"x", {})
        assert caught.value.credentials
        assert "canary" not in "".join(traceback.format_exception(caught.value))
        assert server.requests == []
        file.write_text("mended")
        assert (await web.post(server.url, b"x", {})).status == 200


@pytest.mark.parametrize("value", ["canary\r\nX-Evil: 1", "canary\n", "canary\t", "canaryé"])
async def test_no_header_brings_another_one(value: str) -> None:
    async with WebServer() as server, client_for(server.url, headers={"X-A": f"a{value}b"}) as web:
        with pytest.raises(SinkMisconfiguredError, match=r"headers\.X-A") as caught:
            await web.post(server.url, b"x", {})
        assert server.requests == []
    assert "canary" not in str(caught.value)


async def test_a_password_has_any_characters_on_one_line(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("pässwörd: 1\n")
    async with WebServer() as server:
        more = {"username": "üser", "password_file": str(file)}
        async with client_for(server.url, **more) as web:
            await web.post(server.url, b"x", {})
            file.write_text("two\nlines")
            with pytest.raises(SinkMisconfiguredError, match="password_file"):
                await web.post(server.url, b"x", {})
    sent = server.requests[0].headers["authorization"].removeprefix("Basic ")
    assert base64.b64decode(sent).decode() == "üser:pässwörd: 1"


async def test_a_pipe_in_place_of_a_file_does_not_block() -> None:
    async with asyncio.timeout(10):
        async with client_for("http://127.0.0.1:9", bearer_token_file="/dev/zero") as web:
            with pytest.raises(SinkMisconfiguredError, match="not a regular file"):
                await web.post("http://127.0.0.1:9", b"x", {})


def test_settings_show_no_secret() -> None:
    settings = settings_for("https://h.example", **credentials("bearer"))
    assert_silent(f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}")


def test_what_a_server_says_of_a_password_is_taken_out_also_when_it_was_sent_as_base64() -> None:
    header = "Basic " + base64.b64encode(b"bob:hunter22secret").decode()
    answer = Answer(401, {}, b"user bob with password hunter22secret refused: " + header.encode())
    told = concealed(answer, [header]).body
    assert b"hunter22secret" not in told
    assert header.encode() not in told
    assert b"user bob" in told
