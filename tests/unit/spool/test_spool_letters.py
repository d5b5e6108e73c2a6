"""Dead letters in the spool: nothing of them is lost, and every line is in exactly one counter."""

from __future__ import annotations

import os
import shutil
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from forwarder.errors import SpoolUnavailableError
from forwarder.model import FrameKind, StreamState
from forwarder.spool.dead_letters import Choice
from forwarder.spool.dropping import drop_oldest
from forwarder.spool.files import StateDir, connect_reader
from forwarder.spool.interface import Delivery, DropReason, Replayed
from forwarder.spool.letter_overview import letter_of
from forwarder.spool.requests import LetterRequest, Wish, put_request
from forwarder.spool.room import SpoolLimits
from forwarder.spool.verify import verify
from tests.unit.spool.builders import INFO, commit, frame, letter
from tests.unit.spool.faults import Faults

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from forwarder.model import DeadLetter, HeldLetter
    from forwarder.spool.interface import SinkOverview
    from forwarder.spool.sqlite import SqliteSpool
    from tests.unit.spool.conftest import Opener

SINK = "otlp"
LOST = b"\xff\x00 not \xc3 text\n"


async def filled(spool: SqliteSpool, *, lines: int = 10) -> int:
    """A stream with lines that a sink has not got yet; its id."""
    await spool.open_sink(SINK, from_oldest=True)
    stream = await spool.open_stream(INFO)
    await spool.commit([commit(stream.id, frame(b"text\n" * lines, lines=lines))])
    return stream.id


async def refuse(spool: SqliteSpool, *letters: DeadLetter, lines: int = 10) -> None:
    """The sink has everything, save what was refused."""
    refused = sum(one.lines for one in letters)
    unnamed = sum(one.unnamed for one in letters)
    delivery = Delivery(lines - refused - unnamed, 0, refused, unnamed)
    await spool.advance(SINK, spool.last_frame_id, {}, delivery, letters)


async def ask_again(spool: SqliteSpool, *ids: int) -> None:
    """An operator asks for some to be sent again."""
    marks = [(5, one) for one in ids]
    sql = "UPDATE dead_letter SET replay_ns = ? WHERE id = ?"
    await spool._writer.run(lambda one: one.executemany(sql, marks))


async def numbers(spool: SqliteSpool) -> SinkOverview:
    """The sink's numbers, which add up."""
    (sink,) = (await spool.overview()).sinks
    aside = sink.filtered + sink.dead_lettered + sink.dropped
    assert sink.taken == sink.delivered + aside + sink.pending
    assert sum(sink.dropped_for.values()) == sink.dropped
    return sink


async def waiting(spool: SqliteSpool, *, max_bytes: int = 1 << 20) -> Sequence[HeldLetter]:
    return await spool.letters_to_replay(SINK, max_bytes=max_bytes)


async def settle(spool: SqliteSpool, outcome: Mapping[int, Replayed]) -> SinkOverview:
    await spool.settle_replay(SINK, outcome)
    return await numbers(spool)


# Kept ---------------------------------------------------------------------------------------------


async def test_a_dead_letter_is_there_with_everything_that_is_known_of_it(
    spool: SqliteSpool, state: StateDir
) -> None:
    stream_id = await filled(spool)
    first = replace(letter(LOST, line=3, maybe_stored=True), stream_id=stream_id, part=4)
    second = replace(letter(b"{}", line=4, lines=0), kind=FrameKind.GAP, stream_id=stream_id)
    await refuse(spool, first, second)
    found = [letter_of(state, one) for one in (1, 2)]
    assert [one.held.letter for one in found if one] == [first, second]
    assert [(one.sink, one.stream, one.held.attempts) for one in found if one] == [
        (SINK, INFO, 1),
        (SINK, INFO, 1),
    ]
    assert letter_of(state, 3) is None


async def test_the_cursor_and_the_letters_move_together_or_not_at_all(
    start: Opener, state: StateDir
) -> None:
    faults = Faults()
    spool = await start(faults)
    await filled(spool)
    faults.fail("COMMIT", "SQLITE_FULL")
    with pytest.raises(SpoolUnavailableError):
        await refuse(spool, letter())
    assert letter_of(state, 1) is None
    assert (await numbers(spool)).pending == 10
    await refuse(spool, letter())
    assert letter_of(state, 1) is not None
    assert (await numbers(spool)).pending == 0


