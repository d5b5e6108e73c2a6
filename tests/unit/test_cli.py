"""What a shell sees: exit codes, and what is said on which stream."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import orjson
import pytest
import typer
from typer.testing import CliRunner

from forwarder import errors
from forwarder.cli import _end_code, app
from forwarder.cli_parts import ExitCode, exits
from tests.fakes.commands import own_logging
from tests.fakes.daemon import COMMAND, file_sink, write_config

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Iterator[CliRunner]:
    """Runs commands in this process, and takes back what they do to its logging."""
    for name in ("CWSANDBOX_API_KEY", "CWSANDBOX_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with own_logging():
        yield CliRunner()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(
        tmp_path,
        base_url="http://127.0.0.1:9",
        api_key="the-secret-key",
        sandboxes=[{"tags": ["x"]}],
        sinks={"files": file_sink(tmp_path / "out.log")},
    )


# Exit codes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError("x"), 78),
        (errors.UsageError("x"), 2),
        (errors.SpoolLockedError("x"), 75),
        (errors.SpoolUntrustedError("x"), 74),
        (errors.SpoolUnavailableError("x"), 74),
        (errors.CredentialsRefusedError("x", code="unauthenticated"), 77),
        (errors.SandboxNotFoundError("x", code="not_found"), 2),
        (errors.SourceUnavailableError("x", code="unavailable"), 69),
        (errors.InvalidRequestError("x", code="invalid_argument"), 69),
        (errors.ForwarderError("x"), 70),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_every_error_has_its_exit_code(
    error: errors.ForwarderError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended, exits():
        raise error
    assert ended.value.exit_code == code
    told = capsys.readouterr()
    assert (told.out, told.err.endswith("x\n")) == ("", True)


def test_a_bug_is_no_error_of_ours_and_passes() -> None:
    with pytest.raises(LookupError), exits():
        raise LookupError


def test_exit_codes_never_change() -> None:
    assert {code.name: code.value for code in ExitCode} == {
        "DONE": 0,
        "USAGE": 2,
        "UNAVAILABLE": 69,
        "INTERNAL": 70,
        "SPOOL": 74,
        "LOCKED": 75,
        "REFUSED": 77,
        "CONFIG": 78,
    }


def test_a_reader_that_went_away_is_no_error(tmp_path: Path) -> None:
    """In a process of its own: the rest of its standard output goes nowhere."""
    script = """
import typer
from forwarder.cli_parts import exits
try:
    with exits():
        raise BrokenPipeError
except typer.Exit as end:
    print("unseen")
    raise SystemExit(end.exit_code)
