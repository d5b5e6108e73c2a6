"""The StreamLogs messages, to and from our own words; pure, and the same for every transport."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from forwarder.errors import LogStreamError, SourceError, SourceUnavailableError
from forwarder.source.errors_map import one_line
from forwarder.source.messages_pb2 import LogEntry, StreamLogsRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from forwarder.source.interface import LogRequest


def encode_request(request: LogRequest) -> bytes:
    """Serialize a request; see `LogRequest` for what a continuation leaves out."""
    message = StreamLogsRequest(
        sandbox_id=request.sandbox_id, container=request.container, follow=request.follow
    )
    if request.session_id:
        message.follow = True
        message.resume_log_session_id = request.session_id
        message.resume_log_offset = request.offset
        return message.SerializeToString()
    message.timestamps = request.timestamps
    if request.tail_lines is not None:
        message.tail_lines = request.tail_lines
    if request.since_ns is not None:
        seconds, nanos = divmod(request.since_ns, 1_000_000_000)
        message.since_time.CopyFrom(Timestamp(seconds=seconds, nanos=nanos))
    return message.SerializeToString()


def decode_entries(payloads: Iterable[bytes]) -> tuple[list[LogEntry], SourceError | None]:
    """Parse messages up to the first that ends the stream.

    Returns:
        The entries before it, and the error that it means; nothing behind it is looked at. The
        caller hands over the entries first and then raises the error.
    """
    parse = LogEntry.FromString
    entries: list[LogEntry] = []
    for payload in payloads:
        try:
            entry = parse(payload)
        except DecodeError:
            return entries, SourceUnavailableError(
                "the log stream holds a message that cannot be read", code="internal"
            )
        if entry.HasField("error"):
            return entries, _in_band_error(entry)
        entries.append(entry)
    return entries, None


def _in_band_error(entry: LogEntry) -> LogStreamError:
    code = one_line(entry.error.code) or "UNKNOWN"
    text = f": {one_line(entry.error.message)}" if entry.error.message else ""
    return LogStreamError(f"the log stream ended: {code}{text}", code=code)
