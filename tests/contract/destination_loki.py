"""A real Loki as a destination of the contract suite."""

from __future__ import annotations

import time
from base64 import b64decode
from itertools import count
from typing import TYPE_CHECKING, Any

from sinks.loki import LokiSettings, LokiSink
from sinks.testing import STREAM

if TYPE_CHECKING:
    from sinks.interface import Sink, Stream
    from tests.servers import Loki, LokiLine

_RANGE_NS = 1_200_000_000_000
_NUMBERS = frozenset(
    {
        *("generation", "after_line", "before_line", "from_stamp_ns", "to_stamp_ns"),
        *("from_offset", "to_offset", "missing_bytes", "noticed_ns", "filled_ns"),
    }
)
#: What a gap record leaves out when it is not known.
_MAYBE_UNKNOWN = ("before_line", "from_offset", "to_offset", "missing_bytes")
_JOBS = count()


class LokiStreams:
    """What one test pushes, under a job of its own; read back with a query.

    The suite's stamps are older than Loki takes, so that lines get the time of sending.
    """

    def __init__(self, server: Loki) -> None:
        self._server = server
        self._job = f"contract-{time.time_ns()}-{next(_JOBS)}"

    def new_sink(self) -> Sink:
        settings = {
            "type": "loki",
            "endpoint": self._server.base_url,
            "labels": {"job": self._job},
            "old_lines": "restamp",
        }
        return LokiSink("contract", LokiSettings.model_validate(settings))

    def records(self, stream: Stream) -> list[LokiLine]:
        """The stream's entries, each once, in the order of their record ids."""
        now_ns = time.time_ns()
        found = self._server.query_range(
            f'{{job="{self._job}"}}', now_ns - _RANGE_NS, now_ns + _RANGE_NS
        )
        identity = stream.identity
        once = {
            (line.metadata["log_record_uid"], line.metadata.get("piece")): line
            for line in found
            if (line.metadata["sandbox_id"], line.metadata["container"]) == identity
        }
        return sorted(once.values(), key=_position)

    def texts(self, stream: Stream = STREAM) -> list[bytes]:
        texts: list[bytes] = []
        for record in self.records(stream):
            if "gap_kind" in record.metadata:
                continue
            encoded = record.metadata.get("encoding") == "base64"
            text = b64decode(record.line) if encoded else record.line.encode()
            if max(_number(record, "part"), _number(record, "piece")) > 1:
                texts[-1] += text
            else:
                texts.append(text)
        return texts

    def gaps(self, stream: Stream = STREAM) -> list[dict[str, Any]]:
        found = [_gap(line) for line in self.records(stream) if "gap_kind" in line.metadata]
        return sorted(found, key=lambda gap: (gap["after_line"], gap["filled_ns"]))


def _position(line: LokiLine) -> tuple[int, int, int, int]:
    return (
        _number(line, "generation"),
        _number(line, "line"),
        _number(line, "part"),
        _number(line, "piece"),
    )


def _number(line: LokiLine, name: str) -> int:
    return int(line.metadata.get(name, "0"))


def _gap(line: LokiLine) -> dict[str, Any]:
    told = {
        name.removeprefix("gap_"): value
        for name, value in line.metadata.items()
        if name.startswith("gap_")
    }
    known = {name: int(text) if name in _NUMBERS else text for name, text in told.items()}
    return {**dict.fromkeys(_MAYBE_UNKNOWN), **known}
