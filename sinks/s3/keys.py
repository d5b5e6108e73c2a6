"""Keys of objects: the operator's template, and what makes each key this object's alone. Pure.

A key has the window's name in it, which no other window of any daemon or sink has. Within a window,
lines whose keys differ in nothing else are in one object. So a key is never made twice, and needs
no number behind it. Values come from elsewhere and are hostile: none can make a key look like
another object's, see `_check_marks`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sinks.s3.manifest import stamp_text
from sinks.template import Template, TemplateError

if TYPE_CHECKING:
    from sinks.interface import Stream

#: What a key template may use besides the names of paths, and how long their values are at most.
MORE_FIELDS = {
    "first": len("20261123T131941.123456789Z"),
    "last": len("20261123T131941.123456789Z"),
    "window": len("0f3c9a61-7fffffffffffffff-7fffffffffffffff"),
}

#: A key has at most 1,024 bytes (Amazon S3 user guide, "Naming objects").
_MAX_KEY_BYTES = 1024

#: What no object of ours ends in but by its format: a reader would believe it.
_ENDINGS = (
    *(".ndjson", ".jsonl", ".json", ".log", ".txt", ".parquet", ".csv"),
    *(".zst", ".zstd", ".gz", ".gzip"),
)

#: What stands for them while an object's bounds are not known; no value has such a character.
_MARKS = {"first": "\0f", "last": "\0l", "window": "\0w"}
_CACHED = 8192

#: What says whose lines they are.
_STREAM_FIELDS = ("sandbox_id", "container", "display_name")

#: What stands for fields where only their order matters: `v` for any text, made safe.
_SIGNS = {
    **dict.fromkeys(_STREAM_FIELDS, "\0v"),
    **dict.fromkeys(("date", "hour"), ""),
    **_MARKS,
}
#: What no value has in it, see `sinks.template.safe_name`.
_NOT_IN_VALUES = re.compile(r"[^\0A-Za-z0-9._~-]")
_MARK_BETWEEN = re.compile("\0v.*(\0[flw]).*\0v")


@dataclass(frozen=True, slots=True)
class KeyTemplate:
    """A parsed template of keys. Make one with `KeyTemplate.parse`.

    Attributes:
        template: Without the extension; `{window}` is always in it.
    """

    template: Template
    extension: str
    _stream_fields: tuple[str, ...] = field(init=False, compare=False, repr=False)
    _known: dict[tuple[str | int, ...], str] = field(
        default_factory=dict, compare=False, repr=False
    )

    def __post_init__(self) -> None:
        used = tuple(name for name in _STREAM_FIELDS if name in self.template.fields)
        object.__setattr__(self, "_stream_fields", used)

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
        _check_marks(template)
        if template.max_bytes + len(extension) > _MAX_KEY_BYTES:
            raise TemplateError(
                f"the key could have {template.max_bytes + len(extension)} bytes: a store takes"
                " 1,024"
            )
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
        # What the template does not name tells no lines apart.
        identity = (*(getattr(stream, name) for name in self._stream_fields), hour)
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


def _check_marks(template: Template) -> None:
    """See that no two objects can come to the same key.

    `{display_name}-{first}-{container}` would be `a-T1-T2-c` for a sandbox `a` and a container
    `T2-c`, if T1 is its first stamp, and for a sandbox `a-T1` and a container `c`, if that is T2.
    A value cannot have all characters: what it cannot have ends the part that may be taken for it.

    Raises:
        TemplateError: A value could be taken for `{first}`, `{last}` or `{window}`.
    """
    for part in _NOT_IN_VALUES.split(template.spelled(_SIGNS)):
        found = _MARK_BETWEEN.search(part)
        if found is not None:
            name = next(name for name, mark in _MARKS.items() if mark == found[1])
            raise TemplateError(
                f"{{{name}}} stands between two values, which could be taken for it: put a '/'"
                " or '=' between them, or move it to the end"
            )
