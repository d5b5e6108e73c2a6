"""What `spool verify` and `spool backup` report, as JSON documents and in words. Pure.

The documents are contracts: keys are only ever added, and `format` grows when one changes its
meaning.

    verify        format 1, generated_at, ok, frames, lines, dead_letters (looked at), problems
                  (texts)
    backup        format 1, generated_at, path, spool_id, size_bytes, frames, last_frame_id
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from forwarder.admin.parts import bullets, plural, rfc3339, size, thousands
from sinks.terminal import terminal_safe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from rich.console import RenderableType

    from forwarder.admin.parts import Document
    from forwarder.spool.backup import BackupReport
    from forwarder.spool.verify import VerifyReport

    Record = Mapping[str, Any]

FORMAT = 1

#: Problems shown; a disk that fails can damage every frame.
PROBLEMS_SHOWN = 20


def verify_document(report: VerifyReport, *, now_ns: int) -> Document:
    """The document of a look at the whole spool; see the module for its shape."""
    return {
        "format": FORMAT,
        "generated_at": rfc3339(now_ns),
        "ok": report.ok,
        "frames": report.frames,
        "lines": report.lines,
        "dead_letters": report.dead_letters,
        "problems": list(report.problems),
    }


def backup_document(report: BackupReport, *, now_ns: int) -> Document:
    """The document of a finished copy; see the module for its shape."""
    return {
        "format": FORMAT,
        "generated_at": rfc3339(now_ns),
        "path": str(report.path),
        "spool_id": report.spool_id,
        "size_bytes": report.size_bytes,
        "frames": report.frames,
        "last_frame_id": report.last_frame_id,
    }


def render_verify(document: Record) -> RenderableType:
    """The view of a document, for `rich.console.Console.print`."""
    looked_at = f"{plural(document['frames'], 'frame')} with {plural(document['lines'], 'line')}"
    if document["dead_letters"]:
        looked_at += f" and {plural(document['dead_letters'], 'dead letter')}"
    problems: Sequence[str] = document["problems"]
    if not problems:
        text = Text().append("✓ no damage", "bold green")
        return text.append(f": {looked_at} read, each as it was stored")
    heading = Text().append(f"✗ {plural(len(problems), 'problem')}", "bold red")
    heading.append(f"; {looked_at} looked at")
    shown = [(Text(" •", "red"), Text(terminal_safe(one))) for one in problems[:PROBLEMS_SHOWN]]
    rest = len(problems) - PROBLEMS_SHOWN
    more = [Text(f"   … and {thousands(rest)} more; --json shows all", "dim")] if rest > 0 else []
    return Group(heading, bullets(shown), *more)


def render_backup(document: Record) -> RenderableType:
    """The view of a document, for `rich.console.Console.print`."""
    text = Text().append("✓ ", "green").append(terminal_safe(document["path"]), "bold")
    held = f"{size(document['size_bytes'])}, {plural(document['frames'], 'frame')}"
    text.append(f": {held}, up to frame {thousands(document['last_frame_id'])}")
    return text.append("\n  a whole spool; the directory can be used as state_dir", "dim")
