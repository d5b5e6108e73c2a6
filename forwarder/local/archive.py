"""The stored lines of one container: whole lines, kept for good. Pure.

Unlike the log that is streamed, it survives rotation and restarts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """One stored line, without its newline.

    Attributes:
        event_id: Unique in its sandbox.
    """

    stamp_ns: int
    event_id: str
    container: str
    text: bytes

    @property
    def place(self) -> tuple[int, str]:
        """By which events are ordered."""
        return self.stamp_ns, self.event_id


@dataclass(frozen=True, slots=True)
class Storing:
    """How lines are changed when they are stored; see `LocalSettings`."""

    precision_ns: int = 1
    normalises_json: bool = False
    max_line_bytes: int = 0


class Archive:
    """Everything a container printed, in order of arrival."""

    def __init__(self, container: str, storing: Storing) -> None:
        self._container = container
        self._storing = storing
        self._lines: list[tuple[int, bytes]] = []
        self._events: list[StoredEvent] = []
        self._open = False

    def extend(self, records: Sequence[tuple[int, bytes]]) -> None:
        """Keep (stamp in ns, text) records; pieces without a newline are one line."""
        for stamp_ns, text in records:
            line = text.removesuffix(b"\n")
            if self._open:
                first_ns, beginning = self._lines[-1]
                self._lines[-1] = (first_ns, beginning + line)
            else:
                self._lines.append((stamp_ns, line))
            self._open = len(line) == len(text)

    def close_line(self) -> None:
        """What comes next is a line of its own: another process prints it."""
        self._open = False

    def events(self) -> list[StoredEvent]:
        """What is stored of the lines, as it is stored."""
        for stamp_ns, text in self._lines[len(self._events) :]:
            self._events.append(self._event(stamp_ns, text))
        events = list(self._events)
        if self._open:
            # It may still grow.
            self._events.pop()
        return events

    def _event(self, stamp_ns: int, text: bytes) -> StoredEvent:
        return StoredEvent(
            stamp_ns - stamp_ns % self._storing.precision_ns,
            f"{self._container}-{len(self._events):010d}",
            self._container,
            _as_stored(text, self._storing),
        )


def stored_page(
    events: Iterable[StoredEvent], after: tuple[int, str] | None, size: int
) -> tuple[list[StoredEvent], bool]:
    """The events behind a place, by stamp and id; and whether there are more than `size`."""
    wanted = [event for event in events if after is None or event.place > after]
    wanted.sort(key=lambda event: event.place)
    return wanted[:size], len(wanted) > size


def without_last(events: list[StoredEvent], last_s: float) -> list[StoredEvent]:
    """The events without those of the last seconds before the newest one, itself included."""
    if last_s <= 0 or not events:
        return events
    newest_ns = max(event.stamp_ns for event in events)
    return [event for event in events if event.stamp_ns <= newest_ns - last_s * NS_PER_S]


def _as_stored(text: bytes, storing: Storing) -> bytes:
    if storing.normalises_json:
        text = _normalised(text)
    return text[: storing.max_line_bytes] if storing.max_line_bytes else text


def _normalised(text: bytes) -> bytes:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    if not isinstance(value, dict):
        return text
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(
        errors="replace"
    )
