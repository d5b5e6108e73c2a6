from __future__ import annotations

import json
import os
import queue
import resource
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from forwarder import process
from forwarder.process import StopDeadline, hanging, leave, say

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


def run(program: str, *arguments: str, redirect: str = "") -> subprocess.CompletedProcess[str]:
    """Run a Python program in a process of its own, started by a shell with these redirections."""
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirect}', "sh", sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# Descriptors --------------------------------------------------------------------------------------

GUARDED = """
import json, os, sys
from forwarder.process import guard_descriptors
guard_descriptors()
guard_descriptors()
opened = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
print("stray"), print("stray", file=sys.stderr)
found = {
    "opened": opened,
    "descriptors": [os.readlink(f"/proc/self/fd/{number}") for number in range(3)],
    "inherited": [os.get_inheritable(number) for number in range(3)],
    "streams": [stream.fileno() for stream in (sys.stdin, sys.stdout, sys.stderr)],
    "read": sys.stdin.read(),
}
os.write(opened, json.dumps(found).encode())
"""


@pytest.mark.parametrize(
    "closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&-", "0<&- 2>&-", "1>&- 2>&-", "0<&- 1>&- 2>&-"]
)
def test_descriptors_that_are_closed_lead_to_nowhere_and_no_file_gets_them(
    closed: str, tmp_path: Path
) -> None:
    ended = run(GUARDED, str(tmp_path / "file"), redirect=f"</dev/null {closed}")
    assert ended.returncode == 0, ended.stderr
    found = json.loads((tmp_path / "file").read_text())
    assert found["opened"] > 2
    for number in range(3):
        is_closed = f"{number}<&-" in closed or f"{number}>&-" in closed
        assert (found["descriptors"][number] == "/dev/null") == (is_closed or number == 0)
    assert found["inherited"] == [True] * 3
    assert found["streams"] == [0, 1, 2]
    assert found["read"] == ""


# Limits -------------------------------------------------------------------------------------------


def test_no_core_is_dumped() -> None:
    ended = run(
        "import resource; from forwarder.process import no_core_dumps; no_core_dumps();"
        " print(resource.getrlimit(resource.RLIMIT_CORE))"
    )
    assert ended.stdout == "(0, 0)\n", ended.stderr


def test_as_many_descriptors_as_may_be_had_are_allowed() -> None:
    ended = run(
        "import resource as r; from forwarder.process import raise_open_files_limit\n"
        "r.setrlimit(r.RLIMIT_NOFILE, (64, 512))\n"
        "print(raise_open_files_limit(), r.getrlimit(r.RLIMIT_NOFILE))"
    )
    assert ended.stdout == "512 (512, 512)\n", ended.stderr


def test_a_limit_that_the_kernel_does_not_give_stays_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert process.raise_open_files_limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def test_a_file_that_grows_past_its_limit_is_an_error_and_not_the_end(tmp_path: Path) -> None:
    """Python ignores SIGXFSZ; the spool relies on it."""
    ended = run(
        "import errno, os, resource, sys; import forwarder.cli\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n"
        "fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)\n"
        "assert os.write(fd, bytes(20)) == 10\n"
        "try: os.write(fd, bytes(1))\n"
        "except OSError as error: sys.exit(error.errno == errno.EFBIG and 3)\n",
        str(tmp_path / "file"),
    )
    assert ended.returncode == 3, ended.stderr


# Last words ---------------------------------------------------------------------------------------


