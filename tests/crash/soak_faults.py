"""Everything that happens to a daemon in a long run, one thing at a time."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forwarder.local.logstore import STAMP_BYTES
from forwarder.local.settings import CONNECT_CODES, StatusFault
from tests.crash.soak_place import FRESH_WITHIN_S
from tests.crash.test_faults import IN_BAND_CODES
from tests.fakes.daemon import DaemonProcess, grown, size_bytes, until
from tests.fakes.proxy import PASS, STALL

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Iterator, Sequence
    from pathlib import Path

    from forwarder.local.server import LocalServer
    from tests.crash.dictated import Dictated
    from tests.crash.soak_place import Place
    from tests.fakes.proxy import TcpProxy


#: With these a life of the daemon is over.
ENDINGS = frozenset({"daemon killed", "daemon stopped"})


@dataclass(frozen=True)
class Parts:
    """What a long run consists of.

    Attributes:
        proxy: What stands between the daemon and the service.
        place: Where the daemon lives.
        steady: Sandboxes that print for as long as the run lasts.
        dictated: The sandbox whose container is restarted now and then.
    """

    server: LocalServer
    proxy: TcpProxy
    place: Place
    steady: Sequence[str]
    dictated: Dictated


class Faults:
    """What can be done, and the daemon that it is done to.

    Args:
        parts: What the run consists of.
        longest_s: How long anything may be away.

    Attributes:
        daemon: The one that runs now.
        restarts: How often the container was restarted.
    """

    def __init__(
        self, parts: Parts, daemon: DaemonProcess, rng: random.Random, longest_s: float
    ) -> None:
        self.daemon = daemon
        self.restarts = 0
        self._server = parts.server
        self._proxy = parts.proxy
        self._place = parts.place
        self._steady = parts.steady
        self._dictated = parts.dictated
        self._rng = rng
        self._longest_s = longest_s
        self._codes = itertools.cycle(rng.sample(IN_BAND_CODES, len(IN_BAND_CODES)))
        self._statuses = itertools.cycle(rng.sample(CONNECT_CODES, len(CONNECT_CODES)))

    def shuffled(self, *, ending_every: int) -> Iterator[tuple[str, Callable[[], Awaitable[None]]]]:
        """Everything in some order, and again in another one, and so on.

        Args:
            ending_every: In how many rounds the daemon is ended once in each way: a life has to be
                long to show what grows in it.
        """
        acts = {
            "streams broken": self._break_streams,
            "in-band code": self._send_code,
            "transport status": self._send_status,
            "sessions lost": self._lose_sessions,
            "API restarted": self._restart_api,
            "API refusing calls": self._refuse_calls,
            "API refusing credentials": self._refuse_credentials,
            "connections reset": self._reset_connections,
            "connections stalled": self._stall_connections,
            "streams silent": self._silence_streams,
            "daemon killed": self._kill_daemon,
            "daemon stopped": self._stop_daemon,
            "daemon reloaded": self._reload_daemon,
            "daemon paused": self._pause_daemon,
            "destination away": self._take_destination_away,
            "file renamed": self._rename_file,
            "container restarted": self._restart_container,
        }
        if self._place.can_be_full:
            acts["disk full"] = self._fill_disk
        for number in itertools.count(1):
            left_out = ENDINGS if number % ending_every else frozenset()
            names = sorted(acts.keys() - left_out)
            yield from ((name, acts[name]) for name in self._rng.sample(names, len(names)))

    async def settled(self) -> None:
        """What was said until now reaches every sink, soon enough."""
        self.say()
        said_last = self._dictated.lines[-1][STAMP_BYTES:-1]
        await self._place.shows(self._dictated.id, said_last, self.daemon)
        said = {one: self._said_bytes(one) for one in self._steady}
        await until(
            lambda: all(
                size >= said[one] for one in said for size in self._place.text_sizes(one).values()
            ),
            "every file to have what was said",
            deadline_s=FRESH_WITHIN_S,
        )

    def say(self) -> None:
        """Let the dictated sandbox say a line."""
        self._dictated.say(of=f"life{self.restarts}")

    def vary(self) -> None:
        """Let the service cut its messages otherwise, and replay more or less."""
        faults = self._server.faults
        faults.piece_bytes = self._rng.choice((None, 1000, 37))
        faults.replay_extra_bytes = self._rng.choice((0, 1, 500))
        faults.data_after_error = self._rng.random() < 0.5

    def _said_bytes(self, sandbox_id: str) -> int:
        return self._server.process(sandbox_id).log.stored_bytes

    async def _some_time(self) -> None:
        await asyncio.sleep(self._rng.uniform(0.2, self._longest_s))

    async def _flows(self, file: Path) -> None:
        await grown(file, size_bytes(file) + 1, self.daemon)

    def _file(self, sandbox_id: str) -> Path:
        return self._place.text / f"{sandbox_id}.log"

    # The things ----------------------------------------------------------------------------------

    async def _break_streams(self) -> None:
        self._server.break_streams(self._rng.choice(("reset", "cut", "clean_end")))

    async def _send_code(self) -> None:
        self._server.break_streams("error", next(self._codes))

    async def _send_status(self) -> None:
        self._server.break_streams("status", next(self._statuses))

    async def _lose_sessions(self) -> None:
        self._server.forget_sessions()
        if self._rng.random() < 0.5:
            self._server.break_streams("cut")

    async def _restart_api(self) -> None:
        await self._server.restart(self._rng.choice((0, 0.1, 0.5)))

    async def _refuse_calls(self) -> None:
        down = StatusFault("unavailable", calls=1_000_000)
        self._server.faults.statuses = {"GetSandbox": down, "ListSandboxes": down}
        self._server.break_streams("cut")
        await self._some_time()
        self._server.faults.statuses = {}

    async def _refuse_credentials(self) -> None:
        unknown = self._rng.random() < 0.5
        self._server.faults.refuse_credentials = (
            "unauthenticated" if unknown else "permission_denied"
        )
        self._server.break_streams("cut")
        await self._some_time()
        self._server.faults.refuse_credentials = ""

    async def _reset_connections(self) -> None:
        self._proxy.cut(self._rng.choice(("reset", "close")))

    async def _stall_connections(self) -> None:
        self._proxy.behave(STALL)
        await self._some_time()
        if self._rng.random() < 0.5:
            self._proxy.cut()
        self._proxy.behave(PASS)

    async def _silence_streams(self) -> None:
        self._server.faults.silent = True
        sizes = {one: self._said_bytes(one) for one in self._steady}
        await until(
            lambda: all(self._place.text_sizes(one)["text"] > size for one, size in sizes.items()),
            "what was said while all was silent",
        )
        self._server.faults.silent = False

    async def _kill_daemon(self) -> None:
        await self.daemon.kill()
        self.daemon = await DaemonProcess.fork(self._place.config)

    async def _stop_daemon(self) -> None:
        await self._flows(self._file(self._rng.choice(self._steady)))  # it hears signals by now
        self.daemon.terminate()
        assert await self.daemon.wait() == 0, self.daemon.log
        self.daemon = await DaemonProcess.fork(self._place.config)

    async def _reload_daemon(self) -> None:
        def reloads() -> int:
            events = self.daemon.events
            return sum(event.get("event") == "configuration reloaded" for event in events)

        await self._flows(self._file(self._rng.choice(self._steady)))
        before = reloads()
        self.daemon.send(signal.SIGHUP)
        await until(lambda: reloads() > before, "the reload")

    async def _pause_daemon(self) -> None:
        self.daemon.send(signal.SIGSTOP)
        try:
            await self._some_time()
            if self._rng.random() < 0.5:
                self._server.break_streams("reset")
        finally:
            self.daemon.send(signal.SIGCONT)

    async def _fill_disk(self) -> None:
        end_s = time.monotonic() + self._rng.uniform(0.5, self._longest_s)
        while time.monotonic() < end_s:
            self._place.fill()
            await asyncio.sleep(0.05)
        self._place.make_room()

    async def _take_destination_away(self) -> None:
        self._place.take_away()
        await self._some_time()
        self._place.bring_back()

    async def _rename_file(self) -> None:
        """As logrotate does. Nothing else happens between an attempt and its confirmation."""
        sandbox_id = self._rng.choice(self._steady)
        await self._flows(self._file(sandbox_id))
        await self._flows(self._place.rename_text(sandbox_id))

    async def _restart_container(self) -> None:
        await self.settled()
        await self._server.restart_container(self._dictated.id)
        self.restarts += 1
        await self.settled()
        await until(
            lambda: self._place.generation(self._dictated.id) == self.restarts,
            "the restart to be noticed",
        )
