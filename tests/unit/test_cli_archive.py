"""The commands `archive`, as a shell sees them."""

from __future__ import annotations

import subprocess
import sys
from types import MappingProxyType
from typing import TYPE_CHECKING

import orjson
import pytest
from typer.testing import CliRunner

from forwarder.cli import app
from sinks import registry
from sinks.interface import SinkError, SinkMisconfiguredError, SinkUnavailableError
from sinks.registry import SinkType
from tests.fakes.archive import FakeArchive, KeptSettings, gap, kept_sink, line
from tests.fakes.commands import own_logging
from tests.fakes.daemon import file_sink, write_config

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from typer.testing import Result

CONTENT = {
    "w-1": {"logs/a": [line(0), line(1, b"\xff\x1b[1m"), gap(1, 4), line(4)]},
    "w-2": {"logs/b": [line(5, second=60), line(0, container="side", second=61)]},
}


class Shell:
    """Runs the commands with a sink that wrote an archive."""

    def __init__(self, config: Path) -> None:
        self.archive = FakeArchive(CONTENT)
        self.remembered: list[Mapping[str, bytes] | None] = []
        self.config = config

    def run(self, *arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(app, ["archive", *arguments, "-c", str(self.config)])
        assert result.exit_code == code, result.output
        return result


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    config = write_config(
        tmp_path,
        base_url="http://127.0.0.1:9",
        api_key="the-secret-key",
        sandboxes=[{"tags": ["x"]}],
        sinks={"files": file_sink(tmp_path / "out.log"), "cold": {"type": "kept"}},
    )
    made = Shell(config)
    kept = SinkType(KeptSettings, kept_sink(made.archive, made.remembered))
    monkeypatch.setattr(registry, "BUILTIN", MappingProxyType({**registry.BUILTIN, "kept": kept}))
    with own_logging():
        yield made


def test_a_list_is_shown_without_a_daemon_or_a_spool(shell: Shell) -> None:
    result = shell.run("list")
    assert result.stdout.splitlines() == [
        "FIRST                 LAST                  OBJECTS        LINES       SIZE  SANDBOXES",
        "2026-11-23 13:00:00Z  2026-11-23 13:00:04Z        1            3     1000 B          1",
        "2026-11-23 13:01:00Z  2026-11-23 13:01:01Z        1            2     1000 B          1",
        "",
        "2 windows, 2 objects, 5 lines, 2.0 KiB, 1 sandbox",
    ]
    assert (result.stderr, shell.remembered[-1]) == ("", None)


def test_a_list_for_scripts_is_ndjson(shell: Shell) -> None:
    rows = shell.run("list", "--json", "--since", "2026-11-23T13:00:30Z").stdout.splitlines()
    assert [orjson.loads(row)["window"] for row in rows] == ["w-2"]


def test_objects_are_listed_when_asked_for(shell: Shell) -> None:
    rows = shell.run("list", "--objects", "--until", "2026-11-23T13:00:30Z").stdout.splitlines()
    assert rows[2].split() == ["3", "1000", "B", "logs/a"]


@pytest.mark.parametrize("command", ["list", "cat"])
def test_nothing_found_is_said_on_standard_error(shell: Shell, command: str) -> None:
    result = shell.run(command, "--sandbox", "sbx-3")
    assert (result.stdout, result.stderr) == (
        "",
        "sandbox-forwarder: the archive has nothing of that\n",
    )


def test_lines_are_printed_byte_for_byte_and_gaps_elsewhere(shell: Shell) -> None:
    result = shell.run("cat", "--sandbox", "sbx-1", "--container", "main")
    assert result.stdout_bytes == b"line 0\n\xff\x1b[1m\nline 4\nline 5\n"
    assert result.stderr == (
        "sandbox-forwarder: gap after line 1: spool_full, 2 lines of sbx-1/main\n"
    )


def test_lines_of_all_containers_come_with_their_names_and_stamps(shell: Shell) -> None:
    result = shell.run("cat", "--sandbox", "sbx-1", "-t", "--since", "2026-11-23T13:01:00Z")
    assert result.stdout.splitlines() == [
        "2026-11-23T13:01:00.000000000Z main: line 5",
        "2026-11-23T13:01:01.000000000Z side: line 0",
    ]


def test_lines_for_scripts_are_ndjson(shell: Shell) -> None:
    result = shell.run("cat", "--sandbox", "sbx-1", "--container", "main", "--json")
    documents = [orjson.loads(row) for row in result.stdout_bytes.splitlines()]
    assert [one.get("line") for one in documents] == [0, 1, None, 4, 5]
    assert (documents[2]["gap"]["cause"], result.stderr) == ("spool_full", "")


def test_what_is_well_exits_0(shell: Shell) -> None:
    result = shell.run("verify")
    assert result.stdout.startswith("✓ every line is there once: 2 windows, 2 objects")
    assert "2 lines are missing, and gap records say so" in result.stdout


def test_what_is_not_well_exits_74(shell: Shell) -> None:
    shell.archive.damaged.add("logs/a")
    result = shell.run("verify", "--json", code=74)
    document = orjson.loads(result.stdout)
    assert (document["ok"], document["sink"], document["problems"][0]) == (
        False,
        "cold",
        "logs/a is missing",
    )
    assert shell.run("verify", code=74).stdout.startswith("✗ 1 problem: 2 windows")
    assert orjson.loads(shell.run("verify", "--quick", "--json").stdout)["contents"] is False


@pytest.mark.parametrize("command", [["list"], ["cat", "--sandbox", "sbx-1"]])
def test_an_archive_that_is_damaged_exits_74(shell: Shell, command: list[str]) -> None:
    shell.archive.damaged.add("w-1")
    result = shell.run(*command, code=74)
    assert result.stderr == "sandbox-forwarder: _manifests/w-1.json is missing\n"


@pytest.mark.parametrize("command", [["list"], ["cat", "--sandbox", "sbx-1"], ["verify"]])
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SinkUnavailableError("it does not answer"), 69),
        (SinkMisconfiguredError("refused", credentials=True), 77),
        (SinkMisconfiguredError("no such bucket"), 78),
    ],
    ids=["unavailable", "credentials", "misconfigured"],
)
def test_trouble_with_the_store_has_its_exit_code(
    shell: Shell, command: list[str], error: SinkError, code: int
) -> None:
    shell.archive.error = error
    result = shell.run(*command, code=code)
    assert (result.stdout, result.stderr) == ("", f"sandbox-forwarder: {error}\n")


