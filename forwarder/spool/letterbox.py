"""The dead letters of a spool that is open: handed out, settled, and what operators ask of them."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import structlog

from forwarder.errors import SpoolUnavailableError
from forwarder.spool import dead_letters, statements
from forwarder.spool.requests import carry_out, read_request, requests_in

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    from forwarder.model import HeldLetter, StreamInfo
    from forwarder.spool.dead_letters import Settlement
    from forwarder.spool.files import StateDir
    from forwarder.spool.gate import Gate
    from forwarder.spool.reading import Query
    from forwarder.spool.requests import Request

_log = structlog.get_logger()


class LetterBox:
    """See `forwarder.spool.interface.Spool`."""

    def __init__(
        self,
        state: StateDir,
        query: Query,
        infos: dict[int, StreamInfo],
        gate: Gate,
        *,
        now: Callable[[], int],
        release: Callable[[Collection[int]], None],
    ) -> None:
        """Read through `query`; what is learned of streams is added to `infos`.

        Args:
            state: Where requests are left.
            query: Runs a query in the thread that reads.
            infos: Of the streams that are known.
            gate: Runs what is written.
            now: The wall clock.
            release: Told which streams' letters are not handed out any more.
        """
        self._state = state
        self._query = query
        self._infos = infos
        self._gate = gate
        self._now = now
        self._release = release
        self._handed: dict[str, frozenset[int]] = {}
        self._told: set[int | Path] = set()
        self._turn = asyncio.Lock()

    def is_handed_out(self, stream_id: int) -> bool:
        """Whether letters of a stream are being sent again: what is known of it is asked for."""
        return any(stream_id in streams for streams in self._handed.values())

    async def to_replay(self, sink: str, max_bytes: int) -> Sequence[HeldLetter]:
        """What is to be sent again of a sink's dead letters, about so much."""
        await self.take_requests()
        letters, damaged = await self._query(
            lambda connection: dead_letters.letters_to_replay(connection, sink, max_bytes=max_bytes)
        )
        for letter_id in damaged:
            self._tell(
                letter_id,
                "a dead letter is damaged and cannot be sent again; it can only be dropped",
                sink=sink,
                id=letter_id,
            )
        before = self._handed.pop(sink, frozenset())
        if letters:
            self._handed[sink] = frozenset(one.letter.stream_id for one in letters)
            await self._know(self._handed[sink])
        if gone := {one for one in before if not self.is_handed_out(one)}:
            self._release(gone)
        return letters

    async def _know(self, streams: Collection[int]) -> None:
        """Learn again of streams that were over and forgotten, or are being forgotten now."""
        while unknown := set(streams) - self._infos.keys():
            infos = await self._query(partial(statements.stream_infos, stream_ids=unknown))
            for stream_id, info in infos.items():
                # A stream that was opened meanwhile is known better.
                self._infos.setdefault(stream_id, info)

    async def settle(self, sink: str, settlements: Sequence[Settlement]) -> None:
        """Store what became of letters that were sent again."""
        await self._gate.essential(
            lambda connection: dead_letters.settle(connection, sink, settlements)
        )

    async def take_requests(self) -> None:
        """Carry out what operators ask for; what cannot be done now waits for the next call."""
        async with self._turn:
            for path in await asyncio.to_thread(requests_in, self._state):
                try:
                    request = read_request(path)
                    await self._carry_out(request)
                    path.unlink(missing_ok=True)
                except SpoolUnavailableError:
                    return
                except (OSError, ValueError) as error:
                    self._tell(path, "a request cannot be read", path=str(path), error=str(error))
                else:
                    _log.warning(
                        f"{request.about}: an operator's request was carried out",
                        wish=str(request.wish),
                        sink=request.sink,
                    )

    async def _carry_out(self, request: Request) -> None:
        now_ns = self._now()
        after_id = 0
        while True:
            after_id = await self._gate.essential(
                partial(carry_out, request=request, now_ns=now_ns, after_id=after_id)
            )
            if not after_id:
                return

    def _tell(self, what: int | Path, message: str, **fields: str | int) -> None:
        """Each trouble once."""
        if what not in self._told:
            self._told.add(what)
            _log.error(message, **fields)
