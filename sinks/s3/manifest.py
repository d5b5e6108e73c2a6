"""The manifest: the last object of a window, which says what all the others are. Pure.

It is JSON, one object of the window a line::

    {"version":1,"window":"0f3c9a61-0-2a","origin":"...","after_id":0,"last_id":42,
     "recipe":{"key":"...","manifests":"logs/_manifests/","format":"ndjson",...},
     "first":"2026-11-23T13:19:41.123456789Z","last":"...","objects":[
    {"key":"...","size":812,"sha256":"...","lines":9,"gaps":0,"first":"...","last":"...",
     "runs":[["sbx-1","main",0,0,9,0,1795439981123456789,1795439983000000000,0]]}
    ]}

A run is sandbox id, container, generation, first line, lines, part, lowest stamp, highest stamp,
and 1 for a gap record: see `sinks.archive.Run`. The same window has the same manifest at every
build: no clock and no host is in it.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

import orjson

from sinks.archive import ArchivedObject, ArchivedWindow, ArchiveError, Run
from sinks.ndjson import rfc3339
from sinks.s3.plan import Recipe
from sinks.s3.runs import encode_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MEDIA_TYPE = "application/json"

_VERSION = 1
_NS_PER_S = 1_000_000_000
_ROWS_AT_ONCE = 1024
_STAMP = r"\d{8}T\d{6}\.\d{9}Z"
_STAMP_PARTS = re.compile(r"(\d{8}T\d{6})\.(\d{9})Z", re.ASCII)
_KEY = re.compile(
    rf"(?:.*/)?dt=\d{{4}}-\d\d-\d\d/({_STAMP})-({_STAMP})-([0-9a-f]{{8}}-[0-9a-f]+-[0-9a-f]+)\.json",
    re.ASCII | re.DOTALL,
)
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.(\d{9})Z", re.ASCII)
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest's whole content.

    Attributes:
        origin: Identity of the spool that the window is from.
        after_id: See `sinks.window.Window`.
        last_id: The same.
        recipe: What its objects were made by.
        archived: Its objects, and what is in them.
    """

    origin: str
    after_id: int
    last_id: int
    recipe: Recipe
    archived: ArchivedWindow


def stamp_text(stamp_ns: int) -> str:
    """A stamp as it stands in keys, in UTC: texts are in the order of their stamps."""
    second, fraction_ns = divmod(stamp_ns, _NS_PER_S)
    moment = datetime.fromtimestamp(second, UTC)
    return f"{moment:%Y%m%dT%H%M%S}.{fraction_ns:09d}Z"


