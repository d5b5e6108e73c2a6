"""A connection that fails as told: only SQLite itself can make its errors with their codes."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from dataclasses import dataclass, field
from typing import Any


def sqlite_error(name: str) -> sqlite3.OperationalError:
    """The error of this name (`SQLITE_IOERR_FSYNC`), as SQLite would raise it."""
    error = sqlite3.OperationalError("as told")
    error.sqlite_errorcode = getattr(sqlite3, name)
    error.sqlite_errorname = name
    return error


@dataclass
class Faults:
    """What goes wrong, by the beginning of the statement; each error is raised once.

    Attributes:
        errors: Raised instead of running the statement.
        answers: What a statement answers, instead of the truth.
        statements: Every statement that was run, in order.
    """

    errors: list[tuple[str, Exception]] = field(default_factory=list)
    answers: dict[str, int] = field(default_factory=dict)
    statements: list[str] = field(default_factory=list)
    _gate: threading.Event = field(default_factory=threading.Event)
    _committing: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._gate.set()

    def hold_commits(self) -> None:
        """From now on COMMIT waits."""
        self._committing.clear()
        self._gate.clear()

    async def holding(self) -> None:
        """Return when a COMMIT waits."""
        await asyncio.to_thread(self._committing.wait)

    def let_go(self) -> None:
        """Let it go on, and every one after it."""
        self._gate.set()

    @property
    def commits(self) -> int:
        """How many transactions were committed."""
        return self.statements.count("COMMIT")

    def fail(self, statement: str, *names: str) -> None:
        """Let statements that begin like this fail with these errors, one after the other."""
        self.errors += [(statement, sqlite_error(name)) for name in names]

    def connection(self) -> type[sqlite3.Connection]:
        """A class of connections with these faults."""
        faults = self

        class FaultyConnection(sqlite3.Connection):
            def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
                faults.before(sql)
                if sql in faults.answers:
                    return super().execute(f"SELECT {faults.answers[sql]}")
                return super().execute(sql, *parameters)

        return FaultyConnection

    def before(self, sql: str) -> None:
        """Note the statement; wait or fail as told."""
        self.statements.append(sql)
        if sql == "COMMIT":
            self._committing.set()
            self._gate.wait()
        for index, (statement, error) in enumerate(self.errors):
            if sql.startswith(statement):
                del self.errors[index]
                raise error