async def test_letters_that_hold_other_lines_than_are_counted_are_a_bug_and_stop_nothing(
    spool: SqliteSpool,
) -> None:
    await filled(spool)
    with pytest.raises(ValueError, match="as many lines"):
        await spool.advance(SINK, 1, {}, Delivery(8, 0, 2), [letter()])
    await refuse(spool, letter())


async def test_they_are_counted_with_their_lines_and_bytes(spool: SqliteSpool) -> None:
    await filled(spool)
    letters = [letter(b"1\n2\n", lines=2), letter(b"4\n", line=4), letter(b"", lines=0, unnamed=3)]
    await refuse(spool, *letters)
    sink = await numbers(spool)
    assert (sink.delivered, sink.dead_lettered, sink.dropped) == (4, 3, 3)
    assert sink.dropped_for == {DropReason.REFUSED_UNNAMED: 3}
    assert (sink.dead_letters, sink.replaying) == (3, 0)
    size_bytes = sum(one.size_bytes for one in letters)
    assert sink.dead_letter_bytes == await spool.dead_letter_bytes(SINK) == size_bytes
    assert await spool.dead_letter_bytes("unknown") == 0


async def test_what_was_damaged_after_it_was_handed_out_is_counted_once(
    spool: SqliteSpool, state: StateDir
) -> None:
    stream_id = await filled(spool)
    await spool.commit([commit(stream_id, frame(b"more\n", line=10))])
    flip = "UPDATE frame SET data = x'00' WHERE id = 1"
    await spool._writer.run(lambda one: one.execute(flip))
    spool._recent.forget(2)
    await spool.read(0, max_bytes=0)
    assert (await numbers(spool)).dropped_for == {DropReason.DAMAGED: 10}
    await refuse(spool, letter(), lines=11)
    sink = await numbers(spool)
    assert (sink.delivered, sink.dead_lettered, sink.dropped_for) == (10, 1, {})
    assert verify(state).ok


# Sent again ---------------------------------------------------------------------------------------


async def test_only_what_was_asked_for_is_sent_again_in_order_and_in_pieces(
    spool: SqliteSpool,
) -> None:
    await filled(spool)
    await refuse(spool, *[letter(b"x" * 99 + b"\n", line=number) for number in range(5)])
    assert await waiting(spool) == []
    await ask_again(spool, 4, 2, 5)
    assert [one.id for one in await waiting(spool)] == [2, 4, 5]
    assert [one.id for one in await waiting(spool, max_bytes=200)] == [2, 4]
    assert [one.id for one in await waiting(spool, max_bytes=1)] == [2]
    assert {one.replay_ns for one in await waiting(spool)} == {5}
    assert (await numbers(spool)).replaying == 3


async def test_what_was_delivered_at_last_counts_so_and_is_gone(spool: SqliteSpool) -> None:
    await filled(spool)
    await refuse(spool, letter(lines=3), letter(line=4))
    await ask_again(spool, 1)
    sink = await settle(spool, {1: Replayed()})
    assert (sink.delivered, sink.dead_lettered, sink.dead_letters) == (9, 1, 1)
    assert sink.dead_letter_bytes == letter().size_bytes
    assert await waiting(spool) == []


async def test_what_is_refused_again_keeps_its_number_with_the_new_reason(
    spool: SqliteSpool, state: StateDir
) -> None:
    await filled(spool)
    await refuse(spool, letter(b"a\nb\nc\nd\ne\n", lines=5), letter(line=7))
    await ask_again(spool, 1)
    pieces = [letter(b"b\n", line=1, status="413"), letter(b"d\n", line=3, status="413")]
    sink = await settle(spool, {1: Replayed(pieces, dropped=2)})
    assert (sink.delivered, sink.dead_lettered, sink.dropped) == (5, 3, 2)
    found = [letter_of(state, one) for one in (1, 2, 3)]
    assert [one.held.letter for one in found if one] == [pieces[0], letter(line=7), pieces[1]]
    assert [one.held.attempts for one in found if one] == [2, 1, 2]
    assert await waiting(spool) == []


