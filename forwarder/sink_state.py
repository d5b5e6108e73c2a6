"""What a sink remembers, and what the engine remembers for it: see `sinks.interface.SinkState`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forwarder.errors import SpoolUnavailableError
from sinks.interface import SinkUnavailableError
from sinks.template import safe_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from forwarder.cursor import Cursor
    from forwarder.spool.interface import Spool

#: Keys that begin with this are the engine's own; sinks do not see them.
ENGINE_PREFIX = "engine:"


class EngineState:
    """The state of one sink, as committed and with what was delivered since."""

    def __init__(
        self,
        name: str,
        spool: Spool,
        cursor: Cursor,
        values: dict[str, bytes],
        state_dir: Path | None = None,
    ) -> None:
        self._name = name
        self._state_dir = state_dir
        self._spool = spool
        self._cursor = cursor
        self._values = values

    @property
    def directory(self) -> Path:
        """A directory of the sink's own; made when it is asked for.

        Raises:
            SinkUnavailableError: It cannot be made.
        """
        assert self._state_dir is not None, "a sink that writes files is given a place"
        parent = self._state_dir / "sinks"
        directory = parent / safe_name(self._name)
        try:
            parent.mkdir(mode=0o700, exist_ok=True)
            directory.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            text = f"{directory} cannot be made: {error.strerror}"
            raise SinkUnavailableError(text) from error
        return directory

    def get(self, key: str) -> bytes | None:
        """The value last remembered under this key."""
        return self._values.get(key)

    def keys(self) -> Sequence[str]:
        """Every key under which the sink remembers something."""
        return tuple(key for key in self._values if not key.startswith(ENGINE_PREFIX))

    async def remember(self, changes: Mapping[str, bytes | None]) -> None:
        """Make changes durable now.

        Raises:
            SinkUnavailableError: The spool has no room; the same batch again later.
        """
        try:
            await self.store(changes)
        except SpoolUnavailableError as error:
            raise SinkUnavailableError(str(error)) from error

    async def store(self, changes: Mapping[str, bytes | None]) -> None:
        """What `remember` is for sinks, for the engine.

        Raises:
            SpoolUnavailableError: The spool has no room.
        """
        # What earlier batches changed is committed first: it must not undo this afterwards,
        # and this must not be known beside a cursor that has those batches still to come.
        await self._cursor.commit()
        await self._spool.remember(self._name, changes)
        self.apply(changes)

    def apply(self, changes: Mapping[str, bytes | None]) -> None:
        """Follow changes that are committed elsewhere, with the cursor or later."""
        for key, value in changes.items():
            if value is None:
                self._values.pop(key, None)
            else:
                self._values[key] = value
