"""One daemon after the other: a new configuration is another daemon in the place of the old one.

See `docs/decisions/0004-reload-is-a-restart-inside.md`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from forwarder.app import Daemon
from forwarder.errors import ConfigError, SpoolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from forwarder.admin.systemd import ServiceManager
    from forwarder.config import Settings

_log = structlog.get_logger()


async def run_daemon(
    settings: Settings,
    load: Callable[[], Settings],
    *,
    stop: asyncio.Event,
    reload: asyncio.Event,
    manager: ServiceManager,
    until_complete: bool = False,
    new_spool: bool = False,
    ending: Callable[[], None] = lambda: None,
    failed: Callable[[BaseException], None] = lambda _: None,
) -> None:
    """Run a daemon, and on `reload` another one with the new configuration in its place.

    A configuration that cannot be used is told, and the old one stays. `new_spool` holds for the
    first one only.

    Raises:
        SpoolError: See `Daemon`.
    """
    new: Settings | None = settings
    while new is not None:
        try:
            async with Daemon.open(new, manager=manager, new_spool=new_spool) as daemon:
                settings, new_spool = new, False
                new = await _run_until_reload(
                    daemon,
                    load,
                    stop=stop,
                    reload=reload,
                    until_complete=until_complete,
                    ending=ending,
                    failed=failed,
                )
        except Exception as error:
            if new is settings:
                raise
            if isinstance(error, SpoolError):
                text = "new state_dir cannot be used, the old configuration stays"
                _log.error(text, error=str(error))
            else:
                _log.exception("new configuration met a bug, the old one stays")
            new = settings
        else:
            manager.notify("RELOADING=1" if new is not None else "STATUS=stopped")


async def _run_until_reload(
    daemon: Daemon,
    load: Callable[[], Settings],
    *,
    stop: asyncio.Event,
    reload: asyncio.Event,
    until_complete: bool,
    ending: Callable[[], None],
    failed: Callable[[BaseException], None],
) -> Settings | None:
    """Run a daemon to its end; the settings of the one that takes its place, or None."""
    restart = asyncio.Event()
    watching = asyncio.create_task(_watch_reload(reload, load, restart))
    try:
        await daemon.run(stop, restart, until_complete=until_complete, ending=ending, failed=failed)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    return watching.result() if restart.is_set() and not stop.is_set() else None


async def _watch_reload(
    reload: asyncio.Event, load: Callable[[], Settings], restart: asyncio.Event
) -> Settings:
    """The new settings, once there are some that can be used; then also sets `restart`."""
    while True:
        await reload.wait()
        reload.clear()
        try:
            settings = load()
        except ConfigError as error:
            _log.error("configuration not reloaded, the old one stays", problems=str(error))
        except Exception:  # noqa: BLE001 - the top of a task: the next reload must be heard, too
            _log.exception("configuration not reloaded: a bug; the old one stays")
        else:
            _log.info("configuration reloaded")
            restart.set()
            return settings
