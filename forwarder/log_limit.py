"""How much of the same a log may say: a pure core, without threads and without a clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

#: What an event looks like here.
Event = dict[str, Any]

#: Events of one kind that are let through at once; after those one every so often.
BURST = 20
INTERVAL_S = 15.0

#: Lost lines are what an operator must learn of; a thousand of them fill no log all the same.
GAP_BURST = 100

#: Kinds that are told apart. Beyond these all new ones are one: their names may be anybody's text.
MAX_KINDS = 512

_Kind = tuple[str, str]


@dataclass(slots=True)
class _Bucket:
    capacity: int
    tokens: float
    filled_s: float
    held: Event | None = None
    held_count: int = 0

    def take(self, now_s: float) -> bool:
        self.tokens = min(self.capacity, self.tokens + (now_s - self.filled_s) / INTERVAL_S)
        self.filled_s = now_s
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class LogLimit:
    """Lets a burst of each kind of event through, and then one every fifteen seconds.

    That one is the newest, and says in `more_like_this` how many were left out before it: so the
    first and the last of an outage are always told, and how many there were. A kind is the name
    of an event and its level; for a library's messages, the library and the level.
    """

    def __init__(self) -> None:
        self._buckets: dict[_Kind, _Bucket] = {}

    def admit(self, event: Event, now_s: float) -> bool:
        """Whether to write this event now; if not, it is held and comes out of `due`, or counts.

        Args:
            event: With `event` and `level`, and `logger` if it is a library's.
            now_s: A clock that never goes back.
        """
        bucket = self._bucket(_kind(event), now_s)
        if bucket.held is None and bucket.take(now_s):
            return True
        bucket.held = event
        bucket.held_count += 1
        return False

    def due(self, now_s: float) -> list[Event]:
        """Held events whose time has come, with what was left out; to be called every second."""
        told = [
            _release(bucket)
            for bucket in self._buckets.values()
            if bucket.held is not None and bucket.take(now_s)
        ]
        self._forget(now_s)
        return told

    def rest(self) -> list[Event]:
        """Everything that is still held: at the end."""
        return [_release(one) for one in self._buckets.values() if one.held is not None]

    def _bucket(self, kind: _Kind, now_s: float) -> _Bucket:
        bucket = self._buckets.get(kind)
        if bucket is None:
            if len(self._buckets) >= MAX_KINDS:
                kind = ("", kind[1])
            capacity = GAP_BURST if kind[0] == "gap" else BURST
            bucket = self._buckets.setdefault(kind, _Bucket(capacity, capacity, now_s))
        return bucket

    def _forget(self, now_s: float) -> None:
        """Of a kind that has been quiet for long nothing need be known."""
        for kind, bucket in list(self._buckets.items()):
            if now_s - bucket.filled_s >= bucket.capacity * INTERVAL_S and bucket.held is None:
                del self._buckets[kind]


def _kind(event: Mapping[str, Any]) -> _Kind:
    return str(event.get("logger") or event.get("event", "")), str(event.get("level", ""))


def _release(bucket: _Bucket) -> Event:
    assert bucket.held is not None
    event, left_out = bucket.held, bucket.held_count - 1
    bucket.held, bucket.held_count = None, 0
    return {**event, "more_like_this": left_out} if left_out else event
