"""The command `check`: does the API answer, and every destination, and do they take us?

Nothing is written anywhere, and no spool is touched: it may run beside the daemon.
"""

from __future__ import annotations

import asyncio
import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forwarder.errors import CredentialsRefusedError, SandboxNotFoundError, SourceError
from sinks.interface import Checkable, SinkError, SinkMisconfiguredError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping, Sequence

    from forwarder.config import SandboxSelector
    from forwarder.source.interface import LogSource
    from sinks.interface import Sink
    from sinks.window import WindowSink

#: Who has not answered by then does not answer.
CHECK_S = 30.0

#: Sandboxes named by id that are asked for; the API is not to be flooded by a question.
_IDS_ASKED = 20


class Verdict(enum.StrEnum):
    """What was found."""

    OK = "ok"
    NOT_CHECKED = "not_checked"  # the sink has no way to ask without writing
    UNAVAILABLE = "unavailable"  # no answer, or one that says "not now"
    MISCONFIGURED = "misconfigured"  # an answer, and not one of what was meant to be there
    REFUSED = "refused"  # credentials

    @property
    def is_trouble(self) -> bool:
        """Whether lines would not get there."""
        return self not in {Verdict.OK, Verdict.NOT_CHECKED}


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of the API, or of one destination.

    Attributes:
        name: `api`, or the sink's name.
        kind: `api`, or the sink's type.
        text: In words, with what to do about it.
    """

    name: str
    kind: str
    verdict: Verdict
    text: str


async def check_all(
    source: LogSource,
    selectors: Sequence[SandboxSelector],
    sinks: Mapping[str, tuple[str, Sink | WindowSink]],
    *,
    timeout_s: float = CHECK_S,
) -> list[Finding]:
    """Ask everybody at once; the API's finding first, then the sinks' in their order.

    Args:
        source: The API.
        selectors: What is to be followed: it is looked for.
        sinks: By name, each with its type; they are not opened.
        timeout_s: How long to wait for each answer.
    """
    questions = [_check_source(source, selectors)]
    questions += [_check_sink(name, kind, sink) for name, (kind, sink) in sinks.items()]
    names = [("api", "api"), *((name, kind) for name, (kind, _) in sinks.items())]
    return await asyncio.gather(
        *(
            _within(timeout_s, name, kind, question)
            for (name, kind), question in zip(names, questions, strict=True)
        )
    )


async def _within(
    timeout_s: float, name: str, kind: str, question: Coroutine[None, None, Finding]
) -> Finding:
    try:
        async with asyncio.timeout(timeout_s):
            return await question
    except TimeoutError:
        return Finding(name, kind, Verdict.UNAVAILABLE, f"no answer within {timeout_s:g} s")


async def _check_source(source: LogSource, selectors: Sequence[SandboxSelector]) -> Finding:
    try:
        text = await _look_for(source, selectors)
    except CredentialsRefusedError as error:
        return Finding("api", "api", Verdict.REFUSED, str(error))
    except SourceError as error:
        return Finding("api", "api", Verdict.UNAVAILABLE, str(error))
    return Finding("api", "api", Verdict.OK, text)


async def _look_for(source: LogSource, selectors: Sequence[SandboxSelector]) -> str:
    """How many of the wanted sandboxes there are now; which ids the API does not know."""
    found: set[str] = set()
    unknown: list[str] = []
    for selector in selectors:
        if selector.tags:
            found.update(one.id for one in await source.list_sandboxes(tags=selector.tags))
    for sandbox_id in [selector.id for selector in selectors if selector.id][:_IDS_ASKED]:
        try:
            found.add((await source.get_sandbox(sandbox_id)).id)
        except SandboxNotFoundError:
            unknown.append(sandbox_id)
    text = f"answers, and takes our key; {len(found)} of the selected sandboxes are there now"
    return text + (f"; it does not know {', '.join(unknown)}" if unknown else "")


async def _check_sink(name: str, kind: str, sink: Sink | WindowSink) -> Finding:
    if not isinstance(sink, Checkable):
        text = "this kind of sink cannot be asked without writing to it"
        return Finding(name, kind, Verdict.NOT_CHECKED, text)
    try:
        return Finding(name, kind, Verdict.OK, await sink.check())
    except SinkMisconfiguredError as error:
        verdict = Verdict.REFUSED if error.credentials else Verdict.MISCONFIGURED
        return Finding(name, kind, verdict, str(error))
    except SinkError as error:
        return Finding(name, kind, Verdict.UNAVAILABLE, str(error))
