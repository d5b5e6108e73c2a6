"""Arguments to settings to app; the only place that knows exit codes."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import gc
import os
import signal
import sys
import traceback
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import orjson
import typer
from rich.console import Console

from forwarder import errors
from forwarder.logs import configure_logs

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from forwarder.config import Settings, SourceSettings
    from forwarder.console import LogsRequest


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
    try:
        app()
    except Exception:  # noqa: BLE001 - the top of the process: a bug has an exit code of its own
        traceback.print_exc()
        typer.echo(
            "sandbox-forwarder: this is a bug; please report it with the lines above", err=True
        )
        sys.exit(ExitCode.INTERNAL)
    sys.exit(ExitCode.DONE)


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
) -> None:
    """Follow, and forward, until told to stop.

    SIGTERM and SIGINT stop it: reading ends, what was read is committed, and the sinks get their
    drain time. A second signal ends it at once. Either way nothing is lost. SIGHUP reads the
    configuration again.
    """
    with exits():
        settings = _load(config)
        configure_logs(level=settings.log.level, form=settings.log.format)
        # What start-up made lives as long as the process: the collector need not walk it again
        # (measured: a full collection of 2 million objects stops everything for 230 ms).
        gc.freeze()
        _run_loop(_run(settings, config, until_complete=until_complete))


@app.command()
def validate(config: ConfigOption, *, as_json: JsonOption = False) -> None:
    """Check a configuration without touching anything else: no network, no directories."""
    from forwarder.config import InvalidConfigError, describe

    with exits():
        try:
            settings = _load(config)
        except InvalidConfigError as error:
            if as_json:
                problems = [
                    {"file": one.file, "line": one.line, "path": one.path, "text": one.text}
                    for one in error.problems
                ]
                _print_json({"valid": False, "problems": problems})
                raise typer.Exit(ExitCode.CONFIG) from None
            raise
    if as_json:
        _print_json({"valid": True, "settings": describe(settings)})
    else:
        sinks = ", ".join(f"{name} ({sink.type})" for name, sink in settings.sinks.items())
        typer.echo(f"{config} is valid. Sinks: {sinks}.")


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
        _run_loop(_logs(request, config))


@app.command()
def status(config: ConfigOption, *, as_json: JsonOption = False) -> None:
    """What is followed, where it stands, and what each sink has yet to get."""
    from forwarder.admin.status import render_status, status_document, status_json
    from forwarder.clock import SystemClock
    from forwarder.spool.files import StateDir, is_locked
    from forwarder.spool.overview import overview_of

    with exits():
        state = StateDir(_load(config).state_dir)
        document = status_document(
            overview_of(state), daemon_pid=is_locked(state), now_ns=SystemClock().time_ns()
        )
    if as_json:
        typer.echo(status_json(document, indent=2))
    else:
        Console().print(render_status(document))


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


@contextmanager
def exits() -> Iterator[None]:
    """Turn the errors that end a command into a message and an exit code."""
    try:
        yield
    except errors.ForwarderError as error:
        prefix = "" if isinstance(error, errors.ConfigError) else "sandbox-forwarder: "
        typer.echo(f"{prefix}{error}", err=True)
        raise typer.Exit(_exit_code(error)) from error
    except BrokenPipeError:
        # Whoever read our output has seen enough. Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(ExitCode.DONE) from None


#: The first that fits counts, so the more special errors stand first.
_EXIT_CODES: tuple[tuple[type[errors.ForwarderError], ExitCode], ...] = (
    (errors.ConfigError, ExitCode.CONFIG),
    (errors.UsageError, ExitCode.USAGE),
    (errors.SpoolLockedError, ExitCode.LOCKED),
    (errors.SpoolError, ExitCode.SPOOL),
    (errors.CredentialsRefusedError, ExitCode.REFUSED),
    (errors.SandboxNotFoundError, ExitCode.USAGE),
    (errors.SourceError, ExitCode.UNAVAILABLE),
)


def _exit_code(error: errors.ForwarderError) -> ExitCode:
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), ExitCode.INTERNAL)


def _load(path: Path) -> Settings:
    from forwarder.app import sink_settings_types
    from forwarder.config import load_settings

    return load_settings(path, sink_types=sink_settings_types(), env=os.environ)


def _source_from_environment() -> SourceSettings:
    """The API as CWSANDBOX_BASE_URL and CWSANDBOX_API_KEY say."""
    from pydantic import ValidationError

    from forwarder.config import SourceSettings

    if not os.environ.get("CWSANDBOX_API_KEY"):
        raise errors.ConfigError("no credentials: set CWSANDBOX_API_KEY, or give --config FILE")
    values = {"api_key": os.environ["CWSANDBOX_API_KEY"]}
    if os.environ.get("CWSANDBOX_BASE_URL"):
        values["base_url"] = os.environ["CWSANDBOX_BASE_URL"]
    try:
        return SourceSettings.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(
            f"CWSANDBOX_{'_'.join(map(str, one['loc'])).upper()}: {one['msg']}"
            if one["loc"]
            else one["msg"]
            for one in error.errors(include_input=False)
        )
        raise errors.ConfigError(problems) from None


def _run_loop(main: Coroutine[None, None, None]) -> None:
    """Run on uvloop: the same as asyncio, with less copying between socket and parser."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


async def _run(settings: Settings, config: Path, *, until_complete: bool) -> None:
    from forwarder.admin.systemd import ServiceManager
    from forwarder.app import run_daemon

    stop, reload = asyncio.Event(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload.set)
    with _stopping(stop):
        await run_daemon(
            settings,
            lambda: _load(config),
            stop=stop,
            reload=reload,
            manager=ServiceManager(os.environ),
            until_complete=until_complete,
        )


async def _logs(request: LogsRequest, config: Path | None) -> None:
    from forwarder.app import follow_settings, make_source
    from forwarder.console import show_logs
    from forwarder.tasks import first_of

    settings = _load(config).source if config is not None else _source_from_environment()
    source = make_source(settings)
    stop = asyncio.Event()
    with _stopping(stop):
        showing = show_logs(
            source,
            request,
            follow_settings(settings),
            output=sys.stdout.buffer,
            tell=lambda text: typer.echo(f"sandbox-forwarder: {text}", err=True),
        )
        try:
            await first_of(showing, stop.wait())
        finally:
            await source.close()


@contextmanager
def _stopping(stop: asyncio.Event) -> Iterator[None]:
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


def _want_local_extra() -> None:
    """The local service's dependencies are an extra; say so instead of failing at an import."""
    missing = [name for name in ("connectrpc", "hypercorn", "cwsandbox") if not find_spec(name)]
    if missing:
        raise errors.UsageError(
            f'this needs the extra "local" ({", ".join(missing)} not installed):'
            " pip install 'sandbox-forwarder[local]'"
        )


def _print_json(document: object) -> None:
    typer.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())