async def test_a_number_is_never_given_to_another_letter(
    start: Opener, spool: SqliteSpool, state: StateDir
) -> None:
    stream_id = await filled(spool)
    await refuse(spool, letter(), letter(line=1))
    await settle(spool, {1: Replayed(), 2: Replayed()})
    await spool.close()
    spool = await start()
    await spool.commit([commit(stream_id, frame(line=10))])
    await refuse(spool, letter(line=10), lines=1)
    assert letter_of(state, 3) is not None


async def test_a_letter_that_was_taken_out_meanwhile_is_passed_over(spool: SqliteSpool) -> None:
    await filled(spool)
    await refuse(spool, letter(lines=3))
    before = await settle(spool, {1: Replayed()})
    assert await settle(spool, {1: Replayed([letter()]), 77: Replayed()}) == before


async def test_another_sinks_letter_is_never_touched(spool: SqliteSpool, state: StateDir) -> None:
    await filled(spool)
    await refuse(spool, letter())
    await spool.settle_replay("other", {1: Replayed()})
    assert letter_of(state, 1) is not None


async def test_a_settlement_that_cannot_be_stored_leaves_everything_as_it_was(
    start: Opener,
) -> None:
    faults = Faults()
    spool = await start(faults)
    await filled(spool)
    await refuse(spool, letter())
    await ask_again(spool, 1)
    before = await numbers(spool)
    faults.fail("COMMIT", "SQLITE_FULL")
    with pytest.raises(SpoolUnavailableError):
        await spool.settle_replay(SINK, {1: Replayed()})
    assert await numbers(spool) == before
    assert [one.id for one in await waiting(spool)] == [1]


async def test_after_a_crash_the_same_letters_are_sent_again_and_each_leaves_when_taken(
    start: Opener, spool: SqliteSpool, state: StateDir
) -> None:
    await filled(spool)
    await refuse(spool, *[letter(line=number) for number in range(4)])
    await ask_again(spool, 1, 2, 3, 4)
    sent = await waiting(spool)
    await spool.settle_replay(SINK, {1: Replayed(), 2: Replayed()})
    dead = StateDir(state.path / "after the crash")
    dead.path.mkdir()
    for path in (state.database, state.wal, state.marker, state.mark):
        shutil.copy(path, dead.path / path.name)
    await spool.close()
    for path in (state.database, state.wal, state.marker, state.mark):
        path.unlink(missing_ok=True)
        if (dead.path / path.name).exists():
            shutil.copy(dead.path / path.name, path)
    spool = await start()
    assert await waiting(spool) == sent[2:]
    sink = await settle(spool, {3: Replayed(), 4: Replayed()})
    assert (sink.delivered, sink.dead_letters) == (10, 0)
    assert verify(state).ok


async def test_a_damaged_letter_is_skipped_and_told_once(
    spool: SqliteSpool, state: StateDir, capsys: pytest.CaptureFixture[str]
) -> None:
    await filled(spool)
    await refuse(spool, letter(), letter(line=1))
    await ask_again(spool, 1, 2)
    flip = "UPDATE dead_letter SET data = x'00' WHERE id = 1"
    await spool._writer.run(lambda one: one.execute(flip))
    for _ in range(2):
        assert [one.id for one in await waiting(spool)] == [2]
    assert capsys.readouterr().out.count("a dead letter is damaged") == 1
    assert verify(state).problems == ["dead letter 1 is not what was stored"]


# Streams and sinks --------------------------------------------------------------------------------


async def test_a_stream_that_is_over_stays_known_while_its_letters_are_sent_again(
    spool: SqliteSpool,
) -> None:
    stream_id = await filled(spool)
    await spool.commit([commit(stream_id, state=StreamState.COMPLETE)])
    await refuse(spool, letter(stream_id=stream_id), letter(line=1, stream_id=stream_id))
    for letter_id in (1, 2):
        await ask_again(spool, letter_id)
        await waiting(spool)
        await spool.prune(keep_tail_ns=0)
        assert (await spool.overview()).frames == 0
        assert spool.stream_info(stream_id) == INFO
        await spool.settle_replay(SINK, {letter_id: Replayed()})
        await waiting(spool)
        await spool.prune(keep_tail_ns=0)
        with pytest.raises(KeyError):
            spool.stream_info(stream_id)


