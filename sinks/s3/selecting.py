"""Which windows, objects and runs a selection means. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sinks.archive import ArchivedObject, ArchivedWindow, Run, Selection
    from sinks.s3.index import IndexEntry


def selected_entries(entries: Iterable[IndexEntry], selection: Selection) -> list[IndexEntry]:
    """The windows that may have anything of a selection's time, by their first stamps."""
    found = [one for one in entries if _in_time(selection, one.first_ns, one.last_ns)]
    return sorted(found, key=lambda one: (one.first_ns, one.last_ns, one.window))


def selected_part(window: ArchivedWindow, selection: Selection) -> ArchivedWindow | None:
    """A window with only what is meant of it; None when that is nothing."""
    objects = [part for one in window.objects if (part := _part(one, selection)) is not None]
    return replace(window, objects=objects) if objects else None


def _part(archived: ArchivedObject, selection: Selection) -> ArchivedObject | None:
    runs = [run for run in archived.runs if _is_meant(run, selection)]
    return replace(archived, runs=runs) if runs else None


def _is_meant(run: Run, selection: Selection) -> bool:
    return (
        selection.sandbox_id in {None, run.sandbox_id}
        and selection.container in {None, run.container}
        and _in_time(selection, run.first_ns, run.last_ns)
    )


def _in_time(selection: Selection, first_ns: int, last_ns: int) -> bool:
    return (selection.since_ns is None or last_ns >= selection.since_ns) and (
        selection.until_ns is None or first_ns < selection.until_ns
    )
