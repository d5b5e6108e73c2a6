"""What a store can do, found out by trying: nobody's word counts for a promise."""

from __future__ import annotations

import enum
import hashlib
from contextlib import suppress
from typing import TYPE_CHECKING

from sinks.interface import SinkMisconfiguredError, SinkUnavailableError
from sinks.s3.answers import NoConditionError, ObjectExistsError, ObjectMissingError

if TYPE_CHECKING:
    from sinks.s3.settings import S3Settings
    from sinks.s3.store import ObjectStore

_MEDIA_TYPE = "text/plain"
_CONTENT = b"sandbox-forwarder tries here what the store can do; this object may be deleted\n"


class Promise(enum.Enum):
    """What is certain of a key that is taken."""

    CREATE_ONLY = "the store itself refuses to write a key twice"
    HEAD_AND_COMPARE = (
        "the store cannot refuse to write a key twice: it is asked before every write, and another"
        " writer of the same key could come in between"
    )

    @property
    def words(self) -> str:
        """For people."""
        return self.value


async def probe(store: ObjectStore, prefix: str) -> Promise:
    """Whether the store writes only where nothing is when it is asked to.

    Writes one small object, always the same, and leaves it there where it may not be deleted.

    Args:
        store: The store.
        prefix: How the probe's key begins.

    Raises:
        SinkUnavailableError: It does not answer.
        SinkMisconfiguredError: It refuses to write anything.
    """
    return await _try_twice(store, f"{prefix}.probe")


async def check(store: ObjectStore, settings: S3Settings) -> str:
    """Write, read back and delete a probe object; returns what was found, in words.

    Raises:
        SinkUnavailableError: It does not answer.
        SinkMisconfiguredError: It does not do what the sink needs.
    """
    key = f"{settings.recipe.manifests}.check"
    metadata = {"sha256": hashlib.sha256(_CONTENT).hexdigest()}
    with suppress(SinkMisconfiguredError):  # deleting is asked for again, and told, below
        await store.delete(key)
    await store.put(key, _CONTENT, media_type=_MEDIA_TYPE, metadata=metadata, create_only=False)
    said = [
        await _read_back(store, key, metadata),
        *await _listed(store, settings.recipe.manifests),
        await _deleted(store, key),
        (await probe(store, settings.recipe.manifests)).words,
    ]
    return "writes objects" + "".join(f"; {one}" for one in said if one)


async def _try_twice(store: ObjectStore, key: str) -> Promise:
    try:
        await _create(store, key)
        # The first one may have been refused because of a probe that was left behind.
        await _create(store, key)
    except NoConditionError:
        return Promise.HEAD_AND_COMPARE
    except ObjectExistsError:
        return Promise.CREATE_ONLY
    finally:
        with suppress(SinkUnavailableError, SinkMisconfiguredError):
            await store.delete(key)
    return Promise.HEAD_AND_COMPARE


async def _create(store: ObjectStore, key: str) -> None:
    await store.put(key, _CONTENT, media_type=_MEDIA_TYPE, metadata={}, create_only=True)


async def _read_back(store: ObjectStore, key: str, metadata: dict[str, str]) -> str:
    """Whether an object can be compared with ours: without that nothing can be resumed.

    Raises:
        SinkMisconfiguredError: It cannot.
    """
    found = await store.head(key)
    if found is None:
        raise SinkMisconfiguredError(
            f"{key} was written, and is not there: mend bucket or endpoint"
        )
    content = b""
    try:
        async for piece in store.read(key):
            content += piece
            if len(content) > len(_CONTENT):
                break
    except ObjectMissingError as error:
        raise SinkMisconfiguredError(f"{key} was written, and cannot be read") from error
    if content != _CONTENT:
        raise SinkMisconfiguredError(f"{key} is not what was written: something changes objects")
    if found.metadata.get("sha256") != metadata["sha256"]:
        return "reads them back, but it does not keep their metadata: a resend reads whole objects"
    return "reads them back"


async def _listed(store: ObjectStore, prefix: str) -> list[str]:
    try:
        async for _ in store.list(prefix):
            break
    except SinkMisconfiguredError as error:
        return [f"may not list them, which only `archive` without the spool needs ({error})"]
    return []


async def _deleted(store: ObjectStore, key: str) -> str:
    try:
        await store.delete(key)
    except SinkMisconfiguredError:
        return f"may not delete them, which it need not: {key} stays"
    return "deletes them"
