"""The commands `dead-letters`."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from forwarder import running
from forwarder.cli_parts import GroupConfigOption, JsonOption, exits, group_config, show
from forwarder.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from forwarder.letter_commands import Selection

letters_group = typer.Typer(name="dead-letters", no_args_is_help=True)

SinkOption = Annotated[str, typer.Option("--sink", metavar="NAME", help="Whose dead letters.")]
IdsOption = Annotated[
    list[int], typer.Option("--id", metavar="ID", help="Only this one; may be given often.")
]
AllOption = Annotated[bool, typer.Option("--all", help="All of the sink's.")]
StatusOption = Annotated[
    str | None, typer.Option("--status", metavar="STATUS", help="Only those with this status.")
]


@letters_group.callback()
def dead_letters(*, config: GroupConfigOption = None) -> None:
    """What destinations refused for good: look at it, send it again, or give it up."""
    del config  # for the commands; see `group_config`


@letters_group.command("list")
def letters_list(
    context: typer.Context,
    *,
    config: GroupConfigOption = None,
    as_json: JsonOption = False,
    sink: Annotated[str, typer.Option("--sink", metavar="NAME", help="Only this sink's.")] = "",
    sandbox: Annotated[
        str, typer.Option("--sandbox", metavar="ID", help="Only this sandbox's.")
    ] = "",
) -> None:
    """What was refused, by sink, status and reason. Shows nothing that a sandbox wrote."""
    from forwarder import letter_commands
    from forwarder.admin.dead_letters import render_letters

    with exits():
        settings = running.load(group_config(context, config))
        document = letter_commands.show_letters(settings, sink=sink, sandbox_id=sandbox)
        show(document, render_letters, as_json=as_json)


@letters_group.command("show")
def letters_show(
    context: typer.Context,
    letter_id: Annotated[int, typer.Argument(metavar="ID", help="The dead letter's id.")],
    *,
    config: GroupConfigOption = None,
    as_json: JsonOption = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="Only what it holds, byte for byte, not escaped.")
    ] = False,
) -> None:
    """One dead letter in full, with what it holds."""
    from forwarder import letter_commands
    from forwarder.admin.dead_letters import raw_content, render_letter

    with exits():
        document = letter_commands.show_letter(
            running.load(group_config(context, config)), letter_id
        )
        if raw and not as_json:
            sys.stdout.buffer.write(raw_content(document))
            sys.stdout.buffer.flush()
        else:
            show(document, render_letter, as_json=as_json)


@letters_group.command("replay")
def letters_replay(
    context: typer.Context,
    *,
    sink: SinkOption,
    ids: IdsOption = [],  # noqa: B006 - typer makes a new list for every call
    all_of_them: AllOption = False,
    status: StatusOption = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait until a running daemon is done with it.")
    ] = True,
    config: GroupConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have dead letters sent again, by the daemon that runs or the next one.

    They keep their record ids, and each one stays where it is until the destination has taken it.
    """
    from forwarder import letter_commands
    from forwarder.admin.dead_letters import render_asked

    with exits(), _progress() as tell:
        selection = _selection(sink, ids, status, all_of_them=all_of_them)
        settings = running.load(group_config(context, config))
        document = letter_commands.replay_letters(settings, selection, wait=wait, tell=tell)
    with exits():
        show(document, render_asked, as_json=as_json)


@letters_group.command("drop")
def letters_drop(
    context: typer.Context,
    *,
    sink: SinkOption,
    ids: IdsOption = [],  # noqa: B006 - typer makes a new list for every call
    all_of_them: AllOption = False,
    status: StatusOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: GroupConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give dead letters up for good; they count as dropped."""
    from forwarder import letter_commands
    from forwarder.admin.dead_letters import render_asked

    with exits():
        selection = _selection(sink, ids, status, all_of_them=all_of_them)
        settings = running.load(group_config(context, config))
        chosen = letter_commands.choose(settings, selection)
        if chosen and not yes:
            _confirm(sink, len(chosen))
        document = letter_commands.drop_letters(settings, selection, chosen)
        show(document, render_asked, as_json=as_json)


def _selection(sink: str, ids: list[int], status: str | None, *, all_of_them: bool) -> Selection:
    """What is meant; all of a sink's letters have to be asked for in so many words."""
    from forwarder.letter_commands import Selection

    if sum((bool(ids), status is not None, all_of_them)) != 1:
        raise typer.BadParameter(
            "say which ones: --id (as often as needed), --status, or --all",
            param_hint="--id / --status / --all",
        )
    return Selection(sink, tuple(ids), status)


def _confirm(sink: str, letters: int) -> None:
    """Ask whether letters may be destroyed.

    Raises:
        UsageError: Nobody can be asked, or the answer is no.
    """
    if not sys.stdin.isatty():
        raise UsageError("nothing was dropped: say --yes where nobody can be asked")
    from forwarder.admin.parts import plural

    question = f"Drop {plural(letters, 'dead letter')} of {sink!r}? What it holds is gone then"
    if not typer.confirm(question, err=True):
        raise UsageError("nothing was dropped")


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error while the daemon is at work; nothing where that is no terminal."""
    from forwarder.commands import progress_bar

    with progress_bar("sending again (Ctrl-C ends only the waiting)") as progress:
        yield progress
