"""No secret of a network sink ever shows, whatever goes wrong and however much is logged.

Every secret-bearing key of every kind of sink has a canary of its own, given by value, by an
environment variable and by a file. The server repeats all that it was
sent in what it refuses it with.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode, b64encode
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import httpx

from forwarder.local.server import LocalServer
from forwarder.local.settings import LocalSettings
from forwarder.spool.files import StateDir
from forwarder.spool.overview import overview_of
from tests.fakes.certificates import Authority
from tests.fakes.daemon import COMMAND, DaemonProcess, until, write_config
from tests.fakes.local import shell_sandbox
from tests.fakes.stack import KINDS, Stack, sections
from tests.fakes.web_server import Reply, Request, WebServer
from tests.integration.test_commands import Scene

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pytest

    Way = Literal["value", "environment", "file"]

PRINTED = 20
CONTENT = "content-canary"
SCRIPT = f"seq -f '{CONTENT} %g' {PRINTED}"
NOWHERE = "http://127.0.0.1:9"  # discard: nobody listens

#: What says who we are, by kind of sink; all have the first two.
LOGINS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(KINDS, ("bearer_token", "password")),
    "elasticsearch": ("bearer_token", "password", "api_key"),
}


@dataclass
class Canaries:
    """Secrets that are easy to find, and where they were put.

    Attributes:
        known: Every one.
        sent: Those that a request has to carry.
        environment: The variables that hold some of them.
    """

    directory: Path
    known: list[str] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    _numbers: count[int] = field(default_factory=count)

    def new(self, *, is_sent: bool = True) -> str:
        """One more."""
        canary = f"canary{next(self._numbers):03d}bird{'x' * 12}"
        self.known.append(canary)
        if is_sent:
            self.sent.append(canary)
        return canary

    def put(self, canary: str, way: Way) -> str:
        """Hide it; returns what stands in the configuration."""
        match way:
            case "environment":
                self.environment[canary.upper()] = canary
                return f"${{{canary.upper()}}}"
            case "file":
                path = self.directory / str(len(self.known))
                path.write_text(f"{canary}\n")
                return str(path)
            case _:
                return canary

    def setting(self, key: str, way: Way, *, is_sent: bool = True) -> dict[str, str]:
        """A setting that may stand in a file."""
        name = f"{key}_file" if way == "file" else key
        return {name: self.put(self.new(is_sent=is_sent), way)}

    def header(self, way: Way) -> dict[str, Any]:
        """A header of the operator's own."""
        text = self.put(self.new(), way)
        return {"X-Canary": {"file": text} if way == "file" else text}

    def found_in(self, text: bytes) -> list[str]:
        """Those that can be read in it, in the clear or encoded as an HTTP login."""
        return [
            canary
            for canary in self.known
            if canary.encode() in text or b64encode(f"robot:{canary}".encode()) in text
        ]


class Repeater:
    """A server that refuses each sink in every way, and repeats all that it was sent.

    Attributes:
        heard: Everything that came with requests, besides bodies.
    """

    def __init__(self) -> None:
        self.heard: list[str] = []
        self._requests = Counter[str]()

    def __call__(self, request: Request) -> Reply | None:
        login = request.headers.get("authorization", "")
        told = f"no: {request.headers.get('x-canary', '')} {login} {request.path}"
        self.heard.append(f"{told} {_decoded(login)}")
        self._requests[f"{request.path} {login}"] += request.method == "POST"
        number = self._requests[f"{request.path} {login}"]
        # Who is held waits longer every time: not everybody meets everything.
        statuses = (302, 400) if login.startswith("Basic") else (503, 401, 400)
        if not 0 < number <= len(statuses):
            return None
        headers = {"location": f"http://127.0.0.1{request.path}", "x-told": told}
        return Reply(statuses[number - 1], headers, told.encode())


def _decoded(login: str) -> str:
    scheme, _, value = login.partition(" ")
    return b64decode(value).decode() if scheme == "Basic" else value


def sinks_of(canaries: Canaries, url: str, tls_url: str) -> dict[str, Any]:
    """A sink of every kind for every login and way, and some that meet nobody or no trust."""
    ways: tuple[Way, ...] = ("value", "environment", "file")
    # Sinks that have no headers of their own take those of this variable.
    canaries.environment["OTEL_EXPORTER_OTLP_HEADERS"] = f"x-other={canaries.new(is_sent=False)}"
    found: dict[str, Any] = {}
    for way in ways:
        for kind in KINDS:
            for login in LOGINS[kind]:
                found[f"{kind}-{login}-{way}"] = {
                    **_section(canaries, kind, url),
                    **canaries.setting(login, way),
                    **({"username": "robot"} if login == "password" else {}),
                    "headers": canaries.header(way),
                    **_signing(canaries, kind, way),
                }
            place = tls_url if way == "value" else NOWHERE
            found[f"{kind}-lost-{way}"] = {
                **_section(canaries, kind, place, is_sent=False),
                **canaries.setting("bearer_token", way, is_sent=False),
            }
    return found


