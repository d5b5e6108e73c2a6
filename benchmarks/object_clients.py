"""What an S3 client's memory does with an error body that has no end, and with a large object.

`python -m benchmarks.object_clients` is the comparison behind docs/decisions/0011: obstore, and our
own requests, each in a process of its own that asks for two seconds, or uploads a file of 64 MiB.
"""

from __future__ import annotations

import asyncio
import hashlib
import multiprocessing
import resource
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sinks.interface import SinkError
from sinks.s3.body import FilePart
from sinks.s3.settings import S3Settings
from sinks.s3.store import ObjectStore

if TYPE_CHECKING:
    from multiprocessing.context import SpawnContext

_TIMEOUT_S = 2.0
_PATIENCE_S = 30.0
_MAX_BYTES = 1 << 30
_LARGE_BYTES = 64 << 20
_BLOCK = b"x" * 1_000_000
_TEXT = "text/plain"


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take what is for `/bucket/large`, and refuse everything else."""
    head = await reader.readuntil(b"\r\n\r\n")
    if b"/bucket/large " not in head:
        await _refuse(writer)
        return
    headers = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:] if line)
    left = int(headers[b"content-length"])
    while left and (block := await reader.read(min(left, len(_BLOCK)))):
        left -= len(block)
    writer.write(b'HTTP/1.1 200 OK\r\nETag: "1"\r\nContent-Length: 0\r\n\r\n')
    writer.close()


async def _refuse(writer: asyncio.StreamWriter) -> None:
    """A refusal without an end."""
    writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/xml\r\n\r\n")
    with suppress(OSError):
        while True:
            writer.write(_BLOCK)
            await writer.drain()


def _serve(ports: Any) -> None:
    async def serve() -> None:
        server = await asyncio.start_server(_answer, "127.0.0.1", 0)
        ports.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())


async def _with_obstore(port: int, file: Path | None) -> None:
    from obstore.exceptions import BaseError
    from obstore.store import S3Store

    store = S3Store(
        "bucket",
        endpoint=f"http://127.0.0.1:{port}",
        access_key_id="key",
        secret_access_key="secret",
        region="us-east-1",
        virtual_hosted_style_request=False,
        client_options={"allow_http": True, "timeout": f"{_TIMEOUT_S:g}s"},
        retry_config={"max_retries": 0},
    )
    if file is not None:
        await store.put_async("large", file, mode="create", use_multipart=False)
        return
    with suppress(BaseError):
        await store.put_async("key", b"body", mode="create", use_multipart=False)


async def _with_ours(port: int, file: Path | None) -> None:
    given = {"bucket": "bucket", "endpoint": f"http://127.0.0.1:{port}", "timeout": _TIMEOUT_S}
    store = ObjectStore(
        S3Settings.model_validate({**given, "access_key_id": "key", "secret_access_key": "secret"})
    )
    await store.open()
    if file is not None:
        body = FilePart(file, 0, file.stat().st_size, await asyncio.to_thread(_sha256, file))
        await store.put("large", body, media_type=_TEXT, metadata={}, create_only=True)
    else:
        with suppress(SinkError):
            await store.put("key", b"body", media_type=_TEXT, metadata={}, create_only=True)
    await store.close()


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _measure(name: str, port: int, file: Path | None, found: Any) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (4 * _MAX_BYTES, 4 * _MAX_BYTES))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    asyncio.run(_with_obstore(port, file) if name == "obstore" else _with_ours(port, file))
    found.put((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)


def _grown(context: SpawnContext, name: str, port: int, file: Path | None) -> str:
    """How much more memory a client took at its peak than before its request."""
    found = context.Queue()
    client = context.Process(target=_measure, args=(name, port, file, found))
    client.start()
    client.join(_PATIENCE_S)
    if client.is_alive():
        client.kill()
        client.join()
        return "did not end"
    return f"{found.get(timeout=5):,} MiB more" if client.exitcode == 0 else "ended by memory"


def main() -> None:
    """Print what each of them took."""
    context = multiprocessing.get_context("spawn")
    ports = context.Queue()
    server = context.Process(target=_serve, args=(ports,), daemon=True)
    server.start()
    try:
        port = ports.get(timeout=_PATIENCE_S)
        with tempfile.TemporaryDirectory() as directory:
            large = Path(directory) / "large"
            large.write_bytes(bytes(_LARGE_BYTES))
            for what, file in (
                (f"an error body without an end, {_TIMEOUT_S:g} s", None),
                (f"an object of {_LARGE_BYTES >> 20} MiB", large),
            ):
                for name in ("obstore", "ours"):
                    sys.stdout.write(f"{name}: {what}: {_grown(context, name, port, file)}\n")
    finally:
        server.kill()
        server.join()


if __name__ == "__main__":
    main()
