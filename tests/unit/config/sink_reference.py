"""The annotated references in `config/sinks/`: made from the settings, so they never differ."""

from __future__ import annotations

import re
from textwrap import wrap
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args

import orjson
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from pydantic.fields import FieldInfo

    from sinks.settings import SinkSettings

_HEAD = """\
# Every setting of a sink of type {kind}, with its default behind a "#". {what}
# More about it: docs/sinks/{kind}.md. The rest of a configuration: ../sandbox-forwarder.yaml.
# This file is made from the program's own settings by `make schema`.

state_dir: /var/lib/sandbox-forwarder

sandboxes:
  - tags: [training, prod]

sinks:
  {kind}:
    type: {kind}
"""

#: Text that needs no quotes: it is not read as a number, a truth value or anything else.
_PLAIN = re.compile(r"(?!(?:true|false|null|yes|no|on|off)$)[a-z][a-z0-9_/ -]*|[0-9]+[a-zA-Z]+")

#: What stands for a setting that has no default; by key, where several sinks share it.
EXAMPLES: dict[str, object] = {
    "path": "/var/log/sandboxes/{sandbox_id}.log",
    "endpoint": "https://logs.example.com",
    "bucket": "my-logs",
    "region": "eu-west-1",
}

#: Settings with a default that not every configuration can do without.
NEEDED: dict[str, tuple[str, ...]] = {"s3": ("region",)}


def sink_reference(kind: str, settings: type[SinkSettings]) -> str:
    """A valid configuration that shows every key of one type of sink."""
    what = " ".join((settings.__doc__ or "").split("\n\n")[0].split())
    body = "\n".join(_lines(settings, "    ", hidden=False, needed=NEEDED.get(kind, ())))
    head = "\n".join(
        part
        for line in _HEAD.format(kind=kind, what=what).splitlines()
        for part in (
            wrap(line, 98, subsequent_indent="# ", break_on_hyphens=False)
            if line.startswith("#")
            else [line]
        )
    )
    return f"{head}\n{body}\n"


def _lines(
    model: type[BaseModel], indent: str, *, hidden: bool, needed: Collection[str] = ()
) -> Iterator[str]:
    """The settings of a section; those of a section that is not there stand behind a "#", too."""
    written = model.model_construct().model_dump(mode="json", warnings=False)
    fields = {key: field for key, field in model.model_fields.items() if key != "type"}
    needed = {*needed, *(key for key, field in fields.items() if field.is_required())}
    for key, field in sorted(fields.items(), key=lambda item: item[0] not in needed):
        for text in _wrapped(field.description or "", 98 - len(indent)):
            yield f"{indent}# {text}"
        section = _section(field)
        if section is not None:
            yield f"{indent}#{key}:"
            yield from _lines(section, indent + "  ", hidden=True)
        elif key in needed and not hidden:
            yield f"{indent}{key}: {_text(EXAMPLES[key])}"
        else:
            yield f"{indent}#{key}:{_default(field, written.get(key))}"


def _wrapped(text: str, width: int) -> list[str]:
    return wrap(" ".join(text.split()), width, break_on_hyphens=False)


def _section(field: FieldInfo) -> type[BaseModel] | None:
    """The section that the field is, or is when it is there at all."""
    annotation = field.annotation
    kinds = [kind for kind in get_args(annotation) or [annotation] if kind is not NoneType]
    models = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return models[0] if len(kinds) == len(models) == 1 else None


def _default(field: FieldInfo, written: Any) -> str:
    if field.is_required() or written is None or field.default is PydanticUndefined:
        return " # not set" if written in (None, {}, []) else f" {_text(written)}"
    return f" {_text(written)}"


def _text(value: object) -> str:
    """A value as YAML; what JSON has in common with it is enough."""
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return value
    return orjson.dumps(value).decode()
