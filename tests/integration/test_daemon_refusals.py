"""What the daemon does not start with: the exit code says why, and nothing on disk changes."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from forwarder.local.server import LocalServer
from forwarder.local.settings import LocalSettings
from tests.fakes.daemon import COMMAND, file_sink, run_to_end, running, write_config
from tests.fakes.local import shell_sandbox

if TYPE_CHECKING:
    from collections.abc import Callable


def foreign_database(path: Path) -> None:
    path.unlink()
    connection = sqlite3.connect(path)
    connection.executescript("CREATE TABLE precious (data); INSERT INTO precious VALUES (1);")
    connection.close()


def set_pragma(path: Path, name: str, value: int) -> None:
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA {name} = {value}")
    connection.close()


def destroy_pages(path: Path) -> None:
    """Leave only the first page, which says that this is a spool of ours."""
    data = path.read_bytes()
    path.write_bytes(data[:8192] + b"\xa5" * (len(data) - 8192))


def replace_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda db: db.write_bytes(b""),
    "garbage": lambda db: db.write_bytes(b"not a database, and longer than a header" * 100),
    "cut": lambda db: db.write_bytes(db.read_bytes()[:5000]),
    "foreign": foreign_database,
    "newer": lambda db: set_pragma(db, "user_version", 999),
    "a directory": replace_by_directory,
    "pages destroyed": destroy_pages,
}


def contents(directory: Path) -> dict[str, bytes | None]:
    """Every file below a directory but the lock, which names the last process."""
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in directory.rglob("*")
        if path.name != "lock"
    }


def some_config(tmp_path: Path, base_url: str = "http://127.0.0.1:9", key: str = "key") -> Path:
    return write_config(
        tmp_path,
        base_url=base_url,
        api_key=key,
        sandboxes=[{"tags": ["t"]}],
        sinks={"text": file_sink(tmp_path / "out" / "all.log")},
    )


@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_spool_that_cannot_be_trusted_is_74_and_left_as_it_is(
    tmp_path: Path, damage: str
) -> None:
    async with LocalServer(LocalSettings()) as server:
        await shell_sandbox(server.base_url, server.api_key, "seq 100", tags=["t"])
        config = some_config(tmp_path, server.base_url, server.api_key)
        code, daemon = await run_to_end(config, "--until-complete", forked=True)
        assert code == 0, daemon.log
        DAMAGE[damage](tmp_path / "state" / "spool.db")
        before = contents(tmp_path)
        code, daemon = await run_to_end(config, "--until-complete", forked=True)
    assert code == 74, daemon.log
    assert str(tmp_path / "state" / "spool.db") in daemon.log
    assert "Traceback" not in daemon.log
    assert contents(tmp_path) == before


async def test_a_state_dir_that_cannot_be_made_is_74(tmp_path: Path) -> None:
    config = some_config(tmp_path)
    (tmp_path / "state").write_text("in the way")
    before = contents(tmp_path)
    code, daemon = await run_to_end(config)
    assert code == 74, daemon.log
    assert str(tmp_path / "state") in daemon.log
    assert contents(tmp_path) == before


async def test_a_second_daemon_is_75_and_the_first_one_goes_on(tmp_path: Path) -> None:
    config = some_config(tmp_path)
    async with running(config) as first:
        await first.event("discovery failing")
        code, second = await run_to_end(config)
        assert code == 75, second.log
        assert f"process {first.pid}" in second.log
        first.terminate()
        assert await first.wait() == 0, first.log


async def test_a_killed_daemon_leaves_no_lock_behind(tmp_path: Path) -> None:
    config = some_config(tmp_path)
    for _ in range(2):
        async with running(config, forked=True) as daemon:
            await daemon.event("discovery failing")
            await daemon.kill()


async def test_a_broken_configuration_is_78_before_anything_is_touched(tmp_path: Path) -> None:
    config = some_config(tmp_path)
    config.write_text(config.read_text().replace('"sinks"', '"snkis"'))
    before = contents(tmp_path)
    code, daemon = await run_to_end(config)
    assert code == 78, daemon.log
    assert "snkis" in daemon.log
    assert "Traceback" not in daemon.log
    assert contents(tmp_path) == before


async def test_a_configuration_broken_after_a_backlog_leaves_the_backlog(tmp_path: Path) -> None:
    async with LocalServer(LocalSettings()) as server:
        await shell_sandbox(server.base_url, server.api_key, "seq 100", tags=["t"])
        config = some_config(tmp_path, server.base_url, server.api_key)
        code, daemon = await run_to_end(config, "--until-complete", forked=True)
        assert code == 0, daemon.log
    config.write_text(config.read_text().replace('"file"', '"fiel"'))
    before = contents(tmp_path)
    code, daemon = await run_to_end(config)
    assert code == 78, daemon.log
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "arguments", [("run",), ("run", "--no-such-option"), ("no-such-command",), ("run", "--config")]
)
async def test_wrong_usage_is_2(arguments: tuple[str, ...]) -> None:
    process = await asyncio.create_subprocess_exec(
        str(COMMAND), *arguments, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    assert process.returncode == 2
    assert b"Traceback" not in said


async def test_a_missing_configuration_file_is_78(tmp_path: Path) -> None:
    code, daemon = await run_to_end(tmp_path / "none.yaml")
    assert code == 78, daemon.log
    assert "none.yaml" in daemon.log
