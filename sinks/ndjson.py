"""Lines as NDJSON: one object a line, encoded column by column. Pure.

A line::

    {"time":"2026-11-23T04:05:06.000000007Z","sandbox_id":"sbx-1","container":"main","line":0,
     "text":"hello"}

`display_name`, `tags` and `attributes` are there only when the stream has them, `generation` only
when it is not 0, because a restarted container counts its lines from 0 again, and `part` only on
the numbered parts of a line that was too long. Text that is not UTF-8 comes losslessly as
`text_base64` in place of `text`.

A gap record has an object under `gap` and neither `line` nor `text`. Whatever a sandbox prints
arrives inside the string `text`, so that no output can look like a gap record. An end record is
nothing here: readers count on lines and on gaps, and know an end from elsewhere.
"""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import orjson

from sinks.identity import id_prefix, id_suffix, record_ids

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from sinks.interface import Slice

_NS_PER_S = 1_000_000_000


def encode_lines(source: Slice, start: int = 0, stop: int | None = None) -> bytes:
    """The slice's records from `start` to before `stop`, as whole NDJSON lines."""
    rows = _rows(source, start, source.line_count if stop is None else stop)
    before, after = _wrapping(source, {})
    return "".join(
        [f'{{"time":"{time}{before}{number}{text}{after}' for time, number, text in rows]
    ).encode()


def encode_identified(source: Slice, more: Mapping[str, Any]) -> bytes:
    """All of the slice's lines with their record ids in front, as `id`.

    Args:
        source: The slice.
        more: Fields that all of its records have besides.
    """
    head, tail = f'{{"id":"{id_prefix(source)}', f'{id_suffix(source)}","time":"'
    before, after = _wrapping(source, more)
    return "".join(
        [
            f"{head}{number}{tail}{time}{before}{number}{text}{after}"
            for time, number, text in _rows(source, 0, source.line_count)
        ]
    ).encode()


def _rows(source: Slice, start: int, stop: int) -> Iterator[tuple[str, int, str]]:
    """Time, line number and text of each record, the text as a member of a JSON object."""
    columns = source.columns
    texts = _json_texts(columns.texts[start:stop])
    times = rfc3339_column(columns.stamps_ns[start:stop])
    numbers = range(source.first_line + start, source.first_line + stop)
    return zip(times, numbers, texts, strict=True)


def encode_gap(source: Slice) -> bytes:
    """A gap record as one NDJSON line; `time` is where the hole begins, as far as that is known."""
    return _encode_gap(source, {}, {})


def encode_identified_gap(source: Slice, more: Mapping[str, Any]) -> bytes:
    """The same with its record id in front, as `id`, and more fields."""
    return _encode_gap(source, {"id": record_ids(source)[0]}, more)


def _encode_gap(source: Slice, identity: Mapping[str, str], more: Mapping[str, Any]) -> bytes:
    record = {**identity, "time": rfc3339(gap_stamp_ns(source)), **_fields(source), **more}
    return orjson.dumps({**record, "gap": dict(source.gap or {})}, option=orjson.OPT_APPEND_NEWLINE)


def gap_stamp_ns(source: Slice) -> int:
    """The moment a gap record belongs to: the last line before it, else the next thing known."""
    gap = source.gap or {}
    for name in ("from_stamp_ns", "to_stamp_ns", "noticed_ns"):
        stamp_ns = gap.get(name)
        if isinstance(stamp_ns, int) and stamp_ns > 0:
            return stamp_ns
    return source.received_ns


def rfc3339(stamp_ns: int) -> str:
    """A stamp as RFC 3339 in UTC, always with nine digits and `Z`."""
    return rfc3339_column([stamp_ns])[0]


def rfc3339_column(stamps_ns: Iterable[int]) -> list[str]:
    """Many stamps; those of one second, which mostly come together, share its calendar work."""
    times = []
    last_s, second_ns, form = None, 0, ""
    for stamp_ns in stamps_ns:
        second = stamp_ns // _NS_PER_S
        if second != last_s:
            last_s, second_ns, form = second, second * _NS_PER_S, _form_of(second)
        # Of all ways to fill up with zeros this one takes the least time.
        times.append(form % (stamp_ns - second_ns))
    return times


@lru_cache(maxsize=256)
def _form_of(second: int) -> str:
    """A second as RFC 3339, with a place for its nanoseconds."""
    moment = datetime.fromtimestamp(second, UTC).replace(tzinfo=None)
    return moment.isoformat() + ".%09dZ"


def _fields(source: Slice) -> dict[str, Any]:
    stream = source.stream
    fields: dict[str, Any] = {"sandbox_id": stream.sandbox_id, "container": stream.container}
    if stream.display_name:
        fields["display_name"] = stream.display_name
    if stream.tags:
        fields["tags"] = stream.tags
    if stream.attributes:
        fields["attributes"] = dict(stream.attributes)
    if source.generation:
        fields["generation"] = source.generation
    return fields


def _wrapping(source: Slice, more: Mapping[str, Any]) -> tuple[str, str]:
    """What stands between a line's time and its number, and what stands behind its text."""
    fields = orjson.dumps({**_fields(source), **more}).decode()
    after = f',"part":{source.part}}}\n' if source.part else "}\n"
    return f'",{fields[1:-1]},"line":', after


def _json_texts(texts: Sequence[bytes]) -> list[str]:
    """Each text as the member `,"text":"..."`."""
    if not texts:
        return []
    try:
        # One call for all: with indentation a newline stands behind every element, and inside a
        # JSON string there is never one.
        column = orjson.dumps([text.decode() for text in texts], option=orjson.OPT_INDENT_2)
    except UnicodeDecodeError:
        return [_json_text(text) for text in texts]
    return [f',"text":{string}' for string in column.decode()[4:-2].split(",\n  ")]


def _json_text(text: bytes) -> str:
    try:
        return f',"text":{orjson.dumps(text.decode()).decode()}'
    except UnicodeDecodeError:
        return f',"text_base64":"{b64encode(text).decode()}"'
