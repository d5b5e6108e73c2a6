"""What the commands that look at `state_dir` show, as documents; see `forwarder.admin`.

They need no running daemon and disturb none: the spool is read in short, consistent views.
"""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress

from forwarder.admin.checkpoints import checkpoints_document
from forwarder.admin.gaps import gaps_document
from forwarder.admin.status import status_document
from forwarder.admin.storage import spool_document
from forwarder.admin.upkeep import backup_document, verify_document
from forwarder.clock import SystemClock
from forwarder.errors import UsageError
from forwarder.spool.backup import backup as copy_spool
from forwarder.spool.files import StateDir, is_locked
from forwarder.spool.overview import checkpoints_of, gaps_of, overview_of
from forwarder.spool.verify import verify as verify_spool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from forwarder.admin.parts import Document
    from forwarder.config import Settings
    from forwarder.spool.interface import SpoolOverview


class Terminal(Console):
    """Rich's console; whoever reads our output may go away when he has seen enough."""

    def on_broken_pipe(self) -> None:
        """Leave the exit code to the command line, where rich itself would exit with 1.

        Raises:
            BrokenPipeError: Always.
        """
        raise BrokenPipeError


def status(settings: Settings) -> Document:
    """See `forwarder.admin.status`.

    Raises:
        SpoolUntrustedError: There is no spool, or it cannot be read. So say all of these.
    """
    return status_document(
        _overview(settings),
        daemon_pid=is_locked(StateDir(settings.state_dir)),
        now_ns=SystemClock().time_ns(),
        letter_limits=letter_limits(settings),
    )


def gaps(settings: Settings, *, sandbox_id: str = "", open_only: bool = False) -> Document:
    """See `forwarder.admin.gaps`.

    Args:
        settings: The configuration.
        sandbox_id: Only this sandbox's gaps; of all when empty.
        open_only: Only gaps that are not filled.

    Raises:
        UsageError: No stream of that sandbox was ever followed. "No gaps" would be a comfort that
            a mistyped id does not deserve.
    """
    state = StateDir(settings.state_dir)
    want_sandbox(state, sandbox_id)
    return gaps_document(
        gaps_of(state),
        now_ns=SystemClock().time_ns(),
        sandbox_id=sandbox_id,
        open_only=open_only,
    )


def want_sandbox(state: StateDir, sandbox_id: str) -> None:
    """See that a sandbox that was asked for was ever followed; an empty id is none.

    Raises:
        UsageError: It was not.
    """
    if sandbox_id and all(one.key.sandbox_id != sandbox_id for one in checkpoints_of(state)):
        raise UsageError(
            f"no sandbox {sandbox_id!r} was ever followed with state_dir {state.path};"
            " status and checkpoints name those that were"
        )


def letter_limits(settings: Settings) -> dict[str, int]:
    """By sink, the most that its dead letters may take."""
    return {name: sink.plan.dead_letter_bytes for name, sink in settings.sinks.items()}


def checkpoints(settings: Settings) -> Document:
    """See `forwarder.admin.checkpoints`."""
    state = StateDir(settings.state_dir)
    return checkpoints_document(checkpoints_of(state), now_ns=SystemClock().time_ns())


def spool(settings: Settings) -> Document:
    """See `forwarder.admin.storage`."""
    state = StateDir(settings.state_dir)
    return spool_document(
        _overview(settings),
        path=state.database,
        when_full=settings.spool.when_full,
        daemon_pid=is_locked(state),
        now_ns=SystemClock().time_ns(),
        letter_limits=letter_limits(settings),
    )


def verify(settings: Settings) -> Document:
    """Read all of the spool; see `forwarder.admin.upkeep`. Tells its progress on a terminal."""
    with progress_bar("verifying") as progress:
        report = verify_spool(StateDir(settings.state_dir), progress=progress)
    return verify_document(report, now_ns=SystemClock().time_ns())


def backup(settings: Settings, target: Path) -> Document:
    """Copy the spool; see `forwarder.admin.upkeep`. Tells its progress on a terminal.

    Raises:
        UsageError: There is something at the target.
        SpoolUntrustedError: There is no spool, or it cannot be read; or the copy not be written.
    """
    with progress_bar("copying") as progress:
        report = copy_spool(StateDir(settings.state_dir), target, progress=progress)
    return backup_document(report, now_ns=SystemClock().time_ns())


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error while something takes long; nothing where that is no terminal."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)

        def progress(done: int, of: int) -> None:
            bar.update(task, completed=done, total=of)

        yield progress


def _overview(settings: Settings) -> SpoolOverview:
    """The spool's numbers, with the limit that it does not know itself."""
    seen = overview_of(StateDir(settings.state_dir))
    return dataclasses.replace(seen, max_bytes=settings.spool.max_size)
