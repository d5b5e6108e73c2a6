"""The store of the s3 sink, against a server of a test's own."""

from __future__ import annotations

import hashlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from sinks.s3.body import FilePart
from sinks.s3.settings import S3Settings
from sinks.s3.store import ObjectStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

#: An access key, and its secret.
ACCESS_KEY, SECRET_KEY = "AKIATEST", "a/secret+of/forty=characters"


def settings_for(url: str, **more: Any) -> S3Settings:
    """As a configuration gives them: a bucket called `bucket`, addressed by path."""
    ours = {"type": "s3", "endpoint": url, "bucket": "bucket", "region": "us-east-1"}
    if not more.keys() & {"anonymous", "profile", "credentials_file", "access_key_id"}:
        ours |= {"access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY}
    return S3Settings.model_validate({**ours, **more})


@asynccontextmanager
async def store_for(url: str, **more: Any) -> AsyncIterator[ObjectStore]:
    """A store that is open."""
    store = ObjectStore(settings_for(url, **more))
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def file_part(path: Path, content: bytes, offset: int = 0, size_bytes: int = -1) -> FilePart:
    """Some of a file that has this content."""
    path.write_bytes(content)
    part = content[offset:] if size_bytes < 0 else content[offset : offset + size_bytes]
    return FilePart(path, offset, len(part), hashlib.sha256(part).hexdigest())


async def whole(pieces: AsyncIterator[bytes]) -> bytes:
    """All that comes."""
    return b"".join([piece async for piece in pieces])
