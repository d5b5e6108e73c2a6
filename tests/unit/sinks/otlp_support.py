"""What tests of the OTLP sink share."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

from forwarder.config import InvalidConfigError, load_settings
from sinks.otlp import OtlpSettings, OtlpSink
from sinks.testing import MemoryState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    import pytest


def load(directory: Path, text: str, env: Mapping[str, str] | None = None) -> OtlpSettings:
    """The settings of a sink of these keys, in YAML's flow style, as the daemon reads them."""
    file = directory / "c.yaml"
    file.write_text(
        "state_dir: /s\nsandboxes: [{id: a}]\nsinks:\n  backend: {type: otlp, " + text + "}\n"
    )
    variables = {"CWSANDBOX_API_KEY": "key", **(env or {})}
    sinks = load_settings(file, sink_types={"otlp": OtlpSettings}, env=variables).sinks
    settings = sinks["backend"]
    assert isinstance(settings, OtlpSettings)
    return settings


def refusal(directory: Path, text: str, env: Mapping[str, str] | None = None) -> tuple[str, str]:
    """The only thing that is wrong with it: the key, and what is said."""
    try:
        load(directory, text, env)
    except InvalidConfigError as error:
        (problem,) = error.problems
        return problem.path.removeprefix("sinks.backend."), problem.text
    raise AssertionError("it was taken")


@asynccontextmanager
async def otlp_sink(url: str, **more: Any) -> AsyncIterator[OtlpSink]:
    """A sink that is open."""
    key = "logs_endpoint" if more.pop("exact", False) else "endpoint"
    sink = OtlpSink("backend", OtlpSettings.model_validate({key: url, **more}))
    await sink.open(MemoryState())
    try:
        yield sink
    finally:
        await sink.close()


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the sink told the log; other libraries may tell it something, too."""
    return [r.getMessage() for r in caplog.records if r.name.startswith("sinks.otlp")]


def partial_success(rejected: int, message: str = "") -> bytes:
    """The answer of a server that took some records."""
    answer = ExportLogsServiceResponse()
    answer.partial_success.rejected_log_records = rejected
    answer.partial_success.error_message = message
    return answer.SerializeToString()
