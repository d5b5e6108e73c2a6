"""What the commands `dead-letters` do, as documents; see `forwarder.admin.dead_letters`.

They need no running daemon. One that runs does what is asked of it; see `forwarder.spool.requests`.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forwarder.admin.dead_letters import asked_document, letter_document, letters_document
from forwarder.clock import SystemClock
from forwarder.commands import letter_limits, want_sandbox
from forwarder.errors import UsageError
from forwarder.slices import Streams, make_slice
from forwarder.spool.dead_letters import Choice
from forwarder.spool.files import StateDir, is_locked
from forwarder.spool.letter_overview import (
    Progress,
    chosen_letters,
    letter_groups_of,
    letter_of,
    newest_letter_of,
    replay_progress,
    sinks_with_letters,
)
from forwarder.spool.requests import LetterRequest, Wish, ask_for
from sinks.identity import record_ids
from sinks.terminal import terminal_safe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from forwarder.admin.parts import Document
    from forwarder.config import Settings
    from forwarder.spool.letter_overview import ChosenLetter, LetterEntry

#: How often is looked how far the daemon is.
_LOOK_S = 0.5

_MOST_NAMED = 10


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters of a sink are meant; all of them unless it says more.

    Attributes:
        ids: Only these; all when empty.
        status: Only those with this status; all when None.
    """

    sink: str
    ids: tuple[int, ...] = ()
    status: str | None = None


def show_letters(settings: Settings, *, sink: str = "", sandbox_id: str = "") -> Document:
    """Every dead letter there is, in groups.

    Args:
        settings: The configuration.
        sink: Only this sink's; of all when empty.
        sandbox_id: Only this sandbox's; of all when empty.

    Raises:
        UsageError: There never was such a sink, or such a sandbox.
        SpoolUntrustedError: There is no spool, or it cannot be read. So say all of these.
    """
    state = StateDir(settings.state_dir)
    sinks = sinks_with_letters(state)
    if sink:
        _want_sink(sink, [one.name for one in sinks])
    want_sandbox(state, sandbox_id)
    return letters_document(
        letter_groups_of(state, sink=sink, sandbox_id=sandbox_id),
        [one for one in sinks if sink in {"", one.name}],
        limits=letter_limits(settings),
        now_ns=SystemClock().time_ns(),
    )


def show_letter(settings: Settings, letter_id: int) -> Document:
    """One dead letter, with what it holds.

    Raises:
        UsageError: There is none of this id.
        SpoolUntrustedError: See above; or it is damaged.
    """
    entry = letter_of(StateDir(settings.state_dir), letter_id)
    if entry is None:
        raise UsageError(
            f"there is no dead letter {letter_id}; dead-letters list shows which there are"
        )
    now_ns = SystemClock().time_ns()
    return letter_document(entry, record_ids=_record_ids(entry), now_ns=now_ns)


def _record_ids(entry: LetterEntry) -> list[str]:
    letter = entry.held.letter
    if letter.unnamed:
        return []
    return record_ids(make_slice(letter, Streams().get(entry.stream)))


def choose(settings: Settings, selection: Selection) -> list[ChosenLetter]:
    """The letters that are meant now.

    Raises:
        UsageError: There is no such sink; or the sink has no such letter.
    """
    state = StateDir(settings.state_dir)
    _want_sink(selection.sink, [one.name for one in sinks_with_letters(state)])
    chosen = chosen_letters(state, selection.sink, _choice(state, selection))
    if missing := set(selection.ids) - {one.id for one in chosen}:
        raise UsageError(
            f"sink {selection.sink!r} has no dead letter {_named(sorted(missing))};"
            " dead-letters list shows which there are"
        )
    if selection.status is not None and not chosen:
        known = {one.status for one in letter_groups_of(state, sink=selection.sink)}
        there_are = f"; there are {_named(sorted(known))}" if known else ""
        raise UsageError(
            f"sink {selection.sink!r} has no dead letters with status {selection.status!r}"
            f"{there_are}"
        )
    return chosen


def drop_letters(settings: Settings, selection: Selection, chosen: list[ChosenLetter]) -> Document:
    """Give the chosen letters up; they count as dropped."""
    now_ns = SystemClock().time_ns()
    path = _ask(settings, Wish.DROP, selection, chosen, now_ns) if chosen else None
    return asked_document(
        wish=Wish.DROP,
        sink=selection.sink,
        letters=len(chosen),
        lines=sum(one.lines for one in chosen),
        skipped=0,
        carried_out=path is None,
        now_ns=now_ns,
    )


