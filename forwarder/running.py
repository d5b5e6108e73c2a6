"""What the long-running commands need around them: a loop, signals, and an end that comes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog

from forwarder import errors, process

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping
    from pathlib import Path

    from forwarder.config import Settings, SourceSettings
    from forwarder.console import LogsRequest
    from forwarder.log_thread import LogThread

_log = structlog.get_logger()

#: After the sinks' drain time: for closing what a disk may hold up.
STOP_GRACE_S = 5.0


def load(path: Path) -> Settings:
    """The configuration of this file, with the environment's part in it.

    Raises:
        ConfigError: It cannot be used.
    """
    from forwarder.app import sink_settings_types
    from forwarder.config import load_settings

    return load_settings(path, sink_types=sink_settings_types(), env=os.environ)


def source_from_environment() -> SourceSettings:
    """The API as CWSANDBOX_BASE_URL and CWSANDBOX_API_KEY say."""
    from pydantic import ValidationError

    from forwarder.config import SourceSettings

    if not os.environ.get("CWSANDBOX_API_KEY"):
        raise errors.ConfigError("no credentials: set CWSANDBOX_API_KEY, or give --config FILE")
    values = {"api_key": os.environ["CWSANDBOX_API_KEY"]}
    if os.environ.get("CWSANDBOX_BASE_URL"):
        values["base_url"] = os.environ["CWSANDBOX_BASE_URL"]
    try:
        return SourceSettings.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(
            f"CWSANDBOX_{'_'.join(map(str, one['loc'])).upper()}: {one['msg']}"
            if one["loc"]
            else one["msg"]
            for one in error.errors(include_input=False)
        )
        raise errors.ConfigError(problems) from None


def run_loop(main: Coroutine[None, None, None]) -> None:
    """Run on uvloop: the same as asyncio, with less copying between socket and parser."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


def stop_deadline(
    settings: Settings, log: LogThread, *, code: Callable[[], int]
) -> process.StopDeadline:
    """The latest end of a daemon that is stopping: asked to, or because of an error.

    Args:
        settings: How long the sinks may take.
        log: The daemon's own log, closed before the end.
        code: What the process ends with then.
    """

    def tell(hanging: Mapping[str, str]) -> None:
        _log.warning(
            "stopped before the disk answered; everything acknowledged is safe",
            hanging={name: place for name, place in hanging.items() if name != log.name},
        )
        log.close()

    return process.StopDeadline(
        settings.shutdown.drain_timeout + STOP_GRACE_S,
        code=code,
        tell=tell,
    )


async def run_until_stopped(
    settings: Settings,
    config: Path,
    stop: asyncio.Event,
    deadline: process.StopDeadline,
    *,
    until_complete: bool,
    new_spool: bool,
    failed: Callable[[BaseException], None],
) -> None:
    """Run the daemon until `stop` is set, by a signal or by somebody else.

    Args:
        settings: The configuration as it is now.
        config: Where it came from: read again on SIGHUP.
        stop: Set by SIGTERM and SIGINT.
        deadline: Armed when the end begins.
        until_complete: End when everything is delivered.
        new_spool: Begin with a new spool.
        failed: Told of what ends the daemon, before everything is closed.

    Raises:
        SpoolError: The spool failed.
    """
    from forwarder.admin.systemd import ServiceManager
    from forwarder.reloading import run_daemon

    def load_again() -> Settings:
        new = load(config)
        deadline.after_s = new.shutdown.drain_timeout + STOP_GRACE_S
        return new

    reload = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload.set)
    with stopping(stop, begun=deadline.arm):
        await run_daemon(
            settings,
            load_again,
            stop=stop,
            reload=reload,
            manager=ServiceManager(os.environ),
            until_complete=until_complete,
            new_spool=new_spool,
            ending=deadline.arm,
            failed=failed,
        )


async def show_one_log(request: LogsRequest, config: Path | None) -> None:
    """Write one sandbox's log to standard output until it ends or a signal comes.

    Raises:
        ForwarderError: See `forwarder.console.show_logs`.
    """
    from forwarder.app import follow_settings, make_limits, make_source, make_stored_logs
    from forwarder.clock import SystemClock
    from forwarder.console import show_logs
    from forwarder.tasks import first_of

    settings = load(config).source if config is not None else source_from_environment()
    source, stored = make_source(settings), make_stored_logs(settings)
    stop = asyncio.Event()
    with stopping(stop):
        showing = show_logs(
            source,
            request,
            follow_settings(settings),
            limits=make_limits(settings, SystemClock()),
            stored=stored,
            output=sys.stdout.buffer,
            tell=lambda text: process.say(f"sandbox-forwarder: {text}\n"),
        )
        try:
            await first_of(showing, stop.wait())
        finally:
            if stored is not None:
                await stored.close()
            await source.close()


@contextmanager
def stopping(stop: asyncio.Event, *, begun: Callable[[], None] = lambda: None) -> Iterator[None]:
    """SIGTERM and SIGINT set `stop`; the second one ends the process there and then."""
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)

    def ask(number: int) -> None:
        if stop.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop.set()
        begun()

    for number in signals:
        loop.add_signal_handler(number, ask, number)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
