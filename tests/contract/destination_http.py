"""VictoriaLogs' endpoint for JSON lines as a destination of the contract suite, behind `http`."""

from __future__ import annotations

import os
import time
from base64 import b64decode
from itertools import count
from typing import TYPE_CHECKING, Any

from sinks.http import HttpSettings, HttpSink
from sinks.testing import STREAM

if TYPE_CHECKING:
    from sinks.interface import Sink, Stream
    from tests.servers import VictoriaLogs

_WORDS = frozenset({"kind", "cause", "bounds"})
#: Fields of a gap record that may be null, which is no value to this server.
_MAYBE_NULL = ("before_line", "from_offset", "to_offset", "missing_bytes")
_RUNS = count()
_MARKS = 2 * (os.cpu_count() or 1)
#: Lines of one day become visible together; those of the suite have this one.
_SUITE_DAY = "2025-11-23T12:00:00Z"
_PATIENCE_S = 20.0
_ASK_EVERY_S = 0.05


class JsonLines:
    """What one test sends, under a mark of its own; read back with a query.

    The server keeps a line as often as it is sent: each counts once, by its record id.
    """

    def __init__(self, server: VictoriaLogs, **more: Any) -> None:
        self._server = server
        self._run = f"run-{time.time_ns()}-{next(_RUNS)}"
        self._more = more
        # Without stream fields: those of new streams become visible later than their lines.
        self._endpoint = (
            f"{server.base_url}/insert/jsonline?_time_field=time&_msg_field=text"
            f"&extra_fields=run={self._run}"
        )

    def new_sink(self) -> Sink:
        settings = {"type": "http", "endpoint": self._endpoint, **self._more}
        return HttpSink("contract", HttpSettings.model_validate(settings))

    def records(self, stream: Stream) -> list[dict[str, str]]:
        """The stream's records, each once, in order."""
        self._wait()
        found = self._server.query(f'run:="{self._run}"')
        once = {
            record["id"]: record
            for record in found
            if (record.get("sandbox_id"), record.get("container")) == stream.identity
        }
        return sorted(once.values(), key=_position)

    def _wait(self) -> None:
        """What was taken becomes visible a moment later: wait for records that come after it.

        The server has one buffer for each processor, which take turns and are shown one by one.
        """
        mark = f"mark-{next(_RUNS)}"
        record = {"time": _SUITE_DAY, "text": mark, "mark": mark}
        for _ in range(_MARKS):
            self._server.http.post(self._endpoint, json=record).raise_for_status()
        deadline_s = time.monotonic() + _PATIENCE_S
        while len(self._server.query(f'run:="{self._run}" mark:="{mark}"')) < _MARKS:
            assert time.monotonic() < deadline_s, "the server shows nothing"
            time.sleep(_ASK_EVERY_S)

    def texts(self, stream: Stream = STREAM) -> list[bytes]:
        texts: list[bytes] = []
        for record in self.records(stream):
            if "line" not in record:
                continue
            if int(record.get("part", "0")) > 1:
                texts[-1] += _text(record)
            else:
                texts.append(_text(record))
        return texts

    def gaps(self, stream: Stream = STREAM) -> list[dict[str, Any]]:
        gaps = [_gap(record) for record in self.records(stream) if "gap.kind" in record]
        return sorted(gaps, key=lambda gap: (gap["after_line"], gap["filled_ns"]))


def _position(record: dict[str, str]) -> tuple[int, ...]:
    return tuple(int(record.get(name, "0")) for name in ("generation", "line", "part"))


def _text(record: dict[str, str]) -> bytes:
    encoded = record.get("text_base64")
    if encoded is not None:
        return b64decode(encoded)
    # The server has no empty messages.
    text = record["_msg"]
    return b"" if text.startswith("missing _msg field") else text.encode()


def _gap(record: dict[str, str]) -> dict[str, Any]:
    fields = {
        name.removeprefix("gap."): value
        for name, value in record.items()
        if name.startswith("gap.")
    }
    given = {name: v if name in _WORDS else int(v) for name, v in fields.items()}
    return {**dict.fromkeys(_MAYBE_NULL), **given}