"""
    command = [sys.executable, "-c", script]
    process = subprocess.run(command, capture_output=True, check=False, cwd=tmp_path)
    assert (process.returncode, process.stdout, process.stderr) == (0, b"", b"")


# Usage --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["logs", "s", "--tail", "0"],
        ["logs", "s", "--tail", "-1"],
        ["logs", "s", "--tail", "many"],
        ["logs", "s", "--since", "yesterday"],
        ["logs", "s", "--since", "1969-01-01"],
        ["logs"],
        ["run"],
        ["local", "--port", "65536"],
        ["gaps"],
        ["gaps", "--open"],
        ["checkpoints"],
        ["spool"],
        ["spool", "verify"],
        ["spool", "backup"],
        ["spool", "no-such-command"],
        ["dead-letters", "list"],
        ["dead-letters", "show"],
        ["dead-letters", "show", "first", "-c", "x"],
        ["dead-letters", "replay", "--all", "-c", "x"],
        ["dead-letters", "replay", "--sink", "x", "-c", "x"],
        ["dead-letters", "drop", "--sink", "x", "--id", "1", "--all", "-c", "x"],
        ["replay", "--sink", "x", "-c", "x"],
        ["archive", "list"],
        ["archive", "cat", "-c", "x"],
        ["archive", "cat", "--sandbox", "s"],
        ["archive", "verify", "--since", "yesterday", "-c", "x"],
        ["no-such-command"],
    ],
    ids=" ".join,
)
def test_what_cannot_be_asked_for_is_a_usage_error(runner: CliRunner, arguments: list[str]) -> None:
    result = runner.invoke(app, arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Usage: " in result.stderr


@pytest.mark.parametrize(
    "command",
    [
        [],
        *[[name] for name in ("run", "validate", "logs", "status", "local", "demo")],
        *[[name] for name in ("gaps", "spool")],
        ["spool", "verify"],
        ["spool", "backup"],
        *[["dead-letters", name] for name in ("list", "show", "replay", "drop")],
        ["dead-letters"],
        *[["archive", name] for name in ("list", "cat", "verify")],
        ["archive"],
        ["replay"],
        ["checkpoints"],
        ["check"],
    ],
    ids=" ".join,
)
def test_every_command_explains_itself(runner: CliRunner, command: list[str]) -> None:
    result = runner.invoke(app, [*command, "--help"])
    assert (result.exit_code, "Usage: " in result.stdout) == (0, True)


def test_logs_without_credentials_says_which_are_missing(runner: CliRunner) -> None:
    result = runner.invoke(app, ["logs", "s"])
    assert (result.exit_code, "CWSANDBOX_API_KEY" in result.stderr) == (78, True)


def test_logs_with_an_address_that_is_none_never_shows_the_key(runner: CliRunner) -> None:
    env = {"CWSANDBOX_API_KEY": "the-secret-key", "CWSANDBOX_BASE_URL": "nowhere"}
    result = runner.invoke(app, ["logs", "s"], env=env)
    assert (result.exit_code, "CWSANDBOX_BASE_URL" in result.stderr) == (78, True)
    assert "the-secret-key" not in result.output


# validate, status ---------------------------------------------------------------------------------


def test_a_valid_configuration_is_said_to_be_valid(runner: CliRunner, config: Path) -> None:
    result = runner.invoke(app, ["validate", "-c", str(config)])
    assert (result.exit_code, result.stdout) == (0, f"{config} is valid. Sinks: files (file).\n")


def test_a_valid_configuration_is_shown_without_its_secrets(
    runner: CliRunner, config: Path
) -> None:
    result = runner.invoke(app, ["validate", "-c", str(config), "--json"])
    document = orjson.loads(result.stdout)
    assert (result.exit_code, document["valid"]) == (0, True)
    assert "the-secret-key" not in result.stdout


def test_what_is_wrong_with_a_configuration_is_told_with_its_place(
    runner: CliRunner, config: Path
) -> None:
    config.write_text("state_dir: /x\nsinks: {}\nsurprise: 1\n")
    plain = runner.invoke(app, ["validate", "-c", str(config)])
    assert (plain.exit_code, plain.stdout) == (78, "")
    assert f"{config}:3" in plain.stderr
    result = runner.invoke(app, ["validate", "-c", str(config), "--json"])
    document = orjson.loads(result.stdout)
    assert (result.exit_code, document["valid"]) == (78, False)
    assert "surprise" in {problem["path"] for problem in document["problems"]}


def test_the_status_of_what_never_ran_is_an_error_and_makes_nothing(
    runner: CliRunner, config: Path
) -> None:
    result = runner.invoke(app, ["status", "-c", str(config)])
    assert (result.exit_code, result.stdout) == (74, "")
    assert "no daemon has run with state_dir" in result.stderr
    assert os.listdir(config.parent) == ["config.yaml"]  # noqa: PTH208 - names only


def test_the_command_is_installed() -> None:
    assert COMMAND.exists()


@pytest.mark.parametrize(
    ("failures", "stopped", "code"),
    [
        ([], True, ExitCode.DONE),
        ([], False, ExitCode.INTERNAL),
        ([errors.SpoolUntrustedError("eio")], False, ExitCode.SPOOL),
        ([errors.SpoolUntrustedError("eio")], True, ExitCode.SPOOL),
        ([LookupError("a bug")], True, ExitCode.INTERNAL),
    ],
)
def test_a_daemon_that_cannot_close_everything_still_says_why_it_ended(
    failures: list[BaseException], *, stopped: bool, code: ExitCode
) -> None:
    assert _end_code(failures, stopped=stopped) is code
