"""What is written down of ranges that are to be sent again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from forwarder.spool.interface import Delivery
from forwarder.spool.ranges import RangeRequest, ranges_of
from forwarder.spool.requests import ask_for, put_request, read_request, requests_in
from tests.unit.spool.builders import INFO, commit, frame

if TYPE_CHECKING:
    from forwarder.spool.files import StateDir
    from forwarder.spool.sqlite import SqliteSpool

REQUEST = RangeRequest("r1", "archive", 5, 9, "sbx-1", 1, 7, 3)


async def filled(spool: SqliteSpool) -> None:
    """Two frames, of which the sink has one."""
    await spool.configure_sinks({"archive": "/a"})
    await spool.open_sink("archive", from_oldest=True)
    stream = await spool.open_stream(INFO)
    await spool.commit([commit(stream.id, frame(), frame(line=1))])
    await spool.advance("archive", 1, {}, Delivery(delivered=1))


@pytest.mark.parametrize("until_ns", [9, None])
def test_a_request_is_read_as_it_was_written(state: StateDir, until_ns: int | None) -> None:
    request = replace(REQUEST, until_ns=until_ns)
    assert read_request(put_request(state, request)) == request


def test_a_request_that_lacks_something_is_none(state: StateDir) -> None:
    path = put_request(state, REQUEST)
    path.write_bytes(path.read_bytes().replace(b"since_ns", b"since"))
    with pytest.raises(ValueError, match="no request"):
        read_request(path)


async def test_a_request_is_carried_out_and_its_file_is_gone(
    spool: SqliteSpool, state: StateDir
) -> None:
    await filled(spool)
    put_request(state, replace(REQUEST, upto_id=2))
    replay = await spool.next_range("archive")
    assert replay is not None
    assert (replay.since_ns, replay.until_ns, replay.sandbox_id) == (5, 9, "sbx-1")
    assert (replay.upto_id, replay.after_id, replay.asked_lines) == (1, 0, 7)
    assert requests_in(state) == []


async def test_without_a_daemon_it_is_written_down_at_once(
    spool: SqliteSpool, state: StateDir
) -> None:
    await filled(spool)
    await spool.close()
    assert ask_for(state, REQUEST, 3) is None
    assert requests_in(state) == []


async def test_only_some_of_those_that_are_done_are_remembered(
    spool: SqliteSpool, state: StateDir
) -> None:
    await filled(spool)
    for number in range(12):
        put_request(state, replace(REQUEST, id=f"r{number}"))
        replay = await spool.next_range("archive")
        assert replay is not None
        await spool.settle_range("archive", replace(replay, lines=number, ended_ns=9))
    assert await spool.next_range("archive") is None
    ranges = await spool._writer.run(lambda one: ranges_of(one, "archive"))
    assert [one.id for one in ranges.done] == [f"r{number}" for number in range(4, 12)]
    (sink,) = (await spool.overview()).sinks
    assert sink.last_range is not None
    assert sink.last_range.lines == 11


async def test_a_sink_that_is_renamed_takes_them_along(spool: SqliteSpool, state: StateDir) -> None:
    await filled(spool)
    put_request(state, REQUEST)
    assert await spool.next_range("archive") is not None
    await spool.configure_sinks({"other": "/a"})
    await spool.open_sink("other", from_oldest=True)
    assert await spool.next_range("archive") is None
    assert await spool.next_range("other") is not None
