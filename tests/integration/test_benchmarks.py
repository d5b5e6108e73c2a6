"""The benchmark's server and corpus say what they promise; how fast anything is, is not tested."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from typing import TYPE_CHECKING, Any

import grpc.aio
import httpx
import pytest
from cwsandbox._proto import sandbox_pb2 as api
from cwsandbox._proto.sandbox_pb2_grpc import SandboxServiceStub

from benchmarks import corpus, report, wire
from benchmarks.corpus import BLOCK_LINES, Corpus
from benchmarks.plan import MESSAGE_BYTES
from benchmarks.results import Row, Target, difference
from benchmarks.served import CorpusSpec, GroupSpec, ServerSpec
from benchmarks.server import running
from benchmarks.watch import FileWatch, stamp_ns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

LINES = 2_000
METHOD = "/coreweave.sandbox.v1.SandboxService/"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    path = tmp_path_factory.mktemp("corpus") / "corpus.log"
    path.write_bytes(corpus.block(0))
    return Corpus(path, BLOCK_LINES, path.stat().st_size)


def spec_of(made: Corpus) -> ServerSpec:
    size_bytes = made.prefix_bytes(LINES)
    return ServerSpec(
        str(made.path),
        (
            CorpusSpec("sbx-16k", size_bytes, MESSAGE_BYTES),
            CorpusSpec("sbx-line", size_bytes, wire.ONE_LINE),
            CorpusSpec("sbx-grpc", size_bytes, MESSAGE_BYTES, grpc=True),
        ),
        (GroupSpec("paced", 2, 2_000, 0.05), GroupSpec("idle", 3)),
        with_grpc=True,
    )


class Client:
    """As much of the API as these tests need."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def unary(self, method: str, **fields: object) -> tuple[int, dict[str, Any]]:
        answer = await self._http.post(METHOD + method, json=fields)
        return answer.status_code, answer.json()

    async def stream(
        self, request: api.StreamLogsRequest
    ) -> tuple[list[api.LogEntry], dict[str, Any]]:
        """The messages and the end-of-stream payload of one stream."""
        message = request.SerializeToString()
        answer = await self._http.post(
            METHOD + "StreamLogs",
            content=b"\x00" + len(message).to_bytes(4, "big") + message,
            headers={"content-type": "application/connect+proto"},
        )
        rest = answer.content
        entries: list[api.LogEntry] = []
        while rest[0] != wire.END_OF_STREAM_FLAG:
            size = int.from_bytes(rest[1:5], "big")
            entries.append(api.LogEntry.FromString(rest[5 : 5 + size]))
            rest = rest[5 + size :]
        return entries, json.loads(rest[5:])


@pytest.fixture
async def server(made: Corpus) -> AsyncIterator[dict[str, int]]:
    async with running(spec_of(made)) as (_, ports):
        yield ports


@pytest.fixture
async def client(server: dict[str, int]) -> AsyncIterator[Client]:
    base_url = f"http://127.0.0.1:{server['http']}"
    async with httpx.AsyncClient(base_url=base_url, timeout=10) as http:
        yield Client(http)


def fresh(sandbox_id: str, **fields: Any) -> api.StreamLogsRequest:
    return api.StreamLogsRequest(sandbox_id=sandbox_id, timestamps=True, follow=True, **fields)


def expected(made: Corpus) -> bytes:
    return made.path.read_bytes()[: made.prefix_bytes(LINES)]


def data_of(entries: list[api.LogEntry]) -> bytes:
    return b"".join(entry.data for entry in entries)


def test_a_block_of_the_corpus_is_always_the_same() -> None:
    assert corpus.block(3) == corpus.block(3)
    assert corpus.block(3) != corpus.block(4)


def test_lines_are_150_bytes_on_average_and_none_repeats() -> None:
    lines = corpus.block(0).splitlines(keepends=True)
    assert len(lines) == BLOCK_LINES
    assert sum(map(len, lines)) / len(lines) == pytest.approx(150, abs=1)
    assert len({line[31:] for line in lines}) > 0.999 * BLOCK_LINES


