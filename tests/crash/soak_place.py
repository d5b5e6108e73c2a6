"""Where the daemon of a long run lives: three sinks, what is done to them, and a reader of each."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forwarder.spool.files import StateDir
from forwarder.spool.overview import gaps_of, overview_of
from tests.crash.scene import TAG
from tests.fakes import oracle
from tests.fakes.daemon import file_sink, size_bytes, until, write_config
from tests.fakes.ndjson import text_log
from tests.unit.sinks.renaming_disk import read_all

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tests.fakes.daemon import DaemonProcess
    from tests.fakes.tmpfs import SmallDisk

#: A disk with room for hours.
ROOMY = "8g"

#: How long a fresh line may take to every sink, once nothing is wrong any more.
FRESH_WITHIN_S = 30.0

_OUTPUT_NAMES = re.compile(r"sbx-[0-9a-f]+\.(log|log\.\d+|ndjson|ndjson\.\d{6}(\.zst)?)")


@dataclass(frozen=True)
class Expected:
    """What is to be in a sandbox's files.

    Attributes:
        log: The service's own log, stamps included.
        sources: Whose numbered lines are in it.
        restarts: How often its container was restarted.
    """

    log: bytes
    sources: Sequence[str]
    restarts: int = 0


class Place:
    """Where a daemon lives, with three sinks.

    `text` shares a disk with the spool, and its files are renamed by a logrotate; `ndjson` is put
    away by size and compressed; `away` is behind a link that may lead nowhere.

    Args:
        root: An empty directory.
        disk: The disk of the spool and of `text`, if it can be filled.
        base_url: Where the API is.
        rotate_size: When a file of `ndjson` is put away.
    """

    def __init__(
        self, root: Path, disk: SmallDisk | None, *, base_url: str, api_key: str, rotate_size: str
    ) -> None:
        self._disk = disk
        home = disk.path if disk else root / "home"
        self.text = home / "text"
        self.ndjson = root / "ndjson"
        self.away = root / "away"
        self._real = root / "away.real"
        self._nothing = root / "nothing"
        self._real.mkdir(parents=True)
        self._nothing.touch()
        self.away.symlink_to(self._real)
        rotated = {"rotate": {"size": rotate_size}, "compress": "zstd"}
        self.config = write_config(
            home,
            base_url=base_url,
            api_key=api_key,
            sandboxes=[{"tags": [TAG]}],
            sinks={
                "text": file_sink(self.text / "{sandbox_id}.log"),
                "ndjson": {**file_sink(self.ndjson / "{sandbox_id}.ndjson", "ndjson"), **rotated},
                "away": file_sink(self.away / "{sandbox_id}.log"),
            },
            source={"idle_probe": "2s", "stream_life": "30s"},
            spool={"ballast": "256KiB"},
        )
        self.state = StateDir(home / "state")

    # What is done to it --------------------------------------------------------------------------

    @property
    def can_be_full(self) -> bool:
        """Whether there is a disk that can be filled."""
        return self._disk is not None

    def fill(self) -> None:
        """Let the disk have no room, not even what was freed since the last time."""
        assert self._disk is not None
        status = os.statvfs(self._disk.path)
        used_bytes = (status.f_blocks - status.f_bfree) * status.f_frsize
        try:
            self._disk.resize(str(used_bytes))
        except subprocess.CalledProcessError:
            return  # more was written meanwhile; the next time

    def make_room(self) -> None:
        """Let there be room again."""
        assert self._disk is not None
        self._disk.resize(ROOMY)

    def take_away(self) -> None:
        """Let the destination of `away` be no directory, from one moment to the next."""
        self._lead_to(self._nothing)

    def bring_back(self) -> None:
        """Let it be what it was."""
        self._lead_to(self._real)

    def rename_text(self, sandbox_id: str) -> Path:
        """Do what logrotate does to the `text` file of a sandbox; the path, where none is now."""
        path = self.text / f"{sandbox_id}.log"
        number = len(list(self.text.glob(f"{path.name}.*"))) + 1
        path.rename(f"{path}.{number}")
        return path

    def _lead_to(self, target: Path) -> None:
        link = self.away.with_name("away.new")
        link.symlink_to(target)
        link.replace(self.away)

    # What it has written -------------------------------------------------------------------------

    def read(self, sandbox_id: str) -> dict[str, bytes]:
        """What a reader of each sink sees of a sandbox, the files put away first."""
        name = f"{sandbox_id}.log"
        return {
            "text": b"".join(path.read_bytes() for path in self._text_files(name)),
            "ndjson": read_all(self.ndjson, f"{sandbox_id}.ndjson"),
            "away": (self._real / name).read_bytes() if (self._real / name).exists() else b"",
        }

    def text_sizes(self, sandbox_id: str) -> dict[str, int]:
        """How much the two sinks in text format have written of a sandbox."""
        name = f"{sandbox_id}.log"
        return {
            "text": sum(map(size_bytes, self._text_files(name))),
            "away": size_bytes(self._real / name),
        }

    async def shows(self, sandbox_id: str, line: bytes, daemon: DaemonProcess) -> None:
        """Return once every sink has written this line of a sandbox.

        Raises:
            AssertionError: That took longer than `FRESH_WITHIN_S`, or the daemon ended.
        """

        def shown() -> bool:
            try:
                return all(line in seen for seen in self.read(sandbox_id).values())
            except FileNotFoundError:
                return False  # just put away, or compressed: look again

        await until(
            lambda: not daemon.running or shown(),
            f"{line!r} in every sink",
            deadline_s=FRESH_WITHIN_S,
        )
        assert daemon.running

    def check(self, expected: Mapping[str, Expected]) -> None:
        """Every file equals the service's own log, nothing else is there, and numbers add up."""
        self.check_files(expected)
        self._check_counters(expected)

    def check_files(self, expected: Mapping[str, Expected]) -> None:
        """The same without the numbers.

        Raises:
            AssertionError: A reader of a sink does not see just what the service has.
            ValueError: The records of `ndjson` are not numbered as they must be.
        """
        for sandbox_id, one in expected.items():
            assert oracle.count(one.log, one.sources).wrong == {}, "the service itself"
            seen = self.read(sandbox_id)
            records = text_log(seen["ndjson"]) + b"\n" if seen["ndjson"] else b""
            for sink, found in {**seen, "ndjson": records}.items():
                _compare(f"{sink} of {sandbox_id}", found, one)
        names = [file.name for at in (self.text, self.ndjson, self._real) for file in at.iterdir()]
        assert [name for name in names if not _OUTPUT_NAMES.fullmatch(name)] == []

    def generation(self, sandbox_id: str) -> int:
        """Which life of its container the last lines are of, as the spool has it."""
        streams = overview_of(self.state).streams
        return next(one.generation for one in streams if one.key.sandbox_id == sandbox_id)

    def _check_counters(self, expected: Mapping[str, Expected]) -> None:
        overview = overview_of(self.state)
        assert [entry for entry in gaps_of(self.state) if not entry.gap.filled_ns] == []
        said = {key: one.log.count(b"\n") for key, one in expected.items()}
        assert {stream.key.sandbox_id for stream in overview.streams} == said.keys()
        for stream in overview.streams:
            key = stream.key.sandbox_id
            # A stream's own number is that of its last generation.
            assert stream.lines == said[key], stream
            assert stream.generation == expected[key].restarts, stream
        total = sum(said.values())
        for sink in overview.sinks:
            assert (sink.taken, sink.delivered, sink.pending) == (total, total, 0), sink

    def _text_files(self, name: str) -> list[Path]:
        put_away = sorted(self.text.glob(f"{name}.*"), key=lambda path: int(path.suffix[1:]))
        live = self.text / name
        return [*put_away, live] if live.exists() else put_away


def _compare(what: str, found: bytes, expected: Expected) -> None:
    """Fail with what is wrong and where it begins."""
    if found == expected.log:
        return
    log = expected.log
    wrong = oracle.count(found, expected.sources).wrong
    short = min(len(found), len(log))
    at = next((n for n, (a, b) in enumerate(zip(found, log, strict=False)) if a != b), short)
    raise AssertionError(
        f"{what}: {wrong}, from byte {at} of {len(log)} ({len(found)} found): "
        f"{found[max(at - 200, 0) : at + 200]!r} instead of {log[max(at - 200, 0) : at + 200]!r}"
    )
