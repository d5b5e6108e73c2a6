"""What `check` shows: one JSON document, and a view of it in plain words. Pure.

The document is a contract: keys are only ever added, and `format` grows when one changes its
meaning.

    format        1
    generated_at  when the document was made
    ok            whether everybody answers and takes us
    checks        the API's first, then one for each sink: name, type, verdict (ok, not_checked,
                  unavailable, misconfigured, refused), text
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from forwarder.admin.parts import bullets, plural, rfc3339
from forwarder.checking import Verdict
from sinks.terminal import terminal_safe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from rich.console import RenderableType

    from forwarder.admin.parts import Document
    from forwarder.checking import Finding

FORMAT = 1

_MARKS = {Verdict.OK: ("✓", "green"), Verdict.NOT_CHECKED: ("?", "dim")}
_TROUBLE = ("✗", "bold red")


def checks_document(findings: Sequence[Finding], *, now_ns: int) -> Document:
    """The document; see the module for its shape."""
    return {
        "format": FORMAT,
        "generated_at": rfc3339(now_ns),
        "ok": not any(one.verdict.is_trouble for one in findings),
        "checks": [
            {"name": one.name, "type": one.kind, "verdict": str(one.verdict), "text": one.text}
            for one in findings
        ],
    }


def render_checks(document: Mapping[str, Any]) -> RenderableType:
    """The view of a document, for `rich.console.Console.print`."""
    items = []
    for one in document["checks"]:
        text = Text(terminal_safe(one["name"]), "bold")
        if one["name"] != one["type"]:
            text.append(f" ({one['type']})", "dim")
        text.append(f"  {terminal_safe(one['text'])}", "")
        text.stylize("not bold", len(one["name"]))
        items.append((Text(*_MARKS.get(Verdict(one["verdict"]), _TROUBLE)), text))
    table = bullets(items)
    bad = sum(1 for one in document["checks"] if Verdict(one["verdict"]).is_trouble)
    if not bad:
        return table
    return Group(table, Text(), Text(f"{plural(bad, 'problem')}: lines would not get there", "red"))
