"""A thousand streams that are cut at once: all come back, a few at a time, and nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import time
from collections import defaultdict
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from cwsandbox._proto import sandbox_pb2 as pb
from google.protobuf import json_format

from benchmarks import corpus, wire
from benchmarks.catalog import Catalog, LogPosition
from benchmarks.http1 import Connection, Request
from benchmarks.served import GroupSpec, ServedSandbox, ServerSpec
from forwarder.spool.files import StateDir
from forwarder.spool.overview import overview_of
from tests.fakes.daemon import file_sink, running, until, write_config

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from google.protobuf.message import Message

STREAMS = 1000
#: Small enough that a slow machine, too, answers all of them within a stream's turn.
MAX_OPENING = 20
OPENING_S = 0.01
TAG = "crowd"
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class CrowdServer:
    """The API with many sandboxes of which nothing runs; streams can be cut all at once.

    Attributes:
        open: Log streams that are open.
        opening_peak: The most that were being opened at once.
        resumed: Log streams that continued a session.
    """

    def __init__(self, count: int) -> None:
        self._catalog = Catalog(ServerSpec(groups=(GroupSpec(TAG, count),)))
        self._tasks: set[asyncio.Task[None]] = set()
        self._streams: set[asyncio.Task[None]] = set()
        self._opening = 0
        self.opening_peak = 0
        self.resumed = 0

    @property
    def open(self) -> int:
        """Log streams that are open."""
        return len(self._streams)

    @property
    def sandboxes(self) -> list[ServedSandbox]:
        """Every sandbox."""
        return self._catalog.groups[0].sandboxes

    def write(self, line: str) -> None:
        """Let every sandbox say this."""
        for sandbox in self.sandboxes:
            stamp = corpus.stamp_text(time.time_ns())
            sandbox.append(f"{stamp} {sandbox.id} {line}\n".encode())

    def cut(self) -> None:
        """Reset every connection with a log stream."""
        for task in self._streams:
            task.cancel()

    async def serve(self, listener: socket.socket) -> None:
        """Serve until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                sock, _ = await loop.sock_accept(listener)
                task = loop.create_task(self._serve_connection(sock))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve_connection(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        with sock, contextlib.suppress(ConnectionError):
            connection = Connection(sock)
            while True:
                request = await connection.read_request()
                if request.path.endswith("/StreamLogs"):
                    await self._stream(connection, request)
                else:
                    answer = json_format.MessageToJson(self._call(request), indent=None)
                    await connection.respond(200, "application/json", answer.encode())

    def _call(self, request: Request) -> Message:
        if request.path.endswith("/GetSandbox"):
            return self._catalog.get_sandbox(
                json_format.Parse(request.body, pb.GetSandboxRequest())
            )
        return self._catalog.list_sandboxes(
            json_format.Parse(request.body, pb.ListSandboxesRequest())
        )

    async def _stream(self, connection: Connection, request: Request) -> None:
        wanted = pb.StreamLogsRequest.FromString(wire.unwrap_envelope(request.body))
        self._opening += 1
        self.opening_peak = max(self.opening_peak, self._opening)
        try:
            await asyncio.sleep(OPENING_S)
            await connection.start_chunked("application/connect+proto")
        finally:
            self._opening -= 1
        self.resumed += bool(wanted.resume_log_session_id)
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        try:
            await _send(connection, *self._catalog.open_stream(wanted), follow=wanted.follow)
        finally:
            self._streams.discard(task)


async def _send(
    connection: Connection, sandbox: ServedSandbox, place: LogPosition, *, follow: bool
) -> None:
    position = place.start
    while position < len(sandbox.raw) or (follow and await sandbox.growth(position)):
        more = bytes(sandbox.raw[position:])
        await connection.send(wire.body(more, wire.ONE_LINE, place.session, position))
        position += len(more)
    await connection.send(wire.end_of_stream())
    sandbox.served_to_end()


@asynccontextmanager
async def crowd(count: int) -> AsyncIterator[tuple[CrowdServer, str]]:
    """The server on a free port of the loopback, and its address."""
    server = CrowdServer(count)
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        listener.setblocking(False)
        serving = asyncio.create_task(server.serve(listener))
        try:
            yield server, f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


@pytest.mark.slow
async def test_a_thousand_streams_that_are_cut_at_once_come_back_a_few_at_a_time(
    tmp_path: Path,
) -> None:
    out = tmp_path / "out" / "all.ndjson"
    async with crowd(STREAMS) as (server, base_url):
        server.write("before")
        config = write_config(
            tmp_path,
            base_url=base_url,
            api_key="a-key",
            sandboxes=[{"tags": [TAG]}],
            sinks={"ndjson": file_sink(out, "ndjson")},
            source={"poll_interval": "1s", "max_opening": MAX_OPENING},
        )
        async with running(config, "--until-complete", forked=True) as daemon:
            await until(lambda: _lines(out) == STREAMS, "the first lines")
            assert server.open == STREAMS
            assert 1 < server.opening_peak <= MAX_OPENING
            server.opening_peak = 0
            server.cut()
            server.write("while nobody listened")
            await until(lambda: server.resumed >= STREAMS, "all to come back")
            assert 1 < server.opening_peak <= MAX_OPENING
            await until(lambda: _lines(out) == 2 * STREAMS, "what they missed")
            server.write("after")
            for sandbox in server.sandboxes:
                sandbox.end()
            assert await daemon.wait() == 0, daemon.log
        found = defaultdict(list)
        for record in map(json.loads, out.read_bytes().splitlines()):
            found[record["sandbox_id"]].append((record["line"], record["text"]))
        texts = ("before", "while nobody listened", "after")
        assert found == {
            sandbox.id: [(number, f"{sandbox.id} {text}") for number, text in enumerate(texts)]
            for sandbox in server.sandboxes
        }
        assert overview_of(StateDir(tmp_path / "state")).gaps_unfilled == 0


def _lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0
