"""The real spool, interfered with: every call can be seen, held, refused, or cancelled around."""

from __future__ import annotations

import inspect
from collections import defaultdict
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

    from forwarder.spool.interface import Spool


class MeddledSpool:
    """Passes every call on.

    Attributes:
        calls: The names of all calls, in order.
        errors: By name: raised instead of the next calls, one each.
        gates: By name: an event that the call waits for.
        step: Awaited before and after every call.
    """

    def __init__(
        self, spool: Spool, *, step: Callable[[str], Awaitable[None]] | None = None
    ) -> None:
        self.calls: list[str] = []
        self.errors: defaultdict[str, list[Exception]] = defaultdict(list)
        self.gates: dict[str, asyncio.Event] = {}
        self._spool = spool
        self._step = step

    @property
    def spool(self) -> Spool:
        """This, as what it stands for."""
        return cast("Spool", self)

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._spool, name)
        if not inspect.iscoroutinefunction(attribute):
            return attribute

        async def call(*args: Any, **options: Any) -> Any:
            self.calls.append(name)
            await self._at(f"{name} begins")
            if name in self.gates:
                await self.gates[name].wait()
            if self.errors[name]:
                raise self.errors[name].pop(0)
            result = await attribute(*args, **options)
            await self._at(f"{name} is done")
            return result

        return call

    async def _at(self, moment: str) -> None:
        if self._step is not None:
            await self._step(moment)
