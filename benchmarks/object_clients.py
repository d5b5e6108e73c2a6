"""What an S3 client's memory does when the body of a store's error has no end.

`python -m benchmarks.object_clients` is the comparison behind docs/decisions/0011: obstore, and our
own requests, each in a process of its own that asks for two seconds.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import resource
import sys
from contextlib import suppress
from typing import Any

from sinks.interface import SinkError
from sinks.s3.settings import S3Settings
from sinks.s3.store import ObjectStore

_TIMEOUT_S = 2.0
_MAX_BYTES = 1 << 30
_BLOCK = b"x" * 1_000_000


async def _refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A refusal without an end."""
    writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/xml\r\n\r\n")
    with suppress(OSError):
        while True:
            writer.write(_BLOCK)
            await writer.drain()


def _serve(ports: Any) -> None:
    async def serve() -> None:
        server = await asyncio.start_server(_refuse, "127.0.0.1", 0)
        ports.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())


async def _with_obstore(port: int) -> None:
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
    with suppress(BaseError):
        await store.put_async("key", b"body", mode="create", use_multipart=False)


async def _with_ours(port: int) -> None:
    given = {"bucket": "bucket", "endpoint": f"http://127.0.0.1:{port}", "timeout": _TIMEOUT_S}
    store = ObjectStore(
        S3Settings.model_validate({**given, "access_key_id": "key", "secret_access_key": "secret"})
    )
    await store.open()
    with suppress(SinkError):
        await store.put("key", b"body", media_type="text/plain", metadata={}, create_only=True)
    await store.close()


def _measure(name: str, port: int, found: Any) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (4 * _MAX_BYTES, 4 * _MAX_BYTES))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    asyncio.run(_with_obstore(port) if name == "obstore" else _with_ours(port))
    found.put((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)


def main() -> None:
    """Print what each of them took."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    server = context.Process(target=_serve, args=(queue,), daemon=True)
    server.start()
    port = queue.get(timeout=30)
    try:
        for name in ("obstore", "ours"):
            client = context.Process(target=_measure, args=(name, port, queue))
            client.start()
            client.join(30)
            grown = (
                f"{queue.get(timeout=5):,} MiB more" if client.exitcode == 0 else "ended by memory"
            )
            sys.stdout.write(f"{name}: an error body without an end, {_TIMEOUT_S:g} s: {grown}\n")
    finally:
        server.kill()
        server.join()


if __name__ == "__main__":
    main()
