"""Templates of paths and keys: a closed list of names, and values that are safe in a file name.

A template is the operator's; the values put into it come from elsewhere and are hostile. So the
literal text stays as written, and a value never leaves its path component: it becomes letters,
digits, `.`, `_` and `-`, every other byte `~xx`. Two different values never become the same text
(up to a collision of 128 bits of SHA-256 for values that are too long for a file name).
"""

from __future__ import annotations

import difflib
import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING

from sinks.shapes import SAFE_BYTES, Shape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sinks.interface import Stream

#: Every name that a template may use.
FIELDS = ("sandbox_id", "container", "display_name", "date", "hour")

#: Fields that come from a line's stamp (UTC), with the length they always have.
_STAMP_FIELDS = {"date": len("2026-11-23"), "hour": len("04")}

#: What one value may become at most; a file name may have 255 bytes.
MAX_VALUE_BYTES = 200
_MAX_COMPONENT_BYTES = 240  # leaves room for what is put behind a name: `.gz`, `.unconfirmed`
_DIGEST_CHARACTERS = 32
_MIN_VALUE_BYTES = _DIGEST_CHARACTERS + 8

#: What stands for them in a pattern.
_STAMP_PATTERNS = {"date": "[0-9]{4}-[0-9]{2}-[0-9]{2}", "hour": "[0-9]{2}"}

_NONE_MORE: Mapping[str, int] = MappingProxyType({})

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]|[^{}]+")
_NS_PER_S = 1_000_000_000


