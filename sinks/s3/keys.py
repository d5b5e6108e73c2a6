"""Keys of objects: the operator's template, and what makes each key this object's alone. Pure.

A key has the window's name in it, which no other window of any daemon has. Within a window, lines
whose keys differ in nothing else are in one object. So a key is never made twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sinks.s3.manifest import stamp_text
from sinks.template import MAX_VALUE_BYTES, Template, TemplateError

if TYPE_CHECKING:
    from sinks.interface import Stream

#: What a key template may use besides the names of paths.
MORE_FIELDS = ("first", "last", "window")

#: A key has at most 1,024 bytes (Amazon S3 user guide, "Naming objects").
_MAX_KEY_BYTES = 1024
_LENGTHS = {"first": 26, "last": 26, "window": 48, "date": 10, "hour": 2}

_ENDINGS = (
    *(".ndjson", ".jsonl", ".json", ".log", ".txt", ".parquet", ".csv"),
    *(".zst", ".zstd", ".gz", ".gzip"),
)

#: What stands for them while an object's bounds are not known; no value has such a character.
_MARKS = {"first": "\0f", "last": "\0l", "window": "\0w"}
_CACHED = 8192


@dataclass(frozen=True, slots=True)
class KeyTemplate:
    """A parsed template of keys. Make one with `KeyTemplate.parse`.

    Attributes:
        template: Without the extension; `{window}` is always in it.
    """

    template: Template
    extension: str
    _known: dict[tuple[str, str, str, int], str] = field(
        default_factory=dict, compare=False, repr=False
    )

    @classmethod
    def parse(cls, text: str, extension: str) -> KeyTemplate:
        """Read a template such as `logs/dt={date}/hour={hour}/{first}-{last}`.

        The extension may be written behind it, and `{window}` is added when it is missing.

        Args:
            text: The template.
            extension: What the format's objects end in, such as `.ndjson.zst`.

        Raises:
            TemplateError: It is none, or ends in what its objects are not.
        """
        stem = text.removesuffix(extension)
        wrong = next((end for end in _ENDINGS if stem.endswith(end)), None)
        if wrong is not None:
            text = f"the key ends in {wrong!r}, but its objects in {extension!r}: leave that out"
            raise TemplateError(text)
        if stem.startswith("/"):
            raise TemplateError("a key does not begin with '/': it would make a nameless folder")
        if "//" in stem or "/./" in f"/{stem}/":
            raise TemplateError("empty folders and '.' are not allowed in a key")
        template = Template.parse(stem, more=MORE_FIELDS)
        if "window" not in template.fields:
            template = Template.parse(f"{stem}-{{window}}", more=MORE_FIELDS)
        _check_room(template, extension)
        return cls(template, extension)

    @property
    def by_hour(self) -> bool:
        """Whether the hour of a line's stamp has a part in its key."""
        return self.template.needs_stamp

    @property
    def root(self) -> str:
        """The folder that all keys are in, with its final slash; empty for the bucket itself."""
        return self.template.root

    def fields_of(self, stream: Stream, stamp_ns: int) -> str:
        """What lines of one object have in common, within one window.

        Args:
            stream: Whose lines.
            stamp_ns: Their stamp; only its hour matters, if that does.
        """
        hour = stamp_ns // 3_600_000_000_000 if self.by_hour else 0
        identity = (stream.sandbox_id, stream.container, stream.display_name, hour)
        known = self._known.get(identity)
        if known is None:
            if len(self._known) >= _CACHED:
                self._known.clear()
            known = self._known[identity] = self.template.render(stream, stamp_ns, _MARKS)
        return known

    def render(self, fields: str, first_ns: int, last_ns: int, window: str) -> str:
        """The key of an object.

        Args:
            fields: What `fields_of` says of all of its lines.
            first_ns: The lowest stamp in it.
            last_ns: The highest one.
            window: The window's name.
        """
        values = {"first": stamp_text(first_ns), "last": stamp_text(last_ns), "window": window}
        for name, mark in _MARKS.items():
            fields = fields.replace(mark, values[name])
        return fields + self.extension


def _check_room(template: Template, extension: str) -> None:
    """See that no values can make a key too long.

    Raises:
        TemplateError: Some can.
    """
    longest = len(template.text.encode()) + len(extension)
    for name in template.fields:
        count = template.text.count(f"{{{name}}}")
        longest += count * (_LENGTHS.get(name, MAX_VALUE_BYTES) - len(name) - 2)
    if longest > _MAX_KEY_BYTES:
        raise TemplateError(f"the key could have {longest} bytes; a store takes 1,024")
