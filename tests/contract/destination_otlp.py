"""A collector as the contract suite sees it: what it wrote, each record once by its id."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from sinks.otlp import OtlpSettings, OtlpSink
from sinks.testing import STREAM

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sinks.interface import Sink, Stream
    from tests.servers.collector import Collector, OtlpRecord

_GAP = "cwsandbox.gap."
_LIMIT_S = 10.0
#: The collector writes every 10 ms.
_LOOK_EVERY_S = 0.003


class OtlpCollector:
    """Logs over OTLP, read back from the file that a collector writes.

    Args:
        collector: A running one, whose earlier records are forgotten.
        service: Read only what has this `service.name`, if any.
        settings: What the sinks have besides the address.
    """

    def __init__(
        self, collector: Collector, *, service: str | None = None, **settings: Any
    ) -> None:
        self._collector = collector
        self._service = service
        self._settings = settings
        self._asked = 0

    def new_sink(self) -> Sink:
        over_grpc = self._settings.get("protocol") == "grpc"
        server = self._collector
        endpoint = f"http://{server.endpoint_grpc}" if over_grpc else server.endpoint_http
        settings = {"endpoint": endpoint, **self._settings}
        return OtlpSink("contract", OtlpSettings.model_validate(settings))

    def texts(self, stream: Stream = STREAM) -> list[bytes]:
        lines = [r for r in self._records(stream) if "cwsandbox.line" in r.attributes]
        texts: list[bytes] = []
        for record in sorted(lines, key=_place):
            text = record.body.encode() if isinstance(record.body, str) else record.body or b""
            if record.attributes.get("cwsandbox.part", 0) > 1:
                texts[-1] += text
            else:
                texts.append(text)
        return texts

    def gaps(self, stream: Stream = STREAM) -> list[dict[str, Any]]:
        gaps = [_gap(record.attributes) for record in self._records(stream)]
        return [gap for gap in gaps if gap]

    def _records(self, stream: Stream) -> list[OtlpRecord]:
        """Each record once, in the order of arrival."""
        by_id: dict[str, OtlpRecord] = {}
        for record in self._all():
            resource = record.resource
            if (resource["cwsandbox.id"], resource["container.name"]) == stream.identity:
                by_id.setdefault(record.attributes["log.record.uid"], record)
        return list(by_id.values())

    def _all(self) -> list[OtlpRecord]:
        """What it has written, once a request that was sent just now is among it."""
        self._asked += 1
        marker = f"marker {self._asked}"
        request = {"resourceLogs": [{"scopeLogs": [{"logRecords": [_body(marker)]}]}]}
        server = self._collector
        server.http.post(f"{server.endpoint_http}/v1/logs", json=request).raise_for_status()
        limit_s = time.monotonic() + _LIMIT_S
        records = server.records()
        while not any(record.body == marker for record in records):
            assert time.monotonic() < limit_s, "the collector does not write"
            time.sleep(_LOOK_EVERY_S)
            records = server.records()
        wanted = self._service
        return [r for r in records if r.resource and wanted in {None, r.resource["service.name"]}]


def _body(text: str) -> dict[str, Any]:
    return {"body": {"stringValue": text}}


def _place(record: OtlpRecord) -> tuple[int, int, int]:
    found = record.attributes
    generation, part = found.get("cwsandbox.generation", 0), found.get("cwsandbox.part", 0)
    return (generation, found["cwsandbox.line"], part)


def _gap(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {k.removeprefix(_GAP): v for k, v in attributes.items() if k.startswith(_GAP)}