def parse_stamp_text(text: str) -> int:
    """The inverse of `stamp_text`.

    Raises:
        ValueError: It is no such text.
    """
    match = _STAMP_PARTS.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not like 20261123T131941.123456789Z")
    moment = datetime.strptime(match[1], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    return int(moment.timestamp()) * _NS_PER_S + int(match[2])


def manifest_key(manifests: str, first_ns: int, last_ns: int, window: str) -> str:
    """The key of a window's manifest; keys of one day are in the order of their first stamps.

    Args:
        manifests: What the keys of manifests begin with, with its final slash.
        first_ns: The lowest stamp in the window.
        last_ns: The highest one.
        window: The window's name.
    """
    date = rfc3339(first_ns).partition("T")[0]
    return f"{manifests}dt={date}/{stamp_text(first_ns)}-{stamp_text(last_ns)}-{window}.json"


def parse_manifest_key(key: str) -> tuple[int, int, str] | None:
    """The lowest and the highest stamp and the window of a manifest; None if it is no such key."""
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    try:
        return parse_stamp_text(match[1]), parse_stamp_text(match[2]), match[3]
    except ValueError:
        return None


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest as it is uploaded."""
    return b"".join(manifest_pieces(manifest, manifest.archived.objects))


def manifest_pieces(manifest: Manifest, objects: Iterable[ArchivedObject]) -> Iterator[bytes]:
    """The same in pieces: neither the whole text nor all objects have to be in memory.

    Args:
        manifest: Everything but the objects.
        objects: Those; `manifest.archived.objects` is not looked at.
    """
    archived = manifest.archived
    head = {
        "version": _VERSION,
        "window": archived.window,
        "origin": manifest.origin,
        "after_id": manifest.after_id,
        "last_id": manifest.last_id,
        "recipe": asdict(manifest.recipe),
        "first": rfc3339(archived.first_ns),
        "last": rfc3339(archived.last_ns),
    }
    yield orjson.dumps(head)[:-1] + b',"objects":['
    before = b"\n"
    for one in objects:
        yield before
        yield from _object_pieces(one)
        before = b",\n"
    yield b"\n]}\n"


def _object_pieces(one: ArchivedObject) -> Iterator[bytes]:
    content = {"key": one.key, "size": one.size_bytes, "sha256": one.sha256}
    yield orjson.dumps({**content, **_totals(one.runs)})[:-1] + b',"runs":['
    rows = encode_rows(one.runs)
    before = b""
    while some := list(islice(rows, _ROWS_AT_ONCE)):
        yield before + b",".join(some)
        before = b","
    yield b"]}"


def _totals(runs: Iterable[Run]) -> dict[str, int | str]:
    """What an object says of all of its runs."""
    lines = gaps = 0
    first_ns: int | None = None
    last_ns = 0
    for run in runs:
        lines += run.lines
        gaps += run.gap
        last_ns = run.last_ns if first_ns is None else max(last_ns, run.last_ns)
        first_ns = run.first_ns if first_ns is None else min(first_ns, run.first_ns)
    times = {"first": rfc3339(first_ns or 0), "last": rfc3339(last_ns)}
    return {"lines": lines, "gaps": gaps, **times}


def decode_manifest(data: bytes) -> ArchivedWindow:
    """A window as its manifest describes it.

    Raises:
        ArchiveError: The manifest is damaged, or a newer version wrote it.
    """
    return read_manifest(data).archived


def read_manifest(data: bytes) -> Manifest:
    """The inverse of `encode_manifest`.

    Raises:
        ArchiveError: The manifest is damaged, or a newer version wrote it.
    """
    try:
        record = orjson.loads(data)
        _refuse_newer(record)
        return _manifest(record)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        text = "the manifest is damaged: it is not what was written"
        raise ArchiveError(f"{text} ({_why(error)})") from error


def _why(error: Exception) -> str:
    return f"no {error}" if isinstance(error, KeyError) else str(error)


def _refuse_newer(record: dict[str, Any]) -> None:
    version = _typed(record["version"], int)
    if version > _VERSION:
        raise ArchiveError(
            f"the manifest has version {version}, and this program knows {_VERSION}:"
            " a newer sandbox-forwarder reads it"
        )


def _manifest(record: dict[str, Any]) -> Manifest:
    recipe = Recipe(**record["recipe"])
    window = _typed(record["window"], str)
    first_ns, last_ns = _stamp_ns(record["first"]), _stamp_ns(record["last"])
    key = manifest_key(_typed(recipe.manifests, str), first_ns, last_ns, window)
    names: dict[str, str] = {}
    objects = tuple(_object(one, names) for one in _typed(record["objects"], list))
    return Manifest(
        _typed(record["origin"], str),
        _typed(record["after_id"], int),
        _typed(record["last_id"], int),
        recipe,
        ArchivedWindow(window, key, first_ns, last_ns, objects),
    )


def _object(record: dict[str, Any], names: dict[str, str]) -> ArchivedObject:
    runs = [_run(row, names) for row in record["runs"]]
    sha256 = _typed(record["sha256"], str)
    if _SHA256.fullmatch(sha256) is None:
        raise ValueError("a digest is not one")
    totals = _totals(runs)
    if totals != {name: record[name] for name in totals}:
        raise ValueError("an object's runs do not add up")
    return ArchivedObject(_typed(record["key"], str), _typed(record["size"], int), sha256, runs)


def _run(row: list[Any], names: dict[str, str]) -> Run:
    """A run; all runs share their streams' names."""
    sandbox_id, container, generation, first_line, lines, part, first_ns, last_ns, gap = row
    _typed(sandbox_id, str)
    _typed(container, str)
    if {type(value) for value in row[2:]} != {int} or gap not in {0, 1}:
        raise TypeError("a run is not one")
    if min(generation, first_line, lines, part) < 0 or (lines == 0) != (gap == 1):
        raise ValueError("a run is not one")
    return Run(
        names.setdefault(sandbox_id, sandbox_id),
        names.setdefault(container, container),
        generation,
        first_line,
        lines,
        part,
        first_ns,
        last_ns,
        gap=gap == 1,
    )


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{kind.__name__} expected")
    return value


def _stamp_ns(text: str) -> int:
    """The inverse of `sinks.ndjson.rfc3339`."""
    match = _RFC3339.fullmatch(_typed(text, str))
    if match is None:
        raise ValueError("a stamp is not one")
    moment = datetime.fromisoformat(match[1]).replace(tzinfo=UTC)
    return int(moment.timestamp()) * _NS_PER_S + int(match[2])
