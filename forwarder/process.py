"""What a process owes its surroundings: its descriptors, its limits, and an end that comes."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import select
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import FrameType

#: What is said at the end waits at most so long for somebody to read it.
_SAY_S = 2.0

#: Threads that are still at work when everything else has ended get so long.
_LEAVE_S = 2.0


def quiet_libraries() -> None:
    """Keep gRPC's C library from writing lines of its own form to standard error.

    It reads the environment when it is imported; who has set the variable is obeyed.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")


def guard_descriptors() -> None:
    """Put `/dev/null` on the descriptors 0, 1 and 2 that are closed.

    To be called before anything else is opened: a database that got descriptor 2 would be
    overwritten by the first traceback. `sys.stdin`, `sys.stdout` and `sys.stderr` are there
    afterwards.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free number, and those below are taken by now.
            opened = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(opened, True)  # noqa: FBT003 - it takes no name
        if getattr(sys, name) is None:
            mode = "w" if descriptor else "r"
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - it stays open


def no_core_dumps() -> None:
    """Let no crash write this process's memory, with its keys and log lines, to a disk."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def raise_open_files_limit() -> int:
    """Allow as many open descriptors as may be had; returns how many.

    Every stream is a connection. The soft limit is 1,024 nearly everywhere only because of
    `select()`, which nothing here uses.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # A hard limit above what the kernel would give (fs.nr_open was lowered) leaves the old one.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return hard
    return soft


def say(text: str) -> None:
    """Write a last message to standard error: lost when nobody reads it, never waited for long."""
    with contextlib.suppress(OSError, ValueError):
        try:
            descriptor = sys.stderr.fileno()
        except io.UnsupportedOperation:  # replaced by something that is no file
            sys.stderr.write(text)
            return
        sys.stderr.flush()
        rest = memoryview(text.encode("utf-8", "backslashreplace"))
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        # A pipe that is ready takes so much without blocking.
        while rest and poll.poll(_SAY_S * 1000):
            rest = rest[os.write(descriptor, rest[: select.PIPE_BUF]) :]


def hanging() -> dict[str, str]:
    """Where every other thread is that is neither idle nor the main one: name to code line."""
    frames = sys._current_frames()  # noqa: SLF001 - documented; there is no other way
    own = threading.get_ident()
    return {
        thread.name: _place(frame)
        for thread in threading.enumerate()
        if thread is not threading.main_thread()
        and thread.ident not in {None, own}
        and (frame := frames.get(thread.ident or 0)) is not None
        and not _is_idle(frame)
    }


def _is_idle(frame: FrameType) -> bool:
    """Whether an executor's thread waits for work."""
    module = frame.f_globals.get("__name__")
    return (module, frame.f_code.co_name) == ("concurrent.futures.thread", "_worker")


def _place(frame: FrameType) -> str:
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}"


class StopDeadline:
    """Ends the process when it does not end by itself.

    A thread in a system call cannot be interrupted, and Python waits for it: a disk that does not
    answer would keep the process for ever. So when the time is over the process goes as if killed,
    which loses nothing that was acknowledged.

    Use it as a context manager: what is left in time disarms it.
    """

    def __init__(
        self,
        after_s: float,
        *,
        code: Callable[[], int],
        tell: Callable[[Mapping[str, str]], None],
        leave: Callable[[int], None] = os._exit,
    ) -> None:
        """Prepare; nothing happens before `arm`.

        Args:
            after_s: How long stopping may take; see the attribute.
            code: The exit code, asked for at the end.
            tell: Says what hangs (see `hanging`), within a bounded time.
            leave: How to end; only for tests.

        Attributes:
            after_s: May be changed until `arm` is called.
        """
        self.after_s = after_s
        self._code = code
        self._tell = tell
        self._leave = leave
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def arm(self) -> None:
        """Stopping begins now; the first call counts."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="stop-deadline", daemon=True)
            self._thread.start()

    def disarm(self) -> None:
        """It has stopped; the process is not ended any more."""
        self._done.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.disarm()

    def _run(self) -> None:
        if self._done.wait(self.after_s):
            return
        try:
            self._tell(hanging())
        finally:
            if not self._done.is_set():
                self._leave(self._code())


def leave(code: int) -> NoReturn:
    """Exit; a thread that hangs, such as a sink's, keeps the process only for a moment.

    Python would wait for the threads of every executor that nobody shut down.
    """
    if hanging():
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        StopDeadline(
            _LEAVE_S,
            code=lambda: code,
            tell=lambda found: say(f"left without waiting for {dict(found)}\n"),
        ).arm()
    sys.exit(code)
