"""What every command shares: exit codes and options, how errors end it, how documents are shown."""

from __future__ import annotations

import enum
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from forwarder import errors, process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import RenderableType

    from forwarder.admin.parts import Document


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


ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", help="The configuration, a YAML file.", metavar="FILE")
]
#: The same for a group of commands: it may stand before or behind the command's name.
GroupConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="The configuration, a YAML file.", metavar="FILE"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document, for scripts.")]


@contextmanager
def exits() -> Iterator[None]:
    """Turn the errors that end a command into a message and an exit code."""
    try:
        yield
    except errors.ForwarderError as error:
        prefix = "" if isinstance(error, errors.ConfigError) else "sandbox-forwarder: "
        process.say(f"{prefix}{error}\n")
        raise typer.Exit(exit_code(error)) from error
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


def exit_code(error: BaseException) -> ExitCode:
    """What a command ends with because of an error."""
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), ExitCode.INTERNAL)


def group_config(context: typer.Context, config: Path | None) -> Path:
    """The configuration given to a command, or to the group that it is in."""
    found = config or (context.parent.params.get("config") if context.parent else None)
    if found is None:
        raise typer.BadParameter("a configuration is needed", param_hint="--config", ctx=context)
    return Path(found)


def show(
    document: Document, render: Callable[[Document], RenderableType], *, as_json: bool
) -> None:
    """Print a document: as it is for a script, in words for a person."""
    from forwarder.admin.parts import document_json
    from forwarder.commands import Terminal

    if as_json:
        typer.echo(document_json(document, indent=2), nl=False)
    else:
        Terminal().print(render(document))


def print_json(document: object) -> None:
    """Print a document that is no `Document`."""
    typer.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())
