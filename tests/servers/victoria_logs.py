"""VictoriaLogs: JSON lines, Loki push, Elasticsearch bulk and OTLP in one process."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar

from tests.servers.process import SERVERS, Server, free_port

if TYPE_CHECKING:
    from pathlib import Path


class VictoriaLogs(Server):
    """VictoriaLogs on loopback, which keeps lines of any age.

    Attributes:
        base_url: Without a path.
    """

    binary: ClassVar[Path] = SERVERS / "victoria_logs" / "victoria-logs"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._port = free_port()
        self.base_url = f"http://127.0.0.1:{self._port}"

    def command(self) -> list[str]:
        return [
            str(self.binary),
            f"-httpListenAddr=127.0.0.1:{self._port}",
            f"-storageDataPath={self.directory / 'data'}",
            "-retentionPeriod=100y",
            "-memory.allowedBytes=256MiB",
        ]

    def is_ready(self) -> bool:
        return self.http.get(f"{self.base_url}/health").is_success

    def query(self, logsql: str) -> list[dict[str, Any]]:
        """The records that a LogsQL query finds, whatever their age, in no order.

        What was taken becomes visible about a second later: see `tests.servers.eventually`.

        Raises:
            httpx.HTTPStatusError: It refused the query.
        """
        answer = self.http.post(
            f"{self.base_url}/select/logsql/query", data={"query": logsql, "limit": "100000"}
        )
        answer.raise_for_status()
        return [json.loads(line) for line in answer.content.splitlines()]
