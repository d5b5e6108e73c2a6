"""What a store can do, found out by trying: nobody's word counts for a promise."""

from __future__ import annotations

import enum
import hashlib
from typing import TYPE_CHECKING

from sinks.closing import closing
from sinks.interface import SinkMisconfiguredError, SinkUnavailableError
from sinks.s3.answers import NoConditionError, ObjectExistsError, ObjectMissingError

if TYPE_CHECKING:
    from collections.abc import Mapping

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
    key = f"{prefix}.probe"
    promise = await _try_twice(store, key)
    # Not without a verdict: a store that allows a key one write a second refuses the second one for
    # that; the next attempt then finds the first one there, and that is a verdict.
    await _deleted(store, key)
    return promise


async def check(store: ObjectStore, settings: S3Settings) -> str:
    """Write, read back and delete a probe object; returns what was found, in words.

    Raises:
        SinkUnavailableError: It does not answer.
        SinkMisconfiguredError: It does not do what the sink needs.
    """
    prefix = settings.recipe.manifests
    key = f"{prefix}.check"
    metadata = {"sha256": hashlib.sha256(_CONTENT).hexdigest()}
    await store.put(key, _CONTENT, media_type=_MEDIA_TYPE, metadata=metadata, create_only=False)
    try:
        said = await _read_back(store, key, metadata)
    except SinkMisconfiguredError as error:
        text = f"writes objects, but they cannot be compared after a crash: {error}"
        raise SinkMisconfiguredError(text, credentials=error.credentials) from error
    promise = await _promised(store, settings)
    found = [
        "writes objects",
        said,
        await _listed(store, prefix),
        await _deleted(store, key),
        promise.words,
        await _tells_what_is_missing(store, prefix, promise),
    ]
    return "; ".join(one for one in found if one)


async def _try_twice(store: ObjectStore, key: str) -> Promise:
    try:
        await _create(store, key)
        # The first one may have been refused because of a probe that was left behind.
        await _create(store, key)
    except NoConditionError:
        # Only if it is the condition, and nothing else, that it refuses.
        await store.put(key, _CONTENT, media_type=_MEDIA_TYPE, metadata={}, create_only=False)
    except ObjectExistsError:
        return Promise.CREATE_ONLY
    return Promise.HEAD_AND_COMPARE


async def _create(store: ObjectStore, key: str) -> None:
    await store.put(key, _CONTENT, media_type=_MEDIA_TYPE, metadata={}, create_only=True)


async def _promised(store: ObjectStore, settings: S3Settings) -> Promise:
    """What the sink would rely on.

    Raises:
        SinkMisconfiguredError: The settings rely on what the store does not do.
    """
    promise = await probe(store, settings.recipe.manifests)
    match settings.conditional_writes:
        case "off":
            return Promise.HEAD_AND_COMPARE
        case "on" if promise is not Promise.CREATE_ONLY:
            text = "conditional_writes is on, but the store writes a key twice: set it to auto"
            raise SinkMisconfiguredError(text)
        case _:
            return promise


async def _read_back(store: ObjectStore, key: str, metadata: Mapping[str, str]) -> str:
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
        async with closing(store.read(key)) as pieces:
            async for piece in pieces:
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


async def _listed(store: ObjectStore, prefix: str) -> str:
    try:
        async with closing(store.list(prefix)) as listed:
            async for _ in listed:
                break
    except SinkMisconfiguredError as error:
        return f"may not list them, which only `archive` without the spool needs ({error})"
    return "lists them"


async def _deleted(store: ObjectStore, key: str) -> str:
    try:
        await store.delete(key)
    except (SinkMisconfiguredError, SinkUnavailableError):
        return f"does not delete them, which it need not: {key} stays"
    return "deletes them"


async def _tells_what_is_missing(store: ObjectStore, prefix: str, promise: Promise) -> str:
    """Amazon says 403 instead of 404 to whom may not list the bucket.

    Raises:
        SinkMisconfiguredError: It does not, and nothing could be written.
    """
    try:
        await store.head(f"{prefix}.missing")
    except SinkMisconfiguredError as error:
        advice = "allow it to list the bucket (s3:ListBucket)"
        if promise is Promise.HEAD_AND_COMPARE:
            text = f"it does not say that an object is missing: {advice} ({error})"
            raise SinkMisconfiguredError(text, credentials=error.credentials) from error
        return f"does not say that an object is missing, so nothing goes up in parts: {advice}"
    return ""
