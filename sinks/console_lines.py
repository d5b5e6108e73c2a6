"""Records as lines for a terminal. Pure.

A line of text has the stamp, the stream, a mark, and then what the sandbox printed::

    2026-01-02T03:04:05.123456789Z sbx-abc123/main | epoch 3 loss 0.42
    2026-01-02T03:04:06.000000000Z sbx-abc123/main ! gap {"kind":"range","cause":"anchor_lost",...}

The mark is `|` for a line, `+` for further parts of one that was too long, and `!` for a record of
ours. Neither stamp nor stream has spaces in it, and nothing that a sandbox prints begins a line, so
that no output looks like a gap. Whatever could act on a terminal is written out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import orjson

from sinks.ndjson import encode_gap, encode_lines, gap_stamp_ns, rfc3339, rfc3339_column
from sinks.template import safe_name
from sinks.terminal import line_safe, terminal_safe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sinks.interface import Slice, Stream

_DIM, _ALARM, _PLAIN = "\x1b[2m", "\x1b[1;31m", "\x1b[0m"

#: What stands in JSON as it is and is not to be shown as it is; most of it is nothing of the kind.
_SUSPECT = re.compile(r"[^ -~\n]+")


@dataclass(frozen=True, slots=True)
class ConsoleOptions:
    """What lines look like."""

    format: Literal["text", "ndjson"] = "text"
    stamp: bool = True
    sandbox: Literal["id", "name"] = "id"
    color: bool = False


def render(slices: Sequence[Slice], options: ConsoleOptions) -> bytes:
    """Whole lines, each with its newline. An end record is nothing here, as in files."""
    draw = _ndjson if options.format == "ndjson" else _text
    return "".join(draw(source, options) for source in slices if source.end is None).encode()


def _text(source: Slice, options: ConsoleOptions) -> str:
    name = _name(source.stream, options)
    if source.gap is not None:
        shown = terminal_safe(orjson.dumps(dict(source.gap)).decode())
        on, off = (_ALARM, _PLAIN) if options.color else ("", "")
        stamp = f"{rfc3339(gap_stamp_ns(source))} " if options.stamp else ""
        return f"{on}{stamp}{name} ! gap {shown}{off}\n"
    on, off = (_DIM, _PLAIN) if options.color else ("", "")
    prefix = f"{name} {'+' if source.part > 1 else '|'}{off} "
    texts = source.columns.texts
    if not options.stamp:
        return "".join([f"{on}{prefix}{line_safe(text)}\n" for text in texts])
    times = rfc3339_column(source.columns.stamps_ns)
    return "".join(
        [f"{on}{time} {prefix}{line_safe(text)}\n" for time, text in zip(times, texts, strict=True)]
    )


def _name(stream: Stream, options: ConsoleOptions) -> str:
    shown = stream.display_name if options.sandbox == "name" else ""
    return f"{safe_name(shown or stream.sandbox_id)}/{safe_name(stream.container)}"


def _ndjson(source: Slice, options: ConsoleOptions) -> str:
    del options
    encode = encode_lines if source.gap is None else encode_gap
    json = encode(source).decode()
    return _SUSPECT.sub(_harmless, json)


def _harmless(found: re.Match[str]) -> str:
    """The same text in JSON, without what could act on a terminal."""
    return "".join(
        character if terminal_safe(character) == character else _json_escape(character)
        for character in found[0]
    )


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
