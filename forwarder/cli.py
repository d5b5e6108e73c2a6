"""Arguments to settings to app: the commands, save the groups that have modules of their own."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import sys
import traceback
from importlib.util import find_spec
from pathlib import Path  # noqa: TC003 - typer needs it at run time
from typing import TYPE_CHECKING, Annotated, NoReturn

import structlog
import typer

from forwarder import errors, process, running
from forwarder.cli_archive import archive_group
from forwarder.cli_letters import letters_group
from forwarder.cli_parts import (
    ConfigOption,
    ExitCode,
    JsonOption,
    exit_code,
    exits,
    print_json,
    show,
)
from forwarder.cli_replay import replay
from forwarder.cli_spool import spool_group
from forwarder.logs import configure_logs, daemon_logs

if TYPE_CHECKING:
    from collections.abc import Sequence

_log = structlog.get_logger()


app = typer.Typer(
    name="sandbox-forwarder",
    help="Follows the logs of sandboxes and forwards every line: nothing lost, nothing twice.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(spool_group)
app.add_typer(letters_group)
app.add_typer(archive_group)


def main() -> NoReturn:
    """The command `sandbox-forwarder`."""
    process.guard_descriptors()
    process.quiet_libraries()
    try:
        app()
    except SystemExit as ended:
        process.leave(ended.code if isinstance(ended.code, int) else ExitCode.DONE)
    except Exception:  # noqa: BLE001 - the top of the process: a bug has an exit code of its own
        process.say(traceback.format_exc())
        process.say("sandbox-forwarder: this is a bug; please report it with the lines above\n")
        process.leave(ExitCode.INTERNAL)
    process.leave(ExitCode.DONE)


@app.command()
def run(
    config: ConfigOption,
    *,
    until_complete: Annotated[
        bool,
        typer.Option(
            "--until-complete",
            help="Exit 0 once every selected sandbox has ended and every sink has everything.",
        ),
    ] = False,
    new_spool: Annotated[
        bool,
        typer.Option(
            "--new-spool",
            help="Set the spool in state_dir aside and begin a new one with what can be read of it:"
            " for a spool that is refused.",
        ),
    ] = False,
) -> None:
    """Follow, and forward, until told to stop.

    SIGTERM and SIGINT stop it: reading ends, what was read is committed, and the sinks get their
    drain time. A second signal ends it at once. Either way nothing is lost. SIGHUP reads the
    configuration again.
    """
    with exits():
        process.no_core_dumps()
        process.raise_open_files_limit()
        settings = running.load(config)
        # What start-up made lives as long as the process: the collector need not walk it again
        # (measured: a full collection of 2 million objects stops everything for 230 ms).
        gc.freeze()
        stop = asyncio.Event()

        failures: list[BaseException] = []

        def code() -> ExitCode:
            return _end_code(failures, stopped=stop.is_set())

        with (
            daemon_logs(level=settings.log.level, form=settings.log.format) as log,
            running.stop_deadline(settings, log, code=code) as deadline,
        ):
            running.run_loop(
                running.run_until_stopped(
                    settings,
                    config,
                    stop,
                    deadline,
                    until_complete=until_complete,
                    new_spool=new_spool,
                    failed=failures.append,
                )
            )


@app.command()
def validate(config: ConfigOption, *, as_json: JsonOption = False) -> None:
    """Check a configuration without touching anything else: no network, no directories."""
    from forwarder.config import InvalidConfigError, describe

    with exits():
        try:
            settings = running.load(config)
        except InvalidConfigError as error:
            if as_json:
                problems = [
                    {"file": one.file, "line": one.line, "path": one.path, "text": one.text}
                    for one in error.problems
                ]
                print_json({"valid": False, "problems": problems})
                raise typer.Exit(ExitCode.CONFIG) from None
            raise
    if as_json:
        print_json({"valid": True, "settings": describe(settings)})
    else:
        sinks = ", ".join(f"{name} ({sink.type})" for name, sink in settings.sinks.items())
        typer.echo(f"{config} is valid. Sinks: {sinks}.")
        for name, sink in settings.sinks.items():
            for text in sink.warnings:
                typer.echo(f"warning: sinks.{name}: {text}")


@app.command()
def check(config: ConfigOption, *, as_json: JsonOption = False) -> None:
    """Ask the API and every destination whether they answer, and take our credentials.

    It writes no line anywhere, and may run beside the daemon. Exits 69 when something does not
    answer as it should, and 77 when credentials are refused.
    """
    from forwarder.admin.checks import checks_document, render_checks
    from forwarder.app import check as ask
    from forwarder.checking import Verdict
    from forwarder.clock import SystemClock

    with exits():
        configure_logs(level="critical", form="auto")
        findings = asyncio.run(ask(running.load(config)))
        document = checks_document(findings, now_ns=SystemClock().time_ns())
        show(document, render_checks, as_json=as_json)
    if any(one.verdict is Verdict.REFUSED for one in findings):
        raise typer.Exit(ExitCode.REFUSED)
    if any(one.verdict.is_trouble for one in findings):
        raise typer.Exit(ExitCode.UNAVAILABLE)


@app.command()
def logs(
    sandbox_id: Annotated[str, typer.Argument(metavar="ID", help="The sandbox's id.")],
    *,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the sandbox ends.")
    ] = False,
    tail: Annotated[
        int | None, typer.Option("--tail", min=1, help="Only so many of the newest lines.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since", metavar="T", help="Only lines since then: 2026-01-02T03:04:05Z, or 10m ago."
        ),
    ] = None,
    timestamps: Annotated[
        bool, typer.Option("--timestamps", "-t", help="Keep each line's stamp.")
    ] = False,
    container: Annotated[
        str, typer.Option("--container", metavar="C", help="A container; the primary by default.")
    ] = "",
    raw: Annotated[
        bool, typer.Option("--raw", help="Do not escape control characters on a terminal.")
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            metavar="FILE",
            help="Take the API's address and key from here instead of CWSANDBOX_BASE_URL and"
            " CWSANDBOX_API_KEY.",
        ),
    ] = None,
) -> None:
    """Print a sandbox's log, without losing or repeating a line when the connection breaks."""
    from forwarder.console import LogsRequest, parse_since

    try:
        since_ns = parse_since(since) if since is not None else None
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--since") from error
    request = LogsRequest(
        sandbox_id,
        container=container,
        follow=follow,
        tail_lines=tail,
        since_ns=since_ns,
        timestamps=timestamps,
        raw=raw or not sys.stdout.isatty(),
    )
    with exits():
        # What the follower logs as errors is told in plain words, beside the lines.
        configure_logs(level="critical", form="auto")
        running.run_loop(running.show_one_log(request, config))


