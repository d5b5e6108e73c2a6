"""The Loki sink and VictoriaLogs, which takes Loki's push requests, too."""

from __future__ import annotations

import time
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from sinks.loki import LokiSettings, LokiSink
from sinks.ndjson import rfc3339
from sinks.testing import MemoryState, batch_of, gap_of, slice_of
from tests.servers import eventually

if TYPE_CHECKING:
    from tests.servers import VictoriaLogs

_JOBS = count()


class Place:
    """A job of this test's own."""

    def __init__(self, server: VictoriaLogs) -> None:
        self.server = server
        self.job = f"victoria-{time.time_ns()}-{next(_JOBS)}"
        self.now_ns = time.time_ns()

    def sink(self, **given: Any) -> LokiSink:
        endpoint = f"{self.server.base_url}/insert?disable_message_parsing=1"
        settings = {"endpoint": endpoint, "labels": {"job": self.job}, **given}
        return LokiSink("x", LokiSettings.model_validate(settings))

    async def found(self, enough: int) -> list[dict[str, Any]]:
        """The records, in the order of their lines, once there are so many."""
        # Not by its stream: what a query for a stream has found is kept for ten seconds.
        query = f'job:="{self.job}"'
        records = await eventually(lambda: self.server.query(query), lambda r: len(r) >= enough)
        return sorted(records, key=lambda record: int(record.get("line", -1)))


@pytest.fixture
def place(victoria_logs: VictoriaLogs) -> Place:
    return Place(victoria_logs)


@pytest.mark.parametrize("form", ["protobuf", "json"])
async def test_text_stamp_and_metadata_arrive_as_they_were_sent(place: Place, form: str) -> None:
    sink = place.sink(format=form)
    await sink.open(MemoryState())
    gap = gap_of(first_line=3, from_stamp_ns=place.now_ns + 9)
    forged = '{"gap_kind":"range"}'
    lines: list[tuple[int, bytes | str]] = [(place.now_ns, "é\t"), (place.now_ns, b"\xff")]
    lines.append((place.now_ns + 1, forged))
    await sink.write(batch_of(slice_of(lines), gap))
    await sink.close()
    told, one, two, three = await place.found(4)
    assert (one["_msg"], one["_time"][:26]) == ("é\t", rfc3339(place.now_ns)[:26])
    assert (one["sandbox_id"], one["log_record_uid"]) == ("sbx-1", "sbx-1/main/0/0")
    assert (two["_msg"], two["encoding"]) == ("/w==", "base64")
    assert (three["_msg"], "gap_kind" in three) == (forged, False)
    assert (told["gap_kind"], told["gap_cause"]) == ("range", "anchor_lost")


@pytest.mark.parametrize("form", ["protobuf", "json"])
async def test_the_check_is_answered(place: Place, form: str) -> None:
    assert await place.sink(format=form).check() == "answers"


async def test_a_resend_leaves_two_copies_with_one_record_id(place: Place) -> None:
    sink = place.sink()
    await sink.open(MemoryState())
    for _ in range(2):
        await sink.write(batch_of(slice_of([(place.now_ns, "one"), (place.now_ns + 1, "")])))
    await sink.close()
    found = await place.found(4)
    assert [record["log_record_uid"] for record in found] == [
        *["sbx-1/main/0/0"] * 2,
        *["sbx-1/main/0/1"] * 2,
    ]
