"""Loki, as one process with its own limits or those that a test sets."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tests.servers.process import SERVERS, Server, free_port

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_PUSH = "/loki/api/v1/push"
_QUERY_LIMIT = 5_000


@dataclass(frozen=True, slots=True)
class LokiLine:
    """One stored line.

    Loki itself adds `service_name` to the labels and `detected_level` to the metadata.
    """

    labels: dict[str, str]
    time_ns: int
    line: str
    metadata: dict[str, str]


class Loki(Server):
    """Loki on loopback.

    Attributes:
        base_url: Without a path.
        push_url: Where lines are pushed.
    """

    binary: ClassVar[Path] = SERVERS / "loki" / "loki"

    def __init__(
        self, directory: Path, *, limits: Mapping[str, Any] | None = None, tenants: bool = False
    ) -> None:
        """`limits` is its `limits_config`; with `tenants` it wants `X-Scope-OrgID`."""
        super().__init__(directory)
        self._port, self._grpc_port = free_port(), free_port()
        self.base_url = f"http://127.0.0.1:{self._port}"
        self.push_url = self.base_url + _PUSH
        self._limits = dict(limits or {})
        self._tenants = tenants

    def command(self) -> list[str]:
        path = self.directory / "config.yaml"
        path.write_text(json.dumps(self._config()), "utf-8")
        return [str(self.binary), f"-config.file={path}"]

    def is_ready(self) -> bool:
        return self.http.get(f"{self.base_url}/ready").is_success

    def query_range(
        self, logql: str, start_ns: int, end_ns: int, *, tenant: str | None = None
    ) -> list[LokiLine]:
        """The lines of a log query from `start_ns` up to before `end_ns`, oldest first.

        Raises:
            httpx.HTTPStatusError: Loki refused the query.
        """
        headers = {"X-Loki-Response-Encoding-Flags": "categorize-labels"}
        if tenant is not None:
            headers["X-Scope-OrgID"] = tenant
        answer = self.http.get(
            f"{self.base_url}/loki/api/v1/query_range",
            params={
                "query": logql,
                "start": start_ns,
                "end": end_ns,
                "limit": _QUERY_LIMIT,
                "direction": "forward",
            },
            headers=headers,
        ).raise_for_status()
        found = [
            LokiLine(stream["stream"], int(time_ns), line, extra.get("structuredMetadata", {}))
            for stream in answer.json()["data"]["result"]
            for time_ns, line, extra in stream["values"]
        ]
        return sorted(found, key=lambda line: line.time_ns)

    def _config(self) -> dict[str, Any]:
        data = self.directory / "data"
        directories = {
            "chunks_directory": str(data / "chunks"),
            "rules_directory": str(data / "rules"),
        }
        itself = f"127.0.0.1:{self._grpc_port}"
        return {
            "auth_enabled": self._tenants,
            "analytics": {"reporting_enabled": False},
            "server": {
                "http_listen_address": "127.0.0.1",
                "http_listen_port": self._port,
                "grpc_listen_address": "127.0.0.1",
                "grpc_listen_port": self._grpc_port,
                "log_level": "warn",
            },
            "common": {
                "instance_addr": "127.0.0.1",
                "path_prefix": str(data),
                "replication_factor": 1,
                "storage": {"filesystem": directories},
                "ring": {"kvstore": {"store": "inmemory"}},
            },
            # The time for other members to be heard of: there are none.
            "ingester": {"lifecycler": {"min_ready_duration": "0s", "final_sleep": "0s"}},
            # Told where its own parts are, they need not look for each other, which takes seconds.
            "query_scheduler": {"use_scheduler_ring": False},
            "frontend": {"scheduler_address": itself, "scheduler_dns_lookup_period": "50ms"},
            "frontend_worker": {"scheduler_address": itself, "dns_lookup_duration": "50ms"},
            "schema_config": {"configs": [_SCHEMA]},
            "limits_config": self._limits,
        }


_SCHEMA = {
    "from": "2020-01-01",
    "store": "tsdb",
    "object_store": "filesystem",
    "schema": "v13",
    "index": {"prefix": "index_", "period": "24h"},
}