def test_stamps_rise_strictly_over_the_border_of_two_blocks() -> None:
    lines = (corpus.block(0)[-20_000:] + corpus.block(1)[:20_000]).splitlines()[1:-1]
    stamps = [stamp_ns(line) for line in lines]
    assert all(earlier < later for earlier, later in itertools.pairwise(stamps))
    assert [corpus.stamp_text(each).encode() for each in stamps] == [line[:30] for line in lines]


@pytest.mark.parametrize("lines", [1, 7, LINES, BLOCK_LINES])
def test_a_prefix_ends_behind_that_many_lines(made: Corpus, lines: int) -> None:
    prefix = made.path.read_bytes()[: made.prefix_bytes(lines)]
    assert prefix.endswith(b"\n")
    assert prefix.count(b"\n") == lines


@pytest.mark.parametrize("sandbox_id", ["sbx-16k", "sbx-line", "sbx-grpc"])
async def test_a_stream_carries_exactly_the_corpus_with_offsets_that_add_up(
    client: Client, made: Corpus, sandbox_id: str
) -> None:
    entries, end = await client.stream(fresh(sandbox_id))
    assert end == {}
    assert data_of(entries) == expected(made)
    offset = 0
    for entry in entries:
        offset += len(entry.data)
        assert entry.next_log_offset == offset
    assert len({entry.log_session_id for entry in entries}) == 1


async def test_messages_have_the_size_that_was_asked_for(client: Client) -> None:
    large, _ = await client.stream(fresh("sbx-16k"))
    single, _ = await client.stream(fresh("sbx-line"))
    assert {len(entry.data) for entry in large[:-1]} == {MESSAGE_BYTES}
    assert len(single) == LINES
    assert all(entry.data.count(b"\n") == 1 for entry in single)


@pytest.mark.parametrize("sandbox_id", ["sbx-16k", "sbx-line"])
async def test_a_session_goes_on_at_any_offset(
    client: Client, made: Corpus, sandbox_id: str
) -> None:
    entries, _ = await client.stream(fresh(sandbox_id))
    whole = expected(made)
    rng = random.Random(1)
    for offset in (0, 1, MESSAGE_BYTES, rng.randrange(len(whole)), len(whole)):
        rest, end = await client.stream(
            api.StreamLogsRequest(
                sandbox_id=sandbox_id,
                follow=True,
                resume_log_session_id=entries[0].log_session_id,
                resume_log_offset=offset,
            )
        )
        assert end == {}
        assert data_of(rest) == whole[offset:]
        if rest:
            assert rest[-1].next_log_offset == len(whole)


async def test_since_time_is_inclusive_and_its_session_goes_on_too(
    client: Client, made: Corpus
) -> None:
    lines = expected(made).splitlines(keepends=True)
    request = api.StreamLogsRequest(sandbox_id="sbx-16k", timestamps=True, follow=False)
    for number in (0, 1, 777, LINES - 1):
        request.since_time.FromNanoseconds(stamp_ns(lines[number]))
        entries, _ = await client.stream(request)
        assert data_of(entries) == b"".join(lines[number:])
    request.since_time.FromNanoseconds(stamp_ns(lines[-1]) + 1)
    assert await client.stream(request) == ([], {})
    request.since_time.FromNanoseconds(stamp_ns(lines[900]))
    entries, _ = await client.stream(request)
    resumed = api.StreamLogsRequest(
        sandbox_id="sbx-16k",
        follow=True,
        resume_log_session_id=entries[0].log_session_id,
        resume_log_offset=len(lines[900]),
    )
    assert data_of((await client.stream(resumed))[0]) == b"".join(lines[901:])


async def test_tail_lines_are_the_newest_ones(client: Client, made: Corpus) -> None:
    entries, _ = await client.stream(fresh("sbx-16k", tail_lines=5))
    assert data_of(entries) == b"".join(expected(made).splitlines(keepends=True)[-5:])


async def test_a_sandbox_is_completed_once_it_was_served_to_its_end(client: Client) -> None:
    _, before = await client.unary("GetSandbox", sandboxId="sbx-16k")
    await client.stream(fresh("sbx-16k"))
    _, after = await client.unary("GetSandbox", sandboxId="sbx-16k")
    assert before["status"]["state"] == "STATE_RUNNING"
    assert after["status"]["state"] == "STATE_COMPLETED"


