"""What Loki's answers mean, for a request of one stream. Pure.

Loki keeps the good lines of a request that it answers with 400, so that nothing of it is ever sent
again. Which lines were refused its message says only sometimes. Here they are believed to be the
only ones when there can be no other reading: every entry of the request is accounted for, and what
the message names is as many entries as it counts. Otherwise all of them are refused, with the
remark that some may be stored.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sinks.answers import wrong_connection
from sinks.interface import (
    BatchRejectedError,
    Refusal,
    SinkError,
    SinkMisconfiguredError,
    SinkUnavailableError,
)
from sinks.web import StatusTable, origin, printable, verdict

if TYPE_CHECKING:
    from collections.abc import Collection

    from sinks.loki.encoding import Push
    from sinks.web import Answer

_STORED = frozenset({200, 204})
_REFUSED = 400
_UNPROCESSABLE = 422
_SUCCESSES = range(200, 300)
_FAILURES = range(400, 600)
_NS_PER_S = 1_000_000_000

#: An address or a service is wrong, and no line is to blame, when a method or a type is refused.
STATUSES = StatusTable(
    retry=frozenset({408, 425, 429, *range(500, 600)} - {501}),
    hold=frozenset({401, 403, 404, 405, 407, 415, 501}),
)

_TOO_LARGE = re.compile(
    r"received message larger than max|request body too large|message size too large|"
    r"compressed message size \d+ exceeds limit"
)
_RATE_LIMITED = re.compile(
    r"rate limit exceeded.*?\(limit: (?P<bytes>\d+(?:\.\d+)?) ?(?P<unit>bytes|[KMGT]?B)/sec\)",
    re.IGNORECASE | re.DOTALL,
)
_UNITS = {"bytes": 1, "B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}

#: The ingester's words: one line for every entry, up to a number, and then how many there were.
_IGNORED = re.compile(
    r"entry with timestamp (\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d)(?:\.(\d{1,9}))? \+0000 UTC"
    r" ignored, reason: '(.*)',"
)
_TOTAL = re.compile(r"user '.*', total ignored: (\d+) out of (\d+) for stream: .*", re.DOTALL)

#: The distributor's words: one message for each different refusal, with their number.
_GROUP = re.compile(r"(?:^|; )(\d+) errors like: ")
_TOO_OLD_OR_NEW = re.compile(
    r"entry for stream '.*' has timestamp too (?:old|new): (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)"
    r"(?:, oldest acceptable timestamp is: \S+)?",
    re.DOTALL,
)
_TOO_LONG = re.compile(
    r"max entry size '\d+' bytes exceeded for stream '.*'"
    r" while adding an entry with length '(\d+)' bytes",
    re.DOTALL | re.IGNORECASE,
)

#: What Loki says where structured metadata is not allowed.
_NO_METADATA = re.compile(
    "includes structured metadata, but this feature is disallowed", re.IGNORECASE
)

#: Messages repeat the labels, whose values may be anybody's. With one like this, none is believed.
_MISLEADING = re.compile(
    r"errors like|timestamp|ignored|an entry with|too large|larger than|exceed", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request that was answered with 204 or 400.

    Attributes:
        refused: Records that are not stored, or may not be, and are never sent again.
        again: Records that are not stored for now, because of a rate limit.
    """

    refused: dict[int, Refusal] = field(default_factory=dict)
    again: frozenset[int] = frozenset()


