"""Names of indices and data streams, made from a template and a closed list of fields. Pure.

The literal text is the operator's. Values come from elsewhere and are hostile: they become lower
case letters, digits, `.`, `_` and `-`, and never stand at a name's beginning, so that no tag of a
sandbox chooses an index outside of the operator's prefix. Different values may share a name; the
document says which is which.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import repeat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

#: Every field that a name may have; the last ones come from a line's stamp, in UTC.
FIELDS = ("service", "container", "display_name", "sandbox_id", "date", "hour")
#: With these there is a new index for every hour, or day.
STAMP_FIELDS = frozenset({"date", "hour"})
#: With these there is an index for every sandbox.
HIGH_CARDINALITY_FIELDS = frozenset({"sandbox_id", "display_name"})

#: Both servers refuse longer names.
_MAX_NAME_BYTES = 255
_MAX_VALUE_BYTES = 64
_LITERAL = re.compile(r"[a-z0-9._-]*")
_BEGINNING = re.compile(r"[a-z0-9]")
_TOKEN = re.compile(r"\{([^{}]*)\}|[{}]|[^{}]+")
_NS_PER_HOUR = 3_600_000_000_000


class IndexNameError(ValueError):
    """A name cannot be used; the message says why, to the person who wrote it."""


@dataclass(frozen=True, slots=True)
class IndexName:
    """A parsed template such as `logs-{service}-{date}`. Make one with `IndexName.parse`.

    Attributes:
        fields: The names that it uses.
        parts: Literal text, and fields in turn, beginning with text.
    """

    fields: frozenset[str]
    parts: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> IndexName:
        """Read a template.

        Raises:
            IndexNameError: An unknown field, a stray brace, or what no index may be called.
        """
        parts: list[str] = []
        for token in _TOKEN.finditer(text):
            field = token.group(1)
            if field is not None:
                parts += [_known(field)] if len(parts) % 2 else ["", _known(field)]
            else:
                parts.append(_checked(token.group()))
        if not parts or not _BEGINNING.match(parts[0]):
            raise IndexNameError(
                "a name begins with text of its own, a letter or a digit: values come from"
                " elsewhere, and must not choose any index there is"
            )
        longest = sum(len(x) if i % 2 == 0 else _MAX_VALUE_BYTES for i, x in enumerate(parts))
        if longest > _MAX_NAME_BYTES:
            raise IndexNameError(f"a name has room for {_MAX_NAME_BYTES} bytes")
        return cls(frozenset(parts[1::2]), tuple(parts))

    @property
    def pattern(self) -> str:
        """What matches all of its names, with `*` for the fields."""
        return "".join(part if i % 2 == 0 else "*" for i, part in enumerate(self.parts))

    def column(self, values: Mapping[str, str], stamps_ns: Sequence[int]) -> Iterable[str]:
        """The name for each of many stamps of one stream.

        Args:
            values: The stream's own, by field.
            stamps_ns: The lines' stamps.
        """
        if self.fields.isdisjoint(STAMP_FIELDS):
            return repeat(self._render(values), len(stamps_ns))
        return self._by_hour(values, stamps_ns)

    def _by_hour(self, values: Mapping[str, str], stamps_ns: Sequence[int]) -> Iterator[str]:
        last_hour, name = None, ""
        for stamp_ns in stamps_ns:
            if (hour := stamp_ns // _NS_PER_HOUR) != last_hour:
                moment = datetime.fromtimestamp(hour * 3600, UTC)
                now = {"date": f"{moment:%Y.%m.%d}", "hour": f"{moment:%H}"}
                name = self._render({**values, **now})
                last_hour = hour
            yield name

    def _render(self, values: Mapping[str, str]) -> str:
        return "".join(
            part if i % 2 == 0 else index_value(values[part]) for i, part in enumerate(self.parts)
        )


@lru_cache(maxsize=4096)
def index_value(value: str) -> str:
    """A value as a piece of an index name; never empty."""
    name = re.sub(r"[^a-z0-9._-]", "_", value.lower())[:_MAX_VALUE_BYTES]
    return name or "unknown"


def _known(field: str) -> str:
    if field in FIELDS:
        return field
    near = difflib.get_close_matches(field, FIELDS, n=1)
    hint = f"; did you mean {{{near[0]}}}?" if near else ""
    known = " ".join(f"{{{name}}}" for name in FIELDS)
    raise IndexNameError(f"unknown field; there are {known}{hint}")


def _checked(literal: str) -> str:
    if not _LITERAL.fullmatch(literal):
        raise IndexNameError(
            "the name of an index consists of lower case letters, digits, dots, hyphens and"
            " underscores, and of fields in braces"
        )
    return literal
