"""The commands `spool`."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer needs it at run time
from typing import Annotated

import typer

from forwarder import running
from forwarder.cli_parts import ExitCode, GroupConfigOption, JsonOption, exits, group_config, show

spool_group = typer.Typer(name="spool", invoke_without_command=True)


@spool_group.callback()
def spool(
    context: typer.Context, *, config: GroupConfigOption = None, as_json: JsonOption = False
) -> None:
    """How full the spool is and for whom; with a command, verify it or back it up."""
    from forwarder import commands
    from forwarder.admin.storage import render_spool

    if context.invoked_subcommand is None:
        with exits():
            document = commands.spool(running.load(group_config(context, config)))
            show(document, render_spool, as_json=as_json)


@spool_group.command("verify")
def spool_verify(
    context: typer.Context, *, config: GroupConfigOption = None, as_json: JsonOption = False
) -> None:
    """Read all of it, beside the daemon too. Exits 74 when anything is damaged."""
    from forwarder import commands
    from forwarder.admin.upkeep import render_verify

    with exits():
        document = commands.verify(running.load(group_config(context, config)))
        show(document, render_verify, as_json=as_json)
    if not document["ok"]:
        raise typer.Exit(ExitCode.SPOOL)


@spool_group.command("backup")
def spool_backup(
    context: typer.Context,
    target: Annotated[
        Path, typer.Argument(metavar="TARGET", help="A directory that is not there yet.")
    ],
    *,
    config: GroupConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy it as it is now, beside the daemon too; the copy can be used as state_dir."""
    from forwarder import commands
    from forwarder.admin.upkeep import render_backup

    with exits():
        document = commands.backup(running.load(group_config(context, config)), target)
        show(document, render_backup, as_json=as_json)
