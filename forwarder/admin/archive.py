"""What the commands `archive` show, as JSON documents and as views. Pure.

The documents are contracts: keys are only ever added, and `format` grows when one changes its
meaning. Times are RFC 3339 in UTC with nanoseconds; sizes are bytes.

    list (one a line)  window, manifest, first, last, lines, size_bytes, sandboxes, objects: each
                       with key, first, last, lines, gaps, size_bytes, sha256. Lines, sandboxes and
                       times are those that were asked for; sizes are of whole objects.
    verify             format 1, generated_at, sink, ok, contents (false: only manifests were
                       read), windows, objects, streams, lines, size_bytes, missing_told, late,
                       problem_count, problems (the first of them)
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from forwarder.admin.parts import bullets, plural, rfc3339, second, size, thousands
from sinks.terminal import terminal_safe

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from rich.console import RenderableType

    from forwarder.admin.parts import Document
    from forwarder.archive_checks import ArchiveReport
    from sinks.archive import ArchivedObject, ArchivedWindow, Run

    Record = Mapping[str, Any]

FORMAT = 1

#: Columns of a list: the windows come one by one, so no width can be found out from all of them.
_ROW = "{:<20}  {:<20}  {:>7}  {:>11}  {:>9}  {:>9}"
#: Below a window's numbers; a key is as long as it is.
_OBJECT_ROW = "{:>64}  {:>9}  {}"


# list ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class ListTotals:
    """What a list had.

    Attributes:
        sandboxes: Their ids.
    """

    windows: int = 0
    objects: int = 0
    lines: int = 0
    size_bytes: int = 0
    sandboxes: set[str] = field(default_factory=set)

    def add(self, window: ArchivedWindow) -> None:
        """Count a window in."""
        self.windows += 1
        self.objects += len(window.objects)
        self.lines += sum(one.lines for one in window.objects)
        self.size_bytes += sum(one.size_bytes for one in window.objects)
        self.sandboxes |= _sandboxes(window)


def window_document(window: ArchivedWindow) -> Document:
    """The document of one window; see the module for its shape."""
    return {
        "window": window.window,
        "manifest": window.manifest_key,
        **_times([run for one in window.objects for run in one.runs]),
        "lines": sum(one.lines for one in window.objects),
        "size_bytes": sum(one.size_bytes for one in window.objects),
        "sandboxes": len(_sandboxes(window)),
        "objects": [_object(one) for one in window.objects],
    }


def _object(archived: ArchivedObject) -> Document:
    return {
        "key": archived.key,
        **_times(archived.runs),
        "lines": archived.lines,
        "gaps": sum(run.gap for run in archived.runs),
        "size_bytes": archived.size_bytes,
        "sha256": archived.sha256,
    }


def _times(runs: Sequence[Run]) -> Document:
    return {
        "first": rfc3339(min((run.first_ns for run in runs), default=0)),
        "last": rfc3339(max((run.last_ns for run in runs), default=0)),
    }


def _sandboxes(window: ArchivedWindow) -> set[str]:
    return {run.sandbox_id for one in window.objects for run in one.runs}


def list_heading() -> str:
    """The first row of a list for people."""
    return _ROW.format("FIRST", "LAST", "OBJECTS", "LINES", "SIZE", "SANDBOXES")


def window_rows(window: ArchivedWindow, *, objects: bool) -> list[str]:
    """A window's row, and those of its objects when they are wanted."""
    document = window_document(window)
    rows = [
        _ROW.format(
            second(document["first"]),
            second(document["last"]),
            thousands(len(document["objects"])),
            thousands(document["lines"]),
            size(document["size_bytes"]),
            thousands(document["sandboxes"]),
        )
    ]
    if objects:
        rows += [_object_row(one) for one in document["objects"]]
    return rows


def _object_row(document: Record) -> str:
    numbers = (thousands(document["lines"]), size(document["size_bytes"]))
    return _OBJECT_ROW.format(*numbers, terminal_safe(document["key"]))


def totals_row(totals: ListTotals) -> str:
    """What a list for people ends with."""
    return ", ".join(
        [
            plural(totals.windows, "window"),
            plural(totals.objects, "object"),
            plural(totals.lines, "line"),
            size(totals.size_bytes),
            f"{thousands(len(totals.sandboxes))} sandbox"
            + ("" if len(totals.sandboxes) == 1 else "es"),
        ]
    )


# verify -------------------------------------------------------------------------------------------


def verify_document(report: ArchiveReport, *, sink: str, now_ns: int) -> Document:
    """The document of what was found; see the module for its shape."""
    known = asdict(report)
    return {
        "format": FORMAT,
        "generated_at": rfc3339(now_ns),
        "sink": sink,
        "ok": report.ok,
        **{name: known[name] for name in known if name != "problems"},
        "problems": known["problems"],
    }


def render_verify(document: Record) -> RenderableType:
    """The view of the document of `verify`, for `rich.console.Console.print`."""
    text = Text()
    if document["ok"]:
        text.append("✓ ", "green").append("every line is there once", "bold")
    else:
        count = document["problem_count"]
        text.append("✗ ", "red").append(plural(count, "problem"), "bold red")
    text.append(f": {_looked_at(document)}")
    notes = [(Text("•"), Text(note)) for note in _notes(document)]
    problems = [(Text("•", "red"), Text(terminal_safe(one))) for one in document["problems"]]
    if more := document["problem_count"] - len(problems):
        problems.append((Text("•", "red"), Text(f"and {thousands(more)} more")))
    return Group(text, bullets([*problems, *notes])) if problems or notes else text


def _looked_at(document: Record) -> str:
    read = "read" if document["contents"] else "looked up, not read"
    return (
        f"{plural(document['windows'], 'window')}, {plural(document['objects'], 'object')}"
        f" ({size(document['size_bytes'])}) {read};"
        f" {plural(document['lines'], 'line')} of {plural(document['streams'], 'container')}"
    )


def _notes(document: Record) -> Iterable[str]:
    if told := document["missing_told"]:
        verb = "is" if told == 1 else "are"
        yield f"{plural(told, 'line')} {verb} missing, and gap records say so"
    if late := document["late"]:
        yield (
            f"{plural(late, 'container')} without the first lines: written before the sink was"
            " there, or deleted since"
        )
