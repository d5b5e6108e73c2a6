"""What the server of an OTLP request says, and what that means to the engine. Pure.

A request that was taken may still have refused records: the answer says how many, and not which.
They must not be sent again, since the others would come with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

from sinks.answers import printable
from sinks.interface import PartlyDeliveredError, Refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sinks.answers import Answer
    from sinks.interface import Slice

#: The specification's limit for an answer.
MAX_ANSWER_BYTES = 4 * 1024 * 1024

_PROTOBUF_TYPES = {
    *("application/x-protobuf", "application/protobuf", "application/octet-stream", "")
}


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What the answer to a request that was taken says of its records.

    Attributes:
        rejected: So many were refused, never to be sent again.
        message: Why; or a warning, when none was.
        readable: Whether it was an answer of this protocol at all.
    """

    rejected: int = 0
    message: str = ""
    readable: bool = True


UNREADABLE = Acceptance(readable=False)


def read_answer(answer: Answer) -> Acceptance:
    """The body of an answer over HTTP, by the type that it has."""
    if not answer.whole:
        return UNREADABLE
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not answer.body.strip():
        return Acceptance()
    if kind == "application/json":
        return read_json(answer.body)
    return read_protobuf(answer.body) if kind in _PROTOBUF_TYPES else UNREADABLE


def read_protobuf(body: bytes) -> Acceptance:
    """An `ExportLogsServiceResponse`; nothing at all is a full success."""
    try:
        partial = ExportLogsServiceResponse.FromString(body).partial_success
    except DecodeError:
        return UNREADABLE
    return Acceptance(max(partial.rejected_log_records, 0), printable(partial.error_message))


def read_json(body: bytes) -> Acceptance:
    """The same in JSON."""
    try:
        partial = orjson.loads(body).get("partialSuccess") or {}
        # 64-bit integers are texts; some write them as numbers all the same.
        rejected = int(partial.get("rejectedLogRecords") or 0)
        message = str(partial.get("errorMessage") or "")
    except (ValueError, AttributeError, TypeError, OverflowError):
        return UNREADABLE
    return Acceptance(max(rejected, 0), printable(message))


def partly_delivered(
    acceptance: Acceptance, slices: Sequence[Slice], where: str
) -> PartlyDeliveredError | None:
    """The verdict when records were refused; None when none was.

    Which ones they are is known only when it is all of them.
    """
    if not acceptance.rejected:
        return None
    sent = _sent_records(slices)
    reason = acceptance.message or "no reason given"
    text = f"{where} refused {min(acceptance.rejected, len(sent))} of {len(sent)} records: {reason}"
    refusal = Refusal(reason, status="partial_success")
    if acceptance.rejected >= len(sent):
        return PartlyDeliveredError(text, refused=dict.fromkeys(sent, refusal))
    return PartlyDeliveredError(text, unnamed=acceptance.rejected, unnamed_refusal=refusal)


def _sent_records(slices: Sequence[Slice]) -> list[int]:
    """The numbers of a batch's records without the end records, which are not sent."""
    numbers: list[int] = []
    position = 0
    for source in slices:
        if source.end is None:
            numbers.extend(range(position, position + source.record_count))
        position += source.record_count
    return numbers
