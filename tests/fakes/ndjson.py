"""NDJSON output read back: what a consumer can rely on, checked record by record."""

from __future__ import annotations

import base64
import json
from typing import Any, TypeAlias

#: Generation, line and part, as the record has them.
_Place: TypeAlias = tuple[Any, Any, Any]


def records(output: bytes) -> list[dict[str, Any]]:
    """Every record of the output.

    Raises:
        ValueError: A line is not one JSON object, or the last one is not whole.
    """
    if output and not output.endswith(b"\n"):
        raise ValueError("the last record is not whole")
    found = [json.loads(line) for line in output.splitlines()]
    if not all(isinstance(record, dict) for record in found):
        raise ValueError("a record is not an object")
    return found


def text_log(output: bytes) -> bytes:
    """The stamped lines that one stream's records were made of, without the very last newline.

    Raises:
        ValueError: The line numbers are not 0, 1, 2, ... in this order, each once, and from 0 again
            in every new generation; a line lacks a part in its middle; or there is a gap record.
    """
    log = bytearray()
    at: _Place = (0, -1, 0)
    for record in records(output):
        here = (record.get("generation", 0), record.get("line"), record.get("part", 0))
        if not _follows(at, here):
            raise ValueError(f"{record} does not follow generation, line and part {at}")
        at = here
        if here[2] <= 1:
            log += b"\n" if log else b""
            log += record["time"].encode() + b" "
        log += _text(record)
    return bytes(log)


def _follows(at: _Place, here: _Place) -> bool:
    """Whether this generation, line and part come right behind those; each part has its number."""
    if here[2] > 1:
        return here == (at[0], at[1] + 1, at[2] + 1)
    if here[0] > at[0]:
        return bool(here[1] == 0)
    return here[:2] == (at[0], at[1] + 1)


def _text(record: dict[str, Any]) -> bytes:
    if "text_base64" in record:
        return base64.b64decode(record["text_base64"], validate=True)
    text: str = record["text"]
    return text.encode()
