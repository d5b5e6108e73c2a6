from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.local.logstore import LogReader, LogStore
from forwarder.local.sessions import InvalidOffsetError, ReplayGapError, Session, SessionTable

LARGE = 64 * 1024 * 1024


def session_over(text: bytes, window_bytes: int) -> Session:
    store = LogStore(LARGE)
    store.extend([(0, line) for line in text.splitlines(keepends=True)])
    store.close()
    reader = LogReader(store, 0, timestamps=False)
    return Session("id", "sbx", "main", reader, window_bytes)


def test_offsets_count_bytes_and_a_rewind_goes_on_exactly_there() -> None:
    session = session_over(b"hello\nworld\n", 100)
    assert session.take(8) == b"hello\nwo"
    assert session.position == 8
    session.rewind(3)
    assert session.take(100) == b"lo\nworld\n"
    assert session.position == 12
    assert session.exhausted


def test_an_offset_ahead_of_everything_sent_is_invalid() -> None:
    session = session_over(b"hello\n", 100)
    session.take(3)
    with pytest.raises(InvalidOffsetError):
        session.rewind(4)
    session.rewind(3)


def test_an_offset_before_the_window_is_a_gap_and_the_windows_edge_is_not() -> None:
    session = session_over(b"0123456789\n", 4)
    session.take(10)
    with pytest.raises(ReplayGapError):
        session.rewind(5)
    session.rewind(6)
    assert session.take(100) == b"6789\n"


def test_extra_bytes_are_replayed_but_never_from_before_the_window() -> None:
    session = session_over(b"0123456789\n", 4)
    session.take(10)
    session.rewind(9, extra_bytes=2)
    assert session.position == 7
    session.rewind(9, extra_bytes=99)
    assert session.position == 6


def test_each_rewind_takes_the_session_over() -> None:
    session = session_over(b"x\n", 10)
    session.rewind(0)
    assert session.generation == 1


TEXT = b"".join(b"%d\n" % number for number in range(4000))


@given(st.lists(st.tuples(st.integers(1, 9000), st.integers(0, 1000)), max_size=20))
def test_whatever_is_taken_and_rewound_every_byte_is_where_its_offset_says(
    moves: list[tuple[int, int]],
) -> None:
    session = session_over(TEXT, 1000)
    sent = 0
    for wanted, back in moves:
        start = session.position
        piece = session.take(wanted)
        assert piece == TEXT[start : start + len(piece)]
        sent = max(sent, session.position)
        session.rewind(min(session.position, max(0, sent - back)))


def test_the_memory_of_a_long_session_is_about_its_window() -> None:
    session = session_over(b"x" * 99 + b"\n" * 1, 1000)
    text = b"y" * 199_999 + b"\n"
    session = session_over(text * 10, 1000)
    while session.take(16 * 1024):
        pass
    assert len(session._buffer) < 400_000


class Table:
    def __init__(self) -> None:
        self.now_s = 0.0
        self.table = SessionTable(10.0, lambda: self.now_s)

    def add(self, sandbox_id: str = "sbx") -> Session:
        reader = LogReader(LogStore(LARGE), 0, timestamps=True)
        return self.table.add(sandbox_id, "main", reader, 10)


def test_a_session_is_found_only_for_its_own_sandbox() -> None:
    table = Table()
    session = table.add("sbx-1")
    assert table.table.find(session.id, "sbx-1") is session
    assert table.table.find(session.id, "sbx-2") is None
    assert table.table.find("unknown", "sbx-1") is None


def test_a_session_ages_only_while_no_stream_uses_it() -> None:
    table = Table()
    session = table.add()
    table.now_s = 100.0
    assert table.table.find(session.id, "sbx") is session
    table.table.release(session, session.generation)
    table.now_s = 109.0
    assert table.table.find(session.id, "sbx") is session
    table.table.use(session)
    table.now_s = 200.0
    assert table.table.find(session.id, "sbx") is session
    table.table.release(session, session.generation)
    table.now_s = 210.0
    assert table.table.find(session.id, "sbx") is None
    assert len(table.table) == 0


def test_a_stream_that_lost_its_session_to_another_does_not_let_it_age() -> None:
    table = Table()
    session = table.add()
    session.rewind(0)
    table.table.release(session, 0)
    table.now_s = 100.0
    assert table.table.find(session.id, "sbx") is session


def test_forgetting_loses_every_session() -> None:
    table = Table()
    session = table.add()
    table.table.forget_all()
    table.table.release(session, session.generation)
    assert table.table.find(session.id, "sbx") is None


def test_a_session_under_another_name_begins_there() -> None:
    table = SessionTable(10.0, lambda: 0.0)
    store = LogStore(LARGE)
    store.extend([(0, b"0123456789\n")])
    session = table.add("sbx", "main", LogReader(store, 0, timestamps=False), 100)
    old_id = session.id
    assert session.take(4) == b"0123"
    table.rename(session)
    assert table.find(old_id, "sbx") is None
    assert table.find(session.id, "sbx") is session
    assert session.position == 0
    assert session.take(3) == b"456"
    session.rewind(1)
    assert session.take(100) == b"56789\n"
    with pytest.raises(InvalidOffsetError):
        session.rewind(8)


def test_a_session_that_nobody_can_resume_keeps_its_name() -> None:
    session = session_over(b"x\n", 10)
    SessionTable(10.0, lambda: 0.0).rename(session)
    assert session.id == "id"


def test_a_session_is_ready_while_there_is_something_to_take() -> None:
    session = session_over(b"x\n", 10)
    assert session.ready
    session.take(1)
    assert session.ready
    session.take(1)
    assert not session.ready