@pytest.mark.parametrize(
    "request_fields",
    [
        {"resume_log_session_id": "session-0", "timestamps": True, "follow": True},
        {"resume_log_session_id": "session-0", "resume_log_offset": 1 << 40, "follow": True},
        {"timestamps": False},
    ],
)
async def test_a_request_that_the_api_excludes_is_refused(
    client: Client, request_fields: dict[str, Any]
) -> None:
    entries, end = await client.stream(
        api.StreamLogsRequest(sandbox_id="sbx-16k", **request_fields)
    )
    assert entries == []
    assert end["error"]["code"] == "invalid_argument"


async def test_an_unknown_sandbox_is_not_found(client: Client) -> None:
    status, answer = await client.unary("GetSandbox", sandboxId="nobody")
    assert (status, answer["code"]) == (404, "not_found")
    assert (await client.stream(fresh("nobody")))[1]["error"]["code"] == "not_found"


async def test_the_pages_of_a_listing_hold_every_sandbox_with_the_tag(client: Client) -> None:
    found: list[str] = []
    token = ""
    while True:
        _, page = await client.unary("ListSandboxes", tags=["idle"], pageSize=2, pageToken=token)
        found += [each["sandboxId"] for each in page["sandboxes"]]
        token = page.get("nextPageToken", "")
        if not token:
            break
    assert found == ["idle-00000", "idle-00001", "idle-00002"]


async def test_paced_sandboxes_write_together_once_all_are_read_and_then_end(
    client: Client,
) -> None:
    streams = [client.stream(fresh(f"paced-0000{number}")) for number in range(2)]
    results = await asyncio.gather(*streams)
    lines = [line for entries, _ in results for line in data_of(entries).splitlines()]
    assert len(lines) == 100
    assert [end for _, end in results] == [{}, {}]
    _, answer = await client.unary("GetSandbox", sandboxId="paced-00000")
    assert answer["status"]["state"] == "STATE_COMPLETED"


async def test_the_grpc_port_serves_the_same_bytes(server: dict[str, int], made: Corpus) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server['grpc']}") as channel:
        stub = SandboxServiceStub(channel)  # type: ignore[no-untyped-call]  # generated code
        entries = [entry async for entry in stub.StreamLogs(fresh("sbx-grpc"))]
        assert data_of(entries) == expected(made)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.ConnectSandbox(api.ConnectSandboxRequest())
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_difference_in_size_or_in_one_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "out.log"
    assert "never written" in difference(path, 3, "")
    path.write_bytes(b"abc")
    digest = corpus.file_sha256(path)
    assert difference(path, 3, digest) == ""
    assert "3 bytes, not 4" in difference(path, 4, digest)
    path.write_bytes(b"abd")
    assert "other bytes" in difference(path, 3, digest)


def test_a_figure_that_needs_a_ratio_is_not_reached_without_it() -> None:
    target = Target(1_000, at_least=True, vendor_ratio=200)
    assert target.reached(2_000, 201) is True
    assert target.reached(2_000, 199) is False
    assert target.reached(2_000, None) is None
    assert target.reached(999, 201) is False
    assert Target(250, at_least=False).reached(251, None) is False
    assert Row("a", "a").fail("broken").value is None


def test_the_table_for_the_documentation_has_every_row_and_its_ratio() -> None:
    cli = Row("cli", "their way", value=8_000, cpu_s=1.5, peak_bytes=1 << 20)
    ours = Row("ours", "our way", value=20_000, compare_with="cli", target=Target(5, at_least=True))
    assert report.markdown([cli, ours, Row("bad", "no way").fail("broken")]).splitlines()[2:] == [
        "| their way | 8,000 lines/s | | 1.50 | 1 | |",
        "| our way | 20,000 lines/s | 2.5 | | | ≥ 5 lines/s |",
        "| no way | FAILED | | | | |",
    ]


def test_a_watched_file_counts_every_line_once_however_it_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "out.log"
    whole = corpus.block(0)[:10_000]
    whole = whole[: whole.rfind(b"\n") + 1]
    watch = FileWatch([path])
    watch.look()
    with path.open("ab", buffering=0) as file:
        for position in range(0, len(whole), 97):
            file.write(whole[position : position + 97])
            watch.look()
    watch.close()
    assert len(watch.latencies_s) == whole.count(b"\n")
