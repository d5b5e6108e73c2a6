"""`sandbox-forwarder demo`: real processes, real connections, everything broken on purpose.

A few sandboxes print numbered lines. A forwarder follows them into files while their streams are
cut, their sessions lost, the API restarted and the forwarder killed. At the end every file is
compared, byte for byte, with what the sandboxes' log holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from forwarder.clock import SystemClock
from forwarder.local.server import LocalServer
from forwarder.local.settings import LocalSettings
from forwarder.source.connect import ConnectSource
from forwarder.source.interface import LogRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

TAG = "demo"

#: Prints numbered lines to both streams, at its own pace, for some seconds.
_PROGRAM = """
import random, sys, time
name, lines, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
words = "epoch batch loss request response cache token retry worker shard tensor gradient".split()
chance = random.Random(name)
begun = time.monotonic()
for n in range(1, lines + 1):
    text = " ".join(chance.choices(words, k=chance.randint(2, 9)))
    print(f"{name} #{n} {text}", file=sys.stderr if n % 7 == 0 else sys.stdout, flush=True)
    ahead = begun + n * seconds / lines - time.monotonic()
    if ahead > 0:
        time.sleep(ahead)
"""


@dataclass(slots=True)
class _Sandbox:
    name: str
    lines: int
    id: str = ""


@dataclass(slots=True)
class _Stage:
    """Everything the demo has on stage."""

    console: Console
    server: LocalServer
    source: ConnectSource
    output: Path
    config: Path
    sandboxes: list[_Sandbox] = field(default_factory=list)
    forwarder: asyncio.subprocess.Process | None = None

    def file_of(self, sandbox: _Sandbox) -> Path:
        return self.output / "logs" / f"{sandbox.id}.log"

    def lines_in_files(self) -> int:
        files = [self.file_of(one) for one in self.sandboxes]
        return sum(file.read_bytes().count(b"\n") for file in files if file.exists())


def run_demo(directory: Path | None) -> bool:
    """Run it; returns whether every line is there once.

    Args:
        directory: Where the output goes, made if it is not there; a new one in the current
            directory by default: logs/, config.yaml and forwarder.log. Nothing else is left
            behind.
    """
    return asyncio.run(_run(directory))


async def _run(directory: Path | None) -> bool:
    console = Console(highlight=False, soft_wrap=True)
    output = directory or Path(tempfile.mkdtemp(prefix="sandbox-forwarder-demo-", dir="."))
    (output / "logs").mkdir(parents=True, exist_ok=True)
    console.print("[bold]sandbox-forwarder demo[/bold]: it takes about 20 seconds\n")
    async with _stage(console, output) as stage:
        await _play(stage)
        return await _prove(stage)


@contextlib.asynccontextmanager
async def _stage(console: Console, output: Path) -> AsyncIterator[_Stage]:
    """A local sandbox service with running sandboxes, and a place for the forwarder's state."""
    state = Path(tempfile.mkdtemp(prefix="sandbox-forwarder-demo-state-"))
    try:
        async with LocalServer(LocalSettings()) as server:
            headers = {"authorization": f"Bearer {server.api_key}"}
            source = ConnectSource(server.base_url, credentials=lambda: headers)
            config = output / "config.yaml"
            config.write_text(_config(server, output, state), encoding="utf-8")
            stage = _Stage(console, server, source, output, config)
            try:
                yield stage
            finally:
                await _stop_forwarder(stage)
                await source.close()
    finally:
        shutil.rmtree(state, ignore_errors=True)


def _config(server: LocalServer, output: Path, state: Path) -> str:
    """The forwarder's configuration, as an operator would write it."""
    return f"""\
state_dir: {state}

source:
  base_url: {server.base_url}
  api_key: {server.api_key}
  poll_interval: 1s

sandboxes:
  - tags: [{TAG}]

sinks:
  archive:
    type: file
    path: {output.absolute()}/logs/{{sandbox_id}}.log

admin:
  listen: "off"
"""


async def _play(stage: _Stage) -> None:
    """Start everything, then break one thing after the other while lines keep coming."""
    for name, lines in (("trainer", 9000), ("web", 6000), ("worker", 3000), ("cron", 60)):
        stage.sandboxes.append(await _create_sandbox(stage, name, lines, seconds=14.0))
    _say(stage, f"{len(stage.sandboxes)} sandboxes are printing, the forwarder is starting")
    await _start_forwarder(stage)
    server = stage.server
    acts: list[tuple[str, Callable[[], Awaitable[object] | object]]] = [
        ("every connection is reset", lambda: server.break_streams("reset")),
        ("every stream is cut in the middle of a line", lambda: server.break_streams("cut")),
        ("the API forgets every log session", lambda: _lose_sessions(server)),
        ("the forwarder is killed (SIGKILL) and started again", lambda: _kill(stage)),
        (
            "every stream ends early, as if the log were over",
            lambda: server.break_streams("clean_end"),
        ),
        ("the API goes down for a second and restarts", lambda: server.restart(1.0)),
        ("the forwarder is killed (SIGKILL) again", lambda: _kill(stage)),
    ]
    seen = 0
    for text, act in acts:
        seen = await _more_lines(stage, seen + 800)
        _say(stage, text)
        result = act()
        if asyncio.iscoroutine(result):
            await result
    for sandbox in stage.sandboxes:
        await server.wait_ended(sandbox.id)
    _say(stage, "the sandboxes have ended; the forwarder finishes by itself")
    assert stage.forwarder is not None
    await stage.forwarder.wait()


