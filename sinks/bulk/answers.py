"""What the answer to a bulk request means, item by item. Pure.

Each item is one of four things: it is there, it never will be, it comes again, or somebody has to
mend something first. The last kind is never a reason to give up a record: it is found by its status
and type and, where servers give a wrong configuration the type of a bad document, by its reason.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from sinks.answers import printable
from sinks.interface import (
    PartlyDeliveredError,
    Refusal,
    SinkError,
    SinkMisconfiguredError,
    SinkUnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

#: What of an answer we ask for: it is a tenth of the whole.
FILTER_PATH = "errors,items.*.status,items.*.error"

_CONFLICT = 409
_TOO_MANY = 429
_HOLD_STATUSES = frozenset({401, 403, 404, 407})
#: Whatever their status: 400 for the first three.
_HOLD_TYPES = frozenset(
    {
        "index_closed_exception",
        "invalid_index_name_exception",
        "validation_exception",  # the cluster has as many shards as it may have
        "index_not_found_exception",
        "cluster_block_exception",
        "security_exception",
    }
)
#: All are an `illegal_argument_exception`, as a document with too many fields is.
_HOLD_REASONS = re.compile(
    r"pipeline with id \[[^\]]*\] does not exist"
    r"|no write index is defined for alias"
    r"|no matching index template found"
    r"|is in time_series mode"  # refuses our `_id`
    r"|Document ID is not supported"  # so do Amazon's collections for time series
)
#: From here on a reason quotes the document: log content has no place in messages.
_QUOTATION = re.compile(
    r"[\s.:,]*(?:Preview of field's value|The prefix of the first immense term|For input string"
    r"|failed to parse date field|unable to parse date|unable to convert|Current token"
    r"|Invalid UTF-8|Unrecognized token|against source|(?:do|does) not match field value"
    r"|\[[^\]]*\] is not a(?:n)? ).*",
    re.DOTALL,
)


@dataclass(slots=True)
class Verdicts:
    """What became of each document, by its position in the request.

    Attributes:
        there: How many are stored, now or before.
        refused: Which never will be, and why.
        again: Which come again, later.
        held: Which come again after somebody has mended something.
        retry_reason: Why the first of `again` does.
        hold_reason: Why the first of `held` does.
        credentials: Whether any of `held` is about our credentials.
    """

    there: int = 0
    refused: dict[int, Refusal] = field(default_factory=dict)
    again: list[int] = field(default_factory=list)
    held: list[int] = field(default_factory=list)
    retry_reason: str = ""
    hold_reason: str = ""
    credentials: bool = False


def read_verdicts(body: bytes, count: int, *, own_ids: bool) -> Verdicts | None:
    """The verdicts on so many documents; None when the answer does not tell them all.

    Args:
        body: The whole body of an answer with status 200.
        count: How many documents were sent.
        own_ids: Whether they had an `_id` of ours: then a conflict says that one is there already.
    """
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(answer, dict):
        return None
    items = answer.get("items", [])
    if answer.get("errors") is False and items == []:
        return Verdicts(there=count)  # some compatible servers leave them out
    if not isinstance(items, list) or len(items) != count:
        return None
    verdicts = Verdicts()
    for position, item in enumerate(items):
        _judge(verdicts, position, item, own_ids=own_ids)
    return verdicts


def _judge(verdicts: Verdicts, position: int, item: object, *, own_ids: bool) -> None:
    result = next(iter(item.values()), None) if isinstance(item, dict) else None
    result = result if isinstance(result, dict) else {}
    status, error = result.get("status"), result.get("error")
    error = error if isinstance(error, dict) else {}
    if not isinstance(status, int):
        status, error = 0, {"reason": "an item without a status"}
    if 200 <= status < 300 or (status == _CONFLICT and own_ids):  # noqa: PLR2004 - successes
        verdicts.there += 1
    elif _must_be_mended(status, error):
        verdicts.held.append(position)
        verdicts.hold_reason = verdicts.hold_reason or _explain(status, error)
        verdicts.credentials |= error.get("type") == "security_exception" or status == 401  # noqa: PLR2004 - unauthorized
    elif 400 <= status < 500 and status not in {_TOO_MANY, _CONFLICT}:  # noqa: PLR2004 - refusals
        verdicts.refused[position] = Refusal(_reason(error), _type(error) or str(status))
    else:
        verdicts.again.append(position)
        verdicts.retry_reason = verdicts.retry_reason or _explain(status, error)


def _must_be_mended(status: int, error: dict[str, Any]) -> bool:
    # A full disk is a cluster_block_exception, too, but with 429: it passes by itself.
    if status < 400 or status == _TOO_MANY or status >= 500:  # noqa: PLR2004 - not client errors
        return False
    if status in _HOLD_STATUSES or error.get("type") in _HOLD_TYPES:
        return True
    cause = error.get("caused_by")
    reasons = [error.get("reason"), cause.get("reason") if isinstance(cause, dict) else None]
    return any(isinstance(text, str) and _HOLD_REASONS.search(text) for text in reasons)


def after_fallback(first: Verdicts, second: Verdicts) -> Verdicts:
    """What became of all documents when those that were refused were sent to another index.

    What that one refuses, too, stays refused for its first reason. What it cannot take now comes
    again, to be refused again.

    Args:
        first: On all documents.
        second: On those that were refused, in that order.
    """
    positions = list(first.refused)
    return Verdicts(
        there=first.there + second.there,
        refused={positions[i]: first.refused[positions[i]] for i in second.refused},
        again=first.again + [positions[i] for i in second.again],
        held=first.held + [positions[i] for i in second.held],
        retry_reason=first.retry_reason or second.retry_reason,
        hold_reason=first.hold_reason or second.hold_reason,
        credentials=first.credentials or second.credentials,
    )


def as_error(verdicts: Verdicts, records: Sequence[int], *, where: str) -> SinkError | None:
    """The verdict on the batch; None when every document is there.

    Nothing stored, and something to be mended: hold. With documents stored besides, the rest comes
    again, without them, and is held then.

    Args:
        verdicts: On the documents.
        records: Each document's record.
        where: The server, for messages.
    """
    waiting = sorted(verdicts.again + verdicts.held)
    if not waiting and not verdicts.refused:
        return None
    if not verdicts.there and not verdicts.refused:
        if verdicts.held:
            text = f"{where} answered {verdicts.hold_reason}; mend that, and the sink goes on"
            return SinkMisconfiguredError(text, credentials=verdicts.credentials)
        return SinkUnavailableError(f"{where} answered {verdicts.retry_reason}")
    return PartlyDeliveredError(
        f"{where} {_summary(verdicts, len(records), len(waiting))}",
        refused={records[position]: why for position, why in verdicts.refused.items()},
        again=[records[position] for position in waiting],
    )


def _summary(verdicts: Verdicts, count: int, waiting: int) -> str:
    parts = []
    if verdicts.refused:
        first = next(iter(verdicts.refused.values()))
        parts.append(f"refused {len(verdicts.refused)} of {count}: {first.status}: {first.reason}")
    if waiting:
        why = verdicts.hold_reason or verdicts.retry_reason
        parts.append(f"did not take {waiting} of {count} yet: {why}")
    return printable("; ".join(parts))


def _explain(status: int, error: dict[str, Any]) -> str:
    text = ": ".join(filter(None, [_type(error), _reason(error)]))
    return f"{status}: {text}" if text else str(status)


def _type(error: dict[str, Any]) -> str:
    kind = error.get("type")
    return printable(kind) if isinstance(kind, str) else ""


def _reason(error: dict[str, Any]) -> str:
    """The server's words as far as they do not quote the document, and the type of the cause."""
    reason = error.get("reason")
    text = printable(_QUOTATION.sub("", reason)) if isinstance(reason, str) else ""
    cause = error.get("caused_by")
    return f"{text} ({_type(cause)})" if isinstance(cause, dict) and _type(cause) else text