class TemplateError(ValueError):
    """A template cannot be used; the message says why, to the person who wrote it."""


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    max_bytes: int = MAX_VALUE_BYTES


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed path or key template. Make one with `Template.parse`.

    Attributes:
        text: As written.
        fields: The names that it uses.
    """

    text: str
    fields: frozenset[str]
    _parts: tuple[str | _Field, ...]

    @classmethod
    def parse(cls, text: str, *, more: Mapping[str, int] = _NONE_MORE) -> Template:
        """Read a template such as `/var/log/{sandbox_id}/{date}.log`.

        Args:
            text: The template.
            more: Names that it may use besides, and how many bytes their values have at most. The
                values are given to `render`.

        Raises:
            TemplateError: An unknown name, a stray brace, a `..`, or no file name at the end.
        """
        parts = _scan(text, (*FIELDS, *more))
        fields = frozenset(part.name for part in parts if isinstance(part, _Field))
        _check_shape("".join(_literal(part) for part in parts))
        return cls(text, fields, _share_room(parts, {**_STAMP_FIELDS, **more}))

    @property
    def max_bytes(self) -> int:
        """No path is longer, whatever the values."""
        return sum(
            len(part.encode()) if isinstance(part, str) else part.max_bytes for part in self._parts
        )

    @property
    def needs_stamp(self) -> bool:
        """Whether the result depends on a line's stamp, and not on its stream alone."""
        return not self.fields.isdisjoint(_STAMP_FIELDS)

    def paths_of(self, stream: Stream) -> re.Pattern[str]:
        """What fully matches the stream's paths, whatever the stamp."""
        values = _values(stream)
        return re.compile(
            "".join(
                re.escape(part)
                if isinstance(part, str)
                else _STAMP_PATTERNS.get(part.name)
                or re.escape(safe_name(values[part.name], part.max_bytes))
                for part in self._parts
            )
        )

    @property
    def shape(self) -> Shape:
        """What all of its paths look like, whatever the values."""
        shape = Shape()
        for part in self._parts:
            if isinstance(part, str):
                shape = shape.text(part)
            elif part.name == "date":
                shape = shape.digits(4).text("-").digits(2).text("-").digits(2)
            else:
                shape = shape.digits(2) if part.name == "hour" else shape.value()
        return shape

    def may_meet(self, other: Template) -> bool:
        """Whether some values give a path of this template and of the other one, too."""
        return self.shape.may_meet(other.shape)

    @property
    def root(self) -> str:
        """The directory that no value has a part in, with its final slash; empty when relative."""
        literal = self._parts[0] if isinstance(self._parts[0], str) else ""
        return literal[: literal.rfind("/") + 1]

    def spelled(self, names: Mapping[str, str]) -> str:
        """The template with other text in place of its fields, by their names."""
        return "".join(part if isinstance(part, str) else names[part.name] for part in self._parts)

    def render(
        self, stream: Stream, stamp_ns: int = 0, more: Mapping[str, str] | None = None
    ) -> str:
        """The path of one stream's lines of the hour of this stamp.

        Args:
            stream: Whose lines.
            stamp_ns: The stamp.
            more: Values of the names that were allowed besides; they stand as they are.
        """
        more = more or {}
        values = _values(stream)
        if self.needs_stamp:
            moment = datetime.fromtimestamp(stamp_ns // _NS_PER_S, UTC)
            values["date"] = moment.date().isoformat()
            values["hour"] = f"{moment.hour:02d}"
        return "".join(
            part
            if isinstance(part, str)
            else more.get(part.name) or safe_name(values[part.name], part.max_bytes)
            for part in self._parts
        )


@lru_cache(maxsize=4096)
def safe_name(value: str, max_bytes: int = MAX_VALUE_BYTES) -> str:
    """A value as a piece of a file name; different values never give the same piece.

    Bytes other than `A-Z a-z 0-9 . _ -` become `~xx`, and so do a leading `.` and `-`, which mean
    something to people and programs. Nothing at all becomes `~empty`. What is longer than
    `max_bytes` is cut and ends in `~~` and a digest of the whole value. Case is kept; composed and
    decomposed characters stay different. A lone surrogate is taken as the bytes that it stands for.
    """
    if not value:
        return "~empty"
    data = value.encode("utf-8", "surrogatepass")
    name = "".join(
        chr(byte) if byte in SAFE_BYTES and not (index == 0 and byte in b".-") else f"~{byte:02x}"
        for index, byte in enumerate(data)
    )
    if len(name) <= max_bytes:
        return name
    digest = hashlib.sha256(data).hexdigest()[:_DIGEST_CHARACTERS]
    return f"{name[: max_bytes - len(digest) - 2]}~~{digest}"


def _values(stream: Stream) -> dict[str, str]:
    return {
        "sandbox_id": stream.sandbox_id,
        "container": stream.container,
        "display_name": stream.display_name,
    }


def _scan(text: str, names: Sequence[str]) -> tuple[str | _Field, ...]:
    parts: list[str | _Field] = []
    for token in _TOKEN.finditer(text):
        found = token.group()
        if token.group(1) is not None:
            parts.append(_Field(_known(token.group(1), names)))
            continue
        if found in {"{", "}"}:
            raise TemplateError(
                f"stray {found!r} in {text!r}; write {found * 2!r} for the sign itself"
            )
        _add_literal(parts, found[0] if found in {"{{", "}}"} else found)
    return tuple(parts)


def _add_literal(parts: list[str | _Field], literal: str) -> None:
    """Literal text that stands together is one part."""
    last = parts[-1] if parts else None
    if isinstance(last, str):
        parts[-1] = last + literal
    else:
        parts.append(literal)


def _known(name: str, names: Sequence[str]) -> str:
    if name in names:
        return name
    known = ", ".join(f"{{{field}}}" for field in names)
    if not name:
        raise TemplateError(f"empty braces: expected one of {known}")
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
    raise TemplateError(
        f"unknown name {{{name}}}: did you mean {{{nearest}}}? Known names: {known}, nothing else"
    )


def _literal(part: str | _Field) -> str:
    return part if isinstance(part, str) else "x"


def _check_shape(sample: str) -> None:
    """Look at the template with every value replaced by a letter: values never change its shape."""
    if not sample:
        raise TemplateError("empty path")
    if any(ord(character) < ord(" ") or ord(character) == 0x7F for character in sample):  # noqa: PLR2004 - DEL
        raise TemplateError("control characters are not allowed in a path")
    if any("\ud800" <= character <= "\udfff" for character in sample):
        raise TemplateError("a lone surrogate is no text, and not allowed in a path")
    if sample.startswith("~"):
        raise TemplateError("'~' is not expanded: write the home directory out")
    names = sample.split("/")
    if ".." in names:
        raise TemplateError("'..' is not allowed in a path")
    if names[-1] in {"", "."}:
        raise TemplateError("the path names a directory: it must end in a file name")


def _share_room(
    parts: tuple[str | _Field, ...], lengths: Mapping[str, int]
) -> tuple[str | _Field, ...]:
    """Give each value so much room that its path component stays a legal file name.

    Args:
        parts: The template's.
        lengths: How long the values of some fields are; those keep their room.
    """
    shared: list[str | _Field] = []
    for component in _components(parts):
        fixed = sum(_fixed_bytes(part, lengths) for part in component)
        fields = [part for part in component if isinstance(part, _Field)]
        values = [field for field in fields if field.name not in lengths]
        room = min(MAX_VALUE_BYTES, (_MAX_COMPONENT_BYTES - fixed) // max(1, len(values)))
        if room < (_MIN_VALUE_BYTES if values else 0):
            raise TemplateError("too much in one file name: names have room for 240 bytes")
        for part in component:
            if isinstance(part, str):
                _add_literal(shared, part)
            else:
                shared.append(_Field(part.name, lengths.get(part.name, room)))
    return tuple(shared)


def _components(parts: tuple[str | _Field, ...]) -> list[list[str | _Field]]:
    """The parts of each path component; a slash belongs to the component that it ends."""
    components: list[list[str | _Field]] = [[]]
    for part in parts:
        if isinstance(part, _Field):
            components[-1].append(part)
            continue
        for text in re.findall(r"[^/]*/|[^/]+", part):
            components[-1].append(text)
            if text.endswith("/"):
                components.append([])
    return components


def _fixed_bytes(part: str | _Field, lengths: Mapping[str, int]) -> int:
    if isinstance(part, str):
        return len(part.removesuffix("/").encode())
    return lengths.get(part.name, 0)
