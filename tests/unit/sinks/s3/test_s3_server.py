"""The scripted store in a process of its own, and that uploads to it take no memory."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tracemalloc
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from sinks.interface import SinkUnavailableError
from sinks.s3.store import ObjectExistsError
from tests.fakes.s3_store import ACCESS_KEY, SECRET_KEY, file_part, store_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sinks.s3.store import ObjectStore

_LARGE_BYTES = 64 << 20


@contextmanager
def _server(*arguments: str) -> Iterator[str]:
    """Its address; it ends with its standard input."""
    command = [sys.executable, "-m", "tests.fakes.s3_server", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield process.stdout.readline().decode().strip()
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(10) == 0


def _state(url: str) -> Any:
    return json.loads(httpx.get(f"{url}/-/state", trust_env=False).text)


async def _put(store: ObjectStore, key: str, body: Any) -> None:
    await store.put(key, body, media_type="text/plain", metadata={"window": "w"}, create_only=True)


async def _insist(store: ObjectStore, key: str) -> None:
    while True:
        try:
            await _put(store, key, key.encode())
        except ObjectExistsError:
            return
        except SinkUnavailableError:
            continue


async def test_a_server_of_its_own_tells_what_became_of_everything() -> None:
    with _server("--rate", "0.5", "--seed", "3", "--key", f"{ACCESS_KEY}:{SECRET_KEY}") as url:
        async with store_for(url) as store:
            for number in range(20):
                await _insist(store, f"k/{number}")
        state = await asyncio.to_thread(_state, url)
        assert state["objects"] == {f"k/{n}": len(f"k/{n}") for n in range(20)}
        assert (state["overwritten"], state["uploads"]) == ([], [])
        assert sum(state["faults"].values()) > 10
        httpx.post(f"{url}/-/calm", trust_env=False).raise_for_status()
        found = httpx.get(f"{url}/-/object/k/7", trust_env=False)
        assert (found.text, found.headers["x-amz-meta-window"]) == ("k/7", "w")
        async with store_for(url) as store:
            for number in range(20, 40):
                await _put(store, f"k/{number}", b"calm")


async def test_the_memory_does_not_grow_with_what_is_sent_and_read(tmp_path: Path) -> None:
    body = file_part(tmp_path / "f", b"x" * _LARGE_BYTES)
    with _server() as url:
        async with store_for(url) as store:
            assert await store.head("k") is None  # what is only loaded once
            tracemalloc.start()
            try:
                await _put(store, "k", body)
                read_bytes = sum([len(piece) async for piece in store.read("k")])
                _, peak_bytes = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
    assert read_bytes == _LARGE_BYTES
    assert peak_bytes < _LARGE_BYTES / 8


async def test_the_same_seed_meets_the_same_trouble() -> None:
    async def trouble() -> Any:
        with _server("--rate", "0.4", "--seed", "11", "--faults", "reset,slow_down") as url:
            async with store_for(url) as store:
                for number in range(10):
                    await _insist(store, f"k/{number}")
            return (await asyncio.to_thread(_state, url))["faults"]

    first = await trouble()
    assert first.keys() == {"reset", "slow_down"}
    assert await trouble() == first


def test_a_wrong_word_is_refused() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.run(
            [sys.executable, "-m", "tests.fakes.s3_server", "--conditions", "sometimes"],
            check=True,
            capture_output=True,
        )
