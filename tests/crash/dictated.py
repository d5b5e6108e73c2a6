"""Sandboxes whose logs a test writes line by line, stamps and all, and the comparison at the end.

Where `scene` lets programs print, here nothing is printed that was not dictated: how many lines
share a stamp, how far stamps are out of order, which lines are gone from the server.
"""

from __future__ import annotations

import json
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from forwarder.local.server import LocalServer
from forwarder.local.settings import LocalSettings
from forwarder.spool.overview import gaps_of, overview_of
from forwarder.stamps import format_stamp
from tests.crash.scene import TAG, Home, Scene
from tests.fakes import oracle
from tests.fakes.daemon import grown, running, until
from tests.fakes.local import create_sandbox, delete_sandbox
from tests.fakes.ndjson import records, text_log
from tests.fakes.proxy import PASS, STALL, TcpProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence
    from pathlib import Path

    from forwarder.model import Gap
    from tests.fakes.daemon import DaemonProcess

SECOND_NS = 1_000_000_000


@dataclass
class Dictated:
    """A sandbox that prints nothing by itself.

    Attributes:
        lines: Everything that was ever written, as a reader with stamps gets it.
        numbered: How many numbered lines there are of each source.
        last_stamp_ns: The stamp of the line that was written last.
    """

    server: LocalServer
    id: str
    name: str
    lines: list[bytes] = field(default_factory=list)
    numbered: dict[str, int] = field(default_factory=dict)
    last_stamp_ns: int = 0

    @property
    def log(self) -> bytes:
        """Everything that was ever written."""
        return b"".join(self.lines)

    @property
    def sources(self) -> list[str]:
        """Whose numbered lines the log holds."""
        return list(self.numbered)

    def say(self, count: int = 1, *, stamp_ns: int | None = None, of: str = "out") -> None:
        """Write numbered lines, stamped one after the other, or all with one stamp."""
        source = f"{self.name}/{of}"
        first = self.numbered.get(source, 0)
        self.numbered[source] = first + count
        begin_ns = max(self.last_stamp_ns + 1, time.time_ns())
        self.write(
            (begin_ns + place if stamp_ns is None else stamp_ns, oracle.line(source, first + place))
            for place in range(count)
        )

    def conclude(self) -> None:
        """Write every source's last line, which says that it is the last one."""
        for source, number in self.numbered.items():
            stamp_ns = max(self.last_stamp_ns + 1, time.time_ns())
            self.write([(stamp_ns, oracle.line(source, number, last=True))])

    def write(self, lines: Iterable[tuple[int, bytes]]) -> None:
        """Write (stamp in ns, text) lines."""
        written = list(lines)
        self.last_stamp_ns = written[-1][0]
        self.lines += [b"%s %s" % (format_stamp(stamp).encode(), text) for stamp, text in written]
        self.server.process(self.id).record(written)

    async def end(self, *, conclude: bool = True) -> None:
        """Let the sandbox end, after its last line."""
        if conclude:
            self.conclude()
        await delete_sandbox(self.server.base_url, self.server.api_key, self.id)


