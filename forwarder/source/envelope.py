"""Connect's framing of a streamed body, as a pure parser: bytes in, messages out.

A body is a sequence of envelopes: one flag byte, four bytes of big-endian length, the message. The
last envelope carries the end-of-stream flag; a body without it was cut, whatever HTTP says
(connectrpc.com/docs/protocol).

The parser never raises: what was whole before a broken envelope is still handed over, and
`EnvelopeReader.outcome` says why there will be nothing more.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from struct import Struct

FLAG_COMPRESSED = 0b01
FLAG_END = 0b10
HEADER_BYTES = 5
MAX_MESSAGE_BYTES = 100 * 1024 * 1024
MAX_DECOMPRESSED_BYTES = 64 * 1024 * 1024

_HEADER = Struct(">BI")
_GZIP_WBITS = 31


def pack(message: bytes, flags: int = 0) -> bytes:
    """One envelope, ready to send."""
    return _HEADER.pack(flags, len(message)) + message


@dataclass(frozen=True, slots=True)
class End:
    """The stream's end-of-stream envelope came; `payload` is its JSON."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Broken:
    """The body is not what the protocol promises; nothing after this point can be read.

    Attributes:
        code: The Connect code that a peer would use for it.
        reason: `MESSAGE_TOO_LARGE`, or empty.
    """

    message: str
    code: str = "internal"
    reason: str = ""


class EnvelopeReader:
    """Collects envelopes from the pieces in which a body arrives.

    Every byte is copied a fixed number of times, however a message is cut, and no more than one
    unfinished message is held.

    Attributes:
        outcome: None while the stream goes on. Once set, everything fed later is ignored.
    """

    def __init__(
        self,
        *,
        gzip: bool = False,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        max_decompressed_bytes: int = MAX_DECOMPRESSED_BYTES,
    ) -> None:
        self.outcome: End | Broken | None = None
        self._gzip = gzip
        self._max_message_bytes = max_message_bytes
        self._max_decompressed_bytes = max_decompressed_bytes
        self._tail = bytearray()
        self._wanted_bytes = HEADER_BYTES

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take the next piece of the body and return the messages that it completes."""
        if self.outcome is not None:
            return []
        if self._tail:
            self._tail += chunk
            if len(self._tail) < self._wanted_bytes:
                return []
            chunk = bytes(self._tail)
            self._tail = bytearray()
        messages, rest_at, wanted_bytes = self._parse(chunk)
        if self.outcome is None:
            self._tail += memoryview(chunk)[rest_at:]
            self._wanted_bytes = wanted_bytes
        return messages

    def _parse(self, data: bytes) -> tuple[list[bytes], int, int]:
        """Read whole envelopes; returns them, where the rest begins, and how much it must grow to.

        The loop is the client's hottest: it does one struct read and one slice for each message.
        """
        messages: list[bytes] = []
        size = len(data)
        at = 0
        while size - at >= HEADER_BYTES:
            flags, length = _HEADER.unpack_from(data, at)
            if length > self._max_message_bytes:
                self._break_too_large(f"{length} bytes", self._max_message_bytes)
                break
            start = at + HEADER_BYTES
            end = start + length
            if end > size:
                return messages, at, HEADER_BYTES + length
            at = end
            if not flags:
                messages.append(data[start:end])
                continue
            message = self._flagged(flags, data[start:end])
            if message is None:
                break
            messages.append(message)
        return messages, at, HEADER_BYTES

    def _flagged(self, flags: int, payload: bytes) -> bytes | None:
        """A message with flags; None once the stream has an outcome."""
        if flags & ~(FLAG_COMPRESSED | FLAG_END):
            self.outcome = Broken(f"an envelope has unknown flags {flags:#04x}")
            return None
        if flags & FLAG_COMPRESSED:
            plain = self._decompress(payload)
            if plain is None:
                return None
            payload = plain
        if flags & FLAG_END:
            self.outcome = End(payload)
            return None
        return payload

    def _decompress(self, payload: bytes) -> bytes | None:
        if not self._gzip:
            self.outcome = Broken("a message is compressed in a way that was not announced")
            return None
        inflater = zlib.decompressobj(_GZIP_WBITS)
        try:
            plain = inflater.decompress(payload, self._max_decompressed_bytes + 1)
        except zlib.error as error:
            self.outcome = Broken(f"a compressed message cannot be read: {error}")
            return None
        if len(plain) > self._max_decompressed_bytes:
            self._break_too_large("more when decompressed", self._max_decompressed_bytes)
            return None
        if not inflater.eof:
            self.outcome = Broken("a compressed message is not complete")
            return None
        return plain

    def _break_too_large(self, size: str, limit_bytes: int) -> None:
        self.outcome = Broken(
            f"a message has {size}; the limit is {limit_bytes} bytes",
            code="resource_exhausted",
            reason="MESSAGE_TOO_LARGE",
        )
