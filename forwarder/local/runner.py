"""The local service as a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import TYPE_CHECKING

from rich.console import Console

from forwarder.local.server import LocalServer

if TYPE_CHECKING:
    from collections.abc import Callable

    from forwarder.local.settings import LocalSettings

_BANNER = """\
Local sandbox service — a development and test tool

It speaks the CoreWeave Sandbox API on {base_url}.
Every sandbox's command runs as a process of this machine, as you; hence loopback only
and the key below. Images are ignored, nothing is isolated, and all of it ends with this
program (Ctrl-C).

Point the vendor's SDK and CLI, or a forwarder, at it:

  export CWSANDBOX_BASE_URL={base_url}
  export CWSANDBOX_API_KEY={api_key}

Start a sandbox (the vendor's SDK does too, but stops it when its program exits):

  curl $CWSANDBOX_BASE_URL/coreweave.sandbox.v1.SandboxService/CreateSandbox \\
    -H "Authorization: Bearer $CWSANDBOX_API_KEY" -H 'Content-Type: application/json' \\
    -d '{{"sandbox": {{"spec": {{"tags": ["demo"], "containers": [{{"name": "main",
         "command": "sh", "args": ["-c", "while date; do sleep 1; done"]}}]}}}}}}'

And look at it:

  cwsandbox ls
  cwsandbox logs --follow --timestamps SANDBOX_ID
"""


def run_local(settings: LocalSettings) -> None:
    """Run the service until SIGTERM or SIGINT, with a greeting for people.

    Every process that it started has ended when this returns.

    Raises:
        OSError: The port is taken.
    """
    console = Console(highlight=False, soft_wrap=True)
    asyncio.run(
        _run(
            settings,
            lambda server: console.print(banner(server.base_url, server.api_key), markup=False),
        )
    )


def run_local_json(settings: LocalSettings) -> None:
    """The same, with one line of JSON once it is ready: `base_url`, `api_key`, `pid`."""
    asyncio.run(_run(settings, _print_json))


def banner(base_url: str, api_key: str) -> str:
    """What a person reads when the service is ready."""
    return _BANNER.format(base_url=base_url, api_key=api_key)


async def _run(settings: LocalSettings, ready: Callable[[LocalServer], None]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        async with LocalServer(settings) as server:
            ready(server)
            await stop.wait()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _print_json(server: LocalServer) -> None:
    facts = {"base_url": server.base_url, "api_key": server.api_key, "pid": os.getpid()}
    Console(highlight=False, soft_wrap=True).out(json.dumps(facts), highlight=False)
