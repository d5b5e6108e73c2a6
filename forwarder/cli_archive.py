"""The commands `archive`."""

from __future__ import annotations

import asyncio
import sys
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from forwarder import process, running
from forwarder.cli_parts import (
    ExitCode,
    GroupConfigOption,
    JsonOption,
    exits,
    group_config,
    show,
)
from sinks.archive import ArchiveError, Selection
from sinks.interface import SinkError, SinkMisconfiguredError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from rich.status import Status

    from forwarder.archive_checks import ArchiveReport
    from sinks.archive import Archive

archive_group = typer.Typer(name="archive", no_args_is_help=True)

SinkOption = Annotated[
    str,
    typer.Option("--sink", metavar="NAME", help="Which archive, when sinks write several."),
]
SandboxOption = Annotated[
    str | None, typer.Option("--sandbox", metavar="ID", help="Only this sandbox's.")
]
ContainerOption = Annotated[
    str | None, typer.Option("--container", metavar="C", help="Only this container's.")
]
SinceOption = Annotated[
    str | None,
    typer.Option(
        "--since", metavar="T", help="Only lines since then: 2026-01-02T03:04:05Z, or 10m ago."
    ),
]
UntilOption = Annotated[
    str | None, typer.Option("--until", metavar="T", help="Only lines before then; as --since.")
]
FromStoreOption = Annotated[
    bool,
    typer.Option(
        "--from-store",
        help="Ask the store which windows there are, not the spool: for what other daemons wrote"
        " there, or an older spool.",
    ),
]
LinesJsonOption = Annotated[bool, typer.Option("--json", help="A JSON object a line, for scripts.")]


@archive_group.callback()
def archive(*, config: GroupConfigOption = None) -> None:
    """What a sink has archived: look at it, get lines back, see that it is whole."""
    del config  # for the commands; see `group_config`


@archive_group.command("list")
def archive_list(
    context: typer.Context,
    *,
    sandbox: SandboxOption = None,
    container: ContainerOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    objects: Annotated[
        bool, typer.Option("--objects", help="Each object of the windows, too.")
    ] = False,
    sink: SinkOption = "",
    from_store: FromStoreOption = False,
    config: GroupConfigOption = None,
    as_json: LinesJsonOption = False,
) -> None:
    """Which windows there are, and how much is in them."""
    from forwarder import archive_commands

    selection = _selection(sandbox, container, since, until)
    with exits(), _store_troubles():
        _, chosen = _chosen(group_config(context, config), sink, from_store=from_store)
        totals = asyncio.run(
            archive_commands.list_windows(
                chosen, selection, objects=objects, as_json=as_json, output=sys.stdout.buffer
            )
        )
    if not totals.windows:
        _tell_nothing()


@archive_group.command("cat")
def archive_cat(
    context: typer.Context,
    *,
    sandbox: Annotated[str, typer.Option("--sandbox", metavar="ID", help="Whose lines.")],
    container: ContainerOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    timestamps: Annotated[
        bool, typer.Option("--timestamps", "-t", help="Each line with its stamp.")
    ] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="Do not escape control characters on a terminal.")
    ] = False,
    sink: SinkOption = "",
    from_store: FromStoreOption = False,
    config: GroupConfigOption = None,
    as_json: LinesJsonOption = False,
) -> None:
    """Print a sandbox's lines in their order, each once.

    Where lines are missing, and the archive knows it, standard error says so. With --json such a
    gap record stands in its place.
    """
    from forwarder import archive_commands

    selection = _selection(sandbox, container, since, until)
    with exits(), _store_troubles(), _looking() as progress:
        _, chosen = _chosen(group_config(context, config), sink, from_store=from_store)
        count = asyncio.run(
            archive_commands.cat(
                chosen,
                selection,
                timestamps=timestamps,
                raw=raw or not sys.stdout.isatty(),
                as_json=as_json,
                output=sys.stdout.buffer,
                tell=_tell,
                progress=progress,
            )
        )
    if not count:
        _tell_nothing()


