"""`kill -9` of a daemon whose store fails all the time: each line is in one object, once.

The store is a scripted one that lives here: it does what real ones do rarely. What it holds is read
with nothing of ours.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
import zstandard

from tests.crash.scene import KEEPS_ALL, TAG, Scene, cycles, seeded, talkative
from tests.fakes.daemon import run_to_end, running, until, write_config
from tests.fakes.s3_server import S3Server

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from tests.fakes.daemon import DaemonProcess

KILLS = 50
COMMANDS = 4  # of them are the real command, the others are forked, which is quicker
SANDBOXES = 8
PUTS = 1000
UPLOAD_KILLS = 10
FAULT_RATE = 0.3

#: Objects of more than one part: a part has at least 5 MiB.
LARGE = {
    "compression": "none",
    "window": {"max_size": "12MiB", "max_age": "1h"},
    "multipart_above": "5MiB",
    "part_size": "5MiB",
    "timeout": "20s",
    "conditional_writes": "on",
}

#: About as long as a start takes, so that some of these kills come before its end.
START_S = {True: 0.1, False: 0.9}


def archive(server: S3Server, **more: Any) -> dict[str, Any]:
    """The sink: its objects are a sandbox's own, and come often."""
    return {
        "type": "s3",
        "endpoint": server.url,
        "bucket": server.bucket.name,
        "access_key_id": "AKIDEXAMPLE",
        "secret_access_key": "secret",
        "format": "text",
        "key": "logs/{sandbox_id}/{container}/{window}",
        "window": {"max_size": "64KiB", "max_age": "150ms"},
        "timeout": "2s",
        **more,
    }


def config_of(directory: Path, scene: Scene, sink: dict[str, Any]) -> Path:
    """A daemon with this sink."""
    return write_config(
        directory,
        base_url=scene.server.base_url,
        api_key=scene.server.api_key,
        sandboxes=[{"tags": [TAG]}],
        sinks={"archive": sink},
    )


async def kill_once(config: Path, server: S3Server, rng: random.Random, *, forked: bool) -> str:
    """One life of the daemon, and its end; returns what the kill waited for."""
    moment = rng.choices(("start", "request"), (20, 80))[0]
    async with running(config, forked=forked) as daemon:
        enough = len(server.requests) + rng.choice((1, 5, 20, 40))
        if moment == "start":
            await asyncio.sleep(rng.uniform(0, START_S[forked]))
        else:
            await requested(server, enough, daemon)
        await asyncio.sleep(rng.uniform(0, 0.03))
        assert daemon.running, daemon.log
        await daemon.kill()
    return moment


async def requested(server: S3Server, count: int, daemon: DaemonProcess) -> None:
    """Return once so many requests came, or the daemon ended."""
    await until(lambda: len(server.requests) >= count or not daemon.running, "requests")


def objects(server: S3Server) -> dict[str, bytes]:
    """What is in the bucket, decompressed, by key; what the sink tries things with is not."""
    found = {key: one.body for key, one in server.bucket.objects.items()}
    return {
        key: zstandard.ZstdDecompressor().decompressobj().decompress(content)
        if key.endswith(".zst")
        else content
        for key, content in found.items()
        if not key.endswith(".probe")
    }


def check_bucket(server: S3Server, logs: dict[str, bytes]) -> None:
    """Every log is there, once, in as many pieces as there are; and nothing else is."""
    found = objects(server)
    manifests = {key: json.loads(body) for key, body in found.items() if "/_manifests/" in key}
    listed = [one["key"] for manifest in manifests.values() for one in manifest["objects"]]
    assert sorted(listed) == sorted(found.keys() - manifests.keys())
    for sandbox_id, log in logs.items():
        keys = [key for key in listed if key.startswith(f"logs/{sandbox_id}/")]
        windows = {key: int(key.rpartition("/")[2].split("-")[1].split(".")[0], 16) for key in keys}
        assert b"".join(found[key] for key in sorted(keys, key=windows.__getitem__)) == log
    assert server.bucket.uploads == {}, "uploads in parts were left behind"
    assert server.bucket.overwritten == [], "something was written twice"


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_kills_and_faults_at_random_leave_every_line_in_one_object_once(
    tmp_path: Path,
) -> None:
    rng = seeded()
    async with (
        S3Server(rate=FAULT_RATE, seed=rng.getrandbits(32)) as server,
        talkative(tmp_path, KEEPS_ALL, SANDBOXES, "--burst-lines", "2") as scene,
    ):
        config = config_of(tmp_path / "daemon", scene, archive(server))
        kinds = [number >= COMMANDS for number in range(cycles(KILLS))]
        rng.shuffle(kinds)
        moments = [await kill_once(config, server, rng, forked=forked) for forked in kinds]
        async with running(config, forked=True):
            await until(lambda: puts(server) >= PUTS, "enough requests")
        await scene.fall_silent()
        # What is left may be hundreds of windows: with every third request failing that takes long.
        server.rate = 0.0
        code, daemon = await run_to_end(config, "--until-complete", forked=True)
        assert code == 0, daemon.log
        check_bucket(server, await scene.logs())
    print(f"killed after: {moments}; {puts(server)} PUTs, met {dict(server.met)}")


@pytest.mark.slow
async def test_kills_in_the_middle_of_uploads_in_parts_leave_none_behind(tmp_path: Path) -> None:
    rng = seeded()
    async with (
        S3Server(rate=FAULT_RATE / 3, seed=rng.getrandbits(32)) as server,
        talkative(tmp_path, KEEPS_ALL, 1, "--burst-lines", "300") as scene,
    ):
        config = config_of(tmp_path / "daemon", scene, archive(server, **LARGE))
        for _ in range(cycles(UPLOAD_KILLS)):
            async with running(config, forked=True) as daemon:
                enough = len(server.requests) + rng.randint(1, 6)
                await requested(server, enough, daemon)
                await asyncio.sleep(rng.uniform(0, 0.1))
                assert daemon.running, daemon.log
                await daemon.kill()
        await scene.fall_silent()
        server.rate = 0.0
        code, daemon = await run_to_end(config, "--until-complete", forked=True)
        assert code == 0, daemon.log
        check_bucket(server, await scene.logs())
    parts = sum("partNumber" in request.path for request in server.requests)
    print(f"{parts} parts, met {dict(server.met)}")


def puts(server: S3Server) -> int:
    """How many writes were asked for."""
    return sum(request.method == "PUT" for request in server.requests)
