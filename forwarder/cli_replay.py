"""The command `replay`."""

from __future__ import annotations

from typing import Annotated

import typer

from forwarder import running
from forwarder.cli_parts import ConfigOption, JsonOption, exits, show


def replay(
    *,
    sink: Annotated[str, typer.Option("--sink", metavar="NAME", help="To which sink.")],
    since: Annotated[
        str,
        typer.Option(
            "--since",
            metavar="T",
            help="Lines with this stamp or a later one: 2026-01-02T03:04:05Z, or 10m ago.",
        ),
    ],
    until: Annotated[
        str | None,
        typer.Option("--until", metavar="T", help="Only lines before this stamp."),
    ] = None,
    sandbox: Annotated[
        str, typer.Option("--sandbox", metavar="ID", help="Only this sandbox's.")
    ] = "",
    config: ConfigOption,
    as_json: JsonOption = False,
) -> None:
    """Send lines that are still in the spool to a sink once more, with the same record ids.

    By the daemon that runs, or the next one. spool.keep says how long lines stay after every sink
    has them. Files and archives hold each line once, and are sent nothing again.
    """
    from forwarder import replay_commands
    from forwarder.admin.replay import render_replay

    since_ns = _moment(since, "--since")
    until_ns = None if until is None else _moment(until, "--until")
    if until_ns is not None and until_ns <= since_ns:
        raise typer.BadParameter("is not after --since", param_hint="--until")
    wanted = replay_commands.Range(since_ns, until_ns, sandbox)
    with exits():
        document = replay_commands.replay_range(running.load(config), sink, wanted)
        show(document, render_replay, as_json=as_json)


def _moment(text: str, option: str) -> int:
    """A moment in nanoseconds, to the last digit.

    Raises:
        BadParameter: It is none.
    """
    from forwarder.console import parse_since
    from forwarder.stamps import parse_stamp

    stamp = parse_stamp(text.encode())
    if stamp is not None and stamp[1] == len(text):
        return stamp[0]
    try:
        return parse_since(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error