@dataclass(frozen=True)
class Stage:
    """A service with dictated sandboxes, and the place of a daemon that follows them.

    Attributes:
        proxy: What stands between the two, where that was wanted.
    """

    server: LocalServer
    proxy: TcpProxy
    scene: Scene
    home: Home
    sandboxes: list[Dictated]

    @property
    def sandbox(self) -> Dictated:
        """The first one."""
        return self.sandboxes[0]

    async def add(self, name: str) -> Dictated:
        """One more sandbox, which runs until it is told to end."""
        at = self.server.base_url, self.server.api_key
        sandbox_id = await create_sandbox(*at, "sleep", ["600"], tags=[TAG], display_name=name)
        self.scene.names[sandbox_id] = name
        sandbox = Dictated(self.server, sandbox_id, name)
        self.sandboxes.append(sandbox)
        return sandbox

    @property
    def held(self) -> int:
        """How many lines of the first sandbox the server still has."""
        return self.server.process(self.sandbox.id).log.stamped().count(b"\n")

    def take_key_from(self, file: Path) -> None:
        """Configure the daemon with a key file, instead of the key itself."""
        document = json.loads(self.home.config.read_text())
        del document["source"]["api_key"]
        document["source"]["api_key_file"] = str(file)
        self.home.config.write_text(json.dumps(document))

    def daemon(self, *options: str) -> Any:
        """A daemon, forked, as an async context manager."""
        return running(self.home.config, *options, forked=True)

    async def delivered(self, daemon: DaemonProcess) -> None:
        """Return once the files have everything that was written."""
        for sandbox in self.sandboxes:
            await grown(self._file(sandbox, "log"), len(sandbox.log), daemon)

    async def shows(self, daemon: DaemonProcess, line: bytes) -> None:
        """Return once the first sandbox's file has this line."""
        file = self._file(self.sandbox, "log")
        await until(
            lambda: not daemon.running or (file.exists() and line in file.read_bytes()),
            f"{line!r} in {file}; the log:\n{daemon.log}",
        )

    async def say_and_deliver(self, daemon: DaemonProcess, count: int) -> None:
        """Let every sandbox say so much, and wait until the files have it."""
        for sandbox in self.sandboxes:
            sandbox.say(count)
        await self.delivered(daemon)

    async def lose_on_the_way(self, count: int) -> None:
        """Let the first sandbox say something that is sent, and that the daemon never gets.

        Nothing goes through the proxy any more until `come_back`.
        """
        self.proxy.behave(STALL)
        size = len(self.sandbox.log)
        self.server.faults.cut_after_bytes = size + 1000
        self.sandbox.say(count)
        assert len(self.sandbox.log) > size + 1000
        await until(lambda: self.server.open_streams == 0, "the server to have sent it")
        self.server.faults.cut_after_bytes = None

    def come_back(self) -> None:
        """Reset what is stalled, with everything in it, and let new connections pass."""
        self.proxy.cut()
        self.proxy.behave(PASS, existing=False)

    async def finish(self, daemon: DaemonProcess) -> None:
        """Let every sandbox end, and a daemon that runs until then come to its end."""
        for sandbox in self.sandboxes:
            await sandbox.end()
        assert await daemon.wait() == 0, daemon.log

    async def finish_anew(self) -> None:
        """The same with another life of the daemon, after the sandboxes have ended."""
        async with self.daemon("--until-complete") as daemon:
            assert await daemon.wait() == 0, daemon.log

    # What became of it ---------------------------------------------------------------------------

    def text(self, sandbox: Dictated) -> bytes:
        """The text file of a sandbox."""
        return self._file(sandbox, "log").read_bytes()

    def ndjson(self, sandbox: Dictated) -> bytes:
        """The NDJSON file of a sandbox."""
        return self._file(sandbox, "ndjson").read_bytes()

    def gap_records(self, sandbox: Dictated) -> list[dict[str, Any]]:
        """The gap records that the sinks were given."""
        return [one["gap"] for one in records(self.ndjson(sandbox)) if "gap" in one]

    def gaps(self, sandbox: Dictated) -> list[Gap]:
        """The sandbox's rows in the table of gaps."""
        return [one.gap for one in gaps_of(self.home.state) if one.key.sandbox_id == sandbox.id]

    def check_exact(self) -> None:
        """Both files hold what was written, to the byte, and nothing was declared missing."""
        for sandbox in self.sandboxes:
            assert _differs(self.text(sandbox), sandbox.log) is None
            assert _differs(text_log(self.ndjson(sandbox)), sandbox.log.removesuffix(b"\n")) is None
            assert [gap for gap in self.gaps(sandbox) if not gap.filled_ns] == []
        self._check_counters()

    def check_gaps(self, *causes: str, missing: Sequence[range] = ()) -> None:
        """Of the first sandbox these lines are missing, inside gaps of these causes, and no others.

        Both files say so in the same places, and the table of gaps says the same.
        """
        told = self.gap_records(self.sandbox)
        assert [one["cause"] for one in told] == list(causes)
        assert [gap.record() for gap in self.gaps(self.sandbox)] == told
        self.check_lines(missing=missing)

    def check_lines(self, *, missing: Sequence[range] = ()) -> None:
        """Of the first sandbox these lines are missing, and the gap records say just that."""
        sandbox = self.sandbox
        ndjson = self.ndjson(sandbox)
        gone = {number for numbers in missing for number in numbers}
        kept = [line for number, line in enumerate(sandbox.lines) if number not in gone]
        lines = [line for line in _as_text(ndjson) if not line.startswith(b"#gap ")]
        assert _differs(b"".join(lines), b"".join(kept)) is None
        assert _differs(self.text(sandbox), b"".join(_as_text(ndjson))) is None
        count = oracle.count_records(ndjson, sandbox.sources)
        assert count.wrong == {}
        self._check_counters()

    def _check_counters(self) -> None:
        for sink in overview_of(self.home.state).sinks:
            assert (sink.delivered, sink.pending) == (sink.taken, 0), sink

    def _file(self, sandbox: Dictated, end: str) -> Path:
        return self.home.output / f"{sandbox.id}.{end}"


@asynccontextmanager
async def stage(
    directory: Path,
    settings: LocalSettings | None = None,
    *,
    sandboxes: int = 1,
    proxied: bool = False,
    **options: Any,
) -> AsyncIterator[Stage]:
    """A service with so many dictated sandboxes, and a daemon's home with these options."""
    async with (
        LocalServer(settings or LocalSettings()) as server,
        TcpProxy(server.base_url) as proxy,
    ):
        scene = Scene(server, directory / "stop")
        base_url = proxy.base_url if proxied else server.base_url
        home = scene.home(directory / "daemon", base_url=base_url, **options)
        one = Stage(server, proxy, scene, home, [])
        for number in range(sandboxes):
            await one.add(f"s{number}")
        yield one


def _as_text(ndjson: bytes) -> list[bytes]:
    """What the text file is to hold, line by line, as the NDJSON file says it."""
    return [
        b"#gap %s\n" % line
        if "gap" in (record := json.loads(line))
        else f"{record['time']} {record['text']}\n".encode()
        for line in ndjson.splitlines()
    ]


def _differs(found: bytes, expected: bytes) -> str | None:
    """Where two logs begin to differ, shortly; None when they do not."""
    if found == expected:
        return None
    pairs = zip(found, expected, strict=False)
    short = min(len(found), len(expected))
    at = next((place for place, (a, b) in enumerate(pairs) if a != b), short)
    begin = max(at - 40, 0)
    what = f"{found[begin : at + 120]!r} instead of {expected[begin : at + 120]!r}"
    return f"from byte {at} of {len(expected)} ({len(found)} found): {what}"
