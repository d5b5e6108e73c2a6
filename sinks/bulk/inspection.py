"""What a server says of itself and of our place in it, without writing anything there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from sinks.answers import Answer, StatusTable, origin, printable, verdict
from sinks.interface import SinkMisconfiguredError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sinks.bulk.connection import Connection
    from sinks.bulk.settings import ElasticsearchSettings

_OPENSEARCH, _ELASTICSEARCH = "OpenSearch", "Elasticsearch"
_OK, _FORBIDDEN, _NOT_FOUND = 200, 403, 404
_TABLE = StatusTable(
    retry=frozenset({408, 429, 500, 502, 503, 504}),
    hold=frozenset({400, 401, 403, 404, 405, 406, 407, 410, 415}),
)


class Inspection:
    """Questions to one server.

    Args:
        connection: Open.
        settings: The sink's.
    """

    def __init__(self, connection: Connection, settings: ElasticsearchSettings) -> None:
        self._connection = connection
        self._settings = settings
        self._where = origin(settings.endpoint)

    async def run(self) -> str:
        """What was found, in a few words.

        Raises:
            SinkUnavailableError: No answer.
            SinkMisconfiguredError: No such server, or it refuses our credentials.
        """
        product, answers = await self._version()
        found = [answers]
        if self._settings.has_credentials and product != _OPENSEARCH:
            found.append(await self._privileges())
        if product in {_OPENSEARCH, _ELASTICSEARCH}:
            found.append(await self._place())
        return "; ".join(filter(None, found))

    async def _version(self) -> tuple[str, str]:
        """The product, as far as it tells, and what to say of it."""
        answer = await self._ask("GET", "")
        # To ask for the version is a privilege that a key made for writing alone does not have.
        if answer.status == _FORBIDDEN and self._settings.has_credentials:
            return "", "answers, and knows our credentials, which may not ask for its version"
        error = verdict(answer, _TABLE, url=self._settings.endpoint)
        if error is not None:
            raise error
        version = _object(answer).get("version")
        if not isinstance(version, dict):
            raise SinkMisconfiguredError(
                f"{self._where} answers, but not as Elasticsearch, OpenSearch or a server like them"
                " does: mend the address"
            )
        product = _product(_object(answer), version)
        text = f"{product or 'version'} {printable(str(version.get('number')))} answers"
        takes = ", and takes our credentials" if self._settings.has_credentials else ""
        return product, text + takes

    async def _privileges(self) -> str:
        """Elasticsearch tells who logged in what they may do; others do not know this."""
        pattern = self._settings.target.pattern
        wanted = {"index": [{"names": [pattern], "privileges": ["create_doc"]}]}
        answer = await self._ask("POST", "/_security/user/_has_privileges", wanted)
        may = _object(answer).get("has_all_requested") if answer.status == _OK else None
        if may is False:
            text = f"{self._where}: our credentials may not create documents in {pattern}"
            raise SinkMisconfiguredError(
                f"{text}: give them the privilege create_doc", credentials=True
            )
        return f"they may create documents in {pattern}" if may is True else ""

    async def _place(self) -> str:
        pattern = self._settings.target.pattern
        if self._settings.index is not None or "*" in pattern:
            return ""
        answer = await self._ask("GET", f"/_data_stream/{pattern}")
        if answer.status == _OK and _object(answer).get("data_streams"):
            return f"the data stream {pattern} is there"
        if answer.status not in {_OK, _NOT_FOUND}:
            return ""
        if (await self._ask("HEAD", f"/{pattern}")).status == _OK:
            return f"{pattern} is a plain index, and no data stream: see the index template"
        return f"there is no data stream {pattern} yet: an index template has to make it one"

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Answer:
        content = None if body is None else orjson.dumps(body)
        kind = {} if body is None else {"content-type": "application/json"}
        url = self._settings.url_of(path)
        return await self._connection.request(method, url, content, kind)


def _object(answer: Answer) -> dict[str, Any]:
    try:
        value = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _product(answer: Mapping[str, Any], version: Mapping[str, Any]) -> str:
    if version.get("distribution") == "opensearch":
        return _OPENSEARCH
    return _ELASTICSEARCH if "You Know, for Search" in str(answer.get("tagline")) else ""
