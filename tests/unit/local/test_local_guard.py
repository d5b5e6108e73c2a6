from __future__ import annotations

import subprocess

from forwarder.local.guard import Guard


def group() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "600"], start_new_session=True)


def test_what_is_watched_is_killed_at_the_end_and_what_is_forgotten_is_not() -> None:
    processes = [group() for _ in range(3)]
    first, forgotten, last = processes
    try:
        guard = Guard()
        guard.open()
        for process in processes:
            guard.watch(process.pid)
        guard.forget(forgotten.pid)
        guard.close()
        assert (first.wait(), last.wait()) == (-9, -9)
        assert forgotten.poll() is None
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_a_guard_that_was_never_opened_does_nothing() -> None:
    guard = Guard()
    guard.watch(1)
    guard.close()
