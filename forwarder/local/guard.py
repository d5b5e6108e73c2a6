"""A guard against orphans: a small shell that outlives this process by a moment.

Whatever way the service dies, the shell's standard input ends, and then it kills every process
group it was told of and not told to forget.
"""

from __future__ import annotations

import subprocess
from contextlib import suppress

_SCRIPT = """
live=" "
while read -r change group; do
  case $change in
    +) live="$live$group " ;;
    -) live="${live%% "$group" *} ${live#* "$group" }" ;;
  esac
done
for group in $live; do kill -9 "-$group"; done
"""


class Guard:
    """Knows the process groups that must not outlive this process."""

    def __init__(self) -> None:
        self._shell: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        """Start the shell, in a session of its own so that Ctrl-C spares it."""
        self._shell = subprocess.Popen(  # noqa: S603 - a fixed script, no input of anybody's
            ["/bin/sh", "-c", _SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def watch(self, group: int) -> None:
        """A group has begun."""
        self._tell(f"+ {group}")

    def forget(self, group: int) -> None:
        """A group is over: its number may soon belong to somebody else."""
        self._tell(f"- {group}")

    def close(self) -> None:
        """Kill what is still watched; returns when the shell has ended."""
        if self._shell is not None:
            assert self._shell.stdin is not None
            with suppress(OSError):
                self._shell.stdin.close()
            self._shell.wait()
            self._shell = None

    def _tell(self, line: str) -> None:
        if self._shell is not None:
            assert self._shell.stdin is not None
            with suppress(OSError):
                self._shell.stdin.write(f"{line}\n".encode())
                self._shell.stdin.flush()
