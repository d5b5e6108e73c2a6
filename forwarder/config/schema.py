"""Settings to the outside: a description without secrets, and the JSON Schema of the file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, get_args

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from forwarder.config.loading import MAY_BE_EMPTY
from forwarder.config.settings import SINK_NAME_PATTERN, Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from sinks.settings import SinkSettings

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
#: `${NAME}` may stand for any value; in text it is allowed anyhow.
_REFERENCE_PATTERN: Final = r"\$\{[A-Za-z_]"
_REFERENCE: Final = {"$ref": "#/$defs/Reference"}


def describe(settings: Settings) -> dict[str, Any]:
    """Every setting in the form of the configuration file, defaults included, secrets as `***`."""
    return settings.model_dump(mode="json", exclude_none=True)


def json_schema(sink_types: Mapping[str, type[SinkSettings]]) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a configuration file with these kinds of sinks."""
    models = list(dict.fromkeys(_models([Settings, *sink_types.values()])))
    refs, generated = models_json_schema([(model, "validation") for model in models])
    definitions = generated["$defs"]
    for model in models:
        _write_defaults(model, definitions[_name(refs[model, "validation"])])
    kinds = [refs[model, "validation"] for model in sink_types.values()]
    for ref in kinds:
        sink = definitions[_name(ref)]
        # The loader chooses the class by it, so that it is required whatever the class says.
        sink["required"] = sorted({"type", *sink.get("required", ())})
        sink["properties"]["type"].pop("default", None)
    definitions.pop("SinkSettings", None)
    top = definitions.pop("Settings")
    # The environment may supply all that is required in it.
    top["required"].remove("source")
    top["properties"]["sinks"] = {
        "description": top["properties"]["sinks"]["description"],
        "type": "object",
        "minProperties": 1,
        "propertyNames": {"pattern": SINK_NAME_PATTERN},
        "additionalProperties": {"oneOf": kinds},
    }
    definitions["Reference"] = {
        "description": "A reference to an environment variable: ${NAME} or ${NAME:-default}.",
        "type": "string",
        "pattern": _REFERENCE_PATTERN,
    }
    top = _as_written(top)
    for key in MAY_BE_EMPTY:
        section = top["properties"][key]
        top["properties"][key] = {"anyOf": [section, {"type": "null"}]}
    definitions = {key: _as_written(value) for key, value in sorted(definitions.items())}
    return {"$schema": _DIALECT, **top, "title": "sandbox-forwarder", "$defs": definitions}


def _models(annotations: Iterable[Any]) -> Iterator[type[BaseModel]]:
    """Every settings class that these annotations lead to."""
    for annotation in annotations:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield annotation
            yield from _models(field.annotation for field in annotation.model_fields.values())
        else:
            yield from _models(get_args(annotation))


def _name(ref: dict[str, str]) -> str:
    return ref["$ref"].rpartition("/")[2]


def _write_defaults(model: type[BaseModel], definition: dict[str, Any]) -> None:
    """Defaults as they would be written in the file: sizes and durations as text."""
    written = model.model_construct().model_dump(mode="json", warnings=False)
    for name, schema in definition.get("properties", {}).items():
        if "$ref" in schema:
            schema.pop("default", None)
        elif name in written:
            schema["default"] = written[name]


def _as_written(schema: Any) -> Any:
    """A schema of objects made into one of the file: no nulls, and references where text is not."""
    if isinstance(schema, list):
        return [_as_written(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if isinstance(schema.get("description"), str):
        schema["description"] = " ".join(schema["description"].split())
    schema = {
        key: _properties(value) if key == "properties" else _as_written(value)
        for key, value in schema.items()
        if key != "title" and (key, value) != ("default", None)
    }
    branches = [each for each in schema.get("anyOf", ()) if each != {"type": "null"}]
    if len(branches) == 1:
        # The field's own words win over its type's.
        schema = {**branches[0], **{key: value for key, value in schema.items() if key != "anyOf"}}
    return _with_reference(schema)


def _properties(properties: dict[str, Any]) -> dict[str, Any]:
    return {name: _as_written(schema) for name, schema in properties.items()}


def _with_reference(schema: dict[str, Any]) -> dict[str, Any]:
    values = ("type", "enum", "pattern", "minimum", "maximum", "exclusiveMinimum", "examples")
    checked = schema.get("type") in {"boolean", "integer", "number"} or "enum" in schema
    if not checked and "pattern" not in schema:
        return schema
    if schema.get("pattern") == _REFERENCE_PATTERN or schema.keys() == {"pattern"}:
        return schema
    value = {key: schema[key] for key in values if key in schema}
    rest = {key: schema[key] for key in schema if key not in value}
    return {**rest, "anyOf": [value, _REFERENCE]}