@archive_group.command("verify")
def archive_verify(
    context: typer.Context,
    *,
    sandbox: SandboxOption = None,
    container: ContainerOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Read the manifests only, and no object.")
    ] = False,
    sink: SinkOption = "",
    from_store: FromStoreOption = False,
    config: GroupConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """See that every line is there once, and every object as it was written.

    Exits 74 when something is damaged, or missing without a gap record that says so.
    """
    from forwarder import archive_commands
    from forwarder.admin.archive import render_verify, verify_document
    from forwarder.clock import SystemClock

    selection = _selection(sandbox, container, since, until)
    with exits(), _store_troubles():
        name, chosen = _chosen(group_config(context, config), sink, from_store=from_store)
        with _verifying() as progress:
            report = asyncio.run(
                archive_commands.verify(chosen, selection, quick=quick, progress=progress)
            )
        document = verify_document(report, sink=name, now_ns=SystemClock().time_ns())
        show(document, render_verify, as_json=as_json)
    if not report.ok:
        raise typer.Exit(ExitCode.SPOOL)


def _selection(
    sandbox: str | None, container: str | None, since: str | None, until: str | None
) -> Selection:
    since_ns, until_ns = _moment(since, "--since"), _moment(until, "--until")
    if since_ns is not None and until_ns is not None and since_ns >= until_ns:
        raise typer.BadParameter("it is not after --since", param_hint="--until")
    return Selection(sandbox, container, since_ns, until_ns)


def _moment(text: str | None, option: str) -> int | None:
    from forwarder.console import parse_since

    try:
        return None if text is None else parse_since(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def _chosen(config: Path, sink: str, *, from_store: bool) -> tuple[str, Archive]:
    from forwarder.app import archive_of
    from forwarder.archive_commands import choose_archive
    from forwarder.logs import configure_logs

    # What goes wrong is told in plain words, once.
    configure_logs(level="critical", form="auto")
    settings = running.load(config)
    return choose_archive(settings, partial(archive_of, settings), sink=sink, from_store=from_store)


@contextmanager
def _store_troubles() -> Iterator[None]:
    """Turn what a store, or what is in it, can do wrong into a message and an exit code."""
    try:
        yield
    except ArchiveError as error:
        _tell(str(error))
        raise typer.Exit(ExitCode.SPOOL) from error
    except SinkMisconfiguredError as error:
        _tell(str(error))
        code = ExitCode.REFUSED if error.credentials else ExitCode.CONFIG
        raise typer.Exit(code) from error
    except SinkError as error:
        _tell(str(error))
        raise typer.Exit(ExitCode.UNAVAILABLE) from error


@contextmanager
def _verifying() -> Iterator[Callable[[ArchiveReport], None]]:
    """Says how far it is while objects are read; see `_status`."""
    from forwarder.admin.parts import plural, size

    with _status("verifying") as status:

        def progress(report: ArchiveReport) -> None:
            text = f"verifying: {plural(report.objects, 'object')}, {size(report.size_bytes)}"
            if not report.ok:
                text += f", {plural(report.problem_count, 'problem')}"
            status.update(text)

        yield progress


@contextmanager
def _looking() -> Iterator[Callable[[int | None], None]]:
    """Says how far it is until the first line is printed; see `_status`."""
    from forwarder.admin.parts import plural

    with _status("looking for lines") as status:

        def progress(windows: int | None) -> None:
            if windows is None:
                status.stop()
            else:
                status.update(f"looking for lines: {plural(windows, 'window')}")

        yield progress


@contextmanager
def _status(text: str) -> Iterator[Status]:
    """A line on standard error while something takes long; nothing where that is no terminal."""
    console = Console(stderr=True)
    status = console.status(text)
    if console.is_terminal:
        status.start()
    try:
        yield status
    finally:
        status.stop()


def _tell_nothing() -> None:
    _tell("the archive has nothing of that")


def _tell(text: str) -> None:
    process.say(f"sandbox-forwarder: {text}\n")
