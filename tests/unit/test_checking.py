"""What `check` finds, and what a shell sees of it."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, cast

import pytest
from rich.console import Console
from typer.testing import CliRunner

from forwarder.admin.checks import checks_document, render_checks
from forwarder.checking import Finding, Verdict, check_all
from forwarder.cli import app
from forwarder.config import SandboxSelector
from forwarder.errors import (
    CredentialsRefusedError,
    SandboxNotFoundError,
    SourceUnavailableError,
)
from forwarder.model import Sandbox, SandboxState
from sinks.interface import SinkMisconfiguredError, SinkUnavailableError
from sinks.testing import MemorySink
from tests.fakes.commands import own_logging
from tests.fakes.daemon import file_sink, write_config
from tests.fakes.local import local_service

if TYPE_CHECKING:
    from pathlib import Path

    from forwarder.source.interface import LogSource
    from sinks.interface import Sink


class AskedSink(MemorySink):
    """Answers a check as told, and was never opened nor written to."""

    def __init__(self, answer: str | Exception) -> None:
        super().__init__()
        self._answer = answer

    async def open(self, state: object) -> None:
        raise AssertionError("a check opens nothing")

    async def check(self) -> str:
        if isinstance(self._answer, Exception):
            raise self._answer
        if not self._answer:
            await asyncio.Event().wait()
        return self._answer


class Api:
    """A source that knows some sandboxes, or fails."""

    def __init__(self, *ids: str, error: Exception | None = None) -> None:
        self._sandboxes = {one: Sandbox(one, SandboxState.RUNNING) for one in ids}
        self._error = error

    async def get_sandbox(self, sandbox_id: str) -> Sandbox:
        if sandbox_id not in self._sandboxes:
            raise SandboxNotFoundError("no such sandbox", code="not_found")
        return self._sandboxes[sandbox_id]

    async def list_sandboxes(self, **_: object) -> list[Sandbox]:
        if self._error is not None:
            raise self._error
        return list(self._sandboxes.values())


async def findings(
    api: Api, *, timeout_s: float = 30.0, selectors: tuple[SandboxSelector, ...] = (), **sinks: Sink
) -> list[Finding]:
    wanted = selectors or (SandboxSelector(tags=("prod",)),)
    kinds = {name: ("memory", sink) for name, sink in sinks.items()}
    return await check_all(cast("LogSource", api), wanted, kinds, timeout_s=timeout_s)


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("answers", Verdict.OK),
        (SinkUnavailableError("connection refused"), Verdict.UNAVAILABLE),
        (SinkMisconfiguredError("a login page"), Verdict.MISCONFIGURED),
        (SinkMisconfiguredError("401", credentials=True), Verdict.REFUSED),
    ],
)
async def test_a_destinations_answer_is_told_in_its_own_words(
    answer: str | Exception, verdict: Verdict
) -> None:
    _, found = await findings(Api("a"), loki=AskedSink(answer))
    assert found == Finding("loki", "memory", verdict, str(answer))


async def test_a_sink_that_cannot_be_asked_is_no_trouble() -> None:
    _, found = await findings(Api("a"), plain=MemorySink())
    assert found.verdict is Verdict.NOT_CHECKED
    assert not found.verdict.is_trouble


async def test_one_that_never_answers_does_not_hold_up_the_others() -> None:
    api, silent, quick = await findings(
        Api("a"), timeout_s=0.01, silent=AskedSink(""), quick=AskedSink("answers")
    )
    assert [one.verdict for one in (api, silent, quick)] == ["ok", "unavailable", "ok"]
    assert silent.text == "no answer within 0.01 s"


async def test_the_api_is_asked_for_what_is_to_be_followed() -> None:
    selectors = (SandboxSelector(tags=("prod",)), SandboxSelector(id="b"), SandboxSelector(id="x"))
    (api,) = await findings(Api("a", "b"), selectors=selectors)
    assert api.verdict is Verdict.OK
    assert "2 of the selected sandboxes" in api.text
    assert api.text.endswith("it does not know x")


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (CredentialsRefusedError("no", code="unauthenticated"), Verdict.REFUSED),
        (SourceUnavailableError("down", code="connection"), Verdict.UNAVAILABLE),
    ],
)
async def test_an_api_that_refuses_us_is_told_from_one_that_is_down(
    error: Exception, verdict: Verdict
) -> None:
    (api,) = await findings(Api(error=error))
    assert (api.verdict, api.text) == (verdict, str(error))


def test_what_a_destination_says_is_harmless_on_a_terminal() -> None:
    found = Finding("s", "http", Verdict.MISCONFIGURED, "\x1b]52;c;AAAA\x07\u202e[red]x")
    out = io.StringIO()
    document = checks_document([found], now_ns=1)
    Console(file=out, width=100).print(render_checks(document))
    assert "\x1b" not in out.getvalue()
    assert "[red]x" in out.getvalue()
    assert not document["ok"]


def check(tmp_path: Path, *arguments: str, base_url: str, api_key: str) -> tuple[int, str]:
    config = write_config(
        tmp_path,
        base_url=base_url,
        api_key=api_key,
        sandboxes=[{"tags": ["x"]}],
        sinks={"files": file_sink(tmp_path / "files" / "out.log")},
    )
    with own_logging():
        result = CliRunner().invoke(app, ["check", "--config", str(config), *arguments])
    return result.exit_code, result.stdout


def test_nobody_answering_is_69_and_says_who(tmp_path: Path) -> None:
    code, text = check(tmp_path, base_url="http://127.0.0.1:9", api_key="k")
    assert code == 69
    assert "✗ api" in text
    assert "✓ files (file)" in text
    assert not (tmp_path / "files").exists(), "a check makes nothing"


async def test_an_answer_is_0_and_a_refused_key_is_77(tmp_path: Path) -> None:
    async with local_service() as server:
        right, text = await asyncio.to_thread(
            check, tmp_path, base_url=server.base_url, api_key=server.api_key
        )
        wrong, _ = await asyncio.to_thread(
            check, tmp_path, base_url=server.base_url, api_key="another-key"
        )
    assert (right, wrong) == (0, 77)
    assert "✓ api" in text
