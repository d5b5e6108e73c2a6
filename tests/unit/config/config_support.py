"""A kind of sink that has every kind of value, and the least configuration that uses it."""

from collections.abc import Mapping
from typing import Annotated, Literal, Protocol, Self

from pydantic import Field, model_validator

from forwarder.config import Problem, Settings
from sinks.settings import ByteSize, LocalPath, Secret, SinkSettings, Within


class LinesSettings(SinkSettings):
    """Lines to a place."""

    type: Literal["lines"]
    """The kind of sink."""
    path: str
    """The place to write to."""
    format: Literal["text", "ndjson"] = "text"
    """How a line looks."""
    compress: bool = False
    """Whether to compress."""
    files: Annotated[int, Field(ge=1, le=9)] = 1
    """How many files."""
    ratio: float = 0.5
    """How much."""
    chunk: Annotated[ByteSize, Within("1KiB", "1MiB")] = 1024
    """How large."""
    token: Secret | None = None
    """Who we are."""
    token_file: LocalPath | None = None
    """Where it is said who we are."""
    headers: Mapping[str, Secret] = {}
    """Secrets by name."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.refuse_both("token", "token_file")
        if self.path.endswith("/"):
            raise ValueError(f"{self.path} is a directory")
        return self

    @property
    def destination(self) -> str:
        return self.path


SINK_TYPES: Mapping[str, type[SinkSettings]] = {"lines": LinesSettings}
ENV: Mapping[str, str] = {"CWSANDBOX_API_KEY": "key"}
BASE = """\
state_dir: /s
sandboxes: [{id: a}]
sinks: {archive: {type: lines, path: /p}}
"""


class Load(Protocol):
    def __call__(self, text: str | bytes, env: Mapping[str, str] = ENV) -> Settings: ...


class Refuse(Protocol):
    def __call__(
        self, text: str | bytes, env: Mapping[str, str] = ENV
    ) -> tuple[str, tuple[Problem, ...]]: ...
