"""Talkative sandboxes, daemons that follow them, and the final comparison to the byte."""

from __future__ import annotations

import os
import random
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from forwarder.local.server import LocalServer
from forwarder.local.settings import LocalSettings
from forwarder.spool.files import StateDir
from forwarder.spool.overview import overview_of
from tests.fakes import oracle
from tests.fakes.daemon import (
    DaemonProcess,
    file_sink,
    grown,
    run_to_end,
    size_bytes,
    until,
    write_config,
)
from tests.fakes.local import create_sandbox, read_logs
from tests.fakes.ndjson import text_log

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from tests.fakes.preload import Preload

TAG = "talkative"

#: A service whose logs stay whole in a long run too.
KEEPS_ALL = LocalSettings(retention_bytes=4 << 30)


def seeded(seed: int | None = None) -> random.Random:
    """Random numbers whose seed is printed, so that a failed run can be told apart and repeated."""
    seed = random.SystemRandom().getrandbits(32) if seed is None else seed
    print(f"seed: {seed}")
    return random.Random(seed)


def cycles(default: int) -> int:
    """How often a test repeats its fault: CRASH_CYCLES, or this many."""
    return int(os.environ.get("CRASH_CYCLES", default))


@dataclass
class Scene:
    """A local service with sandboxes that print on stdout and stderr until told to stop.

    Attributes:
        names: By sandbox id, the name that its lines carry.
    """

    server: LocalServer
    stop_file: Path
    names: dict[str, str] = field(default_factory=dict)

    async def add(self, name: str, *options: str) -> str:
        """Start one more sandbox; returns its id."""
        sandbox_id = await create_sandbox(
            self.server.base_url,
            self.server.api_key,
            sys.executable,
            ("-I", "-S", oracle.__file__, name, str(self.stop_file), *_lasting(), *options),
            tags=[TAG],
            display_name=name,
        )
        self.names[sandbox_id] = name
        return sandbox_id

    async def fall_silent(self) -> None:
        """Let every sandbox say its last line and end."""
        self.stop_file.touch()
        for sandbox_id in self.names:
            await self.server.wait_ended(sandbox_id)

    async def log(self, sandbox_id: str) -> bytes:
        """What the service itself answers, from the beginning to the end."""
        server = self.server
        return await read_logs(
            server.base_url, server.api_key, sandbox_id=sandbox_id, timestamps=True
        )

    async def logs(self) -> dict[str, bytes]:
        """Every sandbox's log: what the files are to hold."""
        return {sandbox_id: await self.log(sandbox_id) for sandbox_id in self.names}

    def home(self, directory: Path, **options: Any) -> Home:
        """A daemon's place, with its configuration written."""
        return Home(self, directory, **options)


class Home:
    """One daemon's `state_dir` and files, over all of its lives.

    Args:
        scene: What it follows.
        directory: Where it lives.
        output: Where the files are; `directory/out` if nothing is said.
        base_url: Where the daemon finds the service, if something stands in between.
        source: Settings of the section `source`.
        sections: Other sections.
    """

    def __init__(
        self,
        scene: Scene,
        directory: Path,
        *,
        output: Path | None = None,
        base_url: str = "",
        source: Mapping[str, Any] | None = None,
        **sections: Any,
    ) -> None:
        self.scene = scene
        self.directory = directory
        self.output = output or directory / "out"
        self.config = write_config(
            directory,
            base_url=base_url or scene.server.base_url,
            api_key=scene.server.api_key,
            sandboxes=[{"tags": [TAG]}],
            sinks={
                "text": file_sink(self.output / "{sandbox_id}.log"),
                "ndjson": file_sink(self.output / "{sandbox_id}.ndjson", "ndjson"),
            },
            source=source,
            **sections,
        )

    @property
    def state(self) -> StateDir:
        """Its state directory."""
        return StateDir(self.directory / "state")

    def files(self) -> list[Path]:
        """The files that it writes."""
        return [
            self.output / f"{one}.{end}" for one in self.scene.names for end in ("log", "ndjson")
        ]

    async def holds_state(self, daemon: DaemonProcess) -> None:
        """Return once this life of the daemon has locked the state directory."""
        own = str(daemon.pid)
        lock = self.state.lock
        await until(lambda: lock.exists() and lock.read_text().strip() == own, "the lock")

    async def grows(self, rng: random.Random, daemon: DaemonProcess) -> None:
        """Return once one of the files, whichever, has grown by some bytes, however many."""
        file = rng.choice(self.files())
        await grown(file, size_bytes(file) + rng.choice((1, 100, 1_000, 4_000)), daemon)

    def pending(self) -> int:
        """Records in the spool that some sink has yet to get."""
        return max((sink.pending for sink in overview_of(self.state).sinks), default=0)

    async def run_to_end(self, *, forked: bool = True, under: Preload | None = None) -> None:
        """One last life, until everything is delivered; of the real command when not forked."""
        code, daemon = await run_to_end(self.config, "--until-complete", forked=forked, under=under)
        assert code == 0, daemon.log

    async def check(self) -> None:
        """Every file equals the service's own log, and every number adds up."""
        self.compare(await self.scene.logs())

    def compare(self, logs: Mapping[str, bytes]) -> None:
        """The same, with logs that were read before."""
        for sandbox_id, name in self.scene.names.items():
            expected = logs[sandbox_id]
            text = (self.output / f"{sandbox_id}.log").read_bytes()
            ndjson = (self.output / f"{sandbox_id}.ndjson").read_bytes()
            sources = (f"{name}/out", f"{name}/err")
            assert oracle.count(expected, sources).wrong == {}, "the service itself"
            _compare(text, expected, sources)
            _compare(text_log(ndjson) + b"\n", expected, sources)
        written = {path.name for path in self.output.iterdir()}
        assert written == {path.name for path in self.files()}, sorted(written)
        self._check_counters()

    def _check_counters(self) -> None:
        overview = overview_of(self.state)
        lines = sum(stream.lines for stream in overview.streams)
        assert [stream.gaps for stream in overview.streams] == [0] * len(self.scene.names)
        for sink in overview.sinks:
            assert (sink.taken, sink.delivered, sink.pending) == (lines, lines, 0), sink


def _compare(found: bytes, expected: bytes, sources: tuple[str, ...]) -> None:
    """Fail with what is wrong and where it begins."""
    if found == expected:
        return
    wrong = oracle.count(found, sources).wrong
    at = next((n for n, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), 0)
    raise AssertionError(f"{wrong}, from byte {at} of {len(expected)}: {found[at : at + 500]!r}")


def _lasting() -> tuple[str, str]:
    """Options of the program that let it print until even a long run is over."""
    return "--lifetime-s", str(oracle.LIFETIME_S + 2 * cycles(0))


@asynccontextmanager
async def talkative(
    directory: Path, settings: LocalSettings, sandboxes: int, *options: str
) -> AsyncIterator[Scene]:
    """A scene with so many sandboxes; `options` as of the program `tests/fakes/oracle.py`."""
    async with LocalServer(settings) as server:
        directory.mkdir(parents=True, exist_ok=True)
        scene = Scene(server, directory / "stop")
        for number in range(sandboxes):
            await scene.add(f"s{number}", *options)
        yield scene
