"""A manifest that describes what is in the bucket, where that is not what was built last.

The same records may have become other bytes when a window had to be built again, by another version
of a library. What was uploaded of it before stays, and the manifest has to say its size and digest.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sinks.archive import ArchiveError
from sinks.files.system import verdicts
from sinks.interface import SinkUnavailableError
from sinks.s3.manifest import encode_manifest, read_manifest
from sinks.s3.staging import StagedFile, sync_directory

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sinks.s3.manifest import Manifest
    from sinks.s3.plan import StagedObject, WindowPlan
    from sinks.s3.staging import Finished


def amended(directory: Path, plan: WindowPlan, there: Mapping[str, StagedObject]) -> WindowPlan:
    """The plan with a manifest of what is in the bucket; mostly that is the plan as it is.

    Blocks: it may write the staged manifest anew, which is durable when this returns.

    Args:
        directory: Where the window is staged.
        plan: The window.
        there: Every object but the manifest, by its key, as it is in the bucket.

    Raises:
        SinkUnavailableError: The disk is full, or the staged manifest is damaged.
        SinkMisconfiguredError: Somebody has to mend something, such as permissions.
    """
    *objects, staged = plan.objects
    if all(there[one.key] == one for one in objects):
        return plan
    with verdicts(str(directory)):
        data = (directory / staged.file).read_bytes()
    try:
        manifest = read_manifest(data)
    except ArchiveError as error:  # the next attempt sees it, and builds the window again
        raise SinkUnavailableError(f"{directory / staged.file}: {error}") from error
    told = [
        replace(one, size_bytes=there[one.key].size_bytes, sha256=there[one.key].sha256)
        for one in manifest.archived.objects
    ]
    archived = replace(manifest.archived, objects=told)
    done = _written(directory, staged.file, replace(manifest, archived=archived))
    staged = replace(staged, size_bytes=done.size_bytes, sha256=done.sha256)
    return replace(plan, objects=(*objects, staged))


def _written(directory: Path, name: str, manifest: Manifest) -> Finished:
    path = directory / f"{name}.new"
    with verdicts(str(path)):
        path.unlink(missing_ok=True)
        target = StagedFile(path)
        try:
            target.file.write(encode_manifest(manifest))
            done = target.finish()
        finally:
            target.abandon()
        path.replace(directory / name)
    sync_directory(directory)
    return done
