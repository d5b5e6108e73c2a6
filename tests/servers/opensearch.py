"""OpenSearch: one node with the parts of its core, among them bulk, templates and data streams.

It speaks plain HTTP and asks nobody who they are: users and API keys are the work of a plugin
that is not here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from tests.servers.process import SERVERS, Server, free_port

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_HITS = 10_000


class OpenSearch(Server):
    """OpenSearch on loopback. One a session: it takes seconds to start.

    Attributes:
        base_url: Without a path.
    """

    binary: ClassVar[Path] = SERVERS / "opensearch" / "OpenSearchNode.class"

    def __init__(self, directory: Path, *, settings: Sequence[str] = ()) -> None:
        """`settings` are further node settings, as `name=value`."""
        super().__init__(directory)
        self._port = free_port()
        self.base_url = f"http://127.0.0.1:{self._port}"
        self._settings = list(settings)

    def command(self) -> list[str]:
        home = self.binary.parent
        return [
            "java",
            "-Xmx512m",
            "-XX:+UseSerialGC",
            # It lives for seconds, in which thorough compilation does not pay.
            "-XX:TieredStopAtLevel=1",
            "-XX:-UsePerfData",
            f"-Djava.io.tmpdir={self.directory}",
            "-classpath",
            f"{home}:{home}/lib/*",
            "OpenSearchNode",
            str(self._port),
            str(self.directory / "node"),
            *self._settings,
        ]

    def is_ready(self) -> bool:
        health = f"{self.base_url}/_cluster/health?wait_for_status=yellow&timeout=1s"
        return self.http.get(health).is_success

    def refresh(self, index: str = "_all") -> None:
        """Make what was written to `index` visible to `search`."""
        self.http.post(f"{self.base_url}/{index}/_refresh").raise_for_status()

    def search(
        self, index: str, query: Mapping[str, Any] | None = None, *, sort: str | None = None
    ) -> list[dict[str, Any]]:
        """The hits of a query, at most 10,000 of all: `_id`, `_index`, `_source`.

        `sort` is the name of a field to order them by.

        Raises:
            httpx.HTTPStatusError: OpenSearch refused the query, or has no such index.
        """
        question: dict[str, Any] = {"size": _HITS, "query": query or {"match_all": {}}}
        if sort is not None:
            question["sort"] = [sort]
        answer = self.http.post(f"{self.base_url}/{index}/_search", json=question)
        hits: list[dict[str, Any]] = answer.raise_for_status().json()["hits"]["hits"]
        return hits