def _section(canaries: Canaries, kind: str, url: str, *, is_sent: bool = True) -> dict[str, Any]:
    section = sections(url)[kind]
    key = "logs_endpoint" if kind == "otlp" else "endpoint"
    address = f"{section.pop('endpoint')}/{canaries.new(is_sent=is_sent)}"
    if kind != "loki":
        address += f"?key={canaries.new(is_sent=is_sent)}"
    return {**section, key: address}


def _signing(canaries: Canaries, kind: str, way: Way) -> dict[str, str]:
    return canaries.setting("signing_secret", way, is_sent=False) if kind == "http" else {}


async def checked(config: Path) -> bytes:
    """All that `check` says."""
    process = await asyncio.create_subprocess_exec(
        *(str(COMMAND), "check", "--json", "--config", str(config)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return said


def commands_say(scene: Scene) -> dict[str, bytes]:
    """What the commands say that look at the configuration, and at the spool."""
    commands = ["validate", "status", "status --json", "dead-letters list --json"]
    said = {command: scene.run(*command.split()).encode() for command in commands}
    group = json.loads(said["dead-letters list --json"])["groups"][0]
    return {**said, "show": scene.run("dead-letters", "show", str(group["newest_id"])).encode()}


async def pages_say(daemon: DaemonProcess) -> dict[str, bytes]:
    """What the admin endpoint says."""
    port = (await daemon.event("admin endpoint"))["port"]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        pages = ("/readyz", "/metrics", "/status")
        return {page: (await client.get(page)).content for page in pages}


def files_of(state: StateDir) -> dict[str, bytes]:
    """The spool, byte for byte."""
    return {path.name: path.read_bytes() for path in state.path.iterdir()}


def is_settled(state: StateDir) -> bool:
    """Whether every sink that meets a server has got through all of its troubles."""
    sinks = [sink for sink in overview_of(state).sinks if "-lost-" not in sink.name]
    return bool(sinks) and all(sink.taken == PRINTED and not sink.pending for sink in sinks)


async def test_no_canary_shows_anywhere_but_in_the_requests_that_need_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack, canaries, stdout = Stack(), Canaries(tmp_path), tmp_path / "stdout"
    repeater = stack.says = Repeater()
    async with AsyncExitStack() as places:
        server = await places.enter_async_context(LocalServer(LocalSettings()))
        sandbox = await shell_sandbox(server.base_url, server.api_key, SCRIPT, tags=["t"])
        await server.wait_ended(sandbox)
        web = await places.enter_async_context(WebServer(handler=stack))
        authority = Authority(tmp_path)
        context = authority.server_context(authority.issue("server"))
        distrusted = await places.enter_async_context(WebServer(tls=context))
        config = write_config(
            tmp_path,
            base_url=server.base_url,
            api_key=server.api_key,
            sandboxes=[{"tags": ["t"]}],
            sinks=sinks_of(canaries, web.url, distrusted.url),
            admin={"listen": "127.0.0.1:0"},
            log={"level": "debug"},
            shutdown={"drain_timeout": "0s"},
        )
        for name, canary in canaries.environment.items():
            monkeypatch.setenv(name, canary)
        scene = Scene(config, StateDir(tmp_path / "state"))
        to_file = ("sh", "-c", f'exec "$@" >{stdout}', "sh")
        daemon = await DaemonProcess.start(config, wrapper=to_file)
        places.push_async_callback(daemon.kill)
        await daemon.event("admin endpoint")
        await until(lambda: is_settled(scene.state), "the end of all troubles")
        seen = {
            "check": await checked(config),
            "command line": Path(f"/proc/{daemon.pid}/cmdline").read_bytes(),
            **commands_say(scene),
            **await pages_say(daemon),
            **files_of(scene.state),
        }
        daemon.terminate()
        assert await daemon.wait() == 0, daemon.log
    seen["stderr"] = json.dumps([daemon.events, daemon.texts]).encode()
    seen["stdout"] = stdout.read_bytes()
    heard = "\n".join(repeater.heard)
    assert [canary for canary in canaries.sent if canary not in heard] == []
    shown = {name: canaries.found_in(text) for name, text in seen.items()}
    assert {name: found for name, found in shown.items() if found} == {}
    above = [one for one in daemon.events if one["level"] != "debug"]
    assert CONTENT not in json.dumps(above)
