"""Our daemon as a child process, with a configuration of its own in a directory of its own."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Child

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.measure import Server


@dataclass(frozen=True, slots=True)
class DaemonRun:
    """Where one run of the daemon reads, keeps and writes.

    Attributes:
        directory: Empty before the run.
        to_files: Write files; else the lines are thrown away behind the spool.
    """

    directory: Path
    server: Server
    sandboxes: Sequence[dict[str, object]]
    to_files: bool = True

    @property
    def state_dir(self) -> Path:
        return self.directory / "state"

    def output(self, sandbox_id: str) -> Path:
        """The file that gets a sandbox's lines."""
        return self.directory / "out" / f"{sandbox_id}.log"

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
        sink: dict[str, str] = {"type": "discard"}
        if self.to_files:
            sink = {"type": "file", "path": str(self.output("{sandbox_id}"))}
        return {
            "state_dir": str(self.state_dir),
            "source": {"base_url": self.server.base_url, "api_key": "benchmark"},
            "sandboxes": list(self.sandboxes),
            "sinks": {"bench": sink},
            "admin": {"listen": "off"},
        }
