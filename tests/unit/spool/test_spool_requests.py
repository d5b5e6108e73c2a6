"""What operators ask of dead letters: beside a daemon, in its place, and through a kill."""

from __future__ import annotations

import json
import os
from functools import partial
from typing import TYPE_CHECKING

import pytest

from forwarder.errors import SpoolUntrustedError
from forwarder.spool import dead_letters, requests
from forwarder.spool.dead_letters import Choice
from forwarder.spool.files import connect_writer, locked
from forwarder.spool.interface import DropReason, Replayed
from forwarder.spool.letter_overview import chosen_letters, replay_progress
from forwarder.spool.requests import (
    LetterRequest,
    Wish,
    ask_for,
    put_request,
    read_request,
    requests_in,
)
from forwarder.spool.verify import verify
from tests.unit.spool.builders import commit, frame, letter
from tests.unit.spool.faults import Faults
from tests.unit.spool.test_spool_letters import SINK, filled, numbers, refuse, waiting

if TYPE_CHECKING:
    import sqlite3

    from forwarder.spool.files import StateDir
    from forwarder.spool.sqlite import SqliteSpool
    from tests.unit.spool.conftest import Opener

ALL = Choice(10)


def replay(chosen: Choice = ALL) -> LetterRequest:
    return LetterRequest(Wish.REPLAY, SINK, chosen)


def drop(chosen: Choice = ALL) -> LetterRequest:
    return LetterRequest(Wish.DROP, SINK, chosen)


async def with_letters(spool: SqliteSpool) -> None:
    """Five letters: 1, 2 and 3 have the status 400, 4 has 413, and 5 holds nothing."""
    await filled(spool)
    await refuse(
        spool,
        *[letter(line=number) for number in range(3)],
        letter(line=4, status="413"),
        letter(b"", lines=0, unnamed=2),
    )


@pytest.mark.parametrize("wish", Wish)
@pytest.mark.parametrize(
    "chosen",
    [Choice(7), Choice(2**62, ids=(3, 1)), Choice(0, status="é\x00"), Choice(1, (), "")],
)
def test_a_request_is_read_as_it_was_written(state: StateDir, wish: Wish, chosen: Choice) -> None:
    request = LetterRequest(wish, "a sink", chosen)
    path = put_request(state, request)
    assert requests_in(state) == [path]
    assert read_request(path) == request
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("chosen", "ids"),
    [
        (ALL, [1, 2, 3, 4]),
        (Choice(2), [1, 2]),
        (Choice(10, ids=(4, 2, 5, 77)), [2, 4]),
        (Choice(10, status="413"), [4]),
        (Choice(10, status="nothing"), []),
    ],
)
async def test_a_daemon_sends_again_what_it_is_asked_for(
    spool: SqliteSpool, state: StateDir, chosen: Choice, ids: list[int]
) -> None:
    await with_letters(spool)
    with locked(state):
        path = ask_for(state, replay(chosen), 3)
        assert path is not None
        assert [one.id for one in await waiting(spool)] == ids
        assert not path.exists()


@pytest.mark.parametrize(
    ("chosen", "left"), [(ALL, []), (Choice(4), [5]), (Choice(10, (1, 5)), [2, 3, 4])]
)
async def test_a_daemon_drops_what_it_is_asked_to_whether_its_sink_is_there_or_not(
    spool: SqliteSpool, state: StateDir, chosen: Choice, left: list[int]
) -> None:
    await with_letters(spool)
    before = (await numbers(spool)).dropped
    with locked(state):
        path = ask_for(state, drop(chosen), 3)
        await spool.prune(keep_tail_ns=0)
    assert path is not None
    assert not path.exists()
    assert [one.id for one in chosen_letters(state, SINK, ALL)] == left
    sink = await numbers(spool)
    gone = 4 - len([one for one in left if one != 5])
    assert sink.dropped_for.get(DropReason.DEAD_LETTERS_DROPPED, 0) == gone
    assert (sink.dropped, sink.dead_letters) == (before + gone, len(left))
    assert verify(state).ok


@pytest.mark.parametrize("wish", Wish)
async def test_without_a_daemon_it_is_done_at_once(
    start: Opener, spool: SqliteSpool, state: StateDir, wish: Wish
) -> None:
    await with_letters(spool)
    await spool.close()
    assert ask_for(state, LetterRequest(wish, SINK, Choice(10, (1, 2))), 3) is None
    assert requests_in(state) == []
    assert verify(state).ok
    spool = await start()
    sink = await numbers(spool)
    asked = (sink.dead_letters, sink.replaying)
    assert asked == ((5, 2) if wish is Wish.REPLAY else (3, 0))


async def test_very_many_are_done_a_few_at_a_time(
    start: Opener, monkeypatch: pytest.MonkeyPatch, state: StateDir
) -> None:
    monkeypatch.setattr(dead_letters, "_CHUNK_LETTERS", 2)
    faults = Faults()
    spool = await start(faults)
    await with_letters(spool)
    with locked(state):
        ask_for(state, drop(), 3)
    before = faults.commits
    await spool.prune(keep_tail_ns=0)
    assert faults.commits - before > 3
    assert (await numbers(spool)).dead_letters == 0