async def _create_sandbox(stage: _Stage, name: str, lines: int, *, seconds: float) -> _Sandbox:
    """A real process in a sandbox, made as the vendor's SDK makes it."""
    import grpc
    from cwsandbox._proto import sandbox_pb2 as pb
    from cwsandbox._proto.sandbox_pb2_grpc import SandboxServiceStub

    container = pb.Container(
        name="main", command=sys.executable, args=["-c", _PROGRAM, name, str(lines), str(seconds)]
    )
    spec = pb.SandboxSpec(containers=[container], tags=[TAG])
    async with grpc.aio.insecure_channel(stage.server.base_url.removeprefix("http://")) as channel:
        stub = SandboxServiceStub(channel)  # type: ignore[no-untyped-call]  # generated, untyped
        answer = await stub.CreateSandbox(
            pb.CreateSandboxRequest(sandbox=pb.Sandbox(spec=spec, display_name=name)),
            metadata=[("authorization", f"Bearer {stage.server.api_key}")],
        )
    return _Sandbox(name, lines, answer.sandbox_id)


async def _start_forwarder(stage: _Stage) -> None:
    command = (sys.executable, "-m", "forwarder", "run", "--until-complete", "--config")
    with (stage.output / "forwarder.log").open("ab") as log:
        stage.forwarder = await asyncio.create_subprocess_exec(
            *command, str(stage.config), stdout=log, stderr=log
        )


async def _kill(stage: _Stage) -> None:
    assert stage.forwarder is not None
    stage.forwarder.kill()
    await stage.forwarder.wait()
    await _start_forwarder(stage)


async def _stop_forwarder(stage: _Stage) -> None:
    """Whatever happened, no process stays behind."""
    if stage.forwarder is not None and stage.forwarder.returncode is None:
        stage.forwarder.send_signal(signal.SIGTERM)
        await stage.forwarder.wait()


def _lose_sessions(server: LocalServer) -> None:
    server.forget_sessions()
    server.break_streams("error", "SESSION_NOT_FOUND")


async def _more_lines(stage: _Stage, wanted: int) -> int:
    """Return once the files hold so many lines, or the forwarder has ended."""
    clock = SystemClock()
    while (lines := stage.lines_in_files()) < wanted:
        assert stage.forwarder is not None
        if stage.forwarder.returncode is not None:
            break
        await clock.sleep(0.1)
    return lines


def _say(stage: _Stage, text: str) -> None:
    stage.console.print(f"  {stage.lines_in_files():>7,} lines in files   {text}")


async def _prove(stage: _Stage) -> bool:
    """Compare every file with the sandbox's log, and say what was found."""
    table = Table("sandbox", "printed", "in the file", "missing", "repeated", "the same bytes")
    complete = True
    for sandbox in stage.sandboxes:
        there = await _log_of(stage, sandbox)
        file = stage.file_of(sandbox)
        here = file.read_bytes() if file.exists() else b""
        printed, written = there.splitlines(), here.splitlines()
        missing = len(set(printed) - set(written))
        repeated = len(written) - len(set(written))
        same = here == there and len(printed) == sandbox.lines
        complete = complete and same
        table.add_row(
            sandbox.name,
            f"{sandbox.lines:,}",
            f"{len(written):,}",
            str(missing),
            str(repeated),
            "[green]yes[/green]" if same else "[bold red]NO[/bold red]",
        )
    stage.console.print()
    stage.console.print(table)
    verdict = (
        "[bold green]Every line is there, once.[/bold green]"
        if complete
        else "[bold red]The files differ from the logs. That is a bug: please report it.[/bold red]"
    )
    stage.console.print(f"\n{verdict}")
    stage.console.print(f"{stage.output} holds logs/, config.yaml and forwarder.log.", markup=False)
    return complete


async def _log_of(stage: _Stage, sandbox: _Sandbox) -> bytes:
    """What the sandbox's log holds, read once and undisturbed."""
    pieces: list[bytes] = []
    async with stage.source.read_logs(LogRequest(sandbox.id, follow=False)) as batches:
        async for entries in batches:
            pieces += [entry.data for entry in entries]
    return b"".join(pieces)