@app.command()
def status(config: ConfigOption, *, as_json: JsonOption = False) -> None:
    """What is followed, where it stands, and what each sink has yet to get."""
    from forwarder import commands
    from forwarder.admin.status import render_status

    with exits():
        show(commands.status(running.load(config)), render_status, as_json=as_json)


@app.command()
def gaps(
    config: ConfigOption,
    *,
    as_json: JsonOption = False,
    sandbox: Annotated[
        str, typer.Option("--sandbox", metavar="ID", help="Only this sandbox's.")
    ] = "",
    open_only: Annotated[
        bool, typer.Option("--open", help="Only those whose lines were not found after all.")
    ] = False,
) -> None:
    """Which lines are missing, or may be, and why. Exits 0 whether or not there are gaps."""
    from forwarder import commands
    from forwarder.admin.gaps import render_gaps

    with exits():
        document = commands.gaps(running.load(config), sandbox_id=sandbox, open_only=open_only)
        show(document, render_gaps, as_json=as_json)


@app.command()
def checkpoints(config: ConfigOption, *, as_json: JsonOption = False) -> None:
    """How far each stream has been taken: where reading goes on."""
    from forwarder import commands
    from forwarder.admin.checkpoints import render_checkpoints

    with exits():
        show(commands.checkpoints(running.load(config)), render_checkpoints, as_json=as_json)


app.command()(replay)


@app.command()
def local(
    *,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8642,
    api_key: Annotated[
        str, typer.Option(help="The key that clients must send; made up when not given.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Run a local sandbox service that speaks the real API: for development and tests.

    It runs every sandbox's command as a process on this machine, and listens on loopback only. Its
    further settings, and the faults it can inject, are options of `python -m forwarder.local`.
    """
    with exits():
        _want_local_extra()
        from forwarder.local.runner import run_local, run_local_json
        from forwarder.local.settings import LocalSettings

        settings = LocalSettings(port=port)
        if api_key:
            settings = dataclasses.replace(settings, api_key=api_key)
        try:
            (run_local_json if as_json else run_local)(settings)
        except OSError as error:
            raise errors.UsageError(f"cannot listen on port {port}: {error.strerror}") from error


@app.command()
def demo(
    *,
    directory: Annotated[
        Path | None, typer.Option(help="Where the output goes; a new directory here by default.")
    ] = None,
) -> None:
    """Forward real processes' output, break everything on purpose, and count the lines."""
    with exits():
        _want_local_extra()
        from forwarder.demo import run_demo

        if not run_demo(directory):
            raise typer.Exit(ExitCode.INTERNAL)


def _end_code(failures: Sequence[BaseException], *, stopped: bool) -> ExitCode:
    """What a daemon ends with that could not close everything: why it ended, not what hangs."""
    if failures:
        return exit_code(failures[0])
    return ExitCode.DONE if stopped else ExitCode.INTERNAL


def _want_local_extra() -> None:
    """The local service's dependencies are an extra; say so instead of failing at an import."""
    missing = [name for name in ("connectrpc", "hypercorn", "cwsandbox") if not find_spec(name)]
    if missing:
        raise errors.UsageError(
            f'this needs the extra "local" ({", ".join(missing)} not installed):'
            " pip install 'sandbox-forwarder[local]'"
        )