def judge(
    answer: Answer, push: Push, *, url: str, retry_statuses: Collection[int] = ()
) -> Outcome | SinkError:
    """What an answer means to the request: what became of it, or a verdict about all of it."""
    said = answer.body.decode("utf-8", "replace") if answer.whole else ""
    message = "" if _MISLEADING.search(push.labels) else said
    if answer.status in _FAILURES and _says(_TOO_LARGE, said, push):
        text = f"{origin(url)} says that the request is too large: {answer.excerpt}"
        return BatchRejectedError(text, status=str(answer.status), too_large=True)
    if answer.status == _REFUSED and not answer.is_web_page and _REFUSED not in retry_statuses:
        wrong = wrong_connection(answer, url) or _switched_off(said, push, url)
        return _refusals(answer, message, push) if wrong is None else wrong
    error = _verdict(answer, url=url, retry_statuses=retry_statuses)
    if isinstance(error, SinkUnavailableError) and _never_passes(said, push):
        text = f"{error}; the request alone is more than that, smaller ones may pass"
        return BatchRejectedError(text, status=str(answer.status), too_large=True)
    return Outcome() if error is None else error


def _says(pattern: re.Pattern[str], message: str, push: Push) -> bool:
    """Whether a message says so, and does not merely repeat a label that does."""
    return bool(pattern.search(message)) and not pattern.search(push.labels)


def _switched_off(message: str, push: Push, url: str) -> SinkError | None:
    """What is wrong when the server takes nothing because of what we send with every line."""
    if not _says(_NO_METADATA, message, push):
        return None
    return SinkMisconfiguredError(
        f"{origin(url)} takes no structured metadata (allow_structured_metadata): allow it there,"
        ' or set "structured_metadata: false"'
    )


def judge_check(answer: Answer, *, url: str) -> SinkError | None:
    """What the answer to an empty request means; None when a write would be taken.

    Loki says of such a request that a stream is missing, and looks at credentials and tenant first;
    other servers take it.
    """
    if answer.status in {_REFUSED, _UNPROCESSABLE} and b"at least one valid stream" in answer.body:
        return None
    error = _verdict(answer, url=url, retry_statuses=())
    if isinstance(error, BatchRejectedError):
        return SinkMisconfiguredError(f"{error}; mend the address")
    return error


def _verdict(answer: Answer, *, url: str, retry_statuses: Collection[int]) -> SinkError | None:
    """What an answer means by its status; None for a success."""
    if answer.is_web_page and answer.status == _REFUSED and _REFUSED not in retry_statuses:
        return SinkMisconfiguredError(
            f"{origin(url)} answers {answer.status} with a web page, as a proxy does, and not as"
            " Loki: mend the address"
        )
    if answer.status in _SUCCESSES and answer.status not in _STORED and not answer.is_web_page:
        said = f": {answer.excerpt}" if answer.excerpt else ""
        return SinkMisconfiguredError(
            f"{origin(url)} answered {answer.status}{said}; lines are not stored: ingestion is"
            " blocked for this tenant"
        )
    if b"no org id" in answer.body and answer.status in STATUSES.hold:
        text = f'{origin(url)} wants to know the tenant: set "tenant"'
        return SinkMisconfiguredError(text, credentials=True)
    return verdict(answer, STATUSES, url=url, retry_statuses=retry_statuses)


def _refusals(answer: Answer, message: str, push: Push) -> Outcome:
    exact = _named_by_ingester(message, push) or _named_by_distributor(message, push)
    if exact is not None:
        return exact
    refusal = Refusal(f"{answer.excerpt} ({_count(message)})", str(_REFUSED), maybe_stored=True)
    return Outcome(dict.fromkeys(push.records, refusal))


def _count(message: str) -> str:
    total = re.search(r"total ignored: (\d+) out of (\d+)", message)
    if total is not None:
        return f"{total[1]} of {total[2]} lines of the request were refused, not said which"
    groups = _GROUP.findall(message)
    if groups:
        return f"{sum(map(int, groups))} lines of the request were refused, not said which"
    return "not said which lines of the request were refused"


