from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from forwarder import log_thread
from forwarder.log_limit import BURST, INTERVAL_S
from forwarder.log_thread import MAX_QUEUED, LogThread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from forwarder.log_limit import Event


class Reader:
    """Who reads the log: as fast as told.

    Attributes:
        lines: What was read.
        reads: While it is clear, nothing is read.
        waited_for: Set when a line waits to be read.
        now_s: The time.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.reads = threading.Event()
        self.reads.set()
        self.waited_for = threading.Event()
        self.now_s = 0.0
        self._read = threading.Condition()
        self.log = LogThread(self.render, self.write, now_s=lambda: self.now_s)

    def render(self, event: Event) -> str:
        return " ".join(str(value) for value in event.values())

    def write(self, line: str) -> None:
        self.waited_for.set()
        self.reads.wait()
        with self._read:
            self.lines.append(line)
            self._read.notify_all()

    def arrived(self, line: str) -> None:
        """Return once this line was read."""
        with self._read:
            assert self._read.wait_for(lambda: line in self.lines, 60)

    def offer(self, *names: Any) -> None:
        for name in names:
            self.log.offer({"event": name})

    def offer_many(self, count: int) -> None:
        """So many events, and not too many of any kind."""
        self.offer(*(number % 300 for number in range(count)))


@pytest.fixture
def reader() -> Iterator[Reader]:
    reader = Reader()
    yield reader
    reader.reads.set()
    reader.log.close()


def test_events_are_written_in_order_and_all_of_them_before_it_is_closed(reader: Reader) -> None:
    reader.offer(*range(100))
    assert reader.log.close()
    assert reader.lines == [f"{number}\n" for number in range(100)]


def test_a_log_that_nobody_reads_holds_up_nobody_and_says_afterwards_what_was_lost(
    reader: Reader,
) -> None:
    reader.reads.clear()
    reader.offer("first")
    reader.waited_for.wait()
    reader.offer_many(MAX_QUEUED + 7)
    reader.reads.set()
    assert reader.log.close()
    assert len(reader.lines) == 1 + MAX_QUEUED + 1
    assert reader.lines[-1] == "warning log events lost: nobody read 7\n"


def test_what_was_lost_is_told_as_soon_as_everything_that_waited_is_written(
    reader: Reader,
) -> None:
    reader.reads.clear()
    reader.offer("first")
    reader.waited_for.wait()
    reader.offer_many(MAX_QUEUED + 1)
    told = threading.Event()
    write = reader.write

    def watch(line: str) -> None:
        write(line)
        if "lost" in line:
            told.set()

    reader.log._write = watch
    reader.reads.set()
    assert told.wait(60)
    reader.offer("later")
    reader.log.close()
    assert reader.lines[-1] == "later\n"


def test_closing_waits_only_so_long_for_somebody_to_read(reader: Reader) -> None:
    reader.reads.clear()
    reader.offer("never read")
    reader.waited_for.wait()
    assert not reader.log.close(0.01)
    assert not reader.log.close(0.01)
    assert reader.lines == []


def test_what_comes_after_the_end_is_not_written_and_no_trouble(reader: Reader) -> None:
    assert reader.log.close()
    reader.offer("too late")
    assert reader.log.close()
    assert reader.lines == []


def test_too_much_of_the_same_is_summed_up_when_its_time_has_come(reader: Reader) -> None:
    reader.offer(*["same"] * (BURST + 5), "ready")
    reader.arrived("ready\n")
    assert len(reader.lines) == BURST + 1
    reader.now_s = INTERVAL_S
    reader.offer("other")
    assert reader.log.close()
    assert sorted(reader.lines[BURST + 1 :]) == ["other\n", "same 4\n"]


def test_what_was_held_back_is_told_in_time_also_when_nothing_else_happens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log_thread, "_LOOK_S", 0.01)
    reader = Reader()
    reader.offer(*["same"] * (BURST + 5), "ready")
    reader.arrived("ready\n")
    reader.now_s = INTERVAL_S
    reader.arrived("same 4\n")
    assert reader.log.close()


def test_what_is_still_held_back_is_told_at_the_end(reader: Reader) -> None:
    reader.offer(*["same"] * (BURST + 5))
    assert reader.log.close()
    assert reader.lines[BURST:] == ["same 4\n"]


def test_an_event_that_cannot_be_shown_is_told_and_the_log_goes_on(reader: Reader) -> None:
    class Hostile:
        def __str__(self) -> str:
            raise LookupError

    reader.log.offer({"event": "bad", "what": Hostile()})
    reader.offer("good")
    assert reader.log.close()
    assert reader.lines == ["error log event cannot be shown bad LookupError\n", "good\n"]
