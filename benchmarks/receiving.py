"""An OTLP destination's process, seen from the measurement."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import measure
from benchmarks.delivered import Body, unframed
from benchmarks.destination import KEPT_PATH

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOGS_PATH = "/v1/logs"


class Destination:
    """A destination that refuses connections until it listens, and keeps what it is given."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._base_url = f"http://127.0.0.1:{int(self._read_line())}"

    @property
    def logs_url(self) -> str:
        """Where requests go."""
        return self._base_url + _LOGS_PATH

    def listen(self) -> None:
        """Take connections from now on."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._read_line()

    def cpu_s(self) -> float:
        """The CPU time that it has used so far."""
        return measure.cpu_s(self._process.pid)

    def bodies(self) -> list[Body]:
        """What it was given, in the order of arrival."""
        with urllib.request.urlopen(self._base_url + KEPT_PATH, timeout=60) as answer:
            return list(unframed(answer.read()))

    def _read_line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the benchmark's destination did not start")
        return line


@contextlib.contextmanager
def destination(*, listening: bool = True) -> Iterator[Destination]:
    """A destination in a process of its own."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.destination"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parent.parent,
    ) as process:
        try:
            made = Destination(process)
            if listening:
                made.listen()
            yield made
        finally:
            process.terminate()
