"""The benchmark's OTLP destination keeps what it is given; a wrong line among it is found."""

from __future__ import annotations

import asyncio
import gzip
import os
import random
import socket
import sys
from typing import TYPE_CHECKING

import httpx
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from benchmarks import corpus
from benchmarks.corpus import BLOCK_LINES, Corpus
from benchmarks.delivered import Body, catching_up, difference, names, runs, unframed
from benchmarks.destination import KEPT_PATH, serve
from benchmarks.plan import MESSAGE_BYTES
from benchmarks.served import CorpusSpec, ServerSpec
from benchmarks.server import running
from benchmarks.watch import stamp_ns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

LINES = 2_000
Line = tuple[int, bytes]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    path = tmp_path_factory.mktemp("corpus") / "corpus.log"
    path.write_bytes(corpus.block(0))
    return Corpus(path, BLOCK_LINES, path.stat().st_size)


@pytest.fixture
async def base_url() -> AsyncIterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with await serve(listener):
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"


async def kept(base_url: str) -> list[Body]:
    async with httpx.AsyncClient(trust_env=False) as http:
        return list(unframed((await http.get(base_url + KEPT_PATH)).content))


async def test_every_body_is_kept_as_it_came_and_in_order(base_url: str) -> None:
    bodies = [random.Random(size).randbytes(size) for size in (1, 0, 70_000, 3, 5_000_000)]
    async with httpx.AsyncClient(trust_env=False) as http:
        for body in bodies:
            answer = await http.post(f"{base_url}/v1/logs", content=body)
            assert (answer.status_code, answer.content) == (200, b"")
    found = await kept(base_url)
    assert [body.content for body in found] == bodies
    assert [body.arrived_ns for body in found] == sorted(body.arrived_ns for body in found)


async def test_a_request_may_come_in_pieces_of_any_size(base_url: str) -> None:
    host, _, port = base_url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for _ in range(2):
        for byte in b"POST /v1/logs HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc":
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    writer.close()
    assert [body.content for body in await kept(base_url)] == [b"abc", b"abc"]


