from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.local.processes import Command, ContainerProcess, LineCutter

MIB = 1024 * 1024


def cutter(max_line_bytes: int = MIB) -> LineCutter:
    return LineCutter(max_line_bytes, itertools.count().__next__)


@given(st.lists(st.binary(max_size=12), max_size=12).map(tuple), st.sampled_from([1, 3, MIB]))
def test_however_the_bytes_arrive_the_records_join_to_them(
    chunks: tuple[bytes, ...], limit: int
) -> None:
    cut = cutter(limit)
    records = [record for chunk in chunks for record in cut.feed(chunk)] + cut.finish()
    assert b"".join(text for _, text in records) == b"".join(chunks)
    assert all(0 < len(text) <= limit for _, text in records)
    assert all(b"\n" not in text[:-1] for _, text in records)
    assert [stamp for stamp, _ in records] == sorted(stamp for stamp, _ in records)


def test_a_line_is_kept_open_until_its_newline_comes() -> None:
    cut = cutter()
    assert cut.feed(b"one\ntw") == [(0, b"one\n")]
    assert cut.feed(b"o") == []
    assert cut.feed(b"\n\r\n") == [(1, b"two\n"), (2, b"\r\n")]
    assert cut.finish() == []


def test_an_over_long_line_comes_in_pieces_with_stamps_of_their_own() -> None:
    cut = cutter(4)
    assert cut.feed(b"0123456789") == [(0, b"0123"), (1, b"4567")]
    assert cut.feed(b"\n") == [(2, b"89\n")]


def test_an_open_line_never_holds_more_than_the_limit() -> None:
    cut = cutter(1000)
    records = [record for _ in range(100) for record in cut.feed(b"x" * 300)]
    assert sum(len(text) for _, text in records) >= 29_000


def process(
    program: str, *args: str, working_dir: str = "", **environment: str
) -> ContainerProcess:
    command = Command(program, args, environment, working_dir)
    return ContainerProcess(command, retention_bytes=MIB, max_line_bytes=MIB)


async def run(container: ContainerProcess) -> list[bytes]:
    await container.start()
    await container.ended.wait()
    stamped = container.log.stamped().splitlines(keepends=True)
    return [line.split(b" ", 1)[1] for line in stamped]


async def test_both_streams_are_read_to_their_end_before_the_end_shows() -> None:
    container = process("sh", "-c", "seq 20000; echo oops >&2; printf open")
    lines = await run(container)
    assert [line for line in lines if line[:1].isdigit()] == [b"%d\n" % n for n in range(1, 20_001)]
    assert b"oops\n" in lines
    assert lines[-1] == b"open"
    assert container.log.closed
    assert container.exit_code == 0


async def test_the_specs_environment_and_a_directory_of_its_own_and_nothing_of_the_services(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CWSANDBOX_API_KEY", "secret")
    container = process(
        "sh", "-c", 'echo "$GREETING"; pwd; echo "${CWSANDBOX_API_KEY-none}"', GREETING="hi"
    )
    greeting, directory, key = await run(container)
    assert greeting == b"hi\n"
    assert key == b"none\n"
    assert not Path(directory.decode().strip()).exists()


async def test_a_working_directory_is_honoured() -> None:
    assert await run(process("pwd", working_dir="/usr")) == [b"/usr\n"]


@pytest.mark.parametrize("command", [("no-such-program",), ("pwd",)])
async def test_a_command_that_cannot_be_started_ends_at_once_and_says_why(
    command: tuple[str, ...],
) -> None:
    container = process(*command, working_dir="/no/such/place" if command == ("pwd",) else "")
    await container.start()
    await container.stop(0)
    assert container.exit_code == 127
    assert command[0] in container.failure
    assert container.log.closed


async def test_stop_ends_the_whole_group_even_when_it_ignores_sigterm() -> None:
    container = process(
        "sh", "-c", 'trap "" TERM; sleep 600 & echo $!; while :; do sleep 600; done'
    )
    printed = asyncio.Event()
    container.listeners.add(printed.set)
    await container.start()
    await printed.wait()
    child = int(container.log.stamped().split()[1])
    await container.stop(0.05)
    assert container.exit_code == 137
    assert not alive(child)


async def test_what_the_main_process_leaves_behind_ends_with_it() -> None:
    container = process("sh", "-c", "sleep 600 & echo $!")
    (child,) = await run(container)
    assert container.exit_code == 0
    assert not alive(int(child))


async def test_a_signal_is_reported_as_container_runtimes_do() -> None:
    container = process("sh", "-c", "kill -TERM $$")
    await run(container)
    assert container.exit_code == 143


async def test_no_program_means_alive_and_silent() -> None:
    container = process("")
    await container.start()
    assert container.pid is not None
    assert alive(container.pid)
    await container.stop(1)
    assert container.exit_code == 143
    assert container.log.stamped() == b""


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie that waits for its parent does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
