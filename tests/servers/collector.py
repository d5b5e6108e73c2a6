"""The OpenTelemetry Collector: takes OTLP over HTTP and gRPC, and writes what it took to a file."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tests.servers.process import SERVERS, Server, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.fakes.certificates import Pair


@dataclass(frozen=True, slots=True)
class OtlpRecord:
    """One log record as the collector understood it; times in ns, 0 where it had none.

    Values are plain: str, bytes, int, float, bool, list, dict, or None for an empty one.
    """

    resource: dict[str, Any]
    scope: str
    body: Any
    attributes: dict[str, Any]
    time_ns: int
    observed_time_ns: int
    severity_number: int
    severity_text: str


class Collector(Server):
    """A collector with default limits: 20 MiB a body over HTTP, 4 MiB a message over gRPC.

    Attributes:
        endpoint_http: Base URL, without `/v1/logs`.
        endpoint_grpc: `127.0.0.1:port`.
    """

    binary: ClassVar[Path] = SERVERS / "collector" / "otelcol"

    def __init__(
        self,
        directory: Path,
        *,
        tls: Pair | None = None,
        client_authority: Path | None = None,
        token: str | None = None,
        max_request_bytes: int | None = None,
    ) -> None:
        """With `tls` it serves only TLS, with `client_authority` only clients that this one signed.

        With `token` it wants `Authorization: Bearer <token>`, over HTTP and gRPC.
        `max_request_bytes` lowers the limit of a body over HTTP.
        """
        super().__init__(directory)
        ports = [free_port() for _ in range(3)]
        self.endpoint_http = f"{'https' if tls else 'http'}://127.0.0.1:{ports[0]}"
        self.endpoint_grpc = f"127.0.0.1:{ports[1]}"
        self._health = f"127.0.0.1:{ports[2]}"
        self._tls = tls
        self._client_authority = client_authority
        self._token = token
        self._max_request_bytes = max_request_bytes
        self._forgotten_bytes = 0

    def command(self) -> list[str]:
        path = self.directory / "config.yaml"
        path.write_text(json.dumps(self._config()), "utf-8")
        return [str(self.binary), "--config", str(path)]

    def is_ready(self) -> bool:
        return self.http.get(f"http://{self._health}/").is_success

    def records(self) -> list[OtlpRecord]:
        """What it has written, oldest first; a record is there some 10 ms after its answer."""
        try:
            written = self._written.read_bytes()[self._forgotten_bytes :]
        except FileNotFoundError:
            return []
        whole = written[: written.rfind(b"\n") + 1]
        return [record for line in whole.splitlines() for record in _records(json.loads(line))]

    def forget(self) -> None:
        """Leave out of `records` what is written by now."""
        if self._written.exists():
            self._forgotten_bytes = self._written.stat().st_size

    @property
    def _written(self) -> Path:
        return self.directory / "records.jsonl"

    def _config(self) -> dict[str, Any]:
        extensions: dict[str, Any] = {"health_check": {"endpoint": self._health}}
        if self._token is not None:
            extensions["bearertokenauth"] = {"token": self._token}
        http = self._protocol(self.endpoint_http.partition("//")[2])
        if self._max_request_bytes is not None:
            http["max_request_body_size"] = self._max_request_bytes
        protocols = {"http": http, "grpc": self._protocol(self.endpoint_grpc)}
        # Appending keeps what an earlier run wrote; without it a start empties the file.
        file = {"path": str(self._written), "flush_interval": "10ms", "append": True}
        return {
            "extensions": extensions,
            "receivers": {"otlp": {"protocols": protocols}},
            "exporters": {"file": file},
            "service": {
                "extensions": list(extensions),
                "telemetry": {"metrics": {"level": "none"}},
                "pipelines": {"logs": {"receivers": ["otlp"], "exporters": ["file"]}},
            },
        }

    def _protocol(self, endpoint: str) -> dict[str, Any]:
        protocol: dict[str, Any] = {"endpoint": endpoint}
        if self._tls is not None:
            tls = {"cert_file": str(self._tls.certificate), "key_file": str(self._tls.key)}
            if self._client_authority is not None:
                tls["client_ca_file"] = str(self._client_authority)
            protocol["tls"] = tls
        if self._token is not None:
            protocol["auth"] = {"authenticator": "bearertokenauth"}
        return protocol


def _records(request: Mapping[str, Any]) -> Iterator[OtlpRecord]:
    for resource_logs in request.get("resourceLogs", []):
        resource = _attributes(resource_logs.get("resource", {}))
        for scope_logs in resource_logs.get("scopeLogs", []):
            scope = scope_logs.get("scope", {}).get("name", "")
            for record in scope_logs.get("logRecords", []):
                yield OtlpRecord(
                    resource=resource,
                    scope=scope,
                    body=_value(record.get("body", {})),
                    attributes=_attributes(record),
                    time_ns=int(record.get("timeUnixNano", 0)),
                    observed_time_ns=int(record.get("observedTimeUnixNano", 0)),
                    severity_number=record.get("severityNumber", 0),
                    severity_text=record.get("severityText", ""),
                )


def _attributes(owner: Mapping[str, Any]) -> dict[str, Any]:
    return {item["key"]: _value(item["value"]) for item in owner.get("attributes", [])}


def _value(value: Mapping[str, Any]) -> Any:
    match value:
        case {"intValue": number}:
            return int(number)
        case {"bytesValue": encoded}:
            return base64.b64decode(encoded)
        case {"arrayValue": array}:
            return [_value(item) for item in array.get("values", [])]
        case {"kvlistValue": pairs}:
            return {item["key"]: _value(item["value"]) for item in pairs.get("values", [])}
        case _:
            return next(iter(value.values()), None)