async def test_a_renamed_sink_takes_its_letters_along(spool: SqliteSpool, state: StateDir) -> None:
    await spool.configure_sinks({SINK: "/there"})
    await filled(spool)
    await refuse(spool, letter(), letter(b"", lines=0, unnamed=2))
    await spool.configure_sinks({"renamed": "/there"})
    await spool.open_sink("renamed", from_oldest=True)
    sink = await numbers(spool)
    assert (sink.name, sink.dead_letters, sink.dropped) == ("renamed", 2, 2)
    await ask_again(spool, 1)
    assert [one.id for one in await spool.letters_to_replay("renamed", max_bytes=1)] == [1]
    assert verify(state).ok


async def test_a_sink_that_is_not_configured_keeps_its_letters_and_what_it_misses_is_counted(
    spool: SqliteSpool, state: StateDir
) -> None:
    await spool.configure_sinks({SINK: "", "other": ""})
    stream_id = await filled(spool)
    await spool.open_sink("other", from_oldest=True)
    await refuse(spool, letter())
    await spool.configure_sinks({"other": ""})
    await spool.commit([commit(stream_id, frame(line=10), state=StreamState.COMPLETE)])
    await spool.advance("other", 2, {}, Delivery(11))
    await spool.prune(keep_tail_ns=0)
    await spool.configure_sinks({SINK: ""})
    assert (await spool.open_sink(SINK, from_oldest=True)).missed == 1
    sink = await numbers(spool)
    assert (sink.dead_letters, sink.dropped_for) == (1, {DropReason.NOT_CONFIGURED: 1})
    assert verify(state).ok


async def test_what_makes_room_by_dropping_the_oldest_lines_never_drops_letters(
    spool: SqliteSpool,
) -> None:
    stream_id = await filled(spool)
    await refuse(spool, letter())
    await spool.commit([commit(stream_id, frame(line=10))])
    await spool._writer.run(
        lambda one: drop_oldest(one, handed={}, enough=lambda _: False, now_ns=1)
    )
    sink = await numbers(spool)
    assert (sink.dead_letters, sink.dropped_for) == (1, {DropReason.SPOOL_FULL: 1})


async def test_letters_fill_the_spool_and_reading_goes_on_when_they_are_gone(
    start: Opener, state: StateDir
) -> None:
    limit = 1 << 20
    spool = await start(limits=SpoolLimits(max_bytes=limit))
    stream_id = await filled(spool)
    big = letter(os.urandom(limit))
    await refuse(spool, big)
    await spool.prune(keep_tail_ns=0)
    with pytest.raises(SpoolUnavailableError, match=f"of which dead letters are {big.size_bytes}"):
        await spool.commit([commit(stream_id, frame(line=10))])
    put_request(state, LetterRequest(Wish.DROP, SINK, Choice(1)))
    await spool.prune(keep_tail_ns=0)
    await spool.commit([commit(stream_id, frame(line=10))])


# verify -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("UPDATE sink SET dropped = dropped + 1, delivered = delivered - 1", "1 lines are dropped"),
        ("UPDATE sink SET letters = 5", "the counters say (5, 1,"),
        ("UPDATE sink SET letter_bytes = 5", "the counters say (1, 1, 5)"),
        ("UPDATE dead_letter SET lines = 2", "dead letter 1 is not what was stored"),
        ("DELETE FROM dead_letter", "are (0, 0, 0)"),
    ],
)
async def test_numbers_that_do_not_add_up_are_found(
    spool: SqliteSpool, state: StateDir, damage: str, told: str
) -> None:
    await filled(spool)
    await refuse(spool, letter())
    assert verify(state).dead_letters == 1
    await spool._writer.run(lambda one: one.execute(damage))
    report = verify(state)
    assert any(told in problem for problem in report.problems), report.problems


async def test_looking_for_letters_to_send_again_reads_none_that_stay(spool: SqliteSpool) -> None:
    """It is asked every second, and there may be a million of them."""
    await filled(spool)
    with closing(connect_reader(spool._letters._state)) as reader:
        plan = reader.execute(
            "EXPLAIN QUERY PLAN SELECT id FROM dead_letter WHERE sink = ? AND replay_ns <> 0"
            " ORDER BY id",
            (SINK,),
        ).fetchall()
    assert ["dead_letter_to_replay" in row[3] for row in plan] == [True]
