"""Writes `config/schema.json` and `config/sinks/`: python -m tests.unit.config.write_schema."""

from __future__ import annotations

from pathlib import Path

import orjson

from forwarder.config import json_schema
from sinks.registry import BUILTIN
from tests.unit.config.sink_reference import sink_reference

SCHEMA_FILE = Path(__file__).parents[3] / "config" / "schema.json"


def schema_bytes() -> bytes:
    """What the file has to hold: the schema with the built-in sinks."""
    schema = json_schema({name: kind.settings for name, kind in BUILTIN.items()})
    return orjson.dumps(schema, option=orjson.OPT_INDENT_2) + b"\n"


def sink_references() -> dict[Path, str]:
    """What the files have to hold that show every setting of each built-in sink."""
    directory = SCHEMA_FILE.parent / "sinks"
    return {
        directory / f"{name}.yaml": sink_reference(name, kind.settings)
        for name, kind in BUILTIN.items()
    }


if __name__ == "__main__":
    SCHEMA_FILE.write_bytes(schema_bytes())
    for file, text in sink_references().items():
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
