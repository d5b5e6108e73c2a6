"""Our daemon as a child process, with a configuration of its own in a directory of its own."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Child

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.measure import Server

#: The section of a sink that throws lines away: what is measured ends behind the spool.
DISCARD: Mapping[str, object] = {"type": "discard"}


def output(directory: Path, sandbox_id: str) -> Path:
    """The file that gets a sandbox's lines, in the directory of a run with `to_files`."""
    return directory / "out" / f"{sandbox_id}.log"


def to_files(directory: Path) -> dict[str, object]:
    """The section of a sink that writes files."""
    return {"type": "file", "path": str(output(directory, "{sandbox_id}"))}


def to_otlp(logs_url: str, *, workers: int = 0) -> dict[str, object]:
    """The section of a sink that sends OTLP over HTTP; the rest is as an operator finds it."""
    return {"type": "otlp", "logs_endpoint": logs_url, "workers": workers}


@dataclass(frozen=True, slots=True)
class DaemonRun:
    """Where one run of the daemon reads, keeps and writes.

    Attributes:
        directory: Empty before the run.
        sink: The section of the one sink.
    """

    directory: Path
    server: Server
    sandboxes: Sequence[dict[str, object]]
    sink: Mapping[str, object]

    @property
    def state_dir(self) -> Path:
        return self.directory / "state"

    def start(self, *, until_complete: bool) -> Child:
        """Write the configuration and start the daemon."""
        (self.directory / "out").mkdir(parents=True)
        config = self.directory / "config.yaml"
        # JSON is YAML, and every string in it is quoted.
        config.write_text(json.dumps(self._config(), indent=2))
        command = [str(Path(sys.executable).parent / "sandbox-forwarder"), "run"]
        command += ["--config", str(config)]
        if until_complete:
            command.append("--until-complete")
        return Child(command, log=self.directory / "daemon.log")

    def _config(self) -> dict[str, Any]:
        return {
            "state_dir": str(self.state_dir),
            "source": {"base_url": self.server.base_url, "api_key": "benchmark"},
            "sandboxes": list(self.sandboxes),
            "sinks": {"bench": dict(self.sink)},
            "admin": {"listen": "off"},
        }
