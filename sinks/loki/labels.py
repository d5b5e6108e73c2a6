"""The labels of Loki's streams: few, from a closed list of names, whatever sandboxes print. Pure.

Every different set of labels is a stream of its own in Loki, which an index and chunks are kept
for. So a label is for what many sandboxes share; what tells them apart is structured metadata.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sinks.service import ServiceSettings, image_name, service_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sinks.interface import Stream

#: What a template may name; those with a colon are followed by a name of the operator's.
PLAIN_FIELDS = ("service", "container", "image", "sandbox_id", "display_name")
PREFIX_FIELDS = ("tag", "annotation", "attribute")
#: What is different for nearly every sandbox.
HIGH_CARDINALITY = frozenset({"sandbox_id", "display_name"})

#: Loki's own limits, by default (`limits_config`).
MAX_LABELS = 15
MAX_NAME_BYTES = 1024
MAX_VALUE_BYTES = 2048

#: What every record has beside its text. A label of such a name must be exactly that.
METADATA_NAMES = frozenset(
    {
        *("sandbox_id", "container", "display_name", "tags", "generation", "line", "part"),
        *("piece", "encoding", "stamp", "log_record_uid"),
    }
)
GAP_PREFIX = "gap_"

_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]|[^{}]+")


class LabelError(ValueError):
    """A label cannot be used; the message says why, to the person who wrote it."""


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    key: str = ""


@dataclass(frozen=True, slots=True)
class Label:
    """One label. Make it with `Label.parse`.

    Attributes:
        name: Its name.
        parts: What its value is made of.
    """

    name: str
    parts: tuple[str | _Field, ...]

    @classmethod
    def parse(cls, name: str, template: str) -> Label:
        """Read a label's template, such as `sandboxes-{tag:team=}`.

        Raises:
            LabelError: Not the name of a label, one that records have already, an unknown field, a
                stray brace, or a text that is too long.
        """
        if not _NAME.fullmatch(name) or name.startswith("__") or len(name) > MAX_NAME_BYTES:
            raise LabelError(
                "a label's name has letters, digits and _, and does not begin with a digit or __"
            )
        label = cls(name, tuple(_scan(template)))
        itself = (_Field(name),)
        if (name in METADATA_NAMES or name.startswith(GAP_PREFIX)) and label.parts != itself:
            raise LabelError("every record has structured metadata of this name; choose another")
        if len(label.literal.encode()) > MAX_VALUE_BYTES:
            raise LabelError(f"a label's value has at most {MAX_VALUE_BYTES} bytes")
        return label

    @property
    def fields(self) -> frozenset[str]:
        """The fields that it uses."""
        return frozenset(part.name for part in self.parts if isinstance(part, _Field))

    @property
    def literal(self) -> str:
        """What is in every value."""
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def never_empty(self) -> bool:
        """Whether it has a value for every sandbox."""
        always = {"service", "container", "sandbox_id"}
        return self.literal != "" or not self.fields.isdisjoint(always)

    def render(self, stream: Stream, service: ServiceSettings) -> str:
        """The value for a stream, cut at what Loki takes; empty when there is none."""
        text = "".join(
            part if isinstance(part, str) else _value(part, stream, service) for part in self.parts
        )
        # Lone surrogates, which no protocol can carry, become question marks here.
        cut = text.encode("utf-8", "replace")[:MAX_VALUE_BYTES]
        return cut.decode("utf-8", "ignore")


def render_labels(
    labels: tuple[Label, ...], stream: Stream, service: ServiceSettings
) -> tuple[tuple[str, str], ...]:
    """The labels of a stream, sorted by name, without those that are empty."""
    values = ((label.name, label.render(stream, service)) for label in labels)
    return tuple(sorted((name, value) for name, value in values if value))


def selector(labels: tuple[tuple[str, str], ...]) -> str:
    r"""Labels as Loki writes them: `{job="a", name="with \"quotes\""}`.

    No value can end its quotes: whatever is not plain printable text is written out.
    """
    return "{" + ", ".join(f'{name}="{_quoted(value)}"' for name, value in labels) + "}"


def parse_labels(given: Mapping[str, str]) -> tuple[Label, ...]:
    """All of them.

    Raises:
        LabelError: See `Label.parse`.
    """
    return tuple(Label.parse(name, template) for name, template in given.items())


def _scan(template: str) -> list[str | _Field]:
    parts: list[str | _Field] = []
    for token in _TOKEN.finditer(template):
        text, name = token[0], token[1]
        if text in {"{", "}"}:
            raise LabelError('a stray brace; write "{{" or "}}" for a brace of its own')
        if name is not None:
            parts.append(_field(name))
        else:
            parts.append(text[0] if text in {"{{", "}}"} else text)
    return parts


def _field(text: str) -> _Field:
    name, colon, key = text.partition(":")
    if (name in PLAIN_FIELDS and not colon) or (name in PREFIX_FIELDS and key):
        return _Field(name, key)
    known = [*PLAIN_FIELDS, *(f"{prefix}:..." for prefix in PREFIX_FIELDS)]
    near = difflib.get_close_matches(name, known, 1)
    hint = f" (did you mean {{{near[0]}}}?)" if near else ""
    every = " ".join(f"{{{field}}}" for field in known)
    raise LabelError(f"an unknown name in braces{hint}; there are {every}")


def _value(part: _Field, stream: Stream, service: ServiceSettings) -> str:
    match part.name:
        case "service":
            return service_name(stream, service)
        case "image":
            return image_name(stream.image)
        case "tag":
            found = (tag for tag in stream.tags if tag.startswith(part.key))
            return next(found, part.key).removeprefix(part.key)
        case "annotation" | "attribute":
            values = stream.annotations if part.name == "annotation" else stream.attributes
            return values.get(part.key, "")
    own = {"container": stream.container, "display_name": stream.display_name}
    return own.get(part.name, stream.sandbox_id)


def _quoted(value: str) -> str:
    if value.isprintable() and '"' not in value and "\\" not in value:
        return value
    return "".join(map(_escaped, value))


def _escaped(character: str) -> str:
    """As Go reads it in double quotes, which is how Loki reads it."""
    if character in '"\\':
        return f"\\{character}"
    if character.isprintable():
        return character
    number = ord(character)
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"  # noqa: PLR2004 - BMP
