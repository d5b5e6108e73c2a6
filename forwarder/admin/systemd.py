"""Word to the service manager: the sd_notify protocol, without a library.

Outside of systemd nothing happens and nothing fails: a daemon must not die of not being heard.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING

from forwarder.errors import SpoolUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from forwarder.clock import Clock

_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class ServiceManager:
    """The service manager that started this process, if there is one.

    Making it takes its variables out of the environment, so that no child process can speak in the
    daemon's name.
    """

    def __init__(self, environ: MutableMapping[str, str], *, pid: int | None = None) -> None:
        """Read and remove the variables of the protocol.

        Args:
            environ: Usually `os.environ`.
            pid: This process; only for tests.
        """
        address, watchdog_usec, watchdog_pid = (environ.pop(name, "") for name in _VARIABLES)
        self._address = _socket_address(address)
        meant = watchdog_pid in {"", str(os.getpid() if pid is None else pid)}
        self._watchdog_usec = int(watchdog_usec) if meant and watchdog_usec.isdecimal() else 0

    def notify(self, *assignments: str) -> bool:
        """Send assignments such as `READY=1` or `STATUS=...` in one message; never waits or raises.

        A line break inside an assignment becomes a space: it would begin another assignment.

        Returns:
            Whether the message was handed over.
        """
        if self._address is None:
            return False
        message = "\n".join(" ".join(one.splitlines()) for one in assignments)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.sendto(
                    message.encode("utf-8", "replace"),
                    socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL,
                    self._address,
                )
        except OSError:
            return False
        return True

    def watchdog_interval_s(self) -> float | None:
        """How often `WATCHDOG=1` is due: half of what the unit allows; None without a watchdog."""
        if self._address is None or self._watchdog_usec <= 0:
            return None
        return self._watchdog_usec / 2_000_000


async def keep_watchdog(
    manager: ServiceManager, *, progress: Callable[[], Awaitable[object]], clock: Clock
) -> None:
    """Send `WATCHDOG=1` as often as it is due, each time only after the daemon has moved.

    Returns at once when the unit has no watchdog, else runs until cancelled.

    Args:
        manager: Whom to tell.
        progress: Returns when the parts that must live have done something, such as a round trip
            through the spool's writing thread. While it waits nothing is sent, so a daemon that
            hangs is started again. A spool without room (`SpoolUnavailableError`) is an answer:
            starting again would not make room.
        clock: Time.
    """
    interval_s = manager.watchdog_interval_s()
    if interval_s is None:
        return
    while True:
        with contextlib.suppress(SpoolUnavailableError):
            await progress()
        manager.notify("WATCHDOG=1")
        await clock.sleep(interval_s)


def _socket_address(text: str) -> str | bytes | None:
    """The address to send to; None for none, and for kinds that are not Unix sockets."""
    if text.startswith("@"):
        return b"\0" + os.fsencode(text[1:])
    return text if text.startswith("/") else None
