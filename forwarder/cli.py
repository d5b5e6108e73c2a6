"""Arguments to settings to app; the only place that knows exit codes."""

from __future__ import annotations

import asyncio
import enum
import json
import os
import signal
import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

from forwarder import errors
from forwarder.logs import configure_logs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from forwarder.config import Settings


class ExitCode(enum.IntEnum):
    """What a shell, a supervisor or a script can rely on (sysexits.h where it has a name)."""

    DONE = 0
    USAGE = 2
    UNAVAILABLE = 69  # the API or a destination does not answer
    INTERNAL = 70
    SPOOL = 74  # the spool cannot be trusted or written
    LOCKED = 75  # another daemon holds state_dir
    REFUSED = 77  # credentials refused
    CONFIG = 78


app = typer.Typer(
    name="sandbox-forwarder",
    help="Follows the logs of sandboxes and forwards every line: nothing lost, nothing twice.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", help="The configuration, a YAML file.", metavar="FILE")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document, for scripts.")]


def main() -> NoReturn:
    """The command `sandbox-forwarder`."""
    app()
    sys.exit(ExitCode.DONE)


@app.command()
def run(
    config: ConfigOption,
    *,
    until_complete: Annotated[
        bool,
        typer.Option(help="Exit 0 once every sandbox has ended and every sink has everything."),
    ] = False,
) -> None:
    """Follow, and forward, until told to stop.

    SIGTERM and SIGINT stop: reading ends, what was read is committed, and sinks get their drain
    time; a second one leaves at once. Nothing that is not delivered by then is lost.
    """
    with exits():
        settings = _load(config)
        configure_logs(level=settings.log.level, form=settings.log.format)
        asyncio.run(_run(settings, until_complete=until_complete))


@app.command()
def validate(config: ConfigOption, *, as_json: JsonOption = False) -> None:
    """Check a configuration, without touching anything: no network, no files but this one."""
    from forwarder.config import InvalidConfigError, describe

    try:
        with exits(json_errors=as_json):
            settings = _load(config)
    except typer.Exit:
        raise
    _ = InvalidConfigError
    if as_json:
        typer.echo(json.dumps({"valid": True, "settings": describe(settings)}, indent=2))
    else:
        sinks = ", ".join(f"{name} ({sink.type})" for name, sink in settings.sinks.items())
        typer.echo(f"{config}: valid; follows {len(settings.sandboxes)} selector(s) into {sinks}")


@app.command()
def status(config: ConfigOption, *, as_json: JsonOption = False) -> None:
    """What is followed, where it stands, and what each sink has yet to get."""
    from forwarder.admin.status import render_status, status_document
    from forwarder.clock import SystemClock
    from forwarder.spool.files import StateDir, is_locked
    from forwarder.spool.overview import overview_of

    with exits():
        state = StateDir(_load(config).state_dir)
        document = status_document(
            overview_of(state), daemon_pid=is_locked(state), now_ns=SystemClock().time_ns()
        )
    if as_json:
        typer.echo(json.dumps(document, indent=2))
    else:
        Console().print(render_status(document))


@contextmanager
def exits(*, json_errors: bool = False) -> Iterator[None]:
    """Turn the errors that end a command into a message and an exit code."""
    try:
        yield
    except errors.ForwarderError as error:
        code = _exit_code(error)
        if json_errors:
            typer.echo(json.dumps({"valid": False, "error": str(error)}, indent=2))
        else:
            typer.echo(f"{_headline(code)}{error}", err=True)
        raise typer.Exit(code) from error


def _exit_code(error: errors.ForwarderError) -> ExitCode:
    match error:
        case errors.ConfigError():
            return ExitCode.CONFIG
        case errors.SpoolLockedError():
            return ExitCode.LOCKED
        case errors.SpoolError():
            return ExitCode.SPOOL
        case errors.CredentialsRefusedError():
            return ExitCode.REFUSED
        case errors.SourceError():
            return ExitCode.UNAVAILABLE
        case _:
            return ExitCode.INTERNAL


def _headline(code: ExitCode) -> str:
    return "" if code is ExitCode.CONFIG else "sandbox-forwarder: "


def _load(path: Path) -> Settings:
    from forwarder.app import sink_settings_types
    from forwarder.config import load_settings

    return load_settings(path, sink_types=sink_settings_types(), env=os.environ)


async def _run(settings: Settings, *, until_complete: bool) -> None:
    from forwarder.app import Daemon

    stop = asyncio.Event()
    with stopping(stop):
        async with Daemon.open(settings) as daemon:
            await daemon.run(stop, until_complete=until_complete)


@contextmanager
def stopping(stop: asyncio.Event) -> Iterator[None]:
    """SIGTERM and SIGINT set `stop`; the second one ends the process there and then."""
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)

    def ask(number: int) -> None:
        if stop.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop.set()

    for number in signals:
        loop.add_signal_handler(number, ask, number)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


_ = (UTC, datetime)
