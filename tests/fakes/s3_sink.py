"""The s3 sink in front of a scripted store: windows, crashes, and a reader of its own."""

from __future__ import annotations

import gzip
import json
import re
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import zstandard

from sinks.interface import SinkUnavailableError, Stream
from sinks.s3.sink import S3Sink
from sinks.s3.upload import UPLOAD_PREFIX
from sinks.testing import MemoryState, slice_of
from tests.fakes.s3_server import S3Server
from tests.fakes.s3_store import settings_for
from tests.fakes.windows import window_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

    from sinks.s3.settings import S3Settings
    from sinks.window import Window
    from tests.fakes.s3_bucket import Conditions

NAME = "archive"
HOUR_NS = 3_600_000_000_000
START_NS = 1_795_478_400_000_000_000  # 2026-11-24T00:00:00Z

#: Settings that make other keys and other bytes of everything.
OTHER: Mapping[str, Any] = {
    "format": "text",
    "key": "other/{sandbox_id}/{container}/{first}",
    "compression": "gzip",
    "level": 9,
    "manifest_prefix": "elsewhere/",
}

#: What the sink takes from no configuration: objects of a few bytes go up in parts.
IN_PARTS: Mapping[str, Any] = {"multipart_above": 300, "part_size": 200}

_UNCHECKED = frozenset(IN_PARTS)
_WINDOW = re.compile(r"[0-9a-f]{8}-([0-9a-f]+)-[0-9a-f]+")
_STAMP = len("2026-11-24T00:00:00.000000000Z ")


def s3_settings(url: str, **more: Any) -> S3Settings:
    """Settings; part sizes may be smaller than a configuration may have them."""
    unchecked = {name: value for name, value in more.items() if name in _UNCHECKED}
    checked = {name: value for name, value in more.items() if name not in _UNCHECKED}
    patient = {"conditional_writes": "on", "timeout": "5s", **checked}
    return settings_for(url, **patient).model_copy(update=unchecked)


def lines_of(sandbox_id: str, first: int, count: int, *, step_ns: int = 1) -> Any:
    """A slice of lines that say where they belong, each so much later than the one before."""
    stream = Stream(sandbox_id, "main")
    lines = [
        (START_NS + number * step_ns, f"{sandbox_id} {number}")
        for number in range(first, first + count)
    ]
    return slice_of(lines, stream=stream, first_line=first)


def some_window(after_id: int = 0, *, first: int = 0, count: int = 6, streams: int = 2) -> Window:
    """A window of some streams with lines in three hours."""
    step_ns = HOUR_NS // 2
    slices = [lines_of(f"sbx-{number}", first, count, step_ns=step_ns) for number in range(streams)]
    return window_of(slices, after_id=after_id)


def made_of(window: Window) -> tuple[Window, list[int]]:
    """The same window, and what will be said of its size."""
    told: list[int] = []
    return replace(window, made=told.append), told


class FailingState(MemoryState):
    """Remembers nothing when it is told so.

    Attributes:
        left: So many calls of `remember` succeed before one fails; None for all.
        keeps: Whether the one that fails has done it nevertheless, as in a crash right behind it.
    """

    left: int | None = None
    keeps: bool = False

    async def remember(self, changes: Mapping[str, bytes | None]) -> None:
        if self.left is None:
            return await super().remember(changes)
        self.left -= 1
        if self.left < 0:
            self.left = None
            if self.keeps:
                await super().remember(changes)
            raise SinkUnavailableError("no room in the spool")
        return await super().remember(changes)


@dataclass
class Desk:
    """A store, what a sink remembers, and the settings of sinks unless others are given."""

    server: S3Server
    state: FailingState
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def bodies(self) -> dict[str, bytes]:
        """What the bucket holds."""
        return {key: one.body for key, one in sorted(self.server.bucket.objects.items())}

    @property
    def staged(self) -> list[str]:
        """The windows that have files on the disk."""
        return sorted(path.name for path in self.state.directory.iterdir())

    def new_sink(self, **more: Any) -> S3Sink:
        """A sink that is not open."""
        return S3Sink(NAME, s3_settings(self.server.url, **{**self.settings, **more}))

    @asynccontextmanager
    async def sink(self, **more: Any) -> AsyncIterator[S3Sink]:
        """A sink that was just started."""
        sink = self.new_sink(**more)
        try:
            await sink.open(self.state)
            yield sink
        finally:
            await sink.close()

    async def write(self, *windows: Window, **more: Any) -> None:
        """Deliver windows as the engine does, one after the other, by a sink just started."""
        async with self.sink(**more) as sink:
            for window in windows:
                self.state.commit(await sink.write(window))

    async def until_done(self, *windows: Window, **more: Any) -> int:
        """The same, started again after every failure; returns how many there were."""
        for failed in range(60):
            with suppress(SinkUnavailableError):
                await self.write(*windows, **more)
                return failed
        raise AssertionError("it is never done")

    def check(self) -> None:
        """Nothing was overwritten or left half done; manifests say what is there, all of it."""
        bucket = self.server.bucket
        assert bucket.overwritten == []
        assert bucket.uploads == {}
        assert not any(key.startswith((UPLOAD_PREFIX, "plan:")) for key in self.state.values)
        told: list[tuple[str, int]] = []
        for key, body in self.bodies.items():
            if key.endswith(".json"):
                told += [(key, len(body))]
                told += [(one["key"], one["size"]) for one in json.loads(body)["objects"]]
        assert sorted(told) == [(key, len(body)) for key, body in self.bodies.items()]


@asynccontextmanager
async def desk_in(
    directory: Path, *, conditions: Conditions = "honoured", **settings: Any
) -> AsyncIterator[Desk]:
    """A desk with a store of its own; staged files are in the directory."""
    async with S3Server(conditions=conditions) as server:
        yield Desk(server, FailingState(directory=directory / "staging"), settings)


async def made(directory: Path, *windows: Window, **settings: Any) -> dict[str, bytes]:
    """What a bucket holds when nothing goes wrong."""
    async with desk_in(directory / "made", **settings) as desk:
        await desk.write(*windows)
        return desk.bodies


def lines_in(bodies: Mapping[str, bytes]) -> dict[str, list[int]]:
    """The numbers of the lines of each sandbox, as they stand in the objects of its windows.

    Reads ndjson and text, with nothing of the sink's own.
    """
    found: dict[str, list[int]] = {}
    keys = [key for key in bodies if not key.endswith(".json")]
    for key in sorted(keys, key=lambda key: (_after_id(key), key)):
        for text in _texts(key, bodies[key]):
            sandbox_id, _, number = text.partition(" ")
            found.setdefault(sandbox_id, []).append(int(number))
    return found


def _after_id(key: str) -> int:
    found = _WINDOW.search(key)
    assert found is not None, key
    return int(found[1], 16)


def _texts(key: str, body: bytes) -> Sequence[str]:
    if key.endswith(".zst"):
        with zstandard.ZstdDecompressor().stream_reader(body, read_across_frames=True) as reader:
            body = reader.read()
    elif key.endswith(".gz"):
        body = gzip.decompress(body)
    lines = body.decode().splitlines()
    if ".ndjson" in key:
        return [json.loads(line)["text"] for line in lines]
    return [line[_STAMP:] for line in lines]
