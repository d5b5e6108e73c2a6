"""Where a sink's windows are, as its state in the spool remembers it. Pure.

A window that was delivered leaves one small value under `window:<after_id>`; many of them are put
together in one value for each day, under `index:<date>`, so that neither the number of keys nor the
cost of a delivery grows with the archive. The index is a convenience: all that it says can be
found in the store, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson
import zstandard

from sinks.archive import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sinks.interface import StateChanges

WINDOW_PREFIX = "window:"
DAY_PREFIX = "index:"

#: So many windows have a key of their own before they are put together.
MOST_SINGLE = 256

_LEVEL = 3
_NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One window of the archive.

    Attributes:
        window: Its name.
        manifest_key: The object that describes it.
        first_ns: The lowest stamp in it.
        last_ns: The highest stamp in it.
    """

    window: str
    manifest_key: str
    first_ns: int
    last_ns: int


def to_state(after_id: int, entry: IndexEntry) -> tuple[str, bytes]:
    """The key and the value under which a new window is remembered.

    Args:
        after_id: The window's: see `sinks.window.Window`.
        entry: What is remembered of it.
    """
    return f"{WINDOW_PREFIX}{after_id}", orjson.dumps(_record(entry))


def from_state(remembered: Mapping[str, bytes]) -> list[IndexEntry]:
    """Every window that is remembered, by its first stamp; other keys are let be.

    Raises:
        ArchiveError: A value is damaged.
    """
    found = dict.fromkeys(
        entry for key, value in remembered.items() for entry in _entries(key, value)
    )
    return sorted(found, key=_order)


def compacted(remembered: Mapping[str, bytes]) -> StateChanges:
    """The changes that put single windows together by their days; none while they are few.

    Raises:
        ArchiveError: A value is damaged.
    """
    singles = [key for key in remembered if key.startswith(WINDOW_PREFIX)]
    if len(singles) <= MOST_SINGLE:
        return {}
    days: dict[str, dict[IndexEntry, None]] = {}
    for single in singles:
        for entry in _entries(single, remembered[single]):
            days.setdefault(_day_key(entry), {})[entry] = None
    changes: StateChanges = dict.fromkeys(singles)
    for key, entries in days.items():
        known = _entries(key, remembered[key]) if key in remembered else []
        changes[key] = _page({**dict.fromkeys(known), **entries})
    return changes


def _day_key(entry: IndexEntry) -> str:
    moment = datetime.fromtimestamp(entry.first_ns // _NS_PER_S, UTC)
    return f"{DAY_PREFIX}{moment:%Y-%m-%d}"


def _page(entries: Iterable[IndexEntry]) -> bytes:
    records = [_record(entry) for entry in sorted(entries, key=_order)]
    return zstandard.ZstdCompressor(level=_LEVEL).compress(orjson.dumps(records))


def _entries(key: str, value: bytes) -> list[IndexEntry]:
    try:
        if key.startswith(WINDOW_PREFIX):
            return [_entry(orjson.loads(value))]
        if key.startswith(DAY_PREFIX):
            page = zstandard.ZstdDecompressor().decompress(value)
            return [_entry(record) for record in orjson.loads(page)]
    except (ValueError, KeyError, TypeError, zstandard.ZstdError) as error:
        raise ArchiveError(
            f"the index of the archive in the spool is damaged ({key}): --from-store does"
            " without it"
        ) from error
    return []


def _entry(record: Mapping[str, Any]) -> IndexEntry:
    return IndexEntry(
        str(record["window"]),
        str(record["manifest"]),
        int(record["first_ns"]),
        int(record["last_ns"]),
    )


def _record(entry: IndexEntry) -> dict[str, str | int]:
    return {
        "window": entry.window,
        "manifest": entry.manifest_key,
        "first_ns": entry.first_ns,
        "last_ns": entry.last_ns,
    }


def _order(entry: IndexEntry) -> tuple[int, int, str]:
    return entry.first_ns, entry.last_ns, entry.window
