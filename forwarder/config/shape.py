"""What the settings classes expect at a place: for suggestions, and to know what is a secret."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, SecretBytes, SecretStr

from sinks.settings import Secret

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

    from forwarder.config.problems import Loc


def model_at(model: type[BaseModel], loc: Loc) -> type[BaseModel] | None:
    """The settings class that reads the mapping at a place; None when none does."""
    for annotation in _annotations_at(model, loc):
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return annotation
    return None


def field_at(model: type[BaseModel], loc: Loc) -> FieldInfo | None:
    """The field at a place; None when there is none, as in a free mapping."""
    parent = model_at(model, loc[:-1]) if loc else None
    return parent.model_fields.get(str(loc[-1])) if parent else None


def keys_at(model: type[BaseModel], loc: Loc) -> list[str]:
    """The keys that the mapping at a place may have; empty when any may be there."""
    found = model_at(model, loc)
    return list(found.model_fields) if found else []


def is_expected(model: type[BaseModel], loc: Loc) -> bool:
    """Whether a value may stand at a place at all."""
    return bool(_annotations_at(model, loc))


def is_secret(model: type[BaseModel], loc: Loc) -> bool:
    """Whether the value at a place, or what it is a part of, is a secret."""
    places = (loc[:depth] for depth in range(1, len(loc) + 1))
    secrets = {Secret, SecretStr, SecretBytes}
    return any(not secrets.isdisjoint(_annotations_at(model, place)) for place in places)


def _annotations_at(annotation: Any, loc: Loc) -> list[Any]:
    candidates = list(_members(annotation))
    for part in loc:
        inner = [found for each in candidates for found in _step(each, part)]
        candidates = [member for each in inner for member in _members(each)]
    return candidates


def _members(annotation: Any) -> Iterator[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _members(get_args(annotation)[0])
    elif origin in {Union, types.UnionType}:
        for member in get_args(annotation):
            yield from _members(member)
    else:
        yield annotation


def _step(annotation: Any, part: str | int) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get(str(part))
        return [field.annotation] if field else []
    origin, arguments = get_origin(annotation), get_args(annotation)
    if not isinstance(origin, type) or not arguments:
        return []
    if issubclass(origin, Mapping):
        return [arguments[1]]
    return [arguments[0]] if isinstance(part, int) else []
