"""What a manifest says of a window, and that nothing else is taken for one."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinks.archive import ArchivedObject, ArchivedWindow, ArchiveError, Run
from sinks.s3.manifest import (
    Manifest,
    decode_manifest,
    encode_manifest,
    manifest_key,
    parse_manifest_key,
    parse_stamp_text,
    read_manifest,
    stamp_text,
)
from sinks.s3.plan import Recipe

NOON_NS = 1_795_439_981_123_456_789  # 2026-11-23T13:19:41.123456789Z
WINDOW = "0f3c9a61-0-2a"
RECIPE = Recipe("logs/{first}-{last}", "logs/_manifests/", "ndjson", "zstd", 3)

stamps = st.integers(0, 2**63 - 1)
numbers = st.integers(0, 2**63 - 1)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
line_runs = st.builds(
    Run, names, names, numbers, numbers, st.integers(1, 2**40), numbers, stamps, stamps
)
gap_runs = st.builds(
    Run, names, names, numbers, numbers, st.just(0), st.just(0), stamps, stamps, gap=st.just(True)
)
archived_objects = st.builds(
    ArchivedObject,
    names,
    numbers,
    st.binary(min_size=32, max_size=32).map(bytes.hex),
    st.lists(line_runs | gap_runs, max_size=5),
)


def manifest_of(*objects: ArchivedObject, last_ns: int = NOON_NS + 5) -> Manifest:
    key = manifest_key(RECIPE.manifests, NOON_NS, last_ns, WINDOW)
    archived = ArchivedWindow(WINDOW, key, NOON_NS, last_ns, objects)
    return Manifest("origin", 0, 42, RECIPE, archived)


def object_of(*runs: Run, key: str = "logs/a.ndjson.zst") -> ArchivedObject:
    return ArchivedObject(key, 812, "ab" * 32, list(runs))


RUN = Run("sbx-1", "main", 0, 7, 9, 0, NOON_NS, NOON_NS + 5)
MANIFEST = manifest_of(object_of(RUN), object_of(replace(RUN, lines=0, gap=True), key="logs/b"))


def damaged(**changes: object) -> bytes:
    return orjson.dumps({**orjson.loads(encode_manifest(MANIFEST)), **changes})


def with_object(**changes: object) -> bytes:
    record = orjson.loads(encode_manifest(MANIFEST))
    record["objects"][0].update(changes)
    return orjson.dumps(record)


def test_a_manifest_is_json_that_people_can_read() -> None:
    record = orjson.loads(encode_manifest(MANIFEST))
    assert record == {
        "version": 1,
        "window": WINDOW,
        "origin": "origin",
        "after_id": 0,
        "last_id": 42,
        "recipe": {
            "key": "logs/{first}-{last}",
            "manifests": "logs/_manifests/",
            "format": "ndjson",
            "compression": "zstd",
            "level": 3,
        },
        "first": "2026-11-23T13:19:41.123456789Z",
        "last": "2026-11-23T13:19:41.123456794Z",
        "objects": [
            {
                "key": "logs/a.ndjson.zst",
                "size": 812,
                "sha256": "ab" * 32,
                "lines": 9,
                "gaps": 0,
                "first": "2026-11-23T13:19:41.123456789Z",
                "last": "2026-11-23T13:19:41.123456794Z",
                "runs": [["sbx-1", "main", 0, 7, 9, 0, NOON_NS, NOON_NS + 5, 0]],
            },
            {
                "key": "logs/b",
                "size": 812,
                "sha256": "ab" * 32,
                "lines": 0,
                "gaps": 1,
                "first": "2026-11-23T13:19:41.123456789Z",
                "last": "2026-11-23T13:19:41.123456794Z",
                "runs": [["sbx-1", "main", 0, 7, 0, 0, NOON_NS, NOON_NS + 5, 1]],
            },
        ],
    }


def test_every_object_has_a_line_of_its_own() -> None:
    assert encode_manifest(MANIFEST).count(b"\n") == 2 + len(MANIFEST.archived.objects)


@given(st.lists(archived_objects, max_size=4))
def test_a_manifest_comes_back_as_it_was(objects: list[ArchivedObject]) -> None:
    manifest = manifest_of(*objects)
    manifest = replace(manifest, archived=replace(manifest.archived, objects=tuple(objects)))
    assert read_manifest(encode_manifest(manifest)) == manifest
    assert decode_manifest(encode_manifest(manifest)) == manifest.archived


def test_thousands_of_runs_come_back_in_their_order() -> None:
    runs = [replace(RUN, sandbox_id=f"sbx-{number}") for number in range(3000)]
    (found,) = decode_manifest(encode_manifest(manifest_of(object_of(*runs)))).objects
    assert found.runs == runs


def test_a_manifest_of_a_newer_version_says_that_the_program_is_too_old() -> None:
    with pytest.raises(ArchiveError, match="version 2, and this program knows 1"):
        decode_manifest(damaged(version=2, objects="something new"))


@given(st.integers(0, len(encode_manifest(MANIFEST)) - 2))
def test_a_manifest_that_was_cut_is_damaged(length: int) -> None:
    with pytest.raises(ArchiveError, match="damaged"):
        decode_manifest(encode_manifest(MANIFEST)[:length])


@pytest.mark.parametrize(
    "data",
    [
        b"[]",
        b"null",
        b'"text"',
        b"{}",
        damaged(version="1"),
        damaged(version=True),
        damaged(window=None),
        damaged(origin=1),
        damaged(after_id="0"),
        damaged(recipe=None),
        damaged(recipe={"key": "x"}),
        damaged(first="2026-11-23"),
        damaged(first="2026-11-33T13:19:41.123456789Z"),
        damaged(last=NOON_NS),
        damaged(objects={}),
        damaged(objects=[1]),
        with_object(key=None),
        with_object(size="812"),
        with_object(sha256="AB" * 32),
        with_object(sha256="ab"),
        with_object(lines=8),
        with_object(gaps=1),
        with_object(first="2026-11-23T13:19:41.000000000Z"),
        with_object(runs=None),
        with_object(runs=[["sbx-1", "main"]]),
        with_object(runs=[["sbx-1", None, 0, 7, 9, 0, NOON_NS, NOON_NS + 5, 0]]),
        with_object(runs=[["sbx-1", "main", 0, 7, 9, 0.5, NOON_NS, NOON_NS + 5, 0]]),
        with_object(runs=[["sbx-1", "main", 0, -7, 9, 0, NOON_NS, NOON_NS + 5, 0]]),
        with_object(runs=[["sbx-1", "main", 0, 7, 9, 0, NOON_NS, NOON_NS + 5, 2]]),
        with_object(runs=[["sbx-1", "main", 0, 7, 9, 0, NOON_NS, NOON_NS + 5, 1]], gaps=1),
    ],
)
def test_what_is_not_a_manifest_is_damaged(data: bytes) -> None:
    with pytest.raises(ArchiveError, match="the manifest is damaged"):
        decode_manifest(data)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ArchiveError, match="no 'version'"):
        decode_manifest(b"{}")


def test_a_stamp_has_nine_digits_in_keys() -> None:
    assert stamp_text(NOON_NS) == "20261123T131941.123456789Z"
    assert stamp_text(0) == "19700101T000000.000000000Z"


@given(stamps, stamps)
def test_stamps_come_back_and_keep_their_order(one: int, other: int) -> None:
    assert parse_stamp_text(stamp_text(one)) == one
    assert (stamp_text(one) < stamp_text(other)) == (one < other)


@pytest.mark.parametrize("text", ["", "20261123T131941Z", "20261133T131941.123456789Z", "x"])
def test_a_text_that_is_no_stamp_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_stamp_text(text)


def test_a_manifest_lies_under_its_day() -> None:
    key = manifest_key("logs/_manifests/", NOON_NS, NOON_NS + 1, WINDOW)
    assert key == (
        "logs/_manifests/dt=2026-11-23/"
        "20261123T131941.123456789Z-20261123T131941.123456790Z-0f3c9a61-0-2a.json"
    )


@given(st.sampled_from(["", "logs/_manifests/", "a/dt=x/\n/"]), stamps, stamps)
def test_a_manifest_key_says_what_is_in_it(prefix: str, first_ns: int, last_ns: int) -> None:
    key = manifest_key(prefix, first_ns, last_ns, WINDOW)
    assert parse_manifest_key(key) == (first_ns, last_ns, WINDOW)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "logs/a.ndjson.zst",
        "logs/_manifests/dt=2026-11-23/readme.json",
        "20261123T131941.123456789Z-20261123T131941.123456790Z-0f3c9a61-0-2a.json",
        "dt=2026-11-23/20261133T131941.123456789Z-20261123T131941.123456790Z-0f3c9a61-0-2a.json",
        "dt=2026-11-23/20261123T131941.123456789Z-20261123T131941.123456790Z-0f3c9a61-0-2a.json.gz",
        "dt=2026-11-23/20261123T131941.123456789Z-20261123T131941.123456790Z-window.json",
    ],
)
def test_another_key_is_no_manifest_key(key: str) -> None:
    assert parse_manifest_key(key) is None
