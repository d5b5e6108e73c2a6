"""What is shipped in `config/` is valid, complete, and says the same as the program."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from ruamel.yaml import YAML

from forwarder.config import describe, json_schema, load_settings
from sinks.registry import BUILTIN
from tests.unit.config.config_support import BASE, ENV, SINK_TYPES, Load
from tests.unit.config.write_schema import SCHEMA_FILE, schema_bytes, sink_references

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = SCHEMA_FILE.parent
FILES = sorted(CONFIG.rglob("*.yaml"))
TYPES = {name: kind.settings for name, kind in BUILTIN.items()}
#: A setting in the reference file: given, or behind a "#" without a space.
SETTING = re.compile(r"^ *#?(?:- )?([a-z_]+):(?: (.+))?$", re.MULTILINE)


def test_the_shipped_schema_is_the_program_s() -> None:
    assert SCHEMA_FILE.read_bytes() == schema_bytes(), "see tests/unit/config/write_schema.py"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CONFIG)))
def test_every_shipped_file_is_valid(file: Path) -> None:
    settings = load_settings(file, sink_types=TYPES, env=ENV)

    assert settings.sinks


def test_the_shipped_sink_references_are_the_program_s() -> None:
    shipped = {file: file.read_text() for file in (CONFIG / "sinks").iterdir()}

    assert shipped == sink_references(), "see tests/unit/config/write_schema.py"


def test_the_reference_shows_every_setting_and_its_default() -> None:
    schema = json_schema({"file": TYPES["file"]})
    sections = _sections((CONFIG / "sandbox-forwarder.yaml").read_text())

    for section, reference in schema["properties"].items():
        for definition in _definitions(schema, reference):
            shown = sections[section]
            for key, value in definition["properties"].items():
                assert key in shown, f"{section}.{key} is not in the reference"
                if _is_plain(value.get("default")):
                    assert shown[key] == value["default"], f"{section}.{key}"


def _sections(text: str) -> dict[str, dict[str, Any]]:
    """By section of the reference, every setting shown in it and what it shows."""
    parts = re.split(r"^([a-z_]+):", text, flags=re.MULTILINE)
    yaml = YAML(typ="safe", pure=True)
    return {
        name: {key: yaml.load(value or "~") for key, value in SETTING.findall(body)}
        for name, body in zip(parts[1::2], parts[2::2], strict=True)
    }


def _definitions(schema: dict[str, Any], reference: dict[str, Any]) -> list[dict[str, Any]]:
    refs = re.findall(r'"#/\$defs/(\w+)"', orjson.dumps(reference).decode())
    return [schema["$defs"][ref] for ref in refs]


def _is_plain(default: object) -> bool:
    return default is not None and not isinstance(default, dict)


def test_every_setting_has_a_description_of_one_sentence_or_two() -> None:
    for name, definition in json_schema(TYPES)["$defs"].items():
        for key, value in definition.get("properties", {}).items():
            assert value["description"].endswith("."), f"{name}.{key}"


def test_the_schema_is_of_the_file_and_not_of_the_objects() -> None:
    schema = json_schema(SINK_TYPES)

    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["required"] == ["state_dir", "sandboxes", "sinks"]
    assert schema["properties"]["sinks"]["additionalProperties"] == {
        "oneOf": [{"$ref": "#/$defs/LinesSettings"}]
    }
    sink = schema["$defs"]["LinesSettings"]
    assert sink["required"] == ["path", "type"]
    assert sink["properties"]["type"]["const"] == "lines"
    assert sink["properties"]["token"] == {
        "type": "string",
        "minLength": 1,
        "writeOnly": True,
        "description": "Who we are.",
    }
    assert sink["properties"]["chunk"]["default"] == "1KiB"
    assert "null" not in orjson.dumps(schema["$defs"]).decode()
    assert schema["properties"]["log"]["anyOf"][1] == {"type": "null"}


def test_sizes_in_the_schema_are_text_with_a_unit_or_a_reference() -> None:
    schema = json_schema(SINK_TYPES)
    size, reference = schema["$defs"]["LinesSettings"]["properties"]["chunk"]["anyOf"]
    pattern = size["pattern"]

    assert reference == {"$ref": "#/$defs/Reference"}
    assert all(re.search(pattern, text) for text in ("64MiB", "1.5 GB", "0B"))
    assert not any(re.search(pattern, text) for text in ("64", "64mib", "-1B", "x 64MiB", "1B "))


def test_a_description_is_a_configuration_again(load: Load) -> None:
    settings = load(BASE + "source: {api_key_file: /k, overlap: 1.5s, max_line_bytes: 2kB}\n")

    described = describe(settings)

    assert described["source"]["overlap"] == "1500ms"
    assert described["source"]["max_line_bytes"] == "2kB"
    assert load(orjson.dumps(described)) == settings
