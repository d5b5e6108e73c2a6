from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING

import pytest

from forwarder.admin.systemd import ServiceManager, keep_watchdog
from forwarder.errors import SpoolUnavailableError, SpoolUntrustedError
from tests.unit.admin.clocks import HandClock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """What systemd has: a datagram socket, and its address as in NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.setblocking(False)
        if request.param == "path":
            receiver.bind(str(tmp_path / "notify"))
            yield str(tmp_path / "notify"), receiver
        else:
            receiver.bind(f"\0notify-{os.getpid()}")
            yield f"@notify-{os.getpid()}", receiver


def heard(receiver: socket.socket) -> list[str]:
    messages = []
    while True:
        try:
            messages.append(receiver.recv(65536).decode())
        except BlockingIOError:
            return messages


def test_assignments_arrive_in_one_message(manager: tuple[str, socket.socket]) -> None:
    address, receiver = manager
    assert ServiceManager({"NOTIFY_SOCKET": address}).notify("READY=1", "STATUS=following 3")
    assert heard(receiver) == ["READY=1\nSTATUS=following 3"]


def test_a_line_break_in_a_status_cannot_begin_another_assignment(
    manager: tuple[str, socket.socket],
) -> None:
    address, receiver = manager
    ServiceManager({"NOTIFY_SOCKET": address}).notify("STATUS=bad id\nMAINPID=1\r\nREADY=1")
    assert heard(receiver) == ["STATUS=bad id MAINPID=1 READY=1"]


def test_the_variables_are_gone_for_children_and_the_manager_still_hears() -> None:
    environ = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "HOME": "/"}
    ServiceManager(environ)
    assert environ == {"HOME": "/"}


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "relative/path"])
def test_without_a_socket_that_we_can_speak_to_nothing_happens(address: str) -> None:
    environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"} if address else {}
    manager = ServiceManager(environ)
    assert not manager.notify("READY=1")
    assert manager.watchdog_interval_s() is None


def test_a_manager_that_does_not_listen_does_not_hurt(tmp_path: Path) -> None:
    assert not ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).notify("READY=1")


def test_a_manager_that_does_not_read_never_makes_the_daemon_wait(
    manager: tuple[str, socket.socket],
) -> None:
    service = ServiceManager({"NOTIFY_SOCKET": manager[0]})
    assert [service.notify("WATCHDOG=1") for _ in range(10_000)].count(False) > 0


@pytest.mark.parametrize(
    ("environ", "interval_s"),
    [
        ({"WATCHDOG_USEC": "120000000"}, 60.0),
        ({"WATCHDOG_USEC": "120000000", "WATCHDOG_PID": "42"}, 60.0),
        ({"WATCHDOG_USEC": "120000000", "WATCHDOG_PID": "43"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_due_twice_as_often_as_the_unit_asks_of_this_process(
    environ: dict[str, str], interval_s: float | None
) -> None:
    manager = ServiceManager({"NOTIFY_SOCKET": "/run/x", **environ}, pid=42)
    assert manager.watchdog_interval_s() == interval_s


class Progress:
    """A daemon that moves, or does not."""

    def __init__(self) -> None:
        self.moves = asyncio.Event()
        self.moves.set()
        self.error: Exception | None = None

    async def __call__(self) -> None:
        await self.moves.wait()
        if self.error is not None:
            raise self.error


def watched(address: str) -> ServiceManager:
    return ServiceManager({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "20000000"})


async def stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_the_watchdog_is_fed_at_every_interval(manager: tuple[str, socket.socket]) -> None:
    clock = HandClock()
    feeding = asyncio.create_task(
        keep_watchdog(watched(manager[0]), progress=Progress(), clock=clock)
    )
    for _ in range(3):
        await clock.sleeping.wait()
        assert heard(manager[1]) == ["WATCHDOG=1"]
        clock.advance(10.0)
    await stop(feeding)


async def test_a_daemon_that_hangs_does_not_feed_the_watchdog(
    manager: tuple[str, socket.socket],
) -> None:
    clock, progress = HandClock(), Progress()
    feeding = asyncio.create_task(
        keep_watchdog(watched(manager[0]), progress=progress, clock=clock)
    )
    await clock.sleeping.wait()
    heard(manager[1])
    progress.moves.clear()
    clock.advance(3600.0)
    for _ in range(10):
        await asyncio.sleep(0)
    assert heard(manager[1]) == []
    progress.moves.set()
    await clock.sleeping.wait()
    assert heard(manager[1]) == ["WATCHDOG=1"]
    await stop(feeding)


async def test_a_full_disk_is_no_reason_to_be_started_again(
    manager: tuple[str, socket.socket],
) -> None:
    clock, progress = HandClock(), Progress()
    progress.error = SpoolUnavailableError("no room")
    feeding = asyncio.create_task(
        keep_watchdog(watched(manager[0]), progress=progress, clock=clock)
    )
    await clock.sleeping.wait()
    assert heard(manager[1]) == ["WATCHDOG=1"]
    await stop(feeding)


async def test_a_spool_that_failed_comes_out_and_feeds_nothing(
    manager: tuple[str, socket.socket],
) -> None:
    progress = Progress()
    progress.error = SpoolUntrustedError("the spool failed")
    with pytest.raises(SpoolUntrustedError):
        await keep_watchdog(watched(manager[0]), progress=progress, clock=HandClock())
    assert heard(manager[1]) == []


async def test_without_a_watchdog_there_is_nothing_to_feed() -> None:
    await keep_watchdog(ServiceManager({}), progress=Progress(), clock=HandClock())