async def test_a_daemon_that_is_killed_in_the_middle_ends_with_the_same(
    start: Opener, monkeypatch: pytest.MonkeyPatch, state: StateDir
) -> None:
    """Some are dropped and the file is there still, or all of them."""
    monkeypatch.setattr(dead_letters, "_CHUNK_LETTERS", 2)
    spool = await start()
    await with_letters(spool)
    with locked(state):
        path = ask_for(state, drop(Choice(3)), 3)
    assert path is not None
    for upto in (2, 10):
        chosen = Choice(min(upto, 3))
        await spool._writer.run(
            partial(dead_letters.drop_letters, sink=SINK, chosen=chosen, after_id=0)
        )
        await spool.close()
        spool = await start()
        assert path.exists()
    await spool.prune(keep_tail_ns=0)
    sink = await numbers(spool)
    assert sink.dropped_for[DropReason.DEAD_LETTERS_DROPPED] == 3
    assert sink.dead_letters == 2
    assert not path.exists()


async def test_a_full_disk_leaves_the_request_for_later(start: Opener, state: StateDir) -> None:
    faults = Faults()
    spool = await start(faults)
    await with_letters(spool)
    with locked(state):
        path = ask_for(state, replay(), 3)
    assert path is not None
    faults.fail("COMMIT", "SQLITE_FULL")
    assert await waiting(spool) == []
    assert path.exists()
    assert len(await waiting(spool)) == 4


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"null", b'{"wish": "eat", "sink": "x"}', b"\xff"]
)
async def test_what_is_no_request_is_told_once_and_stops_nothing(
    spool: SqliteSpool, state: StateDir, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    await with_letters(spool)
    (state.path / "request-0.json").write_bytes(content)
    with locked(state):
        ask_for(state, replay(), 3)
    assert len(await waiting(spool)) == 4
    await waiting(spool)
    assert capsys.readouterr().out.count("a request cannot be read") == 1


async def test_a_request_that_is_not_whole_yet_is_not_looked_at(
    spool: SqliteSpool, state: StateDir
) -> None:
    await with_letters(spool)
    path = put_request(state, replay())
    path.rename(path.with_suffix(".partial"))
    assert await waiting(spool) == []


def test_a_request_that_cannot_be_written_is_an_error_and_leaves_nothing(
    state: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with (
        locked(state),
        pytest.raises(SpoolUntrustedError, match=r"cannot be written: .* No space left"),
    ):
        ask_for(state, replay(), 3)
    assert [one.name for one in state.path.iterdir()] == ["lock"]


async def test_without_a_daemon_a_database_that_fails_is_an_error(
    spool: SqliteSpool, state: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    await with_letters(spool)
    await spool.close()
    faults = Faults()
    faults.fail("COMMIT", "SQLITE_IOERR_FSYNC")

    def failing(of: StateDir) -> sqlite3.Connection:
        return connect_writer(of, factory=faults.connection())

    monkeypatch.setattr(requests, "connect_writer", failing)
    with pytest.raises(SpoolUntrustedError, match="as told"):
        ask_for(state, drop(), 3)
    assert len(chosen_letters(state, SINK, ALL)) == 5


async def test_how_far_it_is_can_be_seen_from_outside(spool: SqliteSpool, state: StateDir) -> None:
    await with_letters(spool)
    put_request(state, replay())
    await waiting(spool)
    before = replay_progress(state, SINK, {1, 2, 3, 4}, upto_id=5)
    assert (before.waiting, before.waiting_lines, before.refused) == (4, 4, 0)
    pieces = [letter(line=1), letter(line=2)]
    await spool.settle_replay(SINK, {1: Replayed(), 2: Replayed(pieces)})
    now = replay_progress(state, SINK, {1, 2, 3, 4}, upto_id=5)
    assert (now.waiting, now.refused, now.refused_lines) == (2, 1, 2)


async def test_beside_other_work_of_the_daemon_nothing_is_lost_or_counted_twice(
    spool: SqliteSpool, state: StateDir
) -> None:
    await with_letters(spool)
    put_request(state, replay())
    (first, *_) = await waiting(spool)
    put_request(state, drop(Choice(1)))
    await spool.prune(keep_tail_ns=0)
    await spool.settle_replay(SINK, {first.id: Replayed()})
    await spool.commit([commit(1, frame(line=10))])
    sink = await numbers(spool)
    assert sink.dropped_for[DropReason.DEAD_LETTERS_DROPPED] == 1
    assert (sink.delivered, sink.pending, sink.dead_letters) == (4, 1, 4)
    assert verify(state).ok


def test_a_request_holds_no_more_than_it_needs(state: StateDir) -> None:
    path = put_request(state, replay(Choice(3, (1,))))
    assert json.loads(path.read_bytes()) == {
        "wish": "replay",
        "sink": SINK,
        "upto_id": 3,
        "ids": [1],
        "status": None,
    }
