"""What the four kinds of network sinks have delivered, read back and judged in one way.

A destination is asked for one sandbox at a time, and answers with every record that it holds, as
often as it holds it.
"""

from __future__ import annotations

import time
from base64 import b64decode
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.fakes.keeper import Keeper
    from tests.servers import Collector, Loki, LokiLine, OpenSearch

#: Fewer than a server gives at once.
_PAGE = 4_000
_AGO_NS = 3_600 * 10**9
_VISIBLE_WITHIN_S = 20.0
_LOOK_EVERY_S = 0.02


@dataclass(frozen=True, slots=True)
class Held:
    """One record, as a destination holds it.

    Attributes:
        id: Its record id.
        line: Its number in its stream.
    """

    id: str
    line: int
    text: bytes


class Destination(Protocol):
    """One of them.

    Attributes:
        never_twice: Whether it keeps a record once, however often it is sent.
    """

    never_twice: bool

    def sink(self) -> dict[str, Any]:
        """The sink's section of the configuration."""
        ...

    def held(self, sandbox_id: str) -> list[Held]:
        """Its records of a sandbox, in any order."""
        ...


class Kept:
    """The scripted endpoint."""

    never_twice = False

    def __init__(self, keeper: Keeper, url: str) -> None:
        self._keeper = keeper
        self._url = url

    def sink(self) -> dict[str, Any]:
        return {"type": "http", "endpoint": self._url}

    def held(self, sandbox_id: str) -> list[Held]:
        return [
            Held(one["id"], one["line"], one["text"].encode())
            for one in self._keeper.of(sandbox_id)
        ]


class Collected:
    """The OpenTelemetry Collector's file."""

    never_twice = False

    def __init__(self, server: Collector) -> None:
        self._server = server

    def sink(self) -> dict[str, Any]:
        return {"type": "otlp", "endpoint": self._server.endpoint_http}

    def held(self, sandbox_id: str) -> list[Held]:
        return [
            Held(
                one.attributes["log.record.uid"],
                one.attributes["cwsandbox.line"],
                str(one.body).encode(),
            )
            for one in self._server.records()
            if one.resource.get("cwsandbox.id") == sandbox_id
        ]


class Indexed:
    """An index of OpenSearch, of its own."""

    never_twice = True

    def __init__(self, server: OpenSearch) -> None:
        self._server = server
        self._index = f"network-{uuid4().hex}"

    def sink(self) -> dict[str, Any]:
        return {
            "type": "elasticsearch",
            "endpoint": self._server.base_url,
            "index": self._index,
        }

    def held(self, sandbox_id: str) -> list[Held]:
        try:
            self._server.refresh(self._index)
        except httpx.HTTPStatusError:  # nothing came yet
            return []
        return list(self._pages(sandbox_id))

    def _pages(self, sandbox_id: str) -> Iterator[Held]:
        first = 0
        while True:
            numbers = {"event.sequence": {"gte": first, "lt": first + _PAGE}}
            of_sandbox = {"match_phrase": {"cwsandbox.id": sandbox_id}}
            query = {"bool": {"filter": [of_sandbox, {"range": numbers}]}}
            hits = self._server.search(self._index, query)
            if not hits:
                return
            yield from (_document(hit["_id"], hit["_source"]) for hit in hits)
            first += _PAGE


class Pushed:
    """A Loki job of its own."""

    never_twice = True

    def __init__(self, server: Loki) -> None:
        self._server = server
        self._job = f"network-{uuid4().hex}"

    def sink(self) -> dict[str, Any]:
        return {"type": "loki", "endpoint": self._server.base_url, "labels": {"job": self._job}}

    def held(self, sandbox_id: str) -> list[Held]:
        query = f'{{job="{self._job}"}} | sandbox_id="{sandbox_id}"'
        now_ns = time.time_ns()
        start_ns, found = now_ns - _AGO_NS, list[Held]()
        while True:
            page = self._server.query_range(query, start_ns, now_ns + _AGO_NS)
            if len(page) < _PAGE:
                return found + [_pushed(one) for one in page]
            # What has the page's last stamp may go on behind it: it is asked for again.
            start_ns = page[-1].time_ns
            found += [_pushed(one) for one in page if one.time_ns < start_ns]


def judge(destination: Destination, sandbox_id: str, log: bytes) -> int:
    """Fail unless it holds exactly what was printed, by record id; returns how many it has twice.

    Waits for what was taken to become visible.

    Args:
        destination: Where to look.
        sandbox_id: Whose lines.
        log: What the service itself says, with stamps.
    """
    expected = dict(enumerate(line.partition(b" ")[2] for line in log.splitlines()))
    held = _complete(destination, sandbox_id, len(expected))
    times = Counter(one.id for one in held)
    once = {one.line: one.text for one in held}
    assert len(times) == len(once), "a line with two ids"
    missing = sorted(expected.keys() - once.keys())
    assert not missing, f"{len(missing)} of {len(expected)} are missing, from {missing[:9]}"
    assert once == expected
    assert {one.text for one in held} == set(expected.values()), "a copy differs"
    again = len(held) - len(times)
    assert not (destination.never_twice and again), times.most_common(3)
    return again


def _complete(destination: Destination, sandbox_id: str, count: int) -> list[Held]:
    deadline_s = time.monotonic() + _VISIBLE_WITHIN_S
    while True:
        held = destination.held(sandbox_id)
        if len({one.id for one in held}) >= count or time.monotonic() > deadline_s:
            return held
        time.sleep(_LOOK_EVERY_S)


def _document(uid: str, source: Mapping[str, Any]) -> Held:
    exact = source["cwsandbox"].get("message_base64")
    text = source["message"].encode() if exact is None else b64decode(exact)
    return Held(uid, source["event"]["sequence"], text)


def _pushed(line: LokiLine) -> Held:
    metadata = line.metadata
    encoded = metadata.get("encoding") == "base64"
    text = b64decode(line.line) if encoded else line.line.encode()
    return Held(metadata["log_record_uid"], int(metadata["line"]), text)
