"""What is deployed: the systemd unit and its companions, and the container image."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from contextlib import asynccontextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from ruamel.yaml import YAML

from forwarder.cli_parts import ExitCode
from forwarder.config.settings import AdminSettings, ShutdownSettings
from tests.fakes.daemon import COMMAND, DEADLINE_S, file_sink, write_config

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "systemd" / "sandbox-forwarder.service"
SYSUSERS = ROOT / "systemd" / "sandbox-forwarder.sysusers.conf"
TMPFILES = ROOT / "systemd" / "sandbox-forwarder.tmpfiles.conf"
ENVIRONMENT = ROOT / "systemd" / "sandbox-forwarder.env.example"
DOCKERFILE = ROOT / "Dockerfile"
MINIMAL = YAML(typ="safe").load(ROOT / "config" / "minimal.yaml")
ANALYZE = shutil.which("systemd-analyze")
SECONDS = {"s": 1, "min": 60}


def service() -> dict[str, list[str]]:
    """The unit's settings of [Service], every value of each."""
    settings: dict[str, list[str]] = {}
    section = ""
    for line in UNIT.read_text("utf-8").splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and line and not line.startswith("#"):
            name, _, value = line.partition("=")
            settings.setdefault(name, []).append(value)
    return settings


def only(name: str) -> str:
    """The one value of a setting of [Service]."""
    (value,) = service()[name]
    return value


def seconds(text: str) -> int:
    found = re.fullmatch(r"(\d+)(s|min)", text)
    assert found is not None
    return int(found[1]) * SECONDS[found[2]]


def fields(path: Path) -> list[list[str]]:
    """The lines of a sysusers or tmpfiles file."""
    lines = path.read_text("utf-8").splitlines()
    return [shlex.split(line) for line in lines if line and not line.startswith("#")]


# The unit ----------------------------------------------------------------------------------------


