"""Answers that come while a body is still being sent, from servers that then read no more of it.

The HTTP library reads nothing before it has sent everything. A server that refuses a large body at
its beginning, and closes the connection, would so only ever be seen to break it: 403 and 413 among
them. So every connection also listens while it sends much, and the library, which takes it from a
write that fails that there may be an answer, is told to look for one.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import httpcore

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

#: A smaller piece is sent before anybody could refuse it.
_LARGE_BYTES = 64 * 1024
_READ_BYTES = 64 * 1024

#: What has come is soon read; it may also be a part of TLS's own talk, of which nothing is heard.
_HEARING_S = 0.1

#: Not an interim answer, behind which the body is waited for.
_REFUSAL = re.compile(rb"HTTP/1\.[01] [345]")


def hear_early_answers(event: str, info: Mapping[str, Any]) -> None:
    """Make a new connection listen; called with what the library tells of every step (`trace`)."""
    if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
        _Listener(info["return_value"])


class _Listener:
    """Stands between the library and one connection."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._read, self._write, self._aclose = stream.read, stream.write, stream.aclose
        self._heard: asyncio.Task[bytes] | None = None
        # The library offers no other way to a connection that it makes itself.
        stream.read = self.read  # type: ignore[method-assign]  # see above
        stream.write = self.write  # type: ignore[method-assign]  # see above
        stream.aclose = self.aclose  # type: ignore[method-assign]  # see above

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - the library's own
        """Send, unless there is no use in it any more."""
        if self._heard is None and len(buffer) >= _LARGE_BYTES:
            self._heard = asyncio.create_task(self._read(_READ_BYTES))
        if self._heard is not None and self._stream.get_extra_info("is_readable"):
            # To write to a connection that was reset would lose what it still has to say.
            await asyncio.wait({self._heard}, timeout=_HEARING_S)
        if self._is_refused():
            raise httpcore.WriteError("the answer has come")
        try:
            await self._write(buffer, timeout)
        except httpcore.WriteTimeout:
            if self._is_refused():
                raise httpcore.WriteError("the answer has come") from None
            raise

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - the library's own
        """What was heard, and then the rest."""
        heard = self._heard
        if heard is None:
            return await self._read(max_bytes, timeout)
        await asyncio.wait({heard}, timeout=timeout)
        if not heard.done():
            raise httpcore.ReadTimeout
        self._heard = None
        return heard.result()

    async def aclose(self) -> None:
        """Listen no longer, and close."""
        heard, self._heard = self._heard, None
        if heard is not None:
            heard.cancel()
            await asyncio.gather(heard, return_exceptions=True)
        await self._aclose()

    def _is_refused(self) -> bool:
        heard = self._heard
        if heard is None or not heard.done() or heard.exception() is not None:
            return False
        return _REFUSAL.match(heard.result()) is not None
