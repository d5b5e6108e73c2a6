"""Record ids: what makes a record this one and no other, at every resend and everywhere.

A line's id is `<sandbox id>/<container>/<generation>/<line number>`, both names made safe as in a
file name, so that different ones stay different and the id has at most 500 bytes of ASCII. The
numbered parts of a line that was too long have `.<part>` behind it. The records of ours have
`.gap-<digest>` and `.end-<digest>`, of what they say: a gap that is taken back is a record of its
own.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import orjson

from sinks.template import safe_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sinks.interface import Slice

_DIGEST_CHARACTERS = 16


def id_prefix(source: Slice) -> str:
    """What all line ids of a slice begin with; the line number follows, and `id_suffix`."""
    stream = source.stream
    return f"{safe_name(stream.sandbox_id)}/{safe_name(stream.container)}/{source.generation}/"


def id_suffix(source: Slice) -> str:
    """What stands behind the line number in a slice's ids: nothing, save for a part."""
    return f".{source.part}" if source.part else ""


def record_ids(source: Slice) -> list[str]:
    """The ids of a slice's records, in order; a gap or end record has one, too."""
    prefix, suffix = id_prefix(source), id_suffix(source)
    if source.gap is not None:
        return [f"{prefix}{source.first_line}.gap-{_digest(source.gap)}"]
    if source.end is not None:
        return [f"{prefix}{source.first_line}.end-{_digest(source.end)}"]
    numbers = range(source.first_line, source.first_line + source.line_count)
    return [f"{prefix}{number}{suffix}" for number in numbers]


def record_id(source: Slice, index: int) -> str:
    """The id of one of a slice's records, without making those of the others."""
    if source.gap is not None or source.end is not None:
        return record_ids(source)[index]
    return f"{id_prefix(source)}{source.first_line + index}{id_suffix(source)}"


def _digest(record: Mapping[str, str | int | None]) -> str:
    content = orjson.dumps(dict(record), option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(content).hexdigest()[:_DIGEST_CHARACTERS]