def replay_letters(
    settings: Settings,
    selection: Selection,
    *,
    wait: bool = True,
    tell: Callable[[int, int], None] = lambda _done, _of: None,
    pause: Callable[[], None] = lambda: time.sleep(_LOOK_S),
) -> Document:
    """Have letters sent again by the daemon.

    Args:
        settings: The configuration.
        selection: Which ones.
        wait: Whether to wait until a daemon that runs has settled them. Ctrl-C ends the waiting,
            and nothing else.
        tell: Told how many of how many are settled.
        pause: Between two looks.

    Raises:
        UsageError: See `choose`; or the sink is not configured, so that nobody would send them.
    """
    _want_configured(settings, selection.sink)
    chosen = choose(settings, selection)
    sent = [one for one in chosen if one.can_replay]
    now_ns = SystemClock().time_ns()
    state = StateDir(settings.state_dir)
    newest_id = newest_letter_of(state)
    path = _ask(settings, Wish.REPLAY, selection, sent, now_ns) if sent else None
    settled = None
    if path is not None and wait:
        watch = _Watch(state, selection.sink, path, sent, newest_id)
        settled = watch.until_settled(tell, pause)
    return asked_document(
        wish=Wish.REPLAY,
        sink=selection.sink,
        letters=len(sent),
        lines=sum(one.lines for one in sent),
        skipped=len(chosen) - len(sent),
        carried_out=path is None or not path.exists(),
        now_ns=now_ns,
        settled=settled,
    )


class _Watch:
    """Looks how far a daemon is with letters that it was asked to send again."""

    def __init__(
        self, state: StateDir, sink: str, path: Path, sent: list[ChosenLetter], newest_id: int
    ) -> None:
        self._state = state
        self._sink = sink
        self._path = path
        self._ids = {one.id for one in sent}
        self._lines = sum(one.lines for one in sent)
        self._newest_id = newest_id
        self._begun = False

    def until_settled(
        self, tell: Callable[[int, int], None], pause: Callable[[], None]
    ) -> Document:
        """Wait until all is settled, or no daemon runs any more, or Ctrl-C; how far it has come."""
        with suppress(KeyboardInterrupt):
            while (now := self._look()).waiting and is_locked(self._state) is not None:
                tell(len(self._ids) - now.waiting, len(self._ids))
                pause()
        now = self._look()
        return {
            "waiting": now.waiting,
            "delivered": len(self._ids) - now.waiting - now.refused,
            "refused": now.refused,
            "delivered_lines": self._lines - now.waiting_lines - now.refused_lines,
            "refused_lines": now.refused_lines,
        }

    def _look(self) -> Progress:
        # In this order: what is asked for is in the spool before its file is gone.
        self._begun = self._begun or not self._path.exists()
        if not self._begun:
            return Progress(len(self._ids), self._lines, 0, 0)
        return replay_progress(self._state, self._sink, self._ids, upto_id=self._newest_id)


def _ask(
    settings: Settings,
    wish: Wish,
    selection: Selection,
    chosen: list[ChosenLetter],
    now_ns: int,
) -> Path | None:
    """Only for what was seen: letters that come meanwhile are not meant."""
    choice = Choice(chosen[-1].id, selection.ids or None, selection.status)
    request = LetterRequest(wish, selection.sink, choice)
    return ask_for(StateDir(settings.state_dir), request, now_ns)


def _choice(state: StateDir, selection: Selection) -> Choice:
    return Choice(newest_letter_of(state), selection.ids or None, selection.status)


def _want_configured(settings: Settings, sink: str) -> None:
    if sink not in settings.sinks:
        raise UsageError(
            f"sink {sink!r} is not in the configuration, so nothing would send its dead letters;"
            f" sinks are {_named(settings.sinks)}"
        )


def _want_sink(sink: str, known: list[str]) -> None:
    if sink not in known:
        raise UsageError(f"this spool knows no sink {sink!r}; it knows {_named(known) or 'none'}")


def _named(values: Iterable[object]) -> str:
    listed = [terminal_safe(str(one)) for one in values]
    more = ", ..." if len(listed) > _MOST_NAMED else ""
    return ", ".join(listed[:_MOST_NAMED]) + more
