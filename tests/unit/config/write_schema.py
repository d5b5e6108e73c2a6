"""Writes `config/schema.json`: python -m tests.unit.config.write_schema."""

from __future__ import annotations

from pathlib import Path

import orjson

from forwarder.config import json_schema
from sinks.registry import BUILTIN

SCHEMA_FILE = Path(__file__).parents[3] / "config" / "schema.json"


def schema_bytes() -> bytes:
    """What the file has to hold: the schema with the built-in sinks."""
    schema = json_schema({name: kind.settings for name, kind in BUILTIN.items()})
    return orjson.dumps(schema, option=orjson.OPT_INDENT_2) + b"\n"


if __name__ == "__main__":
    SCHEMA_FILE.write_bytes(schema_bytes())