def _named_by_ingester(message: str, push: Push) -> Outcome | None:
    """What it names, if that is all that was refused, and nothing was refused before it."""
    *lines, last = message.strip().split("\n")
    found = [_IGNORED.fullmatch(line) for line in lines]
    total = _TOTAL.fullmatch(last)
    named = [match for match in found if match is not None]
    if total is None or len(named) != len(lines) or int(total[1]) != len(named):
        return None
    if int(total[2]) != len(push.records):
        return None
    refused: dict[int, Refusal] = {}
    again: set[int] = set()
    reasons = {_stamp_ns(match): match[4] for match in named}
    for stamp_ns, count in Counter(map(_stamp_ns, named)).items():
        records = _between(push, stamp_ns, stamp_ns + 1)
        if len(records) != count:
            return None
        if "rate limit exceeded" in reasons[stamp_ns].lower():
            again |= records.keys()
        else:
            refused |= dict.fromkeys(records, _refusal(reasons[stamp_ns]))
    return _unless_torn(Outcome(refused, frozenset(again)), push, len(named))


def _named_by_distributor(message: str, push: Push) -> Outcome | None:
    """What it describes, if exactly so many entries are like that."""
    message = message.strip()
    parts = _GROUP.split(message)
    pairs = [(1, message)]
    if len(parts) > 1 and not parts[0]:
        pairs = [(int(n), text) for n, text in zip(parts[1::2], parts[2::2], strict=True)]
    counts: Counter[tuple[str, int]] = Counter()
    texts: dict[tuple[str, int], str] = {}
    for count, text in pairs:
        key = _described(text)
        if key is None:
            return None
        counts[key] += count
        texts[key] = text
    refused: dict[int, Refusal] = {}
    for key, count in counts.items():
        entries = _like(push, *key)
        if len(entries) != count:
            return None
        refused |= {push.records[i]: _refusal(texts[key]) for i in entries}
    return _unless_torn(Outcome(refused), push, counts.total())


def _described(text: str) -> tuple[str, int] | None:
    if (when := _TOO_OLD_OR_NEW.fullmatch(text)) is not None:
        return "second", int(datetime.fromisoformat(when[1]).timestamp())
    if (long := _TOO_LONG.fullmatch(text)) is not None:
        return "length", int(long[1])
    return None


def _like(push: Push, what: str, value: int) -> list[int]:
    if what == "length":
        return [i for i, length in enumerate(push.lengths) if length == value]
    start = bisect_left(push.stamps_ns, value * _NS_PER_S)
    return list(range(start, bisect_left(push.stamps_ns, (value + 1) * _NS_PER_S)))


def _between(push: Push, start_ns: int, stop_ns: int) -> dict[int, int]:
    """The entries of these stamps, by their records; a record that is there twice counts once."""
    entries = range(
        bisect_left(push.stamps_ns, start_ns), bisect_right(push.stamps_ns, stop_ns - 1)
    )
    return {push.records[i]: i for i in entries}


def _unless_torn(outcome: Outcome, push: Push, entries: int) -> Outcome | None:
    """None when of a record in pieces only some are meant, or one entry is meant twice."""
    records = outcome.refused.keys() | outcome.again
    of_them = sum(1 for record in push.records if record in records)
    return outcome if records and of_them == entries else None


def _refusal(reason: str) -> Refusal:
    return Refusal(printable(reason), str(_REFUSED))


def _stamp_ns(match: re.Match[str]) -> int:
    moment = datetime.fromisoformat(f"{match[1]}T{match[2]}").replace(tzinfo=UTC)
    return int(moment.timestamp()) * _NS_PER_S + int((match[3] or "").ljust(9, "0"))


def _never_passes(message: str, push: Push) -> bool:
    """Whether the request is more than the rate limit gives in a second, however long we wait.

    A record alone is not: it waits for its turn, since bursts are mostly larger than that.
    """
    limit = _RATE_LIMITED.search(message)
    if limit is None or len(set(push.records)) == 1 or _RATE_LIMITED.search(push.labels):
        return False
    unit = "bytes" if limit["unit"].lower() == "bytes" else limit["unit"].upper()
    return push.size_bytes > float(limit["bytes"]) * _UNITS[unit]