def test_a_sink_that_cannot_be_read_back_is_a_usage_error(shell: Shell) -> None:
    assert "'files' is a file" in shell.run("list", "--sink", "files", code=2).stderr
    assert "'warm' is not in" in shell.run("verify", "--sink", "warm", code=2).stderr
    assert shell.run("list", "--sink", "cold").exit_code == 0


def test_a_spool_that_is_lost_exits_74_unless_the_store_is_asked(shell: Shell) -> None:
    state = shell.config.parent / "state"
    state.mkdir()
    (state / "spool.id").write_text("there was one")
    assert "cannot be read" in shell.run("list", code=74).stderr
    assert shell.run("list", "--from-store").stdout.startswith("FIRST")


@pytest.mark.parametrize(
    "arguments",
    [
        ["cat"],
        ["list", "--since", "yesterday"],
        ["list", "--until", "1969-01-01"],
        ["verify", "--since", "2026-01-02", "--until", "2026-01-02"],
        ["verify", "--since", "1m", "--until", "1h"],
    ],
    ids=" ".join,
)
def test_what_cannot_be_asked_for_is_a_usage_error(shell: Shell, arguments: list[str]) -> None:
    result = shell.run(*arguments, code=2)
    assert (result.stdout, "Usage: " in result.stderr) == ("", True)


@pytest.mark.parametrize("command", [[], ["list"], ["cat"], ["verify"]], ids=str)
def test_every_command_explains_itself(command: list[str]) -> None:
    result = CliRunner().invoke(app, ["archive", *command, "--help"])
    assert (result.exit_code, "Usage: " in result.stdout) == (0, True)


def test_a_reader_that_went_away_is_no_error() -> None:
    """In a process of its own, whose standard output is a pipe that nobody reads to its end."""
    script = """
import asyncio, sys
from forwarder.archive_commands import cat
from forwarder.cli_parts import exits
from sinks.archive import Selection
from tests.fakes.archive import FakeArchive, line
import typer
content = {"w": {"a": [line(n, b"x" * 1000) for n in range(10_000)]}}
try:
    with exits():
        output = sys.stdout.buffer
        asyncio.run(cat(FakeArchive(content), Selection("sbx-1"), output=output, tell=print))
except typer.Exit as end:
    raise SystemExit(end.exit_code)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(3) == b"xxx"
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b"", 0)
