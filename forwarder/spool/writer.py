"""The one connection that writes, in a thread of its own.

Jobs that wait at the same time share one transaction, so one fsync serves them all. The same
connection also checkpoints the WAL, between transactions: two connections doing so can corrupt it
(sqlite.org/wal.html, the WAL-reset bug of 3.7.0 to 3.51.2).
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from forwarder.errors import SpoolError, SpoolUnavailableError, SpoolUntrustedError
from forwarder.spool.checkpoint import WalCheckpoint, copy_back
from forwarder.spool.files import ADVICE

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")

#: Nothing was stored, and the same may work later.
_PASSING = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    # No room for the WAL's index. Should a crash follow, the transaction may turn out to be there
    # after all: whole, as one whose caller died before it was told.
    sqlite3.SQLITE_IOERR_SHMSIZE,
}

#: The same will fail for ever.
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
# Bytes that have become a text, and numbers that cannot be ones of ours.
_NO_NUMBERS = ("Could not decode", "integer overflow")


class SpoolFullError(SpoolUnavailableError):
    """There is no room on the disk."""


def classify(
    error: sqlite3.Error, *, out_of_room: Callable[[], bool] = lambda: False
) -> SpoolError:
    """Whether the same may be tried again, or nothing may be believed any more.

    Args:
        error: SQLite's.
        out_of_room: Asked when a write failed: SQLite knows one way only in which a disk is full.
    """
    code = getattr(error, "sqlite_errorcode", None)
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR_WRITE and out_of_room()):
        return SpoolFullError(f"the spool cannot be written now: {error} ({name})")
    if code is not None and (code in _PASSING or code & 0xFF in _PASSING):
        return SpoolUnavailableError(f"the spool cannot be written now: {error} ({name})")
    damaged = (code is not None and code & 0xFF in _DAMAGE) or str(error).startswith(_NO_NUMBERS)
    advice = f"; {ADVICE}" if damaged else ""
    return SpoolUntrustedError(f"the spool failed: {error} ({name}){advice}")


@dataclass(frozen=True, slots=True)
class _Job:
    work: Callable[[sqlite3.Connection], Any]
    future: asyncio.Future[Any]
    committed: Callable[[Any], None] | None
    durable: Callable[[Any], None] | None
    alone: bool


class Writer:
    """Runs jobs on the writing connection, several to a transaction."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        loop: asyncio.AbstractEventLoop,
        *,
        checkpoint: WalCheckpoint | None = None,
        out_of_room: Callable[[], bool] = lambda: False,
    ) -> None:
        """Take over a connection made with `check_same_thread=False` and autocommit on.

        Args:
            connection: The one that writes.
            loop: Where the callers are.
            checkpoint: Says when its log is to be copied back.
            out_of_room: Asked when a write failed.
        """
        self._connection = connection
        self._checkpoint = checkpoint or WalCheckpoint(connection)
        self._out_of_room = out_of_room
        self._loop = loop
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._failure: SpoolUntrustedError | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="spool-writer", daemon=True)
        self._thread.start()

    async def run(
        self,
        work: Callable[[sqlite3.Connection], _T],
        committed: Callable[[_T], None] | None = None,
        *,
        durable: Callable[[_T], None] | None = None,
        alone: bool = False,
    ) -> _T:
        """Run a job in a transaction; returns when that is committed and fsynced.

        Args:
            work: The job. A cancelled call does not undo it: it may or may not have happened.
            committed: Told of the result once that is durable, on the loop and in the order of the
                transactions, also when the call was cancelled.
            durable: Told the same before, in the writing thread.
            alone: Run it between transactions, in none.

        Raises:
            SpoolUnavailableError: The transaction was rolled back; try again.
            SpoolUntrustedError: From now on, always.
        """
        self.check()
        future: asyncio.Future[_T] = self._loop.create_future()
        self._jobs.put(_Job(work, future, committed, durable, alone))
        return await future

    def check(self) -> None:
        """Raise when nothing may be believed any more, or the spool is closed.

        Raises:
            SpoolUntrustedError: So it is.
        """
        if self._failure is not None:
            raise SpoolUntrustedError(str(self._failure)) from self._failure
        if self._closing:
            raise SpoolUntrustedError("the spool is closed")
        if not self._thread.is_alive():
            raise SpoolUntrustedError("the spool's writing thread is dead")

    def fail(self, error: SpoolUntrustedError) -> None:
        """From now on every call fails: somebody else found that the spool cannot be trusted."""
        self._failure = self._failure or error

    async def close(self) -> None:
        """Finish every job that was submitted, then close the connection."""
        if self._closing:
            return
        self._closing = True
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        open_ = True
        while open_:
            jobs, open_ = self._next_jobs()
            for group in _groups(jobs):
                self._finish(group)
                self._copy_back()
        self._connection.close()

    def _next_jobs(self) -> tuple[list[_Job], bool]:
        """Wait for a job, and take everything that waits with it; False when asked to end."""
        jobs: list[_Job] = []
        job = self._jobs.get()
        while job is not None:
            jobs.append(job)
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return jobs, True
        return jobs, False

    def _finish(self, jobs: list[_Job]) -> None:
        """Run jobs that share a transaction, and tell their callers.

        When there is no room for all of them, each is tried for itself: a cursor may fit where new
        lines do not.
        """
        outcome = self._transaction(jobs)
        if isinstance(outcome, SpoolFullError) and len(jobs) > 1:
            for job in jobs:
                self._finish([job])
        else:
            self._loop.call_soon_threadsafe(_resolve, jobs, outcome)

    def _transaction(self, jobs: list[_Job]) -> list[Any] | SpoolError:
        if self._failure is not None:
            return self._failure
        try:
            if jobs[0].alone:
                return [jobs[0].work(self._connection)]
            self._connection.execute("BEGIN IMMEDIATE")
            results = [job.work(self._connection) for job in jobs]
            self._connection.execute("COMMIT")
            for job, result in zip(jobs, results, strict=True):
                if job.durable is not None:
                    job.durable(result)
        except Exception as error:  # noqa: BLE001 - the top of the thread: a bug must not hang us
            failure = _failure(error, self._out_of_room)
            if isinstance(failure, SpoolUntrustedError):
                self.fail(failure)
            self._roll_back()
            return failure
        return results

    def _copy_back(self) -> None:
        """Copy the log back when it has grown; what was committed stays so, whatever happens.

        After a failed sync the database may lack what a later one would call durable.
        """
        if self._failure is not None:
            return
        try:
            if self._checkpoint.due():
                copy_back(self._connection)
        except sqlite3.Error as error:
            failure = classify(error, out_of_room=self._out_of_room)
            if isinstance(failure, SpoolUntrustedError):
                self.fail(failure)
        except OSError as error:
            self.fail(SpoolUntrustedError(f"the spool failed: {error}"))

    def _roll_back(self) -> None:
        """Unless SQLite has rolled back by itself, as it does on SQLITE_FULL."""
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error as error:
                self.fail(SpoolUntrustedError(f"rollback failed: {error}"))


def _groups(jobs: list[_Job]) -> list[list[_Job]]:
    """Jobs that follow each other share a transaction, save those that want none."""
    groups: list[list[_Job]] = []
    for job in jobs:
        if groups and not job.alone and not groups[-1][0].alone:
            groups[-1].append(job)
        else:
            groups.append([job])
    return groups


def _failure(error: Exception, out_of_room: Callable[[], bool]) -> SpoolError:
    """What a transaction's callers are told."""
    match error:
        case SpoolError():
            return error
        case sqlite3.Error():
            return classify(error, out_of_room=out_of_room)
        case _:
            failure = SpoolUntrustedError(f"the spool met a bug: {error!r}")
            failure.__cause__ = error
            return failure


def _resolve(jobs: list[_Job], outcome: list[Any] | SpoolError) -> None:
    """On the loop: hand each caller its result, or the one error of the transaction."""
    for index, job in enumerate(jobs):
        if isinstance(outcome, SpoolError):
            if not job.future.cancelled():
                error = type(outcome)(str(outcome))
                error.__cause__ = outcome
                job.future.set_exception(error)
            continue
        if job.committed is not None:
            job.committed(outcome[index])
        if not job.future.cancelled():
            job.future.set_result(outcome[index])