class Broken:
    """Standard error on a pipe."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def flush(self) -> None:
        pass


@contextmanager
def piped(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    monkeypatch.setattr(sys, "stderr", Broken(writer))
    yield reader, writer
    for descriptor in (reader, writer):
        with suppress(OSError):
            os.close(descriptor)


def test_what_is_said_is_written_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    with piped(monkeypatch) as (reader, _):
        say("é\n" * 10_000)
        assert os.read(reader, 1 << 20).decode() == "é\n" * 10_000


def test_what_nobody_reads_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_SAY_S", 0.01)
    with piped(monkeypatch) as (reader, _):
        say("x" * 1_000_000)
        assert 0 < len(os.read(reader, 1 << 20)) < 1_000_000


@pytest.mark.parametrize("end", [0, 1], ids=["nobody reads", "closed"])
def test_where_nothing_can_be_said_nothing_happens(
    end: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with piped(monkeypatch) as ends:
        os.close(ends[end])
        say("lost\n")


def test_standard_error_that_is_no_file_is_written_to(capsys: pytest.CaptureFixture[str]) -> None:
    say("a\nb\n")
    assert capsys.readouterr().err == "a\nb\n"


# The end ------------------------------------------------------------------------------------------


@contextmanager
def stuck() -> Iterator[threading.Thread]:
    """A thread that hangs until the end of the block."""
    begun, gate = threading.Event(), queue.SimpleQueue[None]()

    def hang_here() -> None:
        begun.set()
        gate.get()

    thread = threading.Thread(target=hang_here, name="stuck")
    thread.start()
    begun.wait()
    try:
        yield thread
    finally:
        gate.put(None)
        thread.join()


def test_a_thread_that_hangs_is_told_with_its_place_and_one_without_work_is_not() -> None:
    with ThreadPoolExecutor(1, thread_name_prefix="idle") as executor:
        executor.submit(int).result()
        with stuck():
            found = hanging()
            assert not [name for name in found if name.startswith("idle")]
            assert found["stuck"].startswith("test_process.py:")
            assert found["stuck"].endswith(" hang_here")
        assert "stuck" not in hanging()


class Ends:
    """What a deadline does at the end of its time."""

    def __init__(self) -> None:
        self.code = 0
        self.calls: list[Any] = []
        self.left = threading.Event()

    def deadline(self, after_s: float) -> StopDeadline:
        return StopDeadline(after_s, code=lambda: self.code, tell=self.tell, leave=self.leave)

    def tell(self, found: Mapping[str, str]) -> None:
        self.calls.append("stuck" in found)
        self.code = 70

    def leave(self, code: int) -> None:
        self.calls.append(code)
        self.left.set()


def test_what_does_not_end_by_itself_is_ended_with_the_code_that_counts_then() -> None:
    ends = Ends()
    with stuck(), ends.deadline(0.0) as deadline:
        deadline.arm()
        deadline.arm()
        assert ends.left.wait(60)
    assert ends.calls == [True, 70]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_it_is_ended_even_when_nothing_can_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = Ends()

    def fail(_: Mapping[str, str]) -> None:
        raise LookupError

    monkeypatch.setattr(ends, "tell", fail)
    with ends.deadline(0.0) as deadline:
        deadline.arm()
        assert ends.left.wait(60)
        assert deadline._thread is not None
        deadline._thread.join()
    assert ends.calls == [0]


def test_what_ends_in_time_is_left_alone() -> None:
    ends = Ends()
    with ends.deadline(3600.0) as deadline:
        deadline.arm()
        deadline.disarm()
        thread = deadline._thread
        assert thread is not None
        thread.join(60)
        assert not thread.is_alive()
    assert ends.calls == []


def test_what_never_stops_has_no_deadline() -> None:
    with Ends().deadline(0.0) as deadline:
        assert deadline._thread is None


def test_leaving_is_an_ordinary_exit() -> None:
    with pytest.raises(SystemExit) as ended:
        leave(7)
    assert ended.value.code == 7


def test_an_executor_that_hangs_keeps_nobody_from_leaving() -> None:
    ended = run(
        "import threading; from concurrent.futures import ThreadPoolExecutor\n"
        "from forwarder import process; process._LEAVE_S = 0.05\n"
        "begun = threading.Event()\n"
        "def hang_here(): begun.set(); threading.Event().wait()\n"
        "ThreadPoolExecutor(1, thread_name_prefix='disk').submit(hang_here)\n"
        "begun.wait(); print('said before', end=''); process.leave(7)"
    )
    assert (ended.returncode, ended.stdout) == (7, "said before")
    assert "left without waiting for {'disk_0'" in ended.stderr
