"""Log bytes to the messages of StreamLogs, and those to Connect's body on HTTP/1.1."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cwsandbox._proto.sandbox_pb2 import LogEntry

if TYPE_CHECKING:
    from collections.abc import Iterator

    Raw = bytes | bytearray | memoryview

#: A message size that means "every line is a message of its own".
ONE_LINE = 0
END_OF_STREAM_FLAG = 2
LAST_CHUNK = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Session:
    """A log session that needs no memory: its name says where in the log it began.

    Offsets count the session's own bytes, so byte `offset` of the session is byte
    `start + offset` of the log.
    """

    start: int = 0

    @property
    def id(self) -> str:
        return f"session-{self.start}"

    @classmethod
    def parse(cls, session_id: str) -> Session | None:
        """The session of that name, None when there is no such session."""
        prefix, _, start = session_id.rpartition("-")
        return cls(int(start)) if prefix == "session" and start.isdecimal() else None


def pieces(raw: Raw, message_bytes: int) -> Iterator[bytes]:
    """Cut log bytes into what single messages carry; the last piece may be shorter."""
    if message_bytes == ONE_LINE:
        yield from bytes(raw).splitlines(keepends=True)
        return
    view = memoryview(raw)
    for position in range(0, len(view), message_bytes):
        yield bytes(view[position : position + message_bytes])


def entries(raw: Raw, message_bytes: int, session: Session, position: int) -> Iterator[bytes]:
    """Serialized LogEntry messages for log bytes that begin at `position` of the log."""
    offset = position - session.start
    session_id = session.id
    for piece in pieces(raw, message_bytes):
        offset += len(piece)
        yield LogEntry(
            data=piece, log_session_id=session_id, next_log_offset=offset
        ).SerializeToString()


def chunk(payload: bytes, flags: int = 0) -> bytes:
    """One envelope as one HTTP chunk: what a server sends that flushes after every message."""
    return b"%x\r\n%c%b%b\r\n" % (
        len(payload) + 5,
        flags,
        len(payload).to_bytes(4, "big"),
        payload,
    )


def body(raw: Raw, message_bytes: int, session: Session, position: int) -> bytearray:
    """The chunked body's part for these log bytes, without an end."""
    made = bytearray()
    for entry in entries(raw, message_bytes, session, position):
        made += chunk(entry)
    return made


def end_of_stream(code: str = "", message: str = "") -> bytes:
    """The end-of-stream envelope and the end of the chunked body."""
    payload = {"error": {"code": code, "message": message}} if code else {}
    return chunk(json.dumps(payload).encode(), END_OF_STREAM_FLAG) + LAST_CHUNK


def unwrap_envelope(request_body: bytes) -> bytes:
    """The single message of a streaming request.

    Raises:
        ValueError: It is compressed, or not exactly one envelope.
    """
    if len(request_body) < 5 or request_body[0] != 0:
        raise ValueError("expected one uncompressed envelope")
    if int.from_bytes(request_body[1:5], "big") != len(request_body) - 5:
        raise ValueError("expected exactly one envelope")
    return request_body[5:]
