"""One scripted server that takes what all four network sinks send, and says what it is told to.

It answers as the real ones do: OTLP with an empty message, Loki with 204 or with what it did not
keep, bulk requests item by item, and the `http` sink with nothing.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from tests.fakes.web_server import Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.fakes.web_server import Request

#: The sinks' types, each of which is the first part of its path, too.
KINDS = ("otlp", "loki", "elasticsearch", "http")

_JSON = {"content-type": "application/json"}


class Stack:
    """The handler of a `WebServer`.

    Attributes:
        taken: By kind of sink, the ids of the records that it took, in order of arrival.
        says: An answer instead of the service's own; None lets a request through to it.
        dislikes: Whether it will never take the record of this id.
    """

    def __init__(self) -> None:
        self.taken: dict[str, list[str]] = {kind: [] for kind in KINDS}
        self.says: Callable[[Request], Reply | None] = lambda _: None
        self.dislikes: Callable[[str], bool] = lambda _: False

    def __call__(self, request: Request) -> Reply:
        kind = request.path.split("/")[1]
        said = self.says(request)
        if said is not None:
            return said
        if request.method != "POST":
            return Reply(headers=_JSON, body=b'{"version": {"number": "8.15.0"}}')
        ids = list(_IDS[kind](request.body))
        if kind == "elasticsearch":
            return self._items(ids)
        if kind == "loki":
            return self._lines(request.body)
        if any(map(self.dislikes, ids)):
            return Reply(400, body=b"a record of this request cannot be stored")
        self.taken[kind] += ids
        return Reply()

    def holds(self, count: int) -> bool:
        """Whether it has so many different records of every kind of sink."""
        return all(len(set(ids)) >= count for ids in self.taken.values())

    def _lines(self, body: bytes) -> Reply:
        """Loki keeps the good lines of a request that it refuses."""
        lines = [(int(ns), uid) for ns, uid in _lines(body)]
        refused = [ns for ns, uid in lines if self.dislikes(uid)]
        self.taken["loki"] += [uid for _, uid in lines if not self.dislikes(uid)]
        if not refused:
            return Reply(204)
        said = [
            f"entry with timestamp {_go_time(ns)} ignored, reason: 'it cannot be stored',"
            for ns in refused
        ]
        total = f"user 'fake', total ignored: {len(refused)} out of {len(lines)}"
        said.append(total + ' for stream: {job="stack"}')
        return Reply(400, body="\n".join(said).encode())

    def _items(self, ids: list[str]) -> Reply:
        items = [_item(uid, refused=self.dislikes(uid)) for uid in ids]
        self.taken["elasticsearch"] += [uid for uid in ids if not self.dislikes(uid)]
        errors = any(map(self.dislikes, ids))
        body = json.dumps({"took": 1, "errors": errors, "items": items})
        return Reply(headers=_JSON, body=body.encode())


def sections(url: str, **settings: Any) -> dict[str, dict[str, Any]]:
    """A sink of every kind that sends to the server at this address, called by its type."""
    batch = {"max_records": 500, "max_age": "20ms"}
    every: dict[str, dict[str, Any]]
    every = {kind: {"type": kind, "endpoint": f"{url}/{kind}"} for kind in KINDS}
    every["loki"] |= {"format": "json", "compression": "none", "labels": {"job": "stack"}}
    return {kind: {**section, "batch": batch, **settings} for kind, section in every.items()}


def _item(uid: str, *, refused: bool) -> dict[str, Any]:
    if not refused:
        return {"create": {"_id": uid, "status": 201}}
    error = {
        "type": "document_parsing_exception",
        "reason": "one of its fields cannot be stored",
    }
    return {"create": {"_id": uid, "status": 400, "error": error}}


def _of_otlp(body: bytes) -> Iterator[str]:
    for resource in ExportLogsServiceRequest.FromString(body).resource_logs:
        for scope in resource.scope_logs:
            for record in scope.log_records:
                named = {one.key: one.value.string_value for one in record.attributes}
                yield named["log.record.uid"]


def _of_loki(body: bytes) -> Iterator[str]:
    for _, uid in _lines(body):
        yield uid


def _lines(body: bytes) -> Iterator[tuple[str, str]]:
    for stream in json.loads(body)["streams"]:
        for stamp_ns, _, metadata in stream["values"]:
            yield stamp_ns, metadata["log_record_uid"]


def _go_time(stamp_ns: int) -> str:
    second = datetime.fromtimestamp(stamp_ns // 10**9, UTC)
    return f"{second:%Y-%m-%d %H:%M:%S}.{stamp_ns % 10**9:09d} +0000 UTC"


def _of_bulk(body: bytes) -> Iterator[str]:
    for action in body.split(b"\n")[:-1:2]:
        yield json.loads(action)["create"]["_id"]


def _of_http(body: bytes) -> Iterator[str]:
    for line in body.split(b"\n")[:-1]:
        yield json.loads(line)["id"]


_IDS: dict[str, Callable[[bytes], Iterator[str]]] = {
    "otlp": _of_otlp,
    "loki": _of_loki,
    "elasticsearch": _of_bulk,
    "http": _of_http,
}
