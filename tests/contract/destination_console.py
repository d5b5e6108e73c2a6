"""A pipeline behind the console sink as a destination of the contract suite.

It keeps each record once, by what identifies it.
"""

from __future__ import annotations

import os
import weakref
from base64 import b64decode
from typing import TYPE_CHECKING, Any

import orjson

from sinks.console import ConsoleSettings, ConsoleSink
from sinks.testing import STREAM

if TYPE_CHECKING:
    from pathlib import Path

    from sinks.interface import Sink, Stream


class ConsoleLines:
    """What standard output gets, in a file."""

    def __init__(self, root: Path) -> None:
        self._path = root / "stdout"
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        weakref.finalize(self, os.close, self._descriptor)

    def new_sink(self) -> Sink:
        settings = ConsoleSettings(format="ndjson")
        return ConsoleSink("contract", settings, descriptor=self._descriptor)

    def records(self, stream: Stream) -> list[dict[str, Any]]:
        """The stream's records, each once, in order of their first arrival."""
        once: dict[bytes, dict[str, Any]] = {}
        for line in self._path.read_bytes().split(b"\n"):
            if line:
                record = orjson.loads(line)
                names = ("sandbox_id", "container", "generation", "line", "part", "gap")
                key = orjson.dumps([record.get(name) for name in names])
                once.setdefault(key, record)
        identity = stream.identity
        return [r for r in once.values() if (r["sandbox_id"], r["container"]) == identity]

    def texts(self, stream: Stream = STREAM) -> list[bytes]:
        texts: list[bytes] = []
        for record in self.records(stream):
            if "gap" in record:
                continue
            encoded = record.get("text_base64")
            text = record["text"].encode() if encoded is None else b64decode(encoded)
            if record.get("part", 0) > 1:
                texts[-1] += text
            else:
                texts.append(text)
        return texts

    def gaps(self, stream: Stream = STREAM) -> list[dict[str, Any]]:
        return [record["gap"] for record in self.records(stream) if "gap" in record]