async def test_what_cannot_be_kept_is_not_answered(base_url: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        with pytest.raises(httpx.TransportError):
            await http.post(f"{base_url}/v1/logs", content=_one_chunk())
    assert await kept(base_url) == []


async def _one_chunk() -> AsyncIterator[bytes]:
    yield b"a body without a length"


async def test_a_destination_refuses_connections_until_it_is_told_to_listen() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.destination"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    url = f"http://127.0.0.1:{int(await process.stdout.readline())}"
    with pytest.raises(httpx.ConnectError):
        await kept(url)
    process.stdin.write(b"\n")
    assert await process.stdout.readline() == b"listening\n"
    assert await kept(url) == []
    process.stdin.close()
    assert await process.wait() == 0


def served(made: Corpus) -> list[Line]:
    """Stamp and text of each of the corpus's first lines."""
    lines = made.path.read_bytes()[: made.prefix_bytes(LINES)].splitlines()
    return [(stamp_ns(line), line[31:]) for line in lines]


def body_of(lines: Sequence[Line], first: int | None = 0, *, arrived_ns: int = 0) -> Body:
    """A request with these lines; with ids from that line number on, or with none."""
    request = ExportLogsServiceRequest()
    records = request.resource_logs.add().scope_logs.add().log_records
    for offset, (time_ns, text) in enumerate(lines):
        record = records.add(time_unix_nano=time_ns)
        record.body.string_value = text.decode()
        if first is not None:
            record.attributes.add(key="other").value.int_value = 1
            uid = record.attributes.add(key="log.record.uid").value
            uid.string_value = f"sbx/main/0/{first + offset}"
    return Body(arrived_ns, gzip.compress(request.SerializeToString()))


def wrong_with(bodies: Sequence[Body], made: Corpus, sandbox_id: str) -> str:
    found = [run for body in bodies for run in runs(body, sandbox_id)]
    return difference(found, made.path, LINES, numbered=bool(sandbox_id))


def test_bodies_in_any_order_hold_the_corpus(made: Corpus) -> None:
    lines = served(made)
    bodies = [body_of(lines[700:], 700), body_of(lines[:5], 0), body_of(lines[5:700], 5)]
    assert wrong_with(bodies, made, "sbx") == ""
    assert set(names(bodies)) == {("sbx", line) for line in range(LINES)}


def test_lines_without_ids_go_by_their_stamps(made: Corpus) -> None:
    lines = served(made)
    bodies = [body_of(lines[700:], None), body_of(lines[:700], None)]
    assert wrong_with(bodies, made, "") == ""
    assert "1999 lines" in wrong_with([body_of(lines[1:], None)], made, "")


def _other_text(lines: list[Line]) -> Body:
    return body_of([*lines[:-1], (lines[-1][0], lines[-1][1] + b".")])


def _other_stamp(lines: list[Line]) -> Body:
    return body_of([*lines[:-1], (lines[-1][0] + 1, lines[-1][1])])


def _other_order(lines: list[Line]) -> Body:
    return body_of([lines[1], lines[0], *lines[2:]])


def _number_twice(lines: list[Line]) -> Body:
    return Body(0, body_of(lines[:5]).content + body_of(lines[5:], 4).content)


@pytest.mark.parametrize(
    ("spoil", "wrong"),
    [
        (_other_text, "other stamps or texts"),
        (_other_stamp, "other stamps or texts"),
        (_other_order, "other stamps or texts"),
        (_number_twice, "line 5 is missing, or line 4 is there twice"),
        (lambda lines: body_of(lines[:-1]), "1999 lines arrived, not 2000"),
        (lambda lines: body_of([*lines, lines[0]]), "2001 lines arrived, not 2000"),
    ],
)
def test_a_line_that_is_missing_twice_or_other_is_found(
    made: Corpus, spoil: Callable[[list[Line]], Body], wrong: str
) -> None:
    assert wrong in wrong_with([spoil(served(made))], made, "sbx")


def test_a_record_of_another_sandbox_is_no_line_of_this_one(made: Corpus) -> None:
    with pytest.raises(ValueError, match="nobody asked for"):
        wrong_with([body_of(served(made))], made, "other")


@pytest.mark.parametrize(
    "content",
    [b"no gzip", gzip.compress(b"\xff", mtime=0), gzip.compress(b"", mtime=0)[:5]],
    ids=["no-gzip", "no-protobuf", "cut-off"],
)
def test_what_is_no_request_is_said(content: bytes) -> None:
    with pytest.raises(ValueError, match="is no request"):
        list(names([Body(0, content)]))


def test_a_record_without_an_id_is_said(made: Corpus) -> None:
    with pytest.raises(ValueError, match="not the id of a line"):
        list(names([body_of(served(made)[:1], None)]))


def test_a_backlog_is_worked_off_when_lines_arrive_as_they_are_sent() -> None:
    second = 10**9
    bodies = [
        body_of([(13 * second, b"d")], arrived_ns=16 * second),
        body_of([(1 * second, b"a"), (2 * second, b"b")], arrived_ns=11 * second),
        body_of([(5 * second, b"c")], arrived_ns=13 * second),
        body_of([(16 * second, b"e")], arrived_ns=17 * second),
    ]
    found = catching_up(bodies, live_s=3)
    assert (found.lines, found.duration_s, found.oldest_s) == (4, 5.0, 10.0)
    with pytest.raises(ValueError, match="never worked off"):
        catching_up(bodies[1:3], live_s=3)


async def test_the_program_that_one_would_write_instead_forwards_every_line(
    base_url: str, made: Corpus
) -> None:
    corpus_spec = CorpusSpec("sbx", made.prefix_bytes(LINES), MESSAGE_BYTES, grpc=True)
    spec = ServerSpec(str(made.path), (corpus_spec,), with_grpc=True)
    async with running(spec) as (_, ports):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.otel_sdk_user"),
            *("sbx", f"{base_url}/v1/logs", str(LINES)),
            env={
                **os.environ,
                "CWSANDBOX_BASE_URL": f"http://127.0.0.1:{ports['grpc']}",
                "CWSANDBOX_API_KEY": "test",
            },
        )
        assert await process.wait() == 0
    assert wrong_with(await kept(base_url), made, "") == ""