@pytest.fixture
def installed_unit(tmp_path: Path) -> Path:
    """The unit with a program that is there."""
    text = UNIT.read_text("utf-8")
    program = only("ExecStart").split()[0]
    path = tmp_path / UNIT.name
    path.write_text(text.replace(program, str(COMMAND)), "utf-8")
    return path


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
def test_systemd_finds_nothing_wrong_with_the_unit(installed_unit: Path) -> None:
    done = subprocess.run(
        [str(ANALYZE), "verify", str(installed_unit)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
def test_the_unit_is_hardened(installed_unit: Path) -> None:
    command = [str(ANALYZE), "security", "--offline=true", "--threshold=15", str(installed_unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-200:] + done.stderr


def test_the_unit_takes_away_what_the_daemon_never_needs() -> None:
    found = service()
    for name in (
        "NoNewPrivileges",
        "PrivateTmp",
        "PrivateDevices",
        "ProtectHome",
        "ProtectClock",
        "ProtectControlGroups",
        "ProtectKernelLogs",
        "ProtectKernelModules",
        "ProtectKernelTunables",
    ):
        assert found[name] == ["yes"], name
    assert found["ProtectSystem"] == ["strict"]
    assert found["CapabilityBoundingSet"] == [""]
    assert found["SystemCallFilter"] == ["@system-service", "~@privileged @resources"]
    assert found["RestrictAddressFamilies"] == ["AF_UNIX AF_INET AF_INET6"]
    assert (only("LimitCORE"), only("LimitNOFILE"), only("UMask")) == ("0", "65536", "0077")


def test_only_what_starting_again_cannot_mend_is_not_started_again() -> None:
    assert only("Restart") == "on-failure"
    kept_down = {int(code) for code in only("RestartPreventExitStatus").split()}
    assert kept_down == {ExitCode.USAGE, ExitCode.CONFIG}


def test_the_sinks_have_their_drain_time_before_systemd_loses_its_patience() -> None:
    assert seconds(only("TimeoutStopSec")) > ShutdownSettings().drain_timeout


def test_the_example_configuration_works_in_the_units_directories() -> None:
    assert MINIMAL["state_dir"] == f"/var/lib/{only('StateDirectory')}"
    (writable,) = service()["ReadWritePaths"]
    assert str(PurePosixPath(MINIMAL["sinks"]["archive"]["path"]).parent) == writable.lstrip("-")
    made = {path: (mode, user, group) for _, path, mode, user, group, _ in fields(TMPFILES)}
    name = only("User")
    assert made == {
        str(PurePosixPath(only("ExecStart").split()[-1]).parent): ("0750", "root", name),
        writable.lstrip("-"): ("0750", name, name),
    }


def test_the_units_user_is_made_by_sysusers() -> None:
    ((kind, name, number, _, home, shell),) = fields(SYSUSERS)
    assert (kind, number, shell) == ("u", "-", "-")
    assert name == only("User") == only("Group")
    assert home == MINIMAL["state_dir"]


def test_the_environment_example_names_what_the_program_reads_and_holds_no_key() -> None:
    lines = ENVIRONMENT.read_text("utf-8").splitlines()
    named = dict(line.lstrip("#").split("=", 1) for line in lines if re.match(r"#?[A-Z_]+=", line))
    assert named.keys() == {"CWSANDBOX_API_KEY", "CWSANDBOX_BASE_URL"}
    assert named["CWSANDBOX_API_KEY"] == ""


class Unit(NamedTuple):
    """The unit's main process, and what the service manager hears of it."""

    process: asyncio.subprocess.Process
    heard: asyncio.Queue[str]

    async def says(self, assignment: str) -> None:
        """Return when it has said this."""
        async with asyncio.timeout(DEADLINE_S):
            while assignment not in (await self.heard.get()).split("\n"):
                pass

    async def ends(self) -> int:
        """Its exit code."""
        async with asyncio.timeout(DEADLINE_S):
            return await self.process.wait()


class _Receiver(asyncio.DatagramProtocol):
    def __init__(self, heard: asyncio.Queue[str]) -> None:
        self._heard = heard

    def datagram_received(self, data: bytes, _: object) -> None:
        self._heard.put_nowait(data.decode())


@asynccontextmanager
async def started(config: Path, **environment: str) -> AsyncIterator[Unit]:
    """The very command line of ExecStart, with the paths of a test, as systemd starts it."""
    program, *arguments = only("ExecStart").split()
    assert program.endswith("/bin/sandbox-forwarder")
    assert arguments[-1] == "/etc/sandbox-forwarder/config.yaml"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.setblocking(False)
        receiver.bind(str(config.parent / "notify"))
        heard: asyncio.Queue[str] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: _Receiver(heard), sock=receiver)
        process = await asyncio.create_subprocess_exec(
            *(str(COMMAND), *arguments[:-1], str(config)),
            env={"NOTIFY_SOCKET": str(config.parent / "notify"), **environment},
            cwd="/",
            umask=int(only("UMask"), 8),
            stdin=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            yield Unit(process, heard)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            transport.close()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration whose API answers nobody, with an admin endpoint on some port."""
    return write_config(
        tmp_path,
        base_url="http://127.0.0.1:9",
        api_key="key",
        sandboxes=[{"id": "sbx-1"}],
        sinks={"archive": file_sink(tmp_path / "out" / "{sandbox_id}.log")},
        admin={"listen": "127.0.0.1:0"},
    )


async def test_the_units_command_tells_when_it_is_ready_and_stops_cleanly(config: Path) -> None:
    async with started(config) as unit:
        await unit.says("READY=1")
        unit.process.send_signal(signal.SIGTERM)
        await unit.says("STOPPING=1")
        assert await unit.ends() == ExitCode.DONE
    for path in config.parent.joinpath("state").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600, path


async def test_the_units_command_feeds_the_watchdog(config: Path) -> None:
    assert seconds(only("WatchdogSec")) >= 60
    async with started(config, WATCHDOG_USEC="200000") as unit:
        await unit.says("READY=1")
        for _ in range(3):
            await unit.says("WATCHDOG=1")


async def test_the_units_reload_reads_the_configuration_and_keeps_the_process(
    config: Path,
) -> None:
    assert only("ExecReload") == "/bin/kill -HUP $MAINPID"
    async with started(config) as unit:
        await unit.says("READY=1")
        unit.process.send_signal(signal.SIGHUP)
        await unit.says("READY=1")
        unit.process.send_signal(signal.SIGTERM)
        assert await unit.ends() == ExitCode.DONE


async def test_a_wrong_configuration_ends_with_a_code_that_keeps_the_unit_down(
    config: Path,
) -> None:
    config.write_text("sinks: 5", "utf-8")
    async with started(config) as unit:
        assert str(await unit.ends()) in only("RestartPreventExitStatus").split()
        assert unit.heard.empty()


# The image ---------------------------------------------------------------------------------------


class Instruction(NamedTuple):
    """One instruction of the Dockerfile, continued lines joined."""

    name: str
    text: str


def stages() -> list[list[Instruction]]:
    """The instructions from each FROM on."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text("utf-8"), flags=re.MULTILINE)
    found: list[list[Instruction]] = []
    for line in text.replace("\\\n", " ").splitlines():
        name, _, rest = line.strip().partition(" ")
        if name == "FROM":
            found.append([])
        if found and name:
            found[-1].append(Instruction(name, " ".join(rest.split())))
    return found


def instruction(name: str) -> str:
    """The one instruction of this name in the final stage."""
    (text,) = [one.text for one in stages()[-1] if one.name == name]
    return text


def test_the_final_stage_is_slim_and_installs_nothing_from_anywhere() -> None:
    build, final = stages()
    assert final[0].text == build[0].text.removesuffix(" AS build")
    assert "slim" in final[0].text
    commands = " ".join(one.text for one in final if one.name == "RUN")
    assert not re.search(r"\b(pip|apt|apt-get|curl|wget|gcc)\b", commands)
    assert [one.text.split()[0] for one in final if one.name == "COPY"] == ["--from=build"]


def test_the_image_runs_as_a_fixed_number_that_is_not_root() -> None:
    user, _, group = instruction("USER").partition(":")
    assert int(user) == int(group) > 1000
    commands = " ".join(one.text for one in stages()[-1] if one.name == "RUN")
    assert f"--uid {user}" in commands
    assert f"--gid {group}" in commands


def test_the_images_volume_is_the_example_configurations_state_dir() -> None:
    assert json.loads(instruction("VOLUME")) == [MINIMAL["state_dir"]]


def test_the_images_command_is_the_units() -> None:
    program, *arguments = only("ExecStart").split()
    (script,) = json.loads(instruction("ENTRYPOINT"))
    assert script == PurePosixPath(program).name
    assert json.loads(instruction("CMD")) == arguments
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert script in project["scripts"]
    assert instruction("STOPSIGNAL") == "SIGTERM"


def test_what_the_image_is_built_from_gets_past_dockerignore_and_nothing_else() -> None:
    rules = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    sources = {
        source.rstrip("/")
        for one in stages()[0]
        if one.name == "COPY"
        for source in one.text.split()[:-1]
    }
    assert "*" in rules
    assert sources == allowed
    assert all((ROOT / source).exists() for source in sources)


def health_command(port: int) -> list[str]:
    """The image's HEALTHCHECK, asking another port, with the Python that runs this."""
    _, command = instruction("HEALTHCHECK").split("CMD ", 1)
    program, *arguments = json.loads(command)
    assert program == "python"
    address = AdminSettings().address
    assert address is not None
    assert sum(str(address[1]) in argument for argument in arguments) == 1
    return [sys.executable, *(one.replace(str(address[1]), str(port)) for one in arguments)]


async def exit_code(command: list[str]) -> int:
    # A proxy for the daemon's traffic must not be asked for the daemon's health.
    environment = {**os.environ, "http_proxy": "http://127.0.0.1:9"}
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, stderr=asyncio.subprocess.DEVNULL
    )
    return await process.wait()


async def test_the_images_health_check_tells_a_living_daemon_from_a_dead_one(
    config: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as chosen:
        port = chosen.getsockname()[1]
    document: dict[str, Any] = json.loads(config.read_text("utf-8"))
    document["admin"]["listen"] = f"127.0.0.1:{port}"
    config.write_text(json.dumps(document), "utf-8")
    assert await exit_code(health_command(port)) != 0
    async with started(config) as unit:
        await unit.says("READY=1")
        async with asyncio.timeout(DEADLINE_S):
            while await exit_code(health_command(port)) != 0:
                pass
        unit.process.send_signal(signal.SIGTERM)
        await unit.ends()
    assert await exit_code(health_command(port)) != 0
