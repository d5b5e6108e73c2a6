"""Start a process, and say what it took: wall time, CPU time and peak memory."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

    from benchmarks.served import ServerSpec

_CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Usage:
    """What a finished process took.

    Attributes:
        wall_s: From start to exit.
        cpu_s: User and system time of the process and of the children it waited for.
        peak_bytes: The highest resident sizes of the process and of its children, added up.
        ended_ns: When it was gone, by the monotonic clock.
    """

    exit_code: int
    wall_s: float
    cpu_s: float
    peak_bytes: int
    ended_ns: int


class Child:
    """A running process that is always gone after the `with` block.

    Its output goes to files, or is thrown away: a pipe that nobody empties would stop it.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        stdout: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._log = log
        self._started_s = time.monotonic()
        with log.open("wb") as errors, (stdout or log).open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env={**os.environ, **(environment or {})},
            )
        self._peak_bytes = 0
        self._usage: Usage | None = None

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._usage is None:
            self._process.kill()
            self.wait(timeout_s=10)

    def poll(self) -> Usage | None:
        """What it took when it is over, else None; keeps the peak memory up to date."""
        if self._usage is None:
            with contextlib.suppress(OSError, ValueError, KeyError):
                self._peak_bytes = max(self._peak_bytes, peak_bytes(self.pid))
            pid, status, used = os.wait4(self.pid, os.WNOHANG)
            if pid:
                now_s = time.monotonic()
                self._process.returncode = os.waitstatus_to_exitcode(status)
                self._usage = Usage(
                    self._process.returncode,
                    now_s - self._started_s,
                    used.ru_utime + used.ru_stime,
                    # ru_maxrss would count the size that the parent had at the fork.
                    self._peak_bytes,
                    time.monotonic_ns(),
                )
        return self._usage

    def wait(self, timeout_s: float) -> Usage:
        """Wait for its end.

        Raises:
            TimeoutError: It runs on; it is killed when the `with` block ends.
        """
        deadline_s = time.monotonic() + timeout_s
        while (usage := self.poll()) is None:
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"still running after {timeout_s:.0f} s: {self.last_words()}")
            time.sleep(_POLL_S)
        return usage

    def stop(self, timeout_s: float = 20) -> Usage:
        """Ask it to end, and wait."""
        if self.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def last_words(self) -> str:
        """The last line that it wrote to standard error."""
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "(no output)"


def peak_bytes(pid: int) -> int:
    """The highest resident size that a running process ever had, with those of its children."""
    total = _status_kib(pid, "VmHWM:") * 1024
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            with contextlib.suppress(OSError, KeyError):
                total += peak_bytes(int(child))
    return total


def cpu_s(pid: int) -> float:
    """User and system time of a running process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS_PER_S


def _status_kib(pid: int, key: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1])
    raise KeyError(key)


class Server:
    """A benchmark server process, seen from the measurement."""

    def __init__(self, process: subprocess.Popen[str], ports: Mapping[str, int]) -> None:
        self._process = process
        self._ports = ports

    @property
    def base_url(self) -> str:
        """Connect over HTTP/1.1."""
        return f"http://127.0.0.1:{self._ports['http']}"

    @property
    def vendor_environment(self) -> dict[str, str]:
        """What the vendor's CLI and SDK find the server by."""
        url = f"http://127.0.0.1:{self._ports['grpc']}"
        return {"CWSANDBOX_BASE_URL": url, "CWSANDBOX_API_KEY": "benchmark"}

    def cpu_s(self) -> float:
        """The CPU time that the server has used so far."""
        return cpu_s(self._process.pid)

    def report(self, sandbox_id: str) -> dict[str, Any]:
        """What was served of one sandbox; see `ServedSandbox.report`."""
        report: dict[str, Any] = self._get(f"/benchmark/sandboxes/{sandbox_id}")
        return report

    def open_streams(self) -> int:
        """Of how many sandboxes a stream was opened."""
        return int(self._get("/benchmark/open-streams"))

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(self.base_url + path, timeout=30) as answer:
            return json.load(answer)


@contextlib.contextmanager
def server(spec: ServerSpec) -> Iterator[Server]:
    """A server process of its own; entering returns when everything is encoded."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parent.parent,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(spec.to_json()) + "\n")
            process.stdin.flush()
            ready = process.stdout.readline()
            if not ready:
                raise RuntimeError("the benchmark server did not start")
            yield Server(process, json.loads(ready))
        finally:
            process.terminate()
