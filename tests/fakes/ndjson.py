"""NDJSON output read back: what a consumer can rely on, checked record by record."""

from __future__ import annotations

import base64
import json
from typing import Any


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
        ValueError: The line numbers are not 0, 1, 2, ... in this order, each once; or there is a
            gap record.
    """
    log = bytearray()
    for number, record in enumerate(records(output)):
        if record.get("line") != number:
            raise ValueError(f"record {number} is {record}")
        part = record.get("part", 0)
        if part <= 1:
            log += b"\n" if log else b""
            log += record["time"].encode() + b" "
        log += _text(record)
    return bytes(log)


def _text(record: dict[str, Any]) -> bytes:
    if "text_base64" in record:
        return base64.b64decode(record["text_base64"], validate=True)
    text: str = record["text"]
    return text.encode()
